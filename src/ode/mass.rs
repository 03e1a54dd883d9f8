//! Growth of mass along the paths of a flow: d log m / dt = g(t, x).

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{check_batch, shape_text};
use crate::velocity::VelocityField;

/// Log-masses `[T, B]` in float64 along states `[T, B, *event]` at `times`, for a field with growth. They
/// start at 0. The trapezoidal rule is used, whose error falls as h^2 for times h apart.
///
/// # Errors
/// An error naming `growth` if the field has none, or `states` or `times` if they do not match;
/// [`Error::Divergence`] if masses are not finite.
pub fn log_masses(field: &dyn VelocityField, times: &[f64], states: &Tensor) -> Result<Tensor> {
    let size = states.size();
    if size.len() < 2 || size[0] != times.len() as i64 || times.is_empty() {
        let expected = format!("({}, B, *event), with one state per time", times.len());
        return Err(Error::shape("states", expected, shape_text(&size)));
    }
    if !times.iter().all(|time| time.is_finite()) {
        return Err(Error::argument("times", "finite numbers", format!("{times:?}")));
    }
    let mut rates = Vec::with_capacity(times.len());
    for (place, &time) in times.iter().enumerate() {
        let x = states.f_get(place as i64)?;
        let rows = check_batch("states", &x, field.event_shape())?;
        let x = x.to_kind(field.dtype()).to_device(field.device());
        let t = Tensor::full([rows], time, (field.dtype(), field.device()));
        let Some(rate) = field.growth(&t, &x, None)? else {
            return Err(Error::argument(
                "growth",
                "a teacher with a growth rate (of populations whose mass changes)",
                "none",
            ));
        };
        rates.push(rate.to_kind(Kind::Double));
    }
    let mut logs = vec![rates[0].zeros_like()];
    for (place, pair) in rates.windows(2).enumerate() {
        let half = 0.5 * (times[place + 1] - times[place]);
        logs.push(&logs[place] + (&pair[0] + &pair[1]) * half);
    }
    let logs = Tensor::f_stack(&logs, 0)?;
    if !bool::try_from(logs.isfinite().all())? {
        return Err(Error::Divergence("the masses along the flow are not finite".into()));
    }
    Ok(logs)
}
