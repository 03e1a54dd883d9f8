//! Checks of velocities that are returned by code outside koopflow. Errors say what was returned instead.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{check_finite, device_name, dtype_name, shape_text};

/// The error for a returned value that is not a velocity of `x`. `source` names the teacher and `what` the call.
pub fn refuse(source: &str, what: &str, got: String, x: &Tensor) -> Error {
    let expected = format!("a floating-point torch tensor {}", shape_text(&x.size()));
    Error::teacher(format!("teacher '{source}': {what} returned {got}; expected {expected}"))
}

/// Checks a velocity `got` at states `x` and times `t`, and converts it to dtype `kind` on its device. A single
/// number is read from the device, to check that all values are finite.
///
/// # Errors
/// [`Error::Teacher`] if `got` differs from `x` in shape or device, or is not floating-point;
/// [`Error::NotFiniteAnswer`], which gives the times, if it is not finite.
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
                    "; the velocity (x1 - x) / (1 - t) of a model that predicts data is infinite there, so evaluate \
                     the model at min(t, 1 - eps), for example with eps = 1e-3"
                }
                _ => "",
            };
            Err(Error::NotFiniteAnswer(format!(
                "teacher '{source}': {what} returned {message} at {at}; expected finite values, also at t = 0 and \
                 t = 1{hint}"
            )))
        }
        Err(other) => Err(other),
        Ok(()) => Ok(got),
    }
}

/// The earliest and the latest of the times `t` `[B]` at which a row of `got` is not finite.
fn times_not_finite(t: &Tensor, got: &Tensor) -> Result<(f64, f64)> {
    let rows = got.f_isfinite()?.f_flatten(1, -1)?.f_all_dim(1, false)?.f_logical_not()?;
    let (first, last) = t.f_masked_select(&rows)?.f_to_kind(Kind::Double)?.f_aminmax(None, false)?;
    Ok((first.f_double_value(&[])?, last.f_double_value(&[])?))
}
