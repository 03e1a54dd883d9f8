//! The noise behind data: the student's own inverse, polished against its forward map F(x0) = x1.

use tch::{Kind, Tensor};

use super::{SampleMap, JACOBIAN_LIMIT};
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::Monitor;
use crate::sampling;
use crate::tensor::finite_or_divergence;
use crate::tensor::{check_batch, check_finite};

/// How each polishing step is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polish {
    /// Levenberg-Marquardt with the exact Jacobian of F, one product for each coordinate of a sample.
    Newton,
    /// x0 + B(x1) - B(F(x0)), B the student's own inverse: two evaluations, no Jacobian.
    FixedPoint,
}

/// Noise and how far the student's sample of it is from the data.
#[derive(Debug)]
pub struct Inversion {
    /// `[B, *event]`.
    pub noise: Tensor,
    /// ||F(noise) - x1|| of each sample, `[B]`.
    pub residuals: Tensor,
}

/// Inverts data `[B, *event]`, then takes `steps` polishing steps. A sample's step is kept only where it lowers
/// its residual; where it does not, the next one is half as long, or more damped. `damping` >= 0 is relative to the
/// mean diagonal of J^T J, or shortens a fixed-point step by 1 / (1 + damping).
///
/// # Errors
/// [`Error::Argument`] naming `steps`, `damping`, or `polish` where Newton steps are too large to form.
pub fn invert_polished(
    student: &Student,
    x1: &Tensor,
    condition: Option<&Tensor>,
    polish: Polish,
    steps: i64,
    damping: f64,
    monitor: &mut dyn Monitor,
) -> Result<Inversion> {
    let _guard = tch::no_grad_guard();
    if !(0..=1000).contains(&steps) {
        return Err(Error::argument("steps", "an integer from 0 to 1000", steps));
    }
    if !(damping.is_finite() && damping >= 0.0) {
        return Err(Error::argument("damping", "a number >= 0", damping));
    }
    check_batch("x", x1, &student.config().event_shape)?;
    check_finite("x", x1)?;
    let dimension = student.config().dimension();
    if polish == Polish::Newton && steps > 0 && dimension > JACOBIAN_LIMIT {
        let expected = format!("'fixed_point' beyond {JACOBIAN_LIMIT} values a sample");
        return Err(Error::argument("polish", expected, format!("'newton' for {dimension}")));
    }
    let target = student.flatten("x", x1)?;
    let mut noise = student.flatten("x", &sampling::invert(student, x1, condition, monitor)?)?;
    let forward = |noise: &Tensor, monitor: &mut dyn Monitor| -> Result<Tensor> {
        student.flatten("x", &sampling::sample(student, &student.unflatten(noise), condition, 1, monitor)?)
    };
    let mut reached = forward(&noise, monitor)?;
    let mut residuals = norms(&(&reached - &target));
    // Per sample: the share of a fixed-point step, or what multiplies a Newton step's damping.
    let mut caution = residuals.ones_like();
    let first = noise.shallow_clone();
    for _ in 0..steps {
        let step = match polish {
            Polish::FixedPoint => {
                let again = sampling::invert(student, &student.unflatten(&reached), condition, monitor)?;
                let share = (&caution * (1.0 + damping)).reciprocal().unsqueeze(1);
                (&first - student.flatten("x", &again)?) * share
            }
            Polish::Newton => {
                let damping = &caution * damping;
                newton_step(student, &noise, &(&reached - &target), &damping, condition, monitor)?
            }
        };
        let candidate = &noise + step;
        let image = match forward(&candidate, monitor) {
            // A step out of range helps nobody; an interruption is not one.
            Err(Error::Divergence(_)) => break,
            outcome => outcome?,
        };
        let errors = norms(&(&image - &target));
        let better = errors.lt_tensor(&residuals);
        let rows = better.unsqueeze(1);
        noise = candidate.where_self(&rows, &noise);
        reached = image.where_self(&rows, &reached);
        residuals = errors.where_self(&better, &residuals);
        let next = match polish {
            Polish::FixedPoint => (&caution * 0.9).clamp_min(1.0),
            Polish::Newton => &caution * 0.3,
        };
        let longer = if polish == Polish::FixedPoint { 2.0 } else { 10.0 };
        // Bounded, for a sample that nothing improves any more is tried to the end.
        caution = next.where_self(&better, &(&caution * longer)).clamp(1e-12, 1e12);
    }
    finite_or_divergence(&noise, "inverted samples")?;
    Ok(Inversion { noise: student.unflatten(&noise), residuals })
}

fn norms(error: &Tensor) -> Tensor {
    error.square().sum_dim_intlist(1, false, error.kind()).sqrt()
}

/// -(J^T J + mu I)^{-1} J^T residual, mu = damping times the mean diagonal of J^T J: `[B, d]`.
fn newton_step(
    student: &Student,
    noise: &Tensor,
    residual: &Tensor,
    damping: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let (count, dimension) = noise.size2()?;
    let condition = student.condition_input(condition, count)?;
    let map = SampleMap::new(student)?;
    let rows = map.samples_at_once();
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < count {
        let length = rows.min(count - start);
        let condition = condition.as_ref().map(|c| c.narrow(0, start, length));
        let jacobian = map.jacobian(&noise.narrow(0, start, length), condition.as_ref(), monitor)?;
        let transposed = jacobian.transpose(1, 2);
        let normal = transposed.matmul(&jacobian);
        let diagonal = normal.diagonal(0, 1, 2).mean_dim(1, false, Kind::Double).to_kind(normal.kind());
        // A floor, so that a singular Jacobian has a step too.
        let mu = diagonal * damping.narrow(0, start, length).clamp_min(1e-6);
        let eye = Tensor::f_eye(dimension, (normal.kind(), normal.device()))?;
        let right = transposed.matmul(&residual.narrow(0, start, length).unsqueeze(2));
        let solved = Tensor::f_linalg_solve(&(normal + mu.view([-1, 1, 1]) * eye), &right, true)?;
        pieces.push(solved.squeeze_dim(2).neg());
        start += length;
    }
    Ok(Tensor::f_cat(&pieces, 0)?)
}
