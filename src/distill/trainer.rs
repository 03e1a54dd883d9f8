//! Distillation from end to end: trajectories, a run, the best student.

use super::evaluation::Evaluator;
use super::history::{DistillHistory, Ledger};
use super::resume::Resumed;
use super::run::{Run, Spent};
use super::warm_start::begin_as;
use super::{
    ClosedFormReport, DistillConfig, Extras, LogEntry, Method, Objective, Recipe, TrainingData, Weights,
};
use crate::data::Inputs;
use crate::distill::solve::ClosedForm;
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::Monitor;
use crate::nets::precision::Precision;
use crate::nets::Parameters;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::RandomSource;
use crate::training;
use crate::training::{Adam, Average, Budget, Loop, LossScale, Schedule, State, Stopped};
use crate::velocity::VelocityField;

/// Distils `teacher` into a student, the best one seen; [`DistillHistory::stopped`] says what ended it.
///
/// An interrupt after training began keeps the best student so far; one before is an error. So does
/// [`Stopped::Diverged`], which callers may want to treat as an error.
///
/// # Errors
/// [`Error::Argument`] for a bad option or input; [`Error::Checkpoint`] or [`Error::Io`] for a bad trajectory file;
/// whatever the teacher or the monitor raises.
pub fn distill(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    inputs: &Inputs,
    monitor: &mut dyn Monitor,
) -> Result<(Student, DistillHistory)> {
    distill_with(teacher, config, inputs, &Extras::default(), monitor)
}

/// [`distill`] with checkpoints, from a checkpoint, or by a distance of features. `extras.resume` goes on, bit for bit
/// on a CPU, with the batches and the state that an uninterrupted run would have had; options must be those of the
/// file, except for steps, max_seconds and device.
///
/// # Errors
/// As [`distill`]; [`Error::Argument`] for an option that is not that of the resumed file, or naming `features`;
/// [`Error::Checkpoint`] or [`Error::Io`] for a bad checkpoint.
pub fn distill_with(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    inputs: &Inputs,
    extras: &Extras,
    monitor: &mut dyn Monitor,
) -> Result<(Student, DistillHistory)> {
    let recipe = config.resolve(teacher.event_shape(), teacher.conditioning())?;
    let config = config.with_defaults(teacher.event_shape(), teacher.conditioning())?;
    check_features(&recipe, extras)?;
    let mut resumed =
        extras.resume.as_ref().map(|path| Resumed::read(path, &config, teacher.event_shape())).transpose()?;
    let before = resumed.as_ref().map(|resumed| resumed.ledger.clone());
    let spent = before.as_ref().map_or(0.0, |ledger| ledger.run.seconds);
    let budget = Budget::new(recipe.steps, config.training.max_seconds).resumed(spent);
    let evaluations_before = teacher.evaluations();
    let data = prepare(teacher, &config, &recipe, inputs, before.as_ref(), monitor)?;
    let spent = Spent {
        trajectory_seconds: budget.seconds(),
        trajectories: data.trajectory_count(),
        teacher_evaluations: 0,
        evaluations_before,
    };
    let evaluator = Evaluator::new(teacher, &data, &recipe.weights)?;
    let mut student = untrained(teacher, &config, &recipe, &data, resumed.is_none())?;
    if let Some(resumed) = &mut resumed {
        resumed.student(&mut student)?;
    }
    let mut state = begin(&config, &recipe, student.parameters(), budget)?;
    let mut run = Run {
        student: &student,
        objective: Objective {
            weights: recipe.weights.clone(),
            scaling: config.scaling,
            teacher,
            feature_distance: extras.feature_distance.as_deref(),
        },
        data: &data,
        evaluator: &evaluator,
        config: &config,
        rows: recipe.rows,
        random: RandomSource::new(config.training.seed).fork("distillation batches"),
        log: Vec::new(),
        accumulate: config.accumulate,
        spent,
        terms: Vec::new(),
    };
    match resumed {
        Some(resumed) => {
            let (ledger, log) = resumed.restore(&mut state)?;
            run.go_on(&ledger, log);
        }
        None => run.begin(&mut state)?,
    }
    let mut run = Loop::new(run, state, &config.training, extras.checkpoint.as_ref())?;
    run.patience = config.patience;
    let mut stopped = match config.method {
        Method::ClosedForm => Stopped::Completed,
        Method::Gradient | Method::Refine => {
            let _threads = threads(&student, &recipe);
            run.train(monitor)?
        }
    };
    let Loop { step: run, state, .. } = run;
    let ledger = run.ledger(&state);
    let (State { best, average, budget, .. }, Run { mut log, .. }) = (state, run);
    let evaluated = teacher.evaluations();
    let raw = student.parameters().flat()?.copy();
    student.set_parameters(&best)?;
    let closed_form =
        solve(teacher, &config, &recipe.weights, &data, &evaluator, &mut student, &mut stopped, monitor)?;
    if average.is_some() {
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

fn check_features(recipe: &Recipe, extras: &Extras) -> Result<()> {
    if (recipe.weights.feature_distance > 0.0) != extras.feature_distance.is_some() {
        let expected = "a network of features and a positive weight of 'feature_distance', both or neither";
        return Err(Error::argument("features", expected, "one without the other"));
    }
    Ok(())
}

/// What the student learns from. A resumed run has the trajectories it had, however long they take.
fn prepare(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    recipe: &Recipe,
    inputs: &Inputs,
    before: Option<&Ledger>,
    monitor: &mut dyn Monitor,
) -> Result<TrainingData> {
    let Some(before) = before else {
        return TrainingData::prepare(teacher, config, recipe, inputs, monitor);
    };
    let mut config = config.clone();
    config.training.max_seconds = None;
    let recipe = Recipe { trajectories: before.trajectories.max(1), ..recipe.clone() };
    TrainingData::prepare(teacher, &config, &recipe, inputs, monitor)
}

/// The student before its first step; `fresh` where no file says what it has become.
fn untrained(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    recipe: &Recipe,
    data: &TrainingData,
    fresh: bool,
) -> Result<Student> {
    let own = &recipe.student;
    let images = own.unet.as_ref().map(|_| own.event_shape.as_slice());
    let mut student = Student::new(own.clone(), config.training.seed, config.training.place()?.1)?;
    student.set_coordinates(data.coordinates(own.table_times, images)?);
    if config.warm_start && fresh {
        begin_as(&mut student, teacher)?;
    }
    Ok(student)
}

/// The state of a run that begins now.
fn begin<'a>(
    config: &DistillConfig,
    recipe: &Recipe,
    parameters: &'a Parameters,
    budget: Budget,
) -> Result<State<'a>> {
    let options = &config.training;
    let multipliers = config
        .generator_learning_rate
        .map(|rate| rate / recipe.learning_rate)
        .map(|ratio| parameters.multipliers(|name| if name.starts_with("generator.") { ratio } else { 1.0 }))
        .transpose()?;
    let scale = match config.precision {
        Precision::Fp16 => LossScale::dynamic(),
        Precision::Float32 | Precision::Bf16 => LossScale::off(),
    };
    let schedule = Schedule::new(config.schedule, recipe.learning_rate, options.warmup_steps);
    let average = match options.ema_decay > 0.0 {
        true => Some(Average::new(parameters, options.ema_decay)?),
        false => None,
    };
    Ok(State {
        parameters,
        optimiser: Adam::new(parameters, options.optimizer, options.weight_decay)?
            .with_multipliers(multipliers),
        average,
        best: parameters.flat()?.copy(),
        ledger: training::Ledger { scale, ..training::Ledger::new(schedule) },
        budget,
    })
}

fn threads(student: &Student, recipe: &Recipe) -> IntraOpThreads {
    let work = 2 * recipe.rows.noise * student.config().reuse();
    let weights = student.parameters().count() / student.config().lifts;
    IntraOpThreads::for_sides(recipe.weights.sides(), weights, work)
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
