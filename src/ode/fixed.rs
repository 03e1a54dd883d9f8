//! Integration with fixed steps, and the one-step methods.

use tch::{Device, Tensor};

use super::grid::Step;
use super::{not_finite, Rhs, Solver, States};
use crate::error::Result;
use crate::tensor::all_finite;

/// The states at the requested times. `advance` carries the state at the start of a step to its end.
pub(super) fn march<'m, F>(
    rhs: &mut Rhs<'m, F>,
    y: &Tensor,
    steps: &[Step],
    mut advance: impl FnMut(&mut Rhs<'m, F>, usize, &Tensor) -> Result<Tensor>,
) -> Result<States> {
    let mut y = y.shallow_clone();
    let mut states = vec![y.shallow_clone()];
    for (index, step) in steps.iter().enumerate() {
        y = advance(rhs, index, &y)?;
        // Reading the check from a GPU waits for it, so there only states at requested times are checked.
        if (y.device() == Device::Cpu || step.requested) && !all_finite(&y) {
            return Err(not_finite(step.end));
        }
        if step.requested {
            states.push(y.shallow_clone());
        }
    }
    Ok((states, steps.len() as u64, 0))
}

/// One step of a one-step method. Any `solver` other than midpoint, Heun and RK4 counts as Euler.
pub(super) fn step<F>(rhs: &mut Rhs<'_, F>, solver: Solver, t: f64, h: f64, y: &Tensor) -> Result<Tensor>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    let k1 = rhs.call(t, y)?;
    Ok(match solver {
        Solver::Midpoint => y + rhs.call(t + h / 2.0, &(y + k1 * (h / 2.0)))? * h,
        Solver::Heun => {
            let k2 = rhs.call(t + h, &(y + &k1 * h))?;
            y + (k1 + k2) * (h / 2.0)
        }
        Solver::Rk4 => {
            let k2 = rhs.call(t + h / 2.0, &(y + &k1 * (h / 2.0)))?;
            let k3 = rhs.call(t + h / 2.0, &(y + &k2 * (h / 2.0)))?;
            let k4 = rhs.call(t + h, &(y + &k3 * h))?;
            y + (k1 + (k2 + k3) * 2.0 + k4) * (h / 6.0)
        }
        _ => y + k1 * h,
    })
}
