//! Fitting of all baselines: solve trajectories, take gradient steps, keep the averaged weights.

use serde::Serialize;

use super::{Baseline, BaselineConfig, Source};
use crate::data::{fixed_steps, Demand, InStandardUnits, Inputs, Trajectories, TrajectoryPlan};
use crate::distill::DistillConfig;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Until};
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::RandomSource;
use crate::training::{
    decided, Adam, Averages, Budget, Checkpointing, Exchange, Gradient, Ledger, Loop, LossLog, Note,
    Schedule, ScheduleKind, State, Step, Stopped,
};
use crate::velocity::{Path, VelocityField};
use crate::world::World;

/// What happened while a baseline was fitted.
#[derive(Debug, Clone, Serialize)]
pub struct BaselineHistory {
    /// Number of steps taken, skipped ones included.
    pub steps: u64,
    /// Seconds of the whole fit.
    pub seconds: f64,
    pub trajectory_seconds: f64,
    /// Stored trajectories.
    pub trajectories: i64,
    pub teacher_evaluations: u64,
    pub stopped: Stopped,
    /// Pairs (steps done, mean loss over the steps since the previous entry).
    pub loss: Vec<(u64, f64)>,
    /// Number of steps that were skipped because the loss or the gradient was not finite.
    pub skipped_steps: u64,
    /// Number of returns to an earlier state after a divergence.
    pub restarts: u64,
    /// Descriptions of the restarts and of other events.
    pub notes: Vec<Note>,
}

/// Number of steps that one entry of the history averages over.
const LOG_EVERY: u64 = 50;
/// Share of `max_seconds` that measuring the units of the teacher's data may take.
const UNITS_SHARE: f64 = 0.1;
/// Multiplications per weight and row in one gradient: one in the forward pass, two in the backward pass.
const GRADIENT_WORK: f64 = 3.0;

/// Distils `teacher`: solves its trajectories, or reads them from the inputs' file, and trains the networks
/// of `config.method` on them. Of `inputs`, only conditions and the trajectory file are used.
///
/// The result holds the averaged weights. A step whose loss or gradient is not finite is skipped. After ten
/// such steps in a row, training returns to the last good weights and halves the learning rate. An interrupt
/// during training, the end of `max_seconds` and too many restarts ([`Stopped::Diverged`], which callers may
/// want to treat as an error) still return a result. The learning rate follows the clock if that is ahead of
/// the steps. On a CPU and without `max_seconds`, the same configuration and teacher give the same weights
/// bit for bit.
///
/// # Errors
/// An error that names an option or input out of range; [`Error::Checkpoint`] or [`Error::Io`] for a bad
/// trajectory file; any error of the teacher or the monitor.
pub fn fit(
    teacher: &dyn VelocityField,
    config: &BaselineConfig,
    inputs: &Inputs,
    monitor: &mut dyn Monitor,
) -> Result<(Baseline, BaselineHistory)> {
    let (event_shape, conditioning) = (teacher.event_shape(), teacher.conditioning());
    let open = config.trajectories.is_none();
    let config = config.with_defaults(event_shape, conditioning)?;
    let budget = Budget::new(config.training.steps.unwrap_or(u64::MAX), config.training.max_seconds);
    let evaluations_before = teacher.evaluations();
    let kind = config.training.place()?.0;
    let until = &mut Until::new(monitor, budget.at(UNITS_SHARE));
    let standard = InStandardUnits::find(teacher, inputs, Path::default(), kind, until)?;
    let (teacher, inputs) = match &standard {
        Some(standard) => (&*standard.teacher, &standard.inputs),
        None => (teacher, inputs),
    };
    let (seed, device) = (config.training.seed, config.training.place()?.1);
    let mut student = Baseline::new(config.model(event_shape, conditioning)?, seed, device)?;
    let demand = Demand {
        steps: budget.steps,
        rows: config.batch_size(),
        work: GRADIENT_WORK * student.parameters().count() as f64,
    };
    let trajectories = trajectories(teacher, &config, inputs, Some(&demand).filter(|_| open), monitor)?;
    let trajectory_seconds = budget.seconds();

    student.set_coordinates(trajectories.coordinates(None)?);
    if let Some(standard) = &standard {
        student.set_units(&standard.units);
    }
    let random = RandomSource::new(seed).fork("baseline batches");
    let batch_size = config.batch_size();
    // At least two rows, because some terms divide by the variance of the batch.
    let share = monitor.world().share_of_batch(batch_size, 2)?;
    let source = Source { teacher, trajectories: &trajectories, config: &config, random, share };
    let part = share.1 as f64 / batch_size as f64;
    let fitting = Fitting { student: &student, source, log: LossLog::new(LOG_EVERY), part };
    let mut state = begin(&config, &student, budget, monitor.world())?;
    let notes = trajectories.notes().iter().map(|text| Note { step: 0, text: text.clone() });
    state.ledger.notes.extend(notes);
    let _threads = IntraOpThreads::for_work(student.parameters().count(), config.batch_size());
    let mut run = Loop::new(fitting, state, &config.training, None)?;
    let stopped = run.train(monitor)?;
    let Loop { step: Fitting { mut log, .. }, state, .. } = run;
    state.keep_average()?;
    let Ledger { step, seconds, skipped_steps, restarts, notes, .. } = state.closed_ledger();
    let history = BaselineHistory {
        steps: step,
        seconds,
        trajectory_seconds,
        trajectories: trajectories.states().size()[0],
        teacher_evaluations: teacher.evaluations() - evaluations_before,
        stopped,
        loss: log.state()?.closed(),
        skipped_steps,
        restarts,
        notes,
    };
    drop(state);
    Ok((student, history))
}

fn trajectories(
    teacher: &dyn VelocityField,
    config: &BaselineConfig,
    inputs: &Inputs,
    demand: Option<&Demand>,
    monitor: &mut dyn Monitor,
) -> Result<Trajectories> {
    inputs.check(teacher)?;
    let (kind, device) = config.training.place()?;
    let plan = TrajectoryPlan {
        count: decided("trajectories", config.trajectories)?,
        path_steps: decided("path_steps", config.path_steps)?,
        fixed: fixed_steps(config.solver, config.solver_steps)?,
        seed: config.training.seed,
        kind,
        device,
        max_seconds: config.training.max_seconds,
    };
    let memory = DistillConfig::default().trajectory_memory;
    Trajectories::of_inputs(teacher, plan, memory, inputs, demand, monitor)
}

/// The state at the first step, after the trajectories were solved. The schedule covers the time that is
/// left.
fn begin<'a>(
    config: &BaselineConfig,
    student: &'a Baseline,
    budget: Budget,
    world: &World,
) -> Result<State<'a>> {
    let options = &config.training;
    let peak = decided("learning_rate", options.learning_rate)?;
    let schedule = Schedule::new(ScheduleKind::Cosine, peak, options.warmup_steps);
    let parameters = student.parameters();
    Ok(State {
        parameters,
        optimiser: Adam::new(parameters, options.optimizer, options.weight_decay)?,
        averages: Averages::new(parameters, &[options.ema_decay])?,
        best: parameters.flat()?.copy(),
        ledger: Ledger { began: budget.seconds(), ..Ledger::new(schedule) },
        budget,
        exchange: Exchange::new(world, parameters),
    })
}

/// The trainer of baselines, as the training loop sees it.
struct Fitting<'a> {
    student: &'a Baseline,
    source: Source<'a>,
    log: LossLog,
    /// This rank's share of a batch, in (0, 1].
    part: f64,
}

impl Step for Fitting<'_> {
    const STAGE: &'static str = "student";
    const MEASURED: bool = false;

    fn gradient(&mut self, state: &mut State<'_>, _: &mut dyn Monitor) -> Result<Gradient> {
        let (student, step) = (self.student, state.ledger.step);
        let loss = tch::with_grad(|| student.networks().loss(student.space(), &self.source, step))?;
        // The ranks' losses add up to the mean over all rows.
        let loss = if self.part == 1.0 { loss } else { loss * self.part };
        let flat = student.parameters().gradient(&loss)?;
        Ok(Gradient { flat, losses: vec![loss.detach()] })
    }

    fn losses(&mut self) -> Option<&mut LossLog> {
        Some(&mut self.log)
    }

    /// Number of steps. If only the clock limits training, it is an estimate.
    fn total(&self, state: &State<'_>) -> u64 {
        let step = state.ledger.step;
        match state.budget.steps {
            u64::MAX => ((step as f64 / state.spent()) as u64).max(step),
            steps => steps,
        }
    }

    fn save(&mut self, _: &State<'_>, _: &Checkpointing, _: Stopped) -> Result<()> {
        Err(Error::Internal(anyhow::anyhow!("baselines write no checkpoints")))
    }
}
