//! Batched solvers of dx/dt = v(t, x), forwards and backwards in time: Euler, midpoint, Heun, RK4
//! with fixed steps, and adaptive Dormand-Prince 5(4) that follows SciPy's `RK45` step for step (the
//! same initial step, error norm, controller, reuse of the last stage and dense output; Dormand and
//! Prince, J. Comput. Appl. Math. 6, 1980; Shampine, Math. Comp. 46, 1986).
//!
//! The whole batch is one state: it shares its steps, and the error norm is the root mean square
//! over all of its elements. The state keeps its dtype; time is kept in float64.

mod adjoint;
mod dopri5;
mod likelihood;
mod mass;
mod source;

use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::tensor::{all_finite, check_batch, dtype_name, in_halves, shape_text};
use crate::velocity::{Units, VelocityField};

pub use adjoint::pull_back;
pub use likelihood::{log_prob, DensityOptions, Divergence, EXACT_LIMIT};
pub use mass::log_masses;
pub use source::{check_density, draw, log_density, pool, starts, POOL};

/// Accepted and rejected steps after which the adaptive solver gives up.
pub const STEP_LIMIT: u64 = 100_000;

/// How to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// First order, one evaluation a step.
    Euler,
    /// Second order, two evaluations a step.
    Midpoint,
    /// Second order (explicit trapezium), two evaluations a step.
    Heun,
    /// Fourth order, four evaluations a step.
    Rk4,
    /// Fifth order with adaptive steps, six evaluations a step.
    #[default]
    Dopri5,
}

impl Solver {
    pub fn name(self) -> &'static str {
        match self {
            Solver::Euler => "euler",
            Solver::Midpoint => "midpoint",
            Solver::Heun => "heun",
            Solver::Rk4 => "rk4",
            Solver::Dopri5 => "dopri5",
        }
    }
}

impl FromStr for Solver {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Solver::Euler, Solver::Midpoint, Solver::Heun, Solver::Rk4, Solver::Dopri5]
            .into_iter()
            .find(|solver| solver.name() == name)
            .ok_or_else(|| {
                let expected = "'euler', 'midpoint', 'heun', 'rk4' or 'dopri5'";
                Error::argument("solver", expected, format!("{name:?}"))
            })
    }
}

/// Options of a solver.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SolveOptions {
    pub solver: Solver,
    /// Number of steps of fixed-step solvers over the whole span of times, shared out over the intervals by
    /// their lengths; every interval gets at least one.
    pub steps: u64,
    /// Relative tolerance of dopri5 (never taken below ten roundings of the state's dtype).
    pub rtol: f64,
    /// Absolute tolerance of dopri5.
    pub atol: f64,
}

impl Default for SolveOptions {
    fn default() -> Self {
        SolveOptions { solver: Solver::Dopri5, steps: 100, rtol: 1e-5, atol: 1e-5 }
    }
}

impl SolveOptions {
    /// dopri5 with one tolerance for both.
    pub fn adaptive(tolerance: f64) -> Self {
        SolveOptions { rtol: tolerance, atol: tolerance, ..SolveOptions::default() }
    }

    /// A fixed-step solver.
    pub fn fixed(solver: Solver, steps: u64) -> Self {
        SolveOptions { solver, steps, ..SolveOptions::default() }
    }

    /// # Errors
    /// [`Error::Argument`] for zero steps, a negative or non-finite rtol, an atol that is not
    /// positive and finite.
    pub fn validate(&self) -> Result<()> {
        if self.steps == 0 {
            return Err(Error::argument("steps", "at least 1", self.steps));
        }
        if !(self.rtol >= 0.0 && self.rtol.is_finite()) {
            return Err(Error::argument("rtol", "a finite number, at least 0", self.rtol));
        }
        if !(self.atol > 0.0 && self.atol.is_finite()) {
            return Err(Error::argument("atol", "a finite number above 0", self.atol));
        }
        Ok(())
    }
}

/// A solved trajectory.
#[derive(Debug)]
pub struct Solution {
    /// The states at the requested times: `[T, B, *event]`; the first is the start.
    pub trajectory: Tensor,
    /// Evaluations that one sample needed (NFE).
    pub evaluations: u64,
    pub accepted: u64,
    pub rejected: u64,
}

impl Solution {
    /// The state at the last time: `[B, *event]`.
    pub fn endpoint(&self) -> Tensor {
        self.trajectory.select(0, -1)
    }
}

/// Integrates dx/dt = v(t, x) from `times[0]`, where the state is `x` (`[B, *event]`, any float
/// dtype and device), through all of `times`. Gradients are not recorded. The trajectory has the
/// field's dtype and lies on its device. Between 0 and 1, a field that knows its data to be far from standard
/// ([`VelocityField::standard`]) is solved in standard coordinates: steps are equal and tolerances are meant there.
///
/// # Errors
/// [`Error::Shape`], [`Error::Argument`] or [`Error::NonFinite`] for bad arguments,
/// [`Error::Divergence`] where the state or the velocity stops being finite, where the step size
/// underflows, or after [`STEP_LIMIT`] steps; whatever the field or the monitor answers.
pub fn solve(
    field: &dyn VelocityField,
    x: &Tensor,
    times: &[f64],
    options: &SolveOptions,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Solution> {
    let batch = check_batch("x", x, field.event_shape())?;
    field.conditioning().check(condition, batch)?;
    solve_checked(field, x, times, options, condition, monitor)
}

/// [`solve`] of what was checked.
fn solve_checked(
    field: &dyn VelocityField,
    x: &Tensor,
    times: &[f64],
    options: &SolveOptions,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Solution> {
    let (device, kind, batch) = (field.device(), field.dtype(), x.size()[0]);
    let x = x.to_device(device).to_kind(kind);
    let condition = condition.map(|c| c.to_device(device));
    let solve = |field: &dyn VelocityField, x: &Tensor, times: &[f64], monitor: &mut dyn Monitor| {
        let velocity = |t: f64, x: &Tensor| {
            let t = Tensor::f_full([batch], t, (kind, device))?;
            field.velocity(&t, x, condition.as_ref())
        };
        integrate(velocity, x, times, options, monitor)
    };
    let between = times.iter().all(|t| (0.0..=1.0).contains(t));
    match field.standard()?.filter(|_| between) {
        None => solve(field, &x, times, monitor),
        Some((field, units)) => {
            in_units(&units.to(kind, device), &x, times, |z, times| solve(&*field, z, times, monitor))
        }
    }
}

/// A solution in standard coordinates as one in the units of `x`, the state at the first of `times`.
fn in_units(
    units: &Units,
    x: &Tensor,
    times: &[f64],
    solve: impl FnOnce(&Tensor, &[f64]) -> Result<Solution>,
) -> Result<Solution> {
    check_times(times)?;
    let own: Vec<f64> = times.iter().map(|t| units.time(*t)).collect();
    let solution = solve(&units.standard_at(times[0], x)?, &own)?;
    let back = units.inverse();
    let mut states = vec![x.shallow_clone()];
    for (index, time) in own.iter().enumerate().skip(1) {
        states.push(back.standard_at(*time, &solution.trajectory.select(0, index as i64))?);
    }
    Ok(Solution { trajectory: Tensor::f_stack(&states, 0)?, ..solution })
}

/// How [`solve_chunked`] cuts a large batch, and under which name it reports.
#[derive(Debug, Clone, Copy)]
pub struct Chunks {
    /// The stage of the progress reports: `"sample"`, `"trajectories"` and so on.
    pub stage: &'static str,
    /// Number of samples solved at once.
    pub rows: i64,
}

impl Chunks {
    pub fn new(stage: &'static str) -> Self {
        Chunks { stage, rows: 8192 }
    }
}

/// [`solve`] in chunks of bounded size, halved where memory runs out; reports samples done after each. The trajectory is collected
/// on the device of `x`. Each chunk picks its own adaptive steps, so that results depend on the chunk
/// size within the tolerances. Step and evaluation counts are those of the most expensive chunk: what
/// one sample needed.
///
/// # Errors
/// As [`solve`].
pub fn solve_chunked(
    field: &dyn VelocityField,
    x: &Tensor,
    times: &[f64],
    options: &SolveOptions,
    condition: Option<&Tensor>,
    chunks: Chunks,
    monitor: &mut dyn Monitor,
) -> Result<Solution> {
    let batch = check_batch("x", x, field.event_shape())?;
    field.conditioning().check(condition, batch)?;
    if chunks.rows < 1 {
        return Err(Error::argument("chunk rows", "at least 1", chunks.rows));
    }
    let mut shape = vec![times.len() as i64];
    shape.extend(x.size());
    let trajectory = Tensor::f_zeros(shape, (field.dtype(), x.device()))?;
    let mut total = Solution { trajectory, evaluations: 0, accepted: 0, rejected: 0 };
    let start = Instant::now();
    in_halves(batch, chunks.rows, |first, rows| {
        let part = condition.map(|c| c.narrow(0, first, rows));
        let solved = solve_checked(field, &x.narrow(0, first, rows), times, options, part.as_ref(), monitor)?;
        total.trajectory.narrow(1, first, rows).f_copy_(&solved.trajectory)?;
        total.evaluations = total.evaluations.max(solved.evaluations);
        total.accepted = total.accepted.max(solved.accepted);
        total.rejected = total.rejected.max(solved.rejected);
        monitor.report(&Progress {
            stage: chunks.stage,
            step: (first + rows) as u64,
            total: batch as u64,
            seconds: start.elapsed().as_secs_f64(),
            values: vec![("evaluations".into(), total.evaluations as f64)],
        })
    })?;
    Ok(total)
}

/// The core: integrates dy/dt = `derivative(t, y)` for a state of any shape from `times[0]` through
/// all of `times` (finite, strictly monotone, in either direction). Gradients are not recorded.
/// `monitor.tick()` is called before every evaluation; its error stops the integration.
///
/// # Errors
/// As [`solve`]; [`Error::Teacher`] where the derivative has another shape or dtype than the state.
pub fn integrate<F>(
    derivative: F,
    y: &Tensor,
    times: &[f64],
    options: &SolveOptions,
    monitor: &mut dyn Monitor,
) -> Result<Solution>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    options.validate()?;
    check_times(times)?;
    let mut rhs = Rhs { derivative, monitor, shape: y.size(), kind: y.kind(), evaluations: 0 };
    // A guard, so that gradients come back on even where the derivative panics.
    let _no_grad = tch::no_grad_guard();
    let y = y.detach();
    let (states, accepted, rejected) = match options.solver {
        _ if times.len() == 1 => (vec![y], 0, 0),
        Solver::Dopri5 => dopri5::run(&mut rhs, &y, times, options)?,
        solver => fixed(&mut rhs, solver, &y, times, options.steps)?,
    };
    let trajectory = Tensor::f_stack(&states, 0)?;
    Ok(Solution { trajectory, evaluations: rhs.evaluations, accepted, rejected })
}

/// The right-hand side, counted, watched and checked.
struct Rhs<'a, F> {
    derivative: F,
    monitor: &'a mut dyn Monitor,
    shape: Vec<i64>,
    kind: Kind,
    evaluations: u64,
}

impl<F: FnMut(f64, &Tensor) -> Result<Tensor>> Rhs<'_, F> {
    fn call(&mut self, t: f64, y: &Tensor) -> Result<Tensor> {
        self.monitor.tick()?;
        self.evaluations += 1;
        let slope = (self.derivative)(t, y)?;
        // A wrong shape might broadcast and give a plausible answer.
        if slope.size() != self.shape || slope.kind() != self.kind {
            return Err(Error::teacher(format!(
                "the velocity at t = {t} has shape {} and dtype {}, expected {} and {}",
                shape_text(&slope.size()),
                dtype_name(slope.kind()),
                shape_text(&self.shape),
                dtype_name(self.kind),
            )));
        }
        Ok(slope)
    }
}

type States = (Vec<Tensor>, u64, u64);

fn check_times(times: &[f64]) -> Result<()> {
    if times.is_empty() {
        return Err(Error::argument("times", "at least one time", "none"));
    }
    if let Some(t) = times.iter().find(|t| !t.is_finite()) {
        return Err(Error::argument("times", "finite numbers", t));
    }
    let up = times.windows(2).all(|w| w[0] < w[1]);
    let down = times.windows(2).all(|w| w[0] > w[1]);
    if !(up || down) {
        return Err(Error::argument(
            "times",
            "strictly increasing or decreasing times",
            format!("{times:?}"),
        ));
    }
    Ok(())
}

fn not_finite(t: f64) -> Error {
    Error::Divergence(format!("the state or its velocity is not finite at t = {t:.6}"))
}

/// Steps for each interval: the rounded running share of `steps`, at least one each.
fn share_steps(times: &[f64], steps: u64) -> Vec<u64> {
    let (start, span) = (times[0], times[times.len() - 1] - times[0]);
    let mut done = 0;
    times[1..]
        .iter()
        .map(|t| {
            let target = ((t - start) / span * steps as f64).round() as u64;
            let share = target.saturating_sub(done).max(1);
            done += share;
            share
        })
        .collect()
}

fn fixed<F>(rhs: &mut Rhs<'_, F>, solver: Solver, y: &Tensor, times: &[f64], steps: u64) -> Result<States>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    let mut y = y.shallow_clone();
    let mut states = vec![y.shallow_clone()];
    let mut taken = 0;
    for (ends, share) in times.windows(2).zip(share_steps(times, steps)) {
        let h = (ends[1] - ends[0]) / share as f64;
        for step in 0..share {
            let t = ends[0] + h * step as f64;
            y = fixed_step(rhs, solver, t, h, &y)?;
            // Each look waits for another device: there, one at the end of the interval tells as well.
            if (y.device() == Device::Cpu || step + 1 == share) && !all_finite(&y) {
                return Err(not_finite(t + h));
            }
            taken += 1;
        }
        states.push(y.shallow_clone());
    }
    Ok((states, taken, 0))
}

fn fixed_step<F>(rhs: &mut Rhs<'_, F>, solver: Solver, t: f64, h: f64, y: &Tensor) -> Result<Tensor>
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
        Solver::Euler | Solver::Dopri5 => y + k1 * h,
    })
}
