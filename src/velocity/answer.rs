//! Checks of velocities that code outside koopflow returns. Errors quote what was returned instead.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{check_finite, device_name, dtype_name, shape_text};

/// The error for an answer that is no velocity of `x`; `source` names the teacher, `what` the call.
pub fn refuse(source: &str, what: &str, got: String, x: &Tensor) -> Error {
    let expected = format!("a floating-point torch tensor {}", shape_text(&x.size()));
    Error::teacher(format!("teacher '{source}': {what} returned {got}; expected {expected}"))
}

/// `got` in dtype `kind`, on the device where it is. One number is read from the device, to see that all
/// are finite.
///
/// # Errors
/// [`Error::Teacher`] where the answer has another shape than `x`, holds no floats or lies on another device;
/// [`Error::NotFiniteAnswer`].
pub fn accept(source: &str, what: &str, got: Tensor, x: &Tensor, kind: Kind) -> Result<Tensor> {
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
        Err(Error::NonFinite { message, .. }) => Err(Error::NotFiniteAnswer(format!(
            "teacher '{source}': {what} returned {message}; expected finite values"
        ))),
        Err(other) => Err(other),
        Ok(()) => Ok(got),
    }
}
