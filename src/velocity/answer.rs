//! Checks of velocities that code outside koopflow returns. Errors quote what was returned instead.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{check_finite, device_name, dtype_name, shape_text};

/// The error for an answer that is no velocity of `x`; `source` names the teacher, `what` the call.
pub fn refuse(source: &str, what: &str, got: String, x: &Tensor) -> Error {
    let expected = format!("a floating-point torch tensor {}", shape_text(&x.size()));
    Error::teacher(format!("teacher '{source}': {what} returned {got}; expected {expected}"))
}

/// `got` in dtype `kind`, on the device where it is, for states `x` at times `t`. One number is read from the device,
/// to see that all are finite.
///
/// # Errors
/// [`Error::Teacher`] where the answer has another shape than `x`, holds no floats or lies on another device;
/// [`Error::NotFiniteAnswer`], which says at what times.
pub fn accept(
    source: &str,
    what: &str,
    got: Tensor,
    (t, x): (&Tensor, &Tensor),
    kind: Kind,
) -> Result<Tensor> {
    let wrong = |got: String| Err(refuse(source, what, got, x));
    if got.size() != x.size() {
        return wrong(format!("a tensor of shape {}", shape_text(&got.size())));
    }
    if !got.is_floating_point() {
        return wrong(format!("a tensor of dtype {}", dtype_name(got.kind())));
    }
    if got.device() != x.device() {
        let (place, expected) = (device_name(got.device()), device_name(x.device()));
        return wrong(format!("a tensor on {place}, given one on {expected}"));
    }
    let got = got.f_to_kind(kind)?;
    match check_finite(what, &got.detach()) {
        Err(Error::NonFinite { message, .. }) => {
            let (first, last) = times_not_finite(t, &got.detach())?;
            let at = if first == last { format!("t = {first}") } else { format!("t from {first} to {last}") };
            let hint = match first {
                1.0 => {
                    "; a velocity (x1 - x) / (1 - t) of a model that predicts data is infinite there: ask the model \
                     at min(t, 1 - eps), eps = 1e-3 for example"
                }
                _ => "",
            };
            Err(Error::NotFiniteAnswer(format!(
                "teacher '{source}': {what} returned {message} at {at}; expected finite values, for t = 0 and t = 1 \
                 too{hint}"
            )))
        }
        Err(other) => Err(other),
        Ok(()) => Ok(got),
    }
}

/// The earliest and the latest of times `t` `[B]` at which a row of `got` is not finite.
fn times_not_finite(t: &Tensor, got: &Tensor) -> Result<(f64, f64)> {
    let rows = got.f_isfinite()?.f_flatten(1, -1)?.f_all_dim(1, false)?.f_logical_not()?;
    let (first, last) = t.f_masked_select(&rows)?.f_to_kind(Kind::Double)?.f_aminmax(None, false)?;
    Ok((first.f_double_value(&[])?, last.f_double_value(&[])?))
}
