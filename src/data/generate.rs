//! Solving the trajectories of a teacher, chunk by chunk.

use std::ops::Range;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress, Silent, Until};
use crate::ode;
use crate::ode::{FixedSteps, SolveOptions, Solver};
use crate::tensor::{out_of_memory, RandomSource};
use crate::velocity::VelocityField;

/// The trajectories to solve and store.
#[derive(Debug, Clone, Copy)]
pub struct TrajectoryPlan {
    /// Number of trajectories.
    pub count: i64,
    /// Number of uniform intervals of time at whose ends a trajectory is stored.
    pub path_steps: i64,
    /// Fixed steps of the solver; `None` solves adaptively to a fixed tolerance.
    pub fixed: Option<FixedSteps>,
    /// Random seed of the noise and of the drawn conditions.
    pub seed: u64,
    /// Dtype and device of batches.
    pub kind: Kind,
    pub device: Device,
    /// Time limit of solving in seconds. When it has passed, the finished trajectories are kept.
    pub max_seconds: Option<f64>,
}

impl TrajectoryPlan {
    /// Approximate number of evaluations of one solve.
    pub(super) fn evaluations(&self) -> f64 {
        self.fixed.map_or(EVALUATIONS, |fixed| {
            let stages = match fixed.solver {
                Solver::Rk4 => 4,
                Solver::Midpoint | Solver::Heun => 2,
                _ => 1,
            };
            (stages * fixed.steps.max(self.path_steps as u64)) as f64
        })
    }
}

/// Default number of steps of a solver with fixed steps: a third of dopri5's evaluations. On MNIST half as
/// many steps of AB2 have an error of 0.11 of the data's deviation, and students one of 0.34
/// (docs/images.md).
pub const SOLVER_STEPS: u64 = 16;

/// The fixed steps of a solver; `None` for dopri5, which adapts its steps.
///
/// # Errors
/// [`Error::Argument`] naming `solver_steps` if it is given for dopri5 or out of range.
pub fn fixed_steps(solver: Solver, steps: Option<u64>) -> Result<Option<FixedSteps>> {
    match (solver, steps) {
        (Solver::Dopri5, None) => Ok(None),
        (Solver::Dopri5, Some(steps)) => {
            Err(Error::argument("solver_steps", "none with solver='dopri5', which adapts its steps", steps))
        }
        (_, Some(steps)) if !(1..=10_000).contains(&steps) => {
            Err(Error::argument("solver_steps", "an integer from 1 to 10000", steps))
        }
        (_, steps) => Ok(Some(FixedSteps { solver, steps: steps.unwrap_or(SOLVER_STEPS) })),
    }
}

/// Largest number of trajectories in a chunk. Noise is drawn by whole chunks, and a file that was cut off is
/// continued after its last whole chunk.
const CHUNK_ROWS: i64 = 2048;
/// Largest number of stored values of a chunk, which bounds it for large samples.
const CHUNK_VALUES: i64 = 1 << 26;

/// Share of `max_seconds` that trajectories may take.
pub(super) const TIME_SHARE: f64 = 0.4;
/// Least number of trajectories on which a student is trained, and the size of the first part under a time
/// limit.
pub(super) const FEWEST: i64 = 16;
/// Approximate number of evaluations for [`FEWEST`] trajectories. A refused fit is asked for the time of
/// these.
const FEWEST_EVALUATIONS: i64 = 20;
/// A fit without time for one evaluation is refused only if the evaluation takes more than this many seconds.
const WORTH_A_REFUSAL: f64 = 0.5;
/// Share of the remaining time for which the next part is planned.
pub(super) const CAUTION: f64 = 0.8;

/// Approximate number of evaluations of one adaptive solve.
const EVALUATIONS: f64 = 50.0;
/// Number of multiplications of one part on a CPU and on a GPU.
const PART_WORK: (f64, f64) = (1.4e11, 1.4e14);
const LEAST_PART: i64 = 64;

/// Tolerance of adaptive solves. Endpoint errors are below 1e-3 of the data (measured on curved and 64-D
/// teachers), which is less than the error of a student. A tolerance of 1e-5 would take twice as many
/// evaluations.
pub(super) const SOLVER_TOLERANCE: f64 = 1e-4;

/// Number of points, and of coordinates of each, in the fingerprint of a teacher.
const FINGERPRINT_POINTS: i64 = 8;
const FINGERPRINT_COORDINATES: i64 = 64;

/// The clock of a solve with a time limit.
struct Clock {
    started: Instant,
    limit: Option<f64>,
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Seconds left; `None` without a limit.
    fn left(&self) -> Option<f64> {
        self.limit.map(|limit| limit - self.seconds())
    }

    /// The time at which `share` of the limit has passed; `None` without a limit.
    fn at(&self, share: f64) -> Option<Instant> {
        let seconds = Duration::try_from_secs_f64(self.limit? * share).ok()?;
        self.started.checked_add(seconds)
    }
}

/// What is known of the work of solving before it begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Choice {
    /// [`VelocityField::work`] of the teacher; `None` if unknown or under a time limit.
    pub work: Option<f64>,
    /// The default number of trajectories, if fewer are solved because they would take longer than training.
    pub cut_from: Option<i64>,
}

/// Solves trajectories. Each chunk is a function of the plan and the chunk's number.
pub(super) struct Generation<'a> {
    pub(super) teacher: &'a dyn VelocityField,
    pub(super) plan: TrajectoryPlan,
    pub(super) chunk_rows: i64,
    /// The teacher's count of evaluations before its first solve.
    evaluations_before: u64,
    choice: Choice,
    /// Conditions of all trajectories.
    pub condition: Option<Tensor>,
}

impl<'a> Generation<'a> {
    pub fn new(
        teacher: &'a dyn VelocityField,
        plan: TrajectoryPlan,
        chunk_rows: i64,
        pool: Option<&Tensor>,
        choice: Choice,
    ) -> Result<Self> {
        let evaluations_before = teacher.evaluations();
        let mut generation =
            Generation { teacher, plan, chunk_rows, evaluations_before, choice, condition: None };
        if let Some(pool) = pool {
            let mut chosen = Vec::new();
            for index in 0..(plan.count as u64).div_ceil(chunk_rows as u64) as i64 {
                let rows = chunk_rows.min(plan.count - index * chunk_rows);
                let mut random = generation.random(index).fork("condition");
                chosen.push(random.integers(pool.size()[0], rows, pool.device()));
            }
            generation.condition = Some(pool.f_index_select(0, &Tensor::f_cat(&chosen, 0)?)?);
        }
        Ok(generation)
    }

    fn random(&self, chunk: i64) -> RandomSource {
        RandomSource::new(self.plan.seed).fork("trajectories").fork_numbered("chunk ", chunk as u64)
    }

    /// Solves the trajectories in `range`, until all are solved or `limit` seconds have passed. Returns the
    /// index of the first one that was not solved, and notes for the user. Each chunk is solved in parts. A
    /// part has as many rows as fit into memory and, under a time limit, into the remaining time.
    pub fn run(
        &self,
        range: Range<i64>,
        limit: Option<f64>,
        mut store: impl FnMut(i64, &Tensor) -> Result<()>,
        monitor: &mut dyn Monitor,
    ) -> Result<(i64, Vec<String>)> {
        let clock = Clock { started: Instant::now(), limit };
        let (mut done, end, count) = (range.start, range.end, self.plan.count);
        let nothing = |done: i64| done == range.start;
        let progress = |done: i64| Progress {
            stage: "trajectories",
            step: done as u64,
            total: count as u64,
            seconds: clock.seconds(),
            values: Vec::new(),
        };
        if done > 0 && done < end {
            monitor.report(&progress(done))?;
        }
        let mut notes: Vec<String> = kinks(self.teacher, self.plan.path_steps).into_iter().collect();
        notes.iter().try_for_each(|note| monitor.note(&progress(done), note))?;
        let mut rows = if clock.limit.is_some() { FEWEST } else { self.part_rows() };
        let mut noise = None;
        while done < end {
            let (chunk, offset) = (done / self.chunk_rows, done % self.chunk_rows);
            let whole = match noise.take() {
                Some((own, whole)) if own == chunk => whole,
                _ => self.noise(chunk, monitor)?,
            };
            let part = rows.min(self.chunk_rows - offset).min(end - done);
            let start = whole.narrow(0, offset, part);
            noise = Some((chunk, whole));
            let began = clock.seconds();
            // The first part may take only half of the time, so that there is time for a sketch if it fails.
            let share = if nothing(done) { 0.5 } else { 1.0 };
            let solved = {
                let mut watch = Until::new(monitor, clock.at(share));
                let mut solve = || self.solve(done, &start, &mut watch);
                if part > 1 {
                    out_of_memory(solve)
                } else {
                    solve().map(Some)
                }
            };
            let states = match solved {
                Ok(Some(states)) => states,
                Ok(None) => {
                    rows = (part + 1) / 2;
                    continue;
                }
                Err(Error::OutOfTime) if !nothing(done) => break,
                Err(Error::OutOfTime) => {
                    let (states, note) = self.sketch((done, &start), &clock, monitor)?;
                    monitor.note(&progress(part), &note)?;
                    notes.push(note);
                    states
                }
                Err(error) => return Err(error),
            };
            store(done, &states)?;
            done += part;
            monitor.report(&progress(done))?;
            if let Some(most) = self.choice.cut_from.filter(|_| done == range.start + part) {
                let note = too_many(count, most, clock.seconds() * count as f64 / part as f64);
                monitor.note(&progress(done), &note)?;
                notes.push(note);
            }
            let Some(left) = clock.left() else { continue };
            let fitting = CAUTION * left * part as f64 / (clock.seconds() - began).max(1e-9);
            if fitting < FEWEST as f64 {
                break;
            }
            rows = (4 * rows).min(fitting as i64);
        }
        Ok((done, notes))
    }

    /// The initial states of a chunk, `[chunk_rows, *event]`.
    fn noise(&self, chunk: i64, monitor: &mut dyn Monitor) -> Result<Tensor> {
        let first = chunk * self.chunk_rows;
        let rows = self.chunk_rows.min(self.plan.count - first);
        let condition = self.condition.as_ref().map(|c| c.narrow(0, first, rows));
        let mut random = self.random(chunk).fork("noise");
        let (shape, options) = (self.teacher.event_shape(), (self.teacher.dtype(), self.teacher.device()));
        let source = self.teacher.source();
        ode::draw(&source, rows, shape, &mut random, options, condition.as_ref(), monitor)
    }

    /// Trajectories `[rows, T, d]`, float32, from `noise`. The index of the first one is `first`.
    fn solve(&self, first: i64, noise: &Tensor, monitor: &mut dyn Monitor) -> Result<Tensor> {
        // The adaptive solver has dense output at the grid. It is as cheap as 16 steps of RK4 for a smooth
        // field, and safe for a field that is stiff near t = 1 (finite data sets).
        let options = match self.plan.fixed {
            Some(FixedSteps { solver, steps }) => SolveOptions::fixed(solver, steps),
            None => SolveOptions::adaptive(SOLVER_TOLERANCE),
        };
        let (rows, times) = (noise.size()[0], uniform(self.plan.path_steps));
        let condition = self.condition.as_ref().map(|c| c.narrow(0, first, rows));
        let solution = ode::solve(self.teacher, noise, &times, &options, condition.as_ref(), monitor)?;
        self.by_trajectory(&solution.trajectory)
    }

    /// Approximates the first trajectories, if they could not be solved in time. It takes as many steps as
    /// there is still time for, and straight lines between them. Returns states and a note for the user.
    fn sketch(
        &self,
        (first, noise): (i64, &Tensor),
        clock: &Clock,
        monitor: &mut dyn Monitor,
    ) -> Result<(Tensor, String)> {
        let evaluations = self.teacher.evaluations() - self.evaluations_before;
        let limit = clock.limit.unwrap_or(f64::INFINITY);
        let cost = if evaluations > 0 { clock.seconds() / evaluations as f64 } else { 0.0 };
        let whole = limit / TIME_SHARE;
        if cost > limit && cost > WORTH_A_REFUSAL {
            let enough = cost * (FEWEST_EVALUATIONS as f64 / TIME_SHARE);
            let expected = format!(
                "at least {enough:.0} s for this teacher, because one evaluation of {FEWEST} samples takes {cost:.1} s"
            );
            return Err(Error::argument("max_seconds", expected, whole));
        }
        let affordable = (clock.left().unwrap_or(0.0) / cost.max(1e-9)) as u64;
        let steps = (affordable / 2).clamp(1, self.plan.path_steps as u64);
        let solver = if affordable < 2 { Solver::Euler } else { Solver::Midpoint };
        let options = SolveOptions::fixed(solver, steps);
        let condition = self.condition.as_ref().map(|c| c.narrow(0, first, noise.size()[0]));
        let times = uniform(steps as i64);
        let solution = ode::solve(self.teacher, noise, &times, &options, condition.as_ref(), monitor)?;
        let known = solution.trajectory;
        let place = Tensor::arange(self.plan.path_steps + 1, (Kind::Double, known.device()))
            * (steps as f64 / self.plan.path_steps as f64);
        let before = place.floor().clamp_max(steps as f64 - 1.0);
        let mut shape = vec![1; known.dim()];
        shape[0] = -1;
        let weight = (place - &before).to_kind(known.kind()).f_view(shape.as_slice())?;
        let before = before.to_kind(Kind::Int64);
        let at = |index: &Tensor| known.f_index_select(0, index);
        let lines = at(&before)?.f_lerp_tensor(&at(&(&before + 1))?, &weight)?;
        let note = format!(
            "max_seconds={whole} is too short to solve trajectories of this teacher: {} of them are approximated by \
             {steps} {} step(s), and the student will be poor",
            noise.size()[0],
            solver.name()
        );
        Ok((self.by_trajectory(&lines)?, note))
    }

    /// States `[T, rows, *event]` as float32 `[rows, T, d]`.
    fn by_trajectory(&self, states: &Tensor) -> Result<Tensor> {
        let flat = states.f_reshape([self.plan.path_steps + 1, -1, self.teacher.event_size()])?;
        Ok(flat.transpose(0, 1).to_kind(Kind::Float))
    }

    /// Number of trajectories in a part without a time limit, such that a part takes a few seconds.
    fn part_rows(&self) -> i64 {
        let most = if self.teacher.device().is_cuda() { PART_WORK.1 } else { PART_WORK.0 };
        let one = self.choice.work.unwrap_or(0.0) * self.plan.evaluations();
        ((most / one.max(1.0)) as i64).clamp(LEAST_PART, self.chunk_rows.max(LEAST_PART))
    }

    /// Velocities at a few fixed points, by which a teacher is recognised. It takes one evaluation.
    pub fn fingerprint(&self) -> Result<Vec<f64>> {
        let (teacher, points) = (self.teacher, FINGERPRINT_POINTS);
        let (kind, device) = (teacher.dtype(), teacher.device());
        let mut random = RandomSource::new(0).fork("fingerprint");
        // The points are drawn from the source, because another source makes another flow.
        let (source, shape) = (teacher.source(), teacher.event_shape());
        let some = self.condition.as_ref().map(|c| {
            let rows = Tensor::arange(points, (Kind::Int64, c.device())).remainder(c.size()[0]);
            c.index_select(0, &rows).to_device(device)
        });
        let x = ode::draw(&source, points, shape, &mut random, (kind, device), some.as_ref(), &mut Silent)?;
        let t = (Tensor::arange(points, (kind, device)) + 0.5) / points as f64;
        let v = teacher.velocity(&t, &x, some.as_ref())?.f_reshape([points, -1])?;
        let stride = (v.size()[1] / FINGERPRINT_COORDINATES).max(1);
        let some = v.slice(1, 0, stride * FINGERPRINT_COORDINATES, stride);
        let flat = some.to_kind(Kind::Double).to_device(Device::Cpu).contiguous().f_view([-1])?;
        let values = Vec::<f64>::try_from(&flat)?;
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(Error::teacher("the velocity field returned values that are not finite")),
        }
    }
}

/// The `steps + 1` ends of `steps` uniform intervals of [0, 1].
fn uniform(steps: i64) -> Vec<f64> {
    (0..=steps).map(|i| i as f64 / steps as f64).collect()
}

/// A note if the velocity jumps between the times of stored paths, because stored paths do not show such
/// kinks.
fn kinks(teacher: &dyn VelocityField, path_steps: i64) -> Option<String> {
    let breaks = teacher.breaks();
    let on_grid = |steps: i64| {
        let off = |t: &f64| (t * steps as f64 - (t * steps as f64).round()).abs() > 1e-6;
        !breaks.iter().any(off)
    };
    if on_grid(path_steps) {
        return None;
    }
    let between: Vec<String> = breaks.iter().map(|t| format!("{t:.4}")).collect();
    let cure = (2..=path_steps.max(64)).find(|steps| on_grid(*steps));
    let cure = cure.map_or(String::new(), |steps| format!("; choose a multiple of {steps}"));
    Some(format!(
        "path_steps={path_steps} does not store the times {}, at which the teacher's paths have kinks{cure}",
        between.join(", ")
    ))
}

/// A note that `count` trajectories are solved instead of `most`.
fn too_many(count: i64, most: i64, seconds: f64) -> String {
    format!(
        "{count} trajectories are solved, in about {seconds:.0} s, because the default of {most} would take longer than \
         training; trajectories=... sets another number"
    )
}

/// Number of trajectories in a chunk, for samples of `dimension` values.
pub(super) fn chunk_rows(plan: &TrajectoryPlan, dimension: i64) -> i64 {
    (CHUNK_VALUES / ((plan.path_steps + 1) * dimension)).clamp(16, CHUNK_ROWS)
}
