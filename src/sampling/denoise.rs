//! Conditional expectations of data or noise given a state on a student's path, from one encoding of the
//! noise.
//!
//! Along x(t) = decode(g(0, x0) exp(t L)) the velocity is the derivative of decode along g L, in closed form.
//! State and velocity together determine the expectations ([`Mixing::expectation`]).

use tch::Tensor;

use super::chunks::Samples;
use crate::error::Result;
use crate::koopman::{Direction, Student};
use crate::monitor::Monitor;
use crate::tensor::{expand_time, finite_or_divergence};
use crate::velocity::{Expectation, Mixing};

/// E[x1 | x_t = x] or E[x0 | x_t = x], `[B, *event]`, at the states x that the student's paths from noise
/// `x0` `[B, *event]` reach at times `t`, which are `[B]` or one number.
///
/// # Errors
/// An error naming `x0`, `t` or `condition` if it does not match; [`crate::Error::Divergence`] if the result
/// is not finite.
pub fn denoise(
    student: &Student,
    x0: &Tensor,
    t: &Tensor,
    (mixing, of): (Mixing, Expectation),
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let samples = Samples::new(student, "x0", x0, condition)?;
    let t = expand_time("t", t, samples.count())?.to_device(student.device()).to_kind(student.kind());
    let found = samples.map(0, monitor, |chunk| {
        let t = t.narrow(0, chunk.start, chunk.x.size()[0]);
        let (own, _) = student.own_states(&t, &chunk.x)?;
        let start = chunk.encode(student, 0.0, &chunk.x, Direction::Forward);
        let (x, rate) = student.decode_with_rate(&student.generator().propagate(&start, &own)?)?;
        let (x, velocity) = match student.units() {
            Some(units) => {
                let x = units.inverse().standard(&own, &x)?.1;
                let velocity = units.velocity(&t, &x, |_, _| Ok(rate))?;
                (x, velocity)
            }
            None => (x, rate),
        };
        mixing.expectation(of, &t, &x, &velocity)
    })?;
    finite_or_divergence(&found, "denoise")?;
    Ok(student.unflatten(&found))
}
