//! What every room asks of tensors: parsing devices and dtypes, checks at the door, and random
//! numbers that do not touch anybody's global state.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;
use tch::{Cuda, Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::threads;

/// Parses `"cpu"`, `"cuda"`, `"cuda:1"` or `"auto"` (a GPU where there is one).
///
/// # Errors
/// [`Error::Device`] for an unknown name or a GPU that is not there.
pub fn parse_device(name: &str) -> Result<Device> {
    let refuse = |message: String| Err(Error::Device { argument: "device".into(), message });
    let index = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" => return Ok(Device::cuda_if_available()),
        "cuda" => 0,
        _ => match name.strip_prefix("cuda:").and_then(|digits| digits.parse::<usize>().ok()) {
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

/// Checks that every value is a finite float.
pub fn check_finite(argument: &str, x: &Tensor) -> Result<()> {
    if !x.is_floating_point() {
        return Err(Error::dtype(argument, "a floating-point array", dtype_name(x.kind())));
    }
    // One reduction: a NaN or an infinity anywhere survives multiplication by zero and the sum.
    let probe = (x * 0.0).sum(Kind::Double).double_value(&[]);
    if probe == 0.0 {
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

/// `data` in `kind`, where batches are gathered from it: on `device`, but beyond 2 GiB where they are, so
/// that only batches move.
pub fn at_home(data: &Tensor, kind: Kind, device: Device) -> Tensor {
    let data = data.detach();
    let bytes = data.numel() * kind.elt_size_in_bytes();
    let stays = device.is_cuda() && bytes > RESIDENT_BYTES;
    // Converted after the move: the same work, and a GPU is faster at it.
    data.to_device(if stays { data.device() } else { device }).to_kind(kind)
}

/// Turns a time given as one number or as one a sample into `[B]`.
pub fn expand_time(argument: &str, t: &Tensor, batch: i64) -> Result<Tensor> {
    check_finite(argument, t)?;
    match t.size().as_slice() {
        [] | [1] => Ok(t.reshape([1]).expand([batch], false)),
        [n] if *n == batch => Ok(t.shallow_clone()),
        got => Err(Error::shape(argument, format!("() or ({batch},)"), shape_text(got))),
    }
}

/// Seeded random numbers, the same on every device and for any number of threads. Its whole state
/// is two integers. Every draw takes fresh streams of a counter-based cipher (ChaCha8).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RandomSource {
    seed: u64,
    stream: u64,
}

/// Values drawn from one stream: the grain of parallelism.
const STREAM_LENGTH: usize = 1 << 15;

impl RandomSource {
    pub fn new(seed: u64) -> Self {
        RandomSource { seed, stream: 0 }
    }

    /// The source of noise to sample from: the same for teachers and students, so that equal seeds start
    /// from equal noise.
    pub fn noise(seed: u64) -> Self {
        RandomSource::new(seed).fork("noise")
    }

    /// The number of rows of `width` values, near `rows`, whose draws fill whole streams: drawing in pieces
    /// of so many rows gives the same numbers as drawing all at once.
    pub fn aligned_rows(rows: i64, width: i64) -> i64 {
        let stream = STREAM_LENGTH as i64;
        // A power of two shares with `width` just the factors of two in it.
        let shared = 1i64 << width.trailing_zeros().min(stream.trailing_zeros());
        let grain = stream / shared;
        (rows / grain).max(1) * grain
    }

    /// An independent source for a named purpose, so that adding draws to one part of a program
    /// leaves those of the others alone.
    pub fn fork(&self, purpose: &str) -> Self {
        // FNV-1a: stable across builds, unlike the standard library's hasher.
        let hash = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        RandomSource::new(self.seed.rotate_left(17) ^ hash)
    }

    /// A generator for one step of a loop, independent of all draws made so far.
    pub fn at(&self, step: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((1 << 63) | step);
        rng
    }

    fn fill<F>(&mut self, count: usize, draw: F) -> Result<Vec<f32>>
    where
        F: Fn(&mut ChaCha8Rng) -> f32 + Sync,
    {
        let (seed, first) = (self.seed, self.stream);
        self.stream += count.div_ceil(STREAM_LENGTH) as u64;
        let mut values = vec![0f32; count];
        let fill_chunk = |(index, chunk): (usize, &mut [f32])| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(first + index as u64);
            chunk.iter_mut().for_each(|value| *value = draw(&mut rng));
        };
        if count <= STREAM_LENGTH {
            values.chunks_mut(STREAM_LENGTH).enumerate().for_each(fill_chunk);
        } else {
            threads::pool()?
                .install(|| values.par_chunks_mut(STREAM_LENGTH).enumerate().for_each(fill_chunk));
        }
        Ok(values)
    }

    /// Standard normal values.
    pub fn normal(&mut self, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        let values = self.fill(event_size(shape) as usize, |rng| rng.sample(StandardNormal))?;
        Ok(Tensor::from_slice(&values).view(shape).to_device(device).to_kind(kind))
    }

    /// Uniform values in `[0, 1)`.
    pub fn uniform(&mut self, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        let values = self.fill(event_size(shape) as usize, |rng| rng.random())?;
        Ok(Tensor::from_slice(&values).view(shape).to_device(device).to_kind(kind))
    }

    /// `count` integers in `[0, high)`.
    pub fn integers(&mut self, high: i64, count: i64, device: Device) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.stream);
        self.stream += 1;
        let values: Vec<i64> = (0..count).map(|_| rng.random_range(0..high)).collect();
        Tensor::from_slice(&values).to_device(device)
    }

    /// A random order of `0..count`.
    pub fn permutation(&mut self, count: i64, device: Device) -> Tensor {
        use rand::seq::SliceRandom;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.stream);
        self.stream += 1;
        let mut values: Vec<i64> = (0..count).collect();
        values.shuffle(&mut rng);
        Tensor::from_slice(&values).to_device(device)
    }
}
