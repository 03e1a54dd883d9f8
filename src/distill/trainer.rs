//! Distillation from end to end: trajectories, a run, the best student.

use super::evaluation::Evaluator;
use super::history::{DistillHistory, Ledger};
use super::resume::Resumed;
use super::run::Run;
use super::warm_start::begin_as;
use super::{ClosedFormReport, DistillConfig, LogEntry, Method, Objective, TrainingData, Weights};
use crate::data::Inputs;
use crate::distill::solve::ClosedForm;
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::Monitor;
use crate::nets::precision::Precision;
use crate::tensor::{parse_device, RandomSource};
use crate::training::{Adam, Average, Budget, LossScale, Schedule, Stopped};
use crate::velocity::VelocityField;

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
    if (recipe.weights.feature_distance > 0.0) != inputs.feature_distance.is_some() {
        let expected = "a network of features and a positive weight of 'feature_distance', both or neither";
        return Err(Error::argument("features", expected, "one without the other"));
    }
    let mut resumed =
        inputs.resume.as_ref().map(|path| Resumed::read(path, &config, teacher.event_shape())).transpose()?;
    let spent = resumed.as_ref().map_or(0.0, |resumed| resumed.ledger.seconds);
    let budget = Budget::new(recipe.steps, config.max_seconds).resumed(spent);
    let evaluations_before = teacher.evaluations();
    // A resumed run has the trajectories it had, however long they take.
    let (mut recipe, mut as_before) = (recipe, config.clone());
    if let Some(resumed) = &resumed {
        as_before.max_seconds = None;
        recipe.trajectories = resumed.ledger.trajectories.max(1);
    }
    let data = TrainingData::prepare(teacher, &as_before, &recipe, inputs, monitor)?;
    let trajectory_seconds = budget.seconds();
    let evaluator = Evaluator::new(teacher, &data, &recipe.weights)?;
    let table_times = recipe.student.table_times;
    let images = recipe.student.unet.as_ref().map(|_| recipe.student.event_shape.clone());
    let mut student = Student::new(recipe.student, config.seed, parse_device(&config.device)?)?;
    student.set_coordinates(data.coordinates(table_times, images.as_deref())?);
    if config.warm_start && resumed.is_none() {
        begin_as(&mut student, teacher)?;
    }
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
        trajectories: data.trajectory_count(),
        teacher_evaluations: 0,
        optimiser_steps: 0,
        average_updates: 0,
        notes: Vec::new(),
    };
    let mut run = Run {
        student: &student,
        objective: Objective {
            weights: recipe.weights.clone(),
            scaling: config.scaling,
            teacher,
            feature_distance: inputs.feature_distance.as_deref(),
        },
        data: &data,
        evaluator: &evaluator,
        config: &config,
        rows: recipe.rows,
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
        Some(resumed) => {
            (run.ledger, run.log) = resumed.run(&student, &mut run.optimiser, run.average.as_mut())?;
        }
        None => run.begin()?,
    }
    let mut stopped = match config.method {
        Method::ClosedForm => Stopped::Completed,
        Method::Gradient | Method::Refine => run.train(monitor)?,
    };
    let ledger = run.closed_ledger();
    let evaluated = teacher.evaluations();
    let Run { best, average, mut log, .. } = run;
    let averaged = average.is_some();
    let raw = student.parameters().flat()?.copy();
    student.set_parameters(&best)?;
    let closed_form =
        solve(teacher, &config, &recipe.weights, &data, &evaluator, &mut student, &mut stopped, monitor)?;
    if averaged {
        student.keep_both(&student.parameters().flat()?.copy(), &raw)?;
    }
    if config.method == Method::ClosedForm {
        let values = evaluator.errors(&student)?.named().map(|(name, value)| (name.to_string(), value));
        log.push(LogEntry { step: 0, seconds: budget.seconds(), values: values.into() });
    }
    let seconds = budget.seconds();
    let teacher_evaluations = ledger.teacher_evaluations + teacher.evaluations() - evaluated;
    let history =
        DistillHistory { seconds, teacher_evaluations, closed_form, ..ledger.history(stopped, &log) };
    Ok((student, history))
}

/// The linear solve of a method that has one.
#[allow(clippy::too_many_arguments)] // all of a distillation's parts
fn solve(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    weights: &Weights,
    data: &TrainingData,
    evaluator: &Evaluator,
    student: &mut Student,
    stopped: &mut Stopped,
    monitor: &mut dyn Monitor,
) -> Result<Option<ClosedFormReport>> {
    let Some(trajectories) = &data.trajectories else {
        return Ok(None);
    };
    let score = |student: &Student| Ok(evaluator.errors(student)?.score);
    ClosedForm { teacher, trajectories, config, weights, score: &score }.finish(student, stopped, monitor)
}
