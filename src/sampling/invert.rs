//! Inversion: the noise that generates given data. The student's own inverse is polished against its forward
//! map F(x0) = x1.

use std::str::FromStr;

use tch::{Kind, Tensor};

use super::anderson::Iterates;
use super::chunks::Samples;
use super::sample::Stride;
use super::{SampleMap, JACOBIAN_LIMIT};
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::Monitor;
use crate::tensor::{finite_or_divergence, in_chunks, shape_text};

/// Method of the polishing steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polish {
    /// Levenberg-Marquardt with the exact Jacobian of F, one product for each coordinate of a sample.
    Newton,
    /// x0 + B(x1) - B(F(x0)), where B is the student's own inverse: two evaluations, no Jacobian.
    FixedPoint,
    /// Fixed-point steps with Anderson acceleration.
    Anderson,
}

impl FromStr for Polish {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "newton" => Ok(Polish::Newton),
            "fixed_point" => Ok(Polish::FixedPoint),
            "anderson" => Ok(Polish::Anderson),
            _ => {
                let expected = "'newton', 'fixed_point' or 'anderson'";
                Err(Error::argument("method", expected, format!("{name:?}")))
            }
        }
    }
}

/// Noise, and the distance of the student's samples of it from the data.
#[derive(Debug)]
pub struct Inversion {
    /// `[B, *event]`.
    pub noise: Tensor,
    /// ||F(noise) - x1|| of each sample, `[B]`.
    pub residuals: Tensor,
}

/// Inverts data `[B, *event]`, then takes `polish` steps of `method`. A sample's step is kept only if it
/// lowers the sample's residual, so a step that overflows is not kept. After a step that is not kept, the
/// sample's next fixed-point step is half as long, and its next Newton step is damped more. Anderson steps
/// use all iterates, kept or not. `damping` >= 0 is relative to the mean diagonal of J^T J for Newton steps,
/// and shortens other steps by 1 / (1 + damping).
///
/// # Errors
/// [`Error::Argument`] naming `polish`, `damping`, or `method` if the Jacobians of Newton steps are too
/// large; [`Error::Divergence`] if the student's own inverse, or its sample of that noise, is not finite.
pub fn invert_polished(
    student: &Student,
    x1: &Tensor,
    condition: Option<&Tensor>,
    method: Polish,
    polish: i64,
    damping: f64,
    monitor: &mut dyn Monitor,
) -> Result<Inversion> {
    polished(student, x1, None, condition, (method, polish, damping), monitor)
}

/// As [`invert_polished`] with Newton steps, but from noise `start` `[B, *event]` instead of the student's
/// own inverse. This can find other noise that leads to the same data.
///
/// # Errors
/// As [`invert_polished`]; an error naming `start`.
pub fn invert_from(
    student: &Student,
    x1: &Tensor,
    start: &Tensor,
    condition: Option<&Tensor>,
    polish: i64,
    damping: f64,
    monitor: &mut dyn Monitor,
) -> Result<Inversion> {
    if start.size() != x1.size() {
        return Err(Error::shape("start", shape_text(&x1.size()), shape_text(&start.size())));
    }
    polished(student, x1, Some(start), condition, (Polish::Newton, polish, damping), monitor)
}

fn polished(
    student: &Student,
    x1: &Tensor,
    start: Option<&Tensor>,
    condition: Option<&Tensor>,
    (method, polish, damping): (Polish, i64, f64),
    monitor: &mut dyn Monitor,
) -> Result<Inversion> {
    let _guard = tch::no_grad_guard();
    check_polish(student, method, polish, damping)?;
    let data = Samples::of_data(student, "x", x1, condition)?;
    let condition = student.condition_input(condition, data.count())?;
    let ahead = Stride::new(student, 0.0, 1.0, 1)?;
    let back = Stride::new(student, 1.0, 0.0, 1)?;
    // A sample may overflow without ending the search for the others, since its step is not kept.
    let carry = |stride: &Stride, x: &Tensor, monitor: &mut dyn Monitor| {
        data.with(x).map(0, monitor, |chunk| stride.carry(student, chunk))
    };
    let first = match start {
        Some(start) => student.flatten("start", start)?,
        None => data.map(0, monitor, |chunk| back.advance(student, chunk))?,
    };
    let mut noise = first.shallow_clone();
    let mut reached = data.with(&noise).map(0, monitor, |chunk| ahead.advance(student, chunk))?;
    let mut residuals = norms(&(&reached - &data.x));
    // Per sample: the divisor of a fixed-point step, or the factor of a Newton step's damping.
    let mut caution = residuals.ones_like();
    let mut iterates = Iterates::default();
    let mut latest = (noise.shallow_clone(), reached.shallow_clone());
    for _ in 0..polish {
        let candidate = match method {
            Polish::FixedPoint => {
                let share = (&caution * (1.0 + damping)).reciprocal().unsqueeze(1);
                &noise + (&first - carry(&back, &reached, monitor)?) * share
            }
            Polish::Anderson => {
                let (noise, reached) = &latest;
                let step = (&first - carry(&back, reached, monitor)?) / (1.0 + damping);
                iterates.add(noise + step, reached - &data.x)?;
                iterates.next()?
            }
            Polish::Newton => {
                let (residual, damping) = (&reached - &data.x, &caution * damping);
                &noise + newton_step(student, &noise, &residual, &damping, condition.as_ref(), monitor)?
            }
        };
        let image = carry(&ahead, &candidate, monitor)?;
        let errors = norms(&(&image - &data.x));
        // A NaN or an infinite error is not less than any residual.
        let better = errors.lt_tensor(&residuals);
        let rows = better.unsqueeze(1);
        latest = (candidate.shallow_clone(), image.shallow_clone());
        noise = candidate.where_self(&rows, &noise);
        reached = image.where_self(&rows, &reached);
        residuals = errors.where_self(&better, &residuals);
        let next = match method {
            Polish::FixedPoint | Polish::Anderson => (&caution * 0.9).clamp_min(1.0),
            Polish::Newton => &caution * 0.3,
        };
        let longer = if method == Polish::Newton { 10.0 } else { 2.0 };
        // Bounded, since a sample that no longer improves is still tried in every step.
        caution = next.where_self(&better, &(&caution * longer)).clamp(1e-12, 1e12);
    }
    finite_or_divergence(&noise, "inverted samples")?;
    Ok(Inversion { noise: student.unflatten(&noise), residuals: residuals * student.length(1.0)? })
}

/// # Errors
/// [`Error::Argument`] naming `polish`, `damping`, or `method` if the Jacobians of Newton steps are too
/// large.
pub(super) fn check_polish(student: &Student, method: Polish, polish: i64, damping: f64) -> Result<()> {
    if !(0..=1000).contains(&polish) {
        return Err(Error::argument("polish", "an integer from 0 to 1000", polish));
    }
    if !(damping.is_finite() && damping >= 0.0) {
        return Err(Error::argument("damping", "a number >= 0", damping));
    }
    let dimension = student.config().dimension();
    if method == Polish::Newton && polish > 0 && dimension > JACOBIAN_LIMIT {
        let expected =
            format!("'fixed_point' or 'anderson' for samples of more than {JACOBIAN_LIMIT} values");
        return Err(Error::argument("method", expected, format!("'newton' for samples of {dimension}")));
    }
    Ok(())
}

/// The length of each row of `[B, d]`: `[B]`.
pub(super) fn norms(error: &Tensor) -> Tensor {
    error.square().sum_dim_intlist(1, false, error.kind()).sqrt()
}

/// Least damping of a Newton step, relative to the mean diagonal of J^T J. It is above the rounding error of
/// J^T J in float64, so that a singular Jacobian has a step too.
const LEAST_DAMPING: f64 = 1e-12;

/// -(J^T J + mu I)^{-1} J^T residual, mu = damping times the mean diagonal of J^T J: `[B, d]`. Computed in
/// float64, since J^T J squares the condition number of J. Not finite if J is not.
fn newton_step(
    student: &Student,
    noise: &Tensor,
    residual: &Tensor,
    damping: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let (count, dimension) = noise.size2()?;
    let map = SampleMap::new(student)?;
    let exact = |x: Tensor| x.to_kind(Kind::Double);
    in_chunks(count, map.samples_at_once(), 0, |start, length| {
        let part = |x: &Tensor| x.narrow(0, start, length);
        let jacobian = exact(map.jacobian(&part(noise), condition.map(part).as_ref(), monitor)?);
        let transposed = jacobian.transpose(1, 2);
        let normal = transposed.matmul(&jacobian);
        let diagonal = normal.diagonal(0, 1, 2).mean_dim(1, false, Kind::Double);
        let mu = diagonal * exact(part(damping)).clamp_min(LEAST_DAMPING);
        let eye = Tensor::f_eye(dimension, (Kind::Double, noise.device()))?;
        let right = transposed.matmul(&exact(part(residual)).unsqueeze(2));
        // Without a check for singular systems: one singular sample must not fail the others.
        let system = normal + mu.view([-1, 1, 1]) * eye;
        let (solved, _) = Tensor::f_linalg_solve_ex(&system, &right, true, false)?;
        Ok(solved.squeeze_dim(2).neg().to_kind(noise.kind()))
    })
}
