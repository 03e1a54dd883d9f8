//! Batched solvers of dx/dt = v(t, x), forwards and backwards in time. Methods with fixed steps on a grid are
//! Euler, midpoint, Heun, RK4, Adams-Bashforth and DPM-Solver++(2M). The adaptive method is Dormand-Prince
//! 5(4), which follows SciPy's `RK45` step for step: the same initial step, error norm, controller, reuse of
//! the last stage and dense output (Dormand and Prince, J. Comput. Appl. Math. 6, 1980; Shampine, Math. Comp.
//! 46, 1986).
//!
//! The whole batch is one state: all samples share their steps, and the error norm is the root mean square
//! over all elements. The state keeps its dtype; time is kept in float64.

mod adjoint;
mod breaks;
mod dopri5;
mod fixed;
mod grid;
mod likelihood;
mod mass;
mod multistep;
mod source;

use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::tensor::{check_batch, dtype_name, in_halves, shape_text};
use crate::velocity::{Mixing, Units, VelocityField};

use breaks::integrate_between;

pub use adjoint::pull_back;
pub use grid::Grid;
pub use likelihood::{log_prob, DensityOptions, Divergence, EXACT_LIMIT};
pub use mass::log_masses;
pub use source::{check_density, draw, log_density, pool, starts, POOL};

/// Number of accepted and rejected steps after which the adaptive solver gives up.
pub const STEP_LIMIT: u64 = 100_000;

/// An integration method.
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
    /// Second order by the slopes of two steps (Adams and Bashforth), one evaluation a step.
    Ab2,
    /// Third order by the slopes of three steps (Adams and Bashforth), one evaluation a step.
    Ab3,
    /// DPM-Solver++(2M): second order, one evaluation a step.
    Dpm2m,
    /// Fifth order with adaptive steps, six evaluations a step.
    #[default]
    Dopri5,
}

impl Solver {
    const ALL: [Solver; 8] = [
        Solver::Euler,
        Solver::Midpoint,
        Solver::Heun,
        Solver::Rk4,
        Solver::Ab2,
        Solver::Ab3,
        Solver::Dpm2m,
        Solver::Dopri5,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Solver::Euler => "euler",
            Solver::Midpoint => "midpoint",
            Solver::Heun => "heun",
            Solver::Rk4 => "rk4",
            Solver::Ab2 => "ab2",
            Solver::Ab3 => "ab3",
            Solver::Dpm2m => "dpm2m",
            Solver::Dopri5 => "dopri5",
        }
    }
}

impl FromStr for Solver {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Solver::ALL.into_iter().find(|solver| solver.name() == name).ok_or_else(|| {
            let expected = "'euler', 'midpoint', 'heun', 'rk4', 'ab2', 'ab3', 'dpm2m' or 'dopri5'";
            Error::argument("solver", expected, format!("{name:?}"))
        })
    }
}

/// A fixed-step solver and its number of steps over [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedSteps {
    pub solver: Solver,
    pub steps: u64,
}

/// Options of a solver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SolveOptions {
    pub solver: Solver,
    /// Number of steps of fixed-step solvers over the whole span of times. They are divided among the
    /// intervals in proportion to their lengths; every interval gets at least one.
    pub steps: u64,
    /// Relative tolerance of dopri5. A value below ten times the machine epsilon of the state's dtype is
    /// raised to it.
    pub rtol: f64,
    /// Absolute tolerance of dopri5.
    pub atol: f64,
    /// Grid of fixed steps. `None` is [`Grid::LogSnr`] for multistep methods if the path is known, else
    /// [`Grid::Uniform`]. If the grid is given by its times, `steps` is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
}

impl Default for SolveOptions {
    fn default() -> Self {
        SolveOptions { solver: Solver::Dopri5, steps: 100, rtol: 1e-5, atol: 1e-5, grid: None }
    }
}

impl SolveOptions {
    /// dopri5 with the same relative and absolute tolerance.
    pub fn adaptive(tolerance: f64) -> Self {
        SolveOptions { rtol: tolerance, atol: tolerance, ..SolveOptions::default() }
    }

    /// A fixed-step solver.
    pub fn fixed(solver: Solver, steps: u64) -> Self {
        SolveOptions { solver, steps, ..SolveOptions::default() }
    }

    /// # Errors
    /// [`Error::Argument`] for zero steps, a negative or non-finite rtol, an atol that is not positive and
    /// finite, a grid of invalid times, or any grid with dopri5.
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
        let Some(grid) = &self.grid else { return Ok(()) };
        if self.solver == Solver::Dopri5 {
            return Err(Error::argument("grid", "None with 'dopri5', which chooses its own steps", "a grid"));
        }
        grid.check()
    }

    /// The same options in standard coordinates, where times differ.
    fn in_units(&self, units: &Units) -> SolveOptions {
        SolveOptions { grid: self.grid.as_ref().map(|grid| grid.in_units(units)), ..self.clone() }
    }
}

/// What is known about the states of an equation.
#[derive(Debug, Clone, Copy)]
enum Along {
    /// Nothing.
    Anything,
    /// They consist of mixtures a x1 + s x0 of data and noise, and of further variables.
    Augmented(Mixing),
    /// They are mixtures a x1 + s x0 of data and noise.
    States(Mixing),
}

impl Along {
    fn mixing(&self) -> Option<Mixing> {
        match self {
            Along::Anything => None,
            Along::Augmented(mixing) | Along::States(mixing) => Some(*mixing),
        }
    }

    /// What is known about augmented states along a field, from time 0 to 1 or back.
    fn augmented(field: &dyn VelocityField) -> Along {
        field.mixing().map_or(Along::Anything, Along::Augmented)
    }
}

/// A solved trajectory.
#[derive(Debug)]
pub struct Solution {
    /// The states at the requested times: `[T, B, *event]`; the first is the start.
    pub trajectory: Tensor,
    /// Number of evaluations that one sample needed (NFE).
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

/// Integrates dx/dt = v(t, x) from `times[0]`, where the state is `x` (`[B, *event]`, any float dtype and
/// device), through all of `times`. Gradients are not recorded. The trajectory has the field's dtype and lies
/// on its device. If all times are in [0, 1], a field whose data are far from standardised
/// ([`VelocityField::standard`]) is solved in standard coordinates. Grids and tolerances then refer to those.
/// Solvers restart where the velocity jumps ([`VelocityField::breaks`]).
///
/// # Errors
/// [`Error::Shape`], [`Error::Argument`] or [`Error::NonFinite`] for bad arguments, [`Error::Divergence`] if
/// the state or the velocity stops being finite, if the step size underflows, or after [`STEP_LIMIT`] steps;
/// any error of the field or the monitor.
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

/// [`solve`] without the checks of `x` and `condition`.
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
    let between = times.iter().all(|t| (0.0..=1.0).contains(t));
    let mut solve = |field: &dyn VelocityField, x: &Tensor, times: &[f64], options: &SolveOptions| {
        let velocity = |t: f64, x: &Tensor| {
            let t = Tensor::f_full([batch], t, (kind, device))?;
            field.velocity(&t, x, condition.as_ref())
        };
        let along = field.mixing().filter(|_| between).map_or(Along::Anything, Along::States);
        integrate_between(velocity, x, times, options, &along, &field.breaks(), monitor)
    };
    match field.standard()?.filter(|_| between) {
        None => solve(field, &x, times, options),
        Some((field, units)) => {
            // Checked here, so that a message shows the caller's times.
            options.validate()?;
            let own = options.in_units(&units);
            in_units(&units.to(kind, device), &x, times, |z, times| solve(&*field, z, times, &own))
        }
    }
}

/// Solves in standard coordinates, and converts the solution to the units of `x`, the state at the first of
/// `times`.
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

/// The first of `times`, followed by the ends of the fixed steps that [`solve`] takes through `times`.
///
/// # Errors
/// As [`solve`]; [`Error::Argument`] naming `solver` for dopri5, whose steps depend on the states.
pub fn step_times(field: &dyn VelocityField, times: &[f64], options: &SolveOptions) -> Result<Vec<f64>> {
    options.validate()?;
    check_times(times)?;
    if options.solver == Solver::Dopri5 {
        return Err(Error::argument("solver", "a solver with fixed steps", "'dopri5'"));
    }
    let between = times.iter().all(|t| (0.0..=1.0).contains(t));
    let ends = |field: &dyn VelocityField, times: &[f64], options: &SolveOptions| -> Result<Vec<f64>> {
        let along = field.mixing().filter(|_| between).map_or(Along::Anything, Along::States);
        let steps = grid::steps(times, options, &along)?;
        Ok(times.iter().take(1).copied().chain(steps.iter().map(|step| step.end)).collect())
    };
    let Some((field, units)) = field.standard()?.filter(|_| between) else {
        return ends(field, times, options);
    };
    let own: Vec<f64> = times.iter().map(|t| units.time(*t)).collect();
    let back = units.inverse();
    Ok(ends(&*field, &own, &options.in_units(&units))?.into_iter().map(|t| back.time(t)).collect())
}

/// The chunk size of [`solve_chunked`], and the stage under which it reports.
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

/// [`solve`] in chunks of bounded size, halved when memory runs out. Reports the number of finished samples
/// after each chunk. The trajectory is collected on the device of `x`. Each chunk chooses its own adaptive
/// steps, so results depend on the chunk size within the tolerances. The counts of steps and evaluations are
/// those of the most expensive chunk.
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

/// Integrates dy/dt = `derivative(t, y)` for a state of any shape from `times[0]` through all of `times`
/// (finite, strictly monotone, in either direction). Gradients are not recorded. `monitor.tick()` is called
/// before every evaluation; its error stops the integration.
///
/// # Errors
/// As [`solve`]; [`Error::Teacher`] if the derivative has another shape or dtype than the state;
/// [`Error::Argument`] for a solver or grid that needs to know the path of the states.
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
    integrate_along(derivative, y, times, options, &Along::Anything, monitor)
}

/// [`integrate`], with what is known about the states.
fn integrate_along<F>(
    derivative: F,
    y: &Tensor,
    times: &[f64],
    options: &SolveOptions,
    along: &Along,
    monitor: &mut dyn Monitor,
) -> Result<Solution>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    options.validate()?;
    check_times(times)?;
    let mut rhs = Rhs { derivative, monitor, shape: y.size(), kind: y.kind(), evaluations: 0 };
    // A guard restores gradients even if the derivative panics.
    let _no_grad = tch::no_grad_guard();
    let y = y.detach();
    let steps = || grid::steps(times, options, along);
    let (states, accepted, rejected) = match options.solver {
        _ if times.len() == 1 => (vec![y], 0, 0),
        Solver::Dopri5 => dopri5::run(&mut rhs, &y, times, options)?,
        Solver::Ab2 => multistep::adams(&mut rhs, &y, &steps()?, 2, along)?,
        Solver::Ab3 => multistep::adams(&mut rhs, &y, &steps()?, 3, along)?,
        Solver::Dpm2m => multistep::dpm2m(&mut rhs, &y, &steps()?, along)?,
        solver => {
            let steps = steps()?;
            fixed::march(&mut rhs, &y, &steps, |rhs, index, y| {
                fixed::step(rhs, solver, steps[index].start, steps[index].length, y)
            })?
        }
    };
    let trajectory = Tensor::f_stack(&states, 0)?;
    Ok(Solution { trajectory, evaluations: rhs.evaluations, accepted, rejected })
}

/// The right-hand side, with a counter of evaluations, a monitor and a check of its values.
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
        // A wrong shape might broadcast and give a plausible result.
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
