//! Shared tensor utilities: parsing of devices and dtypes, checks of arguments, chunks, random numbers
//! without global state, and threads.

mod chunks;
mod condition;
mod gradient;
mod memory;
mod processor;
mod random;
mod share;
pub mod threads;

use tch::{Cuda, Device, Kind, Tensor};

use crate::error::{Error, Result};

pub use chunks::{chunks, in_chunks};
pub use gradient::with_gradient;
pub(crate) use gradient::{gradients_of, is_grad_enabled};
pub use memory::{in_halves, out_of_memory};
pub(crate) use processor::on_this_processor;
pub(crate) use random::{hash, FNV_OFFSET};
pub use random::{log_standard_normal, RandomSource};
pub(crate) use share::shared;
pub use share::Share;

/// Parses `"cpu"`, `"cuda"`, `"cuda:1"` or `"auto"` (a GPU if one is available).
///
/// # Errors
/// [`Error::Device`] for an unknown name or a GPU that does not exist.
pub fn parse_device(name: &str) -> Result<Device> {
    let refuse = |message: String| Err(Error::Device { argument: "device".into(), message });
    let index = match name.to_ascii_lowercase().as_str() {
        "cpu" | "cpu:0" => return Ok(Device::Cpu),
        "auto" => return Ok(Device::cuda_if_available()),
        "cuda" => 0,
        other => match other.strip_prefix("cuda:").and_then(|digits| digits.parse::<usize>().ok()) {
            Some(index) => index,
            None => return refuse(format!("expected 'cpu', 'cuda', 'cuda:N' or 'auto', got {name:?}")),
        },
    };
    let count = Cuda::device_count();
    if !Cuda::is_available() || index as i64 >= count {
        return refuse(format!("{name:?} was asked for, but this machine has {count} CUDA devices"));
    }
    Ok(Device::Cuda(index))
}

pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Cpu => "cpu".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// A detached copy in float64 on the CPU.
pub(crate) fn exact(x: &Tensor) -> Tensor {
    x.detach().to_device(Device::Cpu).to_kind(Kind::Double)
}

/// Parses `"float32"` or `"float64"`.
pub fn parse_dtype(name: &str) -> Result<Kind> {
    match name {
        "float32" => Ok(Kind::Float),
        "float64" => Ok(Kind::Double),
        _ => Err(Error::dtype("dtype", "'float32' or 'float64'", format!("{name:?}"))),
    }
}

pub fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "float32",
        Kind::Double => "float64",
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        Kind::Int64 => "int64",
        Kind::Int => "int32",
        Kind::Bool => "bool",
        _ => "an unsupported dtype",
    }
}

/// `(2, 3)`-style, as Python prints a shape.
pub fn shape_text(shape: &[i64]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => format!("({})", shape.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Number of elements in one sample.
pub fn event_size(event_shape: &[i64]) -> i64 {
    event_shape.iter().product()
}

/// Checks that `x` is `[B, *event]` with `B >= 1`, floating point and finite; returns `B`.
pub fn check_batch(argument: &str, x: &Tensor, event_shape: &[i64]) -> Result<i64> {
    let size = x.size();
    if size.len() != event_shape.len() + 1 || &size[1..] != event_shape {
        let expected = std::iter::once("B".to_string())
            .chain(event_shape.iter().map(i64::to_string))
            .collect::<Vec<_>>()
            .join(", ");
        return Err(Error::shape(argument, format!("({expected})"), shape_text(&size)));
    }
    if size[0] == 0 {
        return Err(Error::argument(argument, "at least one sample", "an empty batch"));
    }
    check_finite(argument, x)?;
    Ok(size[0])
}

/// Whether no value is NaN or infinite. One reduction, which reads one number from the device.
pub(crate) fn all_finite(x: &Tensor) -> bool {
    // A NaN or an infinity anywhere survives the sum. A sum of finite values may overflow too, so the values
    // are then checked one by one.
    x.sum(x.kind()).double_value(&[]).is_finite() || x.isfinite().all().int64_value(&[]) != 0
}

/// Returns the log-densities of samples `x`, or an error if some overflow their dtype. That happens for
/// samples very far from the data.
pub(crate) fn finite_densities(log_prob: Tensor) -> Result<Tensor> {
    if all_finite(&log_prob) {
        return Ok(log_prob);
    }
    let (far, total) =
        (log_prob.isfinite().logical_not().sum(Kind::Int64).int64_value(&[]), log_prob.numel());
    let message = format!(
        "the log-densities of {far} of {total} samples overflow {}: the samples are too far from the data",
        dtype_name(log_prob.kind())
    );
    Err(Error::NonFinite { argument: "x".into(), message })
}

/// Checks that every value is a finite float.
pub fn check_finite(argument: &str, x: &Tensor) -> Result<()> {
    if !x.is_floating_point() {
        return Err(Error::dtype(argument, "a floating-point array", dtype_name(x.kind())));
    }
    if all_finite(x) {
        return Ok(());
    }
    let nan = x.isnan().sum(Kind::Int64).int64_value(&[]);
    let infinite = x.isinf().sum(Kind::Int64).int64_value(&[]);
    let total = x.numel();
    Err(Error::NonFinite {
        argument: argument.into(),
        message: format!("{nan} NaN and {infinite} infinite values among {total}"),
    })
}

/// Data larger than this do not move to a GPU, whose memory is for the network.
const RESIDENT_BYTES: usize = 2 << 30;

/// `data` in `kind`, on the device where batches are gathered from them. That is `device`, except that data
/// of more than 2 GiB stay where they are and only batches move.
pub fn at_home(data: &Tensor, kind: Kind, device: Device) -> Tensor {
    let data = data.detach();
    let bytes = data.numel() * kind.elt_size_in_bytes();
    let stays = device.is_cuda() && bytes > RESIDENT_BYTES;
    // Converted after the move, since a GPU converts faster.
    data.to_device(if stays { data.device() } else { device }).to_kind(kind)
}

/// Expands a time, given as one number or as one number per sample, to `[B]`.
pub fn expand_time(argument: &str, t: &Tensor, batch: i64) -> Result<Tensor> {
    check_finite(argument, t)?;
    match t.size().as_slice() {
        [] | [1] => Ok(t.reshape([1]).expand([batch], false)),
        [n] if *n == batch => Ok(t.shallow_clone()),
        got => Err(Error::shape(argument, format!("() or ({batch},)"), shape_text(got))),
    }
}

/// Returns [`Error::Divergence`] if the result `x`, called `what` in the message, is not finite: an unstable
/// operator made it overflow.
pub(crate) fn finite_or_divergence(x: &Tensor, what: &str) -> Result<()> {
    match check_finite(what, x) {
        Err(Error::NonFinite { message, .. }) => Err(Error::Divergence(format!("{what}: {message}"))),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_are_not_finite_are_refused() {
        let large = Tensor::from_slice(&[f32::MAX, f32::MAX, 1.0, -f32::MAX]);
        check_finite("x", &large).unwrap();
        check_finite("x", &large.to_kind(Kind::Double)).unwrap();
        check_finite("x", &Tensor::zeros([0, 3], (Kind::Float, Device::Cpu))).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let x = Tensor::from_slice(&[1.0, bad, f32::INFINITY]);
            let said = check_finite("x", &x).unwrap_err().to_string();
            assert!(said.contains("among 3"), "{said}");
        }
    }
}
