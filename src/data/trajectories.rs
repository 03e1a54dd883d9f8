//! Stored trajectories of the teacher, in memory or in a file that later fits reuse.

use std::path::Path;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::demand::HELD_OUT;
use super::generate::{chunk_rows, Choice, Generation, SOLVER_TOLERANCE, TIME_SHARE};
use super::shared::told;
use super::{Demand, Inputs, Pairs, Points, StoredPlan, TrajectoryFile, TrajectoryPlan};
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::nets::InputCoordinates;
use crate::ode::FixedSteps;
use crate::store::WriterLock;
use crate::tensor::all_finite;
use crate::velocity::VelocityField;

/// Trajectories of the teacher at uniform times from 0 (noise) to 1 (data).
#[derive(Debug)]
pub struct Trajectories {
    /// States `[N, T, d]`, float32, on the student's device, or on the CPU if they are a mapped file.
    states: Tensor,
    /// Times `[T]`.
    times: Tensor,
    /// Inverse of the summed variance of x_t at each time, `[T]`. Errors at that time are scaled by it.
    precision: Tensor,
    /// Condition of each trajectory, in the teacher's form, `[N, ...]`.
    condition: Option<Tensor>,
    conditioning: Conditioning,
    kind: Kind,
    device: Device,
    /// Number of held-out trajectories, which are the last ones.
    held_out: i64,
    /// Notes for the user about how they were solved.
    notes: Vec<String>,
}

/// Largest number of trajectories from which statistics are computed, so that a mapped file need not be read
/// whole.
const STATISTICS_ROWS: i64 = 32_768;

/// Largest relative difference of fingerprints of the same teacher. Other machines and thread counts round
/// differently; other teachers differ by far more.
const FINGERPRINT_TOLERANCE: f64 = 1e-4;

impl Trajectories {
    /// Trajectories under the inputs' conditions, in the inputs' file or in memory, where they take at most
    /// `memory` GiB. Solving may take a fixed share of the plan's `max_seconds`, which is the limit of the
    /// whole fit.
    ///
    /// If the number of trajectories in memory was not chosen by the user, `demand` describes the training.
    /// Then no more are solved than training can use. Without a time limit, solving also takes no longer than
    /// about the training itself. A file always has the plan's number, because other fits may reuse it.
    ///
    /// # Errors
    /// As [`Trajectories::generate`] and [`Trajectories::in_file`]; [`Error::Argument`] naming
    /// `trajectory_memory` if it has room for fewer than 16.
    pub fn of_inputs(
        teacher: &dyn VelocityField,
        plan: TrajectoryPlan,
        memory: f64,
        inputs: &Inputs,
        demand: Option<&Demand>,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        let pool = inputs.condition_pool(teacher)?;
        let max_seconds = plan.max_seconds.map(|limit| limit * TIME_SHARE);
        let plan = TrajectoryPlan { max_seconds, ..plan };
        match &inputs.trajectory_file {
            Some(path) => Self::in_file(teacher, &plan, pool.as_ref(), path, inputs.refresh, monitor),
            None => {
                let count = bounded(memory, &plan, teacher.event_size())?;
                let count = demand.map_or(count, |demand| count.min(demand.usable()));
                let work = work_of(teacher, &plan)?;
                let affordable = demand
                    .zip(work)
                    .map_or(count, |(demand, work)| demand.affordable(work * plan.evaluations()));
                let choice = Choice { work, cut_from: Some(count).filter(|count| affordable < *count) };
                let plan = TrajectoryPlan { count: count.min(affordable), ..plan };
                Self::in_memory(teacher, &plan, pool.as_ref(), choice, monitor)
            }
        }
    }

    /// Solves trajectories from random noise and keeps them in memory. For a conditional teacher, conditions
    /// are drawn uniformly from the rows of `pool`.
    ///
    /// # Errors
    /// Any error of the solver, the teacher or the monitor.
    pub fn generate(
        teacher: &dyn VelocityField,
        plan: &TrajectoryPlan,
        pool: Option<&Tensor>,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        let choice = Choice { work: work_of(teacher, plan)?, cut_from: None };
        Self::in_memory(teacher, plan, pool, choice, monitor)
    }

    fn in_memory(
        teacher: &dyn VelocityField,
        plan: &TrajectoryPlan,
        pool: Option<&Tensor>,
        choice: Choice,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let rows = chunk_rows(plan, teacher.event_size());
        let generation = Generation::new(teacher, *plan, rows, pool, choice)?;
        let shape = [plan.count, plan.path_steps + 1, teacher.event_size()];
        let states = Tensor::f_empty(shape, (Kind::Float, plan.device))?;
        let store = |done: i64, chunk: &Tensor| {
            states.narrow(0, done, chunk.size()[0]).f_copy_(chunk)?;
            Ok(())
        };
        let (done, notes) = generation.run_shared(0, store, monitor)?;
        let trajectories = Self::new(states.narrow(0, 0, done), generation.condition, teacher, plan)?;
        Ok(Trajectories { notes, ..trajectories })
    }

    /// Solves trajectories into a file, which is memory-mapped. A complete file is reused, and a file that
    /// was cut off is continued. A new file is begun if there is none or if `refresh` is true. While another
    /// fit writes the file, this one waits for it and then uses the result. One evaluation of the teacher
    /// checks that the file was made with it. The noise depends on the seed with which the file was begun.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is damaged, or was made with another plan, pool or teacher;
    /// [`Error::Io`]; otherwise as [`Trajectories::generate`]. After any error the solved trajectories stay
    /// in the file.
    pub fn in_file(
        teacher: &dyn VelocityField,
        plan: &TrajectoryPlan,
        pool: Option<&Tensor>,
        path: &Path,
        refresh: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let world = monitor.world().clone();
        // Only the leading rank opens and writes the file. The others read it when it is complete.
        let mut found = None;
        let mut lock = None;
        if world.leads() {
            // A complete file needs no lock. An incomplete one has one writer at a time.
            found = if refresh { None } else { TrajectoryFile::open_whole(path)? };
            if found.is_none() {
                lock = Some(wait_for_writers(path, plan, monitor)?);
                found = if refresh { None } else { TrajectoryFile::open(path)? };
            }
        }
        let seed = found.as_ref().map_or(plan.seed, |file| file.plan().seed);
        let rows = found.as_ref().map_or(0, TrajectoryFile::rows);
        let [seed, rows] = told(&world, [seed, rows as u64], plan.device)?;
        let chunk_rows = chunk_rows(plan, teacher.event_size());
        let choice = Choice { work: work_of(teacher, plan)?, cut_from: None };
        let generation =
            Generation::new(teacher, TrajectoryPlan { seed, ..*plan }, chunk_rows, pool, choice)?;
        let wanted = StoredPlan {
            count: plan.count,
            path_steps: plan.path_steps,
            seed,
            chunk_rows,
            tolerance: SOLVER_TOLERANCE,
            fixed: plan.fixed,
            event_shape: teacher.event_shape().to_vec(),
            conditioning: teacher.conditioning(),
            fingerprint: generation.fingerprint()?,
        };
        let condition = generation.condition.as_ref();
        let mut file = match found {
            Some(file) => {
                check_same(&file, &wanted, condition)?;
                Some(file)
            }
            None if world.leads() => Some(TrajectoryFile::create(path, wanted.clone(), condition)?),
            None => None,
        };
        let mut notes = Vec::new();
        if (rows as i64) < plan.count {
            let store = |_: i64, part: &Tensor| file.as_mut().map_or(Ok(()), |file| file.append(part));
            notes = generation.run_shared(rows as i64, store, monitor)?.1;
        }
        told(&world, [0], plan.device)?;
        drop(lock);
        let file = match file {
            Some(file) => file,
            None => {
                let file = TrajectoryFile::open(path)?.ok_or_else(|| {
                    let message =
                        "rank 0 wrote this file, but this rank cannot see it: all ranks need a shared folder";
                    Error::checkpoint(path.display(), message)
                })?;
                check_same(&file, &wanted, condition)?;
                file
            }
        };
        let trajectories = Self::new(file.states()?, generation.condition, teacher, plan)?;
        let trajectories = Trajectories { notes, ..trajectories };
        match all_finite(&trajectories.precision) {
            true => Ok(trajectories),
            false => Err(file.refuse("holds values that are not finite; refresh=True regenerates it")),
        }
    }

    fn new(
        states: Tensor,
        condition: Option<Tensor>,
        teacher: &dyn VelocityField,
        plan: &TrajectoryPlan,
    ) -> Result<Self> {
        let TrajectoryPlan { path_steps, kind, device, .. } = *plan;
        let count = states.size()[0];
        let times = Tensor::arange(path_steps + 1, (Kind::Double, Device::Cpu)) / path_steps as f64;
        let some = states.narrow(0, 0, count.min(STATISTICS_ROWS));
        let variances: Vec<Tensor> = (0..=path_steps)
            .map(|index| {
                let x = some.select(1, index).to_kind(Kind::Double);
                x.var_dim(0, false, false).sum(Kind::Double)
            })
            .collect();
        let precision = Tensor::f_stack(&variances, 0)?.clamp_min(1e-12).reciprocal();
        Ok(Trajectories {
            times: times.to_kind(kind).to_device(device),
            precision: precision.to_kind(kind).to_device(device),
            condition: condition.map(|c| c.narrow(0, 0, count).to_device(device)),
            conditioning: teacher.conditioning(),
            kind,
            device,
            held_out: (count / 8).clamp(1, HELD_OUT),
            notes: Vec::new(),
            states,
        })
    }

    /// States `[N, T, d]`, float32. They may be a mapped file.
    pub fn states(&self) -> &Tensor {
        &self.states
    }

    /// Notes for the user about how they were solved, for example why there are fewer than the plan says.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub fn times(&self) -> &Tensor {
        &self.times
    }

    pub fn path_times(&self) -> i64 {
        self.times.size()[0]
    }

    pub(crate) fn training_count(&self) -> i64 {
        self.states.size()[0] - self.held_out
    }

    /// The held-out trajectories: states `[H, T, d]` in the student's dtype and on its device, and their
    /// conditions in the student's encoding.
    pub fn held_out(&self) -> (Tensor, Option<Tensor>) {
        let start = self.training_count();
        let take = |tensor: &Tensor| tensor.narrow(0, start, self.held_out);
        let condition = self.condition.as_ref().map(take);
        let states = take(&self.states).to_device(self.device).to_kind(self.kind);
        (states, self.conditioning.encode(condition.as_ref(), self.kind))
    }

    /// The conditions of the held-out trajectories, in the teacher's form.
    pub fn held_out_condition(&self) -> Option<Tensor> {
        self.condition.as_ref().map(|c| c.narrow(0, self.training_count(), self.held_out))
    }

    /// Inverse of the summed variance at time index `index`.
    pub fn precision_at(&self, index: i64) -> f64 {
        self.precision.double_value(&[index])
    }

    /// The table of input coordinates, measured on these trajectories.
    pub fn coordinates(&self, images: Option<&[i64]>) -> Result<InputCoordinates> {
        let some = self.states.narrow(0, 0, self.states.size()[0].min(STATISTICS_ROWS));
        let at = |index: i64| Ok(some.select(1, index));
        match images {
            Some(shape) => {
                InputCoordinates::of_channels(shape, self.path_times(), at, self.kind, self.device)
            }
            None => InputCoordinates::from_trajectories(&some, self.kind, self.device),
        }
    }

    /// Device on which batches are made.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// States `[B, d]` and times `[B]` of trajectories `rows` at time indices `index`.
    pub(crate) fn at(&self, rows: &Tensor, index: &Tensor) -> (Tensor, Tensor) {
        let flat = self.states.view([-1, self.states.size()[2]]);
        let place = (rows * self.path_times() + index).to_device(flat.device());
        let states = flat.index_select(0, &place).to_device(self.device).to_kind(self.kind);
        (states, self.times.index_select(0, &self.here(index)))
    }

    /// The conditions of trajectories `rows`, in the student's encoding and in the teacher's form.
    pub(crate) fn conditions_of(&self, rows: &Tensor) -> (Option<Tensor>, Option<Tensor>) {
        let condition = self.condition.as_ref().map(|c| c.index_select(0, rows));
        (self.conditioning.encode(condition.as_ref(), self.kind), condition)
    }

    /// The points of trajectories `rows` at time indices `from` and `to`.
    pub(crate) fn gather(&self, rows: &[i64], from: &[i64], to: &[i64]) -> Pairs {
        let [rows, from, to] = self.upload([rows, from, to]);
        let ((x_s, s), (x_t, t)) = (self.at(&rows, &from), self.at(&rows, &to));
        let (condition, teacher_condition) = self.conditions_of(&self.here(&rows));
        let precision = |index: &Tensor| self.precision.index_select(0, &self.here(index));
        let (source_precision, precision) = (precision(&from), precision(&to));
        Pairs { s, t, x_s, x_t, precision, source_precision, condition, teacher_condition }
    }

    /// Trajectories `rows` at time indices `at`.
    pub(crate) fn points_at(&self, rows: &[i64], at: &[i64]) -> Points {
        let [rows, at] = self.upload([rows, at]);
        let (x, t) = self.at(&rows, &at);
        let (condition, teacher_condition) = self.conditions_of(&self.here(&rows));
        Points { t, x, condition, teacher_condition }
    }

    /// Index tensors on the device of the states, by a single upload.
    fn upload<const N: usize>(&self, index: [&[i64]; N]) -> [Tensor; N] {
        let all = Tensor::from_slice(&index.concat()).view([N as i64, -1]).to_device(self.states.device());
        std::array::from_fn(|row| all.get(row as i64))
    }

    /// An index tensor on the device of batches.
    fn here(&self, index: &Tensor) -> Tensor {
        index.to_device(self.device)
    }
}

/// Waits until no other fit writes the file at `path`.
fn wait_for_writers(path: &Path, plan: &TrajectoryPlan, monitor: &mut dyn Monitor) -> Result<WriterLock> {
    let started = Instant::now();
    let mut told = false;
    WriterLock::acquire(path, || {
        let seconds = started.elapsed().as_secs_f64();
        if !told {
            told = true;
            let total = plan.count as u64;
            let progress = Progress { stage: "trajectories", step: 0, total, seconds, values: Vec::new() };
            let text = format!("waiting for another fit that is writing {}", path.display());
            monitor.note(&progress, &text)?;
        }
        match plan.max_seconds {
            Some(limit) if seconds > limit => {
                let message = format!("another fit was still writing it after {seconds:.0} seconds");
                Err(Error::checkpoint(path.display(), message))
            }
            _ => monitor.tick(),
        }
    })
}

/// Checks that a file was made with the same plan, teacher and pool of conditions.
fn check_same(file: &TrajectoryFile, wanted: &StoredPlan, condition: Option<&Tensor>) -> Result<()> {
    let stored = file.plan();
    let differ = |what: &str, got: String, expected: String| {
        file.refuse(format!("its {what} is {got}, this fit needs {expected}; refresh=True regenerates it"))
    };
    let sizes = [
        ("number of trajectories", stored.count, wanted.count),
        ("path_steps", stored.path_steps, wanted.path_steps),
        ("chunk size", stored.chunk_rows, wanted.chunk_rows),
    ];
    let shape = |shape: &[i64]| crate::tensor::shape_text(shape);
    if stored.event_shape != wanted.event_shape {
        return Err(differ("event shape", shape(&stored.event_shape), shape(&wanted.event_shape)));
    }
    for (what, got, expected) in sizes {
        if got != expected {
            return Err(differ(what, got.to_string(), expected.to_string()));
        }
    }
    if stored.tolerance != wanted.tolerance {
        return Err(differ("solver tolerance", stored.tolerance.to_string(), wanted.tolerance.to_string()));
    }
    if stored.fixed != wanted.fixed {
        let [got, expected] = [stored.fixed, wanted.fixed].map(|fixed| match fixed {
            Some(FixedSteps { solver, steps }) => format!("{} with {steps} steps", solver.name()),
            None => "dopri5".into(),
        });
        return Err(differ("solver", got, expected));
    }
    if stored.conditioning != wanted.conditioning {
        let [got, expected] = [stored.conditioning, wanted.conditioning].map(|c| format!("{c:?}"));
        return Err(differ("conditioning", got, expected));
    }
    let other = || file.refuse("was made with another pool of conditions; refresh=True regenerates it");
    match (file.condition()?, condition) {
        (None, None) => {}
        (Some(got), Some(expected)) => {
            let expected = expected.to_device(Device::Cpu).to_kind(got.kind());
            if got.size() != expected.size() || !got.equal(&expected) {
                return Err(other());
            }
        }
        _ => return Err(other()),
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let (old, new) = (&stored.fingerprint, &wanted.fingerprint);
    let gap = norm(&mut old.iter().zip(new).map(|(a, b)| a - b));
    // Comparisons with NaN are false, so a NaN fingerprint is never accepted.
    let close = gap <= FINGERPRINT_TOLERANCE * norm(&mut old.iter().copied()).max(1e-6);
    match old.len() == new.len() && close {
        true => Ok(()),
        false => Err(file.refuse(
            "was made with another teacher, or in other units (velocities at fixed points differ); refresh=True \
             regenerates it",
        )),
    }
}

/// [`VelocityField::work`]; `None` under a time limit.
fn work_of(teacher: &dyn VelocityField, plan: &TrajectoryPlan) -> Result<Option<f64>> {
    match plan.max_seconds {
        Some(_) => Ok(None),
        None => Ok(teacher.work()?.filter(|work| *work > 0.0)),
    }
}

/// Number of the plan's trajectories that fit into `memory` GiB.
fn bounded(memory: f64, plan: &TrajectoryPlan, dimension: i64) -> Result<i64> {
    let bytes = 4.0 * (plan.path_steps + 1) as f64 * dimension as f64;
    let fit = (memory * (1u64 << 30) as f64 / bytes).floor() as i64;
    if fit < 16 {
        let expected = format!("room for at least 16 trajectories of {bytes} bytes each");
        let got = format!("{memory} GiB");
        return Err(Error::argument("trajectory_memory", expected, got));
    }
    Ok(plan.count.min(fit))
}
