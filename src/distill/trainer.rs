//! Distillation from end to end: trajectories, a run, the best student.

use tch::{Kind, Tensor};

use super::evaluation::Evaluator;
use super::history::{DistillHistory, Ledger};
use super::resume::Resumed;
use super::run::Run;
use super::{DistillConfig, Inputs, Objective, Trajectories, TrajectoryPlan};
use crate::condition::Conditioning;
use crate::error::Result;
use crate::koopman::{InputCoordinates, Student};
use crate::nets::precision::Precision;
use crate::tensor::{parse_device, parse_dtype, RandomSource};
use crate::training::{Adam, Average, Budget, LossScale, Monitor, Schedule};
use crate::velocity::VelocityField;

/// The most of `max_seconds` that trajectories may take.
const TRAJECTORY_SHARE: f64 = 0.4;

/// Distils `teacher` into a student, the best one seen; [`DistillHistory::stopped`] says what ended it.
///
/// An interrupt after training began keeps the best student so far; one before is an error. So does
/// [`crate::training::Stopped::Diverged`], which callers may want to treat as an error. `inputs.resume` goes on, bit for bit
/// on a CPU, with the batches and the state that an uninterrupted run would have had; options must be
/// those of the file, except for steps, max_seconds and device.
///
/// # Errors
/// [`Error::Argument`] for a bad option, or one that is not that of the resumed file;
/// [`Error::Checkpoint`] or [`Error::Io`] for a bad file; whatever the teacher or the monitor raises.
pub fn distill(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    inputs: &Inputs,
    monitor: &mut dyn Monitor,
) -> Result<(Student, DistillHistory)> {
    let recipe = config.resolve(teacher.event_shape(), teacher.conditioning())?;
    let config = config.with_defaults(teacher.event_shape(), teacher.conditioning())?;
    let pool = condition_pool(teacher, inputs.pool.as_ref())?;
    let mut resumed =
        inputs.resume.as_ref().map(|path| Resumed::read(path, &config, teacher.event_shape())).transpose()?;
    let spent = resumed.as_ref().map_or(0.0, |resumed| resumed.ledger.seconds);
    let budget = Budget::new(recipe.steps, config.max_seconds).resumed(spent);
    let evaluations_before = teacher.evaluations();
    let plan = TrajectoryPlan {
        count: resumed.as_ref().map_or(recipe.trajectories, |resumed| resumed.ledger.trajectories),
        path_steps: config.path_steps,
        seed: config.seed,
        kind: parse_dtype(&config.dtype)?,
        device: parse_device(&config.device)?,
        // The same trajectories as before, however long they take.
        max_seconds: config.max_seconds.filter(|_| resumed.is_none()).map(|limit| limit * TRAJECTORY_SHARE),
    };
    let trajectories = Trajectories::generate(teacher, &plan, pool.as_ref(), monitor)?;
    let trajectory_seconds = budget.seconds();
    let evaluator = Evaluator::new(teacher, &trajectories)?;
    let mut student = Student::new(recipe.student, config.seed, plan.device)?;
    student.set_coordinates(InputCoordinates::from_trajectories(
        trajectories.states(),
        plan.kind,
        plan.device,
    )?);
    let best = match &mut resumed {
        Some(resumed) => resumed.student(&mut student)?,
        None => student.parameters().flat()?.copy(),
    };

    let parameters = student.parameters();
    let multipliers = config
        .generator_learning_rate
        .map(|rate| rate / recipe.learning_rate)
        .map(|ratio| parameters.multipliers(|name| if name.starts_with("generator.") { ratio } else { 1.0 }))
        .transpose()?;
    let ledger = Ledger {
        step: 0,
        schedule: Schedule::new(config.schedule, recipe.learning_rate, config.warmup_steps),
        scale: match config.precision {
            Precision::Fp16 => LossScale::dynamic(),
            Precision::Float32 | Precision::Bf16 => LossScale::off(),
        },
        accumulate: config.accumulate,
        best_step: 0,
        best: None,
        stale: 0,
        skipped_steps: 0,
        consecutive: 0,
        restarts: 0,
        seconds: 0.0,
        began: 0.0,
        trajectory_seconds,
        trajectories: trajectories.states().size()[0],
        teacher_evaluations: 0,
        optimiser_steps: 0,
        average_updates: 0,
        notes: Vec::new(),
    };
    let mut run = Run {
        student: &student,
        objective: Objective { weights: config.weights.clone(), teacher },
        trajectories: &trajectories,
        evaluator: &evaluator,
        config: &config,
        budget: &budget,
        random: RandomSource::new(config.seed).fork("distillation batches"),
        optimiser: Adam::new(parameters, config.optimizer, config.weight_decay)?
            .with_multipliers(multipliers),
        average: match config.ema_decay > 0.0 {
            true => Some(Average::new(parameters, config.ema_decay)?),
            false => None,
        },
        best,
        ledger,
        log: Vec::new(),
        evaluations_before,
        checkpoint: inputs.checkpoint.as_ref(),
    };
    match resumed {
        Some(resumed) => resumed.run(&mut run)?,
        None => run.begin()?,
    }
    let stopped = run.train(monitor)?;
    let history = run.closed_ledger().history(stopped, &run.log);
    let (best, averaged) = (run.best, run.average.is_some());
    let raw = student.parameters().flat()?.copy();
    student.set_parameters(&best)?;
    if averaged {
        student.keep_both(&best, &raw)?;
    }
    Ok((student, history))
}

/// The rows that conditions are drawn from, checked.
fn condition_pool(teacher: &dyn VelocityField, pool: Option<&Tensor>) -> Result<Option<Tensor>> {
    let conditioning = teacher.conditioning();
    match (conditioning, pool) {
        (Conditioning::Labels { classes }, None) => {
            Ok(Some(Tensor::arange(classes, (Kind::Int64, teacher.device()))))
        }
        (_, pool) => {
            conditioning.check(pool, pool.map_or(0, |rows| rows.size().first().copied().unwrap_or(0)))?;
            Ok(pool.map(Tensor::shallow_clone))
        }
    }
}
