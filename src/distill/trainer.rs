//! Distillation from end to end: trajectories, training, and the best student.

use std::time::Instant;

use tch::Tensor;

use super::averages::BestAverages;
use super::evaluation::Evaluator;
use super::history::{DistillHistory, Ledger};
use super::objective::{copy_of_teacher, heads_of};
use super::resume::Resumed;
use super::run::{Run, Spent};
use super::warm_start::begin_as;
use super::{ClosedFormReport, DistillConfig, Extras, LogEntry, Method, Objective, Recipe, TrainingData};
use crate::data::{Demand, InStandardUnits, Inputs};
use crate::distill::solve::ClosedForm;
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::{Monitor, Until};
use crate::nets::precision::Precision;
use crate::nets::Parameters;
use crate::tensor::RandomSource;
use crate::training;
use crate::training::{Adam, Averages, Budget, Exchange, Loop, LossScale, Schedule, State, Step, Stopped};
use crate::velocity::{Units, VelocityField};
use crate::world::World;

/// Share of `max_seconds` that measuring the units of the teacher's data may take.
const UNITS_SHARE: f64 = 0.1;
/// Share of `max_seconds` after which the preparation of held-out evaluations is cut short.
const EVALUATOR_SHARE: f64 = 0.6;
/// Share of `max_seconds` that one held-out evaluation may take.
const LOOK_SHARE: f64 = 0.02;
/// Share of `max_seconds` that training may take if a linear solve follows.
const BEFORE_SOLVE: f64 = 0.8;
/// Note about a run that ended before its second stage.
const UNTRAINED: &str =
    "training ended within endpoint_first: only the endpoint was trained, and for example not the inverse";
/// Multiplications per weight of a lift and row in one gradient: one in the forward pass, two in the backward
/// pass.
const GRADIENT_WORK: f64 = 3.0;

/// Distils `teacher` into a student and returns the best student so far. [`DistillHistory::stopped`] says why
/// training ended.
///
/// An interrupt during training, or too many restarts ([`Stopped::Diverged`], which callers may want to treat
/// as an error), still returns the best student. An interrupt before training is an error.
///
/// # Errors
/// [`Error::Argument`] for a bad option or input; [`Error::Checkpoint`] or [`Error::Io`] for a bad trajectory
/// file; any error of the teacher or the monitor.
pub fn distill(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    inputs: &Inputs,
    monitor: &mut dyn Monitor,
) -> Result<(Student, DistillHistory)> {
    distill_with(teacher, config, inputs, &Extras::default(), monitor)
}

/// [`distill`] with checkpoints, resumed from a checkpoint, or with a distance of features. On a CPU a
/// resumed run gives the same student as an uninterrupted one, bit for bit. Its options must be those of the
/// file, except steps, max_seconds, device and trajectory_memory.
///
/// # Errors
/// As [`distill`]; [`Error::Argument`] naming `features`, or an option that differs from the resumed file;
/// [`Error::Checkpoint`] or [`Error::Io`] for a bad checkpoint.
pub fn distill_with(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    inputs: &Inputs,
    extras: &Extras,
    monitor: &mut dyn Monitor,
) -> Result<(Student, DistillHistory)> {
    let (event_shape, conditioning) = (teacher.event_shape(), teacher.conditioning());
    let mut recipe = config.resolve(event_shape, conditioning)?;
    let config = config.with_defaults(event_shape, conditioning)?;
    check_features(&recipe, extras)?;
    if recipe.weights.levels > 0.0 {
        recipe.student.heads = heads_of(teacher, &recipe.student)?;
    }
    if recipe.weights.correction > 0.0 && !teacher.source().is_normal() {
        let got = "a teacher that begins elsewhere";
        return Err(Error::argument("weights", "correction 0 unless the teacher begins at noise", got));
    }
    let mut resumed =
        extras.resume.as_ref().map(|path| Resumed::read(path, &config, event_shape)).transpose()?;
    let before = resumed.as_ref().map(|resumed| &resumed.ledger);
    let seconds = before.map_or(0.0, |ledger| ledger.run.seconds);
    let budget = Budget::new(recipe.steps, config.training.max_seconds).resumed(seconds);
    let evaluations_before = teacher.evaluations();
    let until = &mut Until::new(monitor, budget.at(UNITS_SHARE));
    let standard = standard(teacher, inputs, &config, resumed.as_ref(), until)?;
    let (teacher, inputs, units) = match &standard {
        Some(InStandardUnits { teacher, inputs, units }) => (&**teacher, inputs, Some(units)),
        None => (teacher, inputs, None),
    };
    let (seed, device) = (config.training.seed, config.training.place()?.1);
    // In the coordinates in which the student learns.
    let copy = match recipe.weights.correction > 0.0 {
        true => Some(copy_of_teacher(teacher, &recipe.student.dtype, device)?),
        false => None,
    };
    recipe.student.noising = copy.as_ref().map(|copy| Box::new(copy.config().clone()));
    if let (Some(resumed), Some(path)) = (&resumed, &extras.resume) {
        resumed.check_teacher(&recipe.student, path)?;
    }
    let mut student = Student::new(recipe.student.clone(), seed, device)?;
    copy.iter().try_for_each(|copy| student.noising_mut().begin_as(copy))?;
    let demand = demand(&config, &recipe, &student);
    let data = prepare(teacher, &config, &recipe, inputs, demand.as_ref(), before, monitor)?;
    let spent = Spent {
        trajectory_seconds: budget.seconds(),
        trajectories: data.trajectory_count(),
        teacher_evaluations: 0,
        evaluations_before,
    };
    let mut evaluator = Evaluator::new(
        teacher,
        &data,
        &recipe.weights,
        recipe.student.unet.is_some(),
        &mut Until::new(monitor, budget.at(EVALUATOR_SHARE)),
    )?;
    student.set_source(teacher.source());
    begin_student(&mut student, &data, &config, units, resumed.is_none().then_some(teacher))?;
    if let Some(limit) = config.training.max_seconds {
        let looks = config.decays().len().max(1) as f64;
        evaluator.hurry(&student, LOOK_SHARE * limit / looks, monitor)?;
    }
    let fit = Fit { teacher, config, recipe, extras, data, evaluator };
    if let Some(resumed) = &mut resumed {
        resumed.student(&mut student)?;
    }
    let trained = fit.train(&student, resumed, spent, budget, monitor)?;
    let history = fit.finish(&mut student, trained, monitor)?;
    Ok((student, history))
}

fn check_features(recipe: &Recipe, extras: &Extras) -> Result<()> {
    if (recipe.weights.feature_distance > 0.0) != extras.feature_distance.is_some() {
        let expected = "a network of features and a positive weight of 'feature_distance', both or neither";
        return Err(Error::argument("features", expected, "one without the other"));
    }
    Ok(())
}

/// The teacher and the inputs in standard coordinates, if the student learns in them. A resumed student keeps
/// its units.
fn standard(
    teacher: &dyn VelocityField,
    inputs: &Inputs,
    config: &DistillConfig,
    resumed: Option<&Resumed>,
    monitor: &mut dyn Monitor,
) -> Result<Option<InStandardUnits>> {
    if let Some(resumed) = resumed {
        let units = resumed.units()?;
        return units.map(|units| InStandardUnits::with(teacher, inputs, units)).transpose();
    }
    // For a warm start the student must have the units of the teacher's network.
    if !config.standardise || (config.warm_start && teacher.standard()?.is_none()) {
        return Ok(None);
    }
    InStandardUnits::find(teacher, inputs, config.path, config.training.place()?.0, monitor)
}

/// The demand for trajectories; `None` if the user chose their number.
fn demand(config: &DistillConfig, recipe: &Recipe, student: &Student) -> Option<Demand> {
    let open = recipe.trajectories_open && config.method == Method::Gradient;
    let work = GRADIENT_WORK * student.weights_per_lift() as f64 * student.config().reuse() as f64;
    open.then(|| Demand { steps: recipe.steps, rows: recipe.rows.drawn(), work })
}

/// Prepares the training data. A resumed run solves the same trajectories again, without a time limit.
fn prepare(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    recipe: &Recipe,
    inputs: &Inputs,
    demand: Option<&Demand>,
    before: Option<&Ledger>,
    monitor: &mut dyn Monitor,
) -> Result<TrainingData> {
    let Some(before) = before else {
        return TrainingData::prepare(teacher, config, recipe, inputs, demand, monitor);
    };
    let mut config = config.clone();
    config.training.max_seconds = None;
    let mut recipe = recipe.clone();
    if before.trajectories > 0 {
        recipe.trajectories = before.trajectories;
    }
    TrainingData::prepare(teacher, &config, &recipe, inputs, None, monitor)
}

/// Sets the input statistics and the units of a student and, for a warm start, the teacher's weights.
fn begin_student(
    student: &mut Student,
    data: &TrainingData,
    config: &DistillConfig,
    units: Option<&Units>,
    teacher: Option<&dyn VelocityField>,
) -> Result<()> {
    let own = student.config();
    let images = own.unet.as_ref().map(|_| own.event_shape.as_slice());
    let coordinates = data.coordinates(own.table_times, images)?;
    student.set_coordinates(coordinates);
    if let Some(units) = units {
        student.set_units(units);
    }
    match teacher.filter(|_| config.warm_start) {
        Some(teacher) => begin_as(student, teacher),
        None => Ok(()),
    }
}

/// Everything that a distillation needs.
struct Fit<'a> {
    teacher: &'a dyn VelocityField,
    /// Options with every default filled in.
    config: DistillConfig,
    recipe: Recipe,
    extras: &'a Extras,
    data: TrainingData,
    evaluator: Evaluator,
}

/// The result of a run.
struct Trained {
    best: Tensor,
    averaged: bool,
    /// The best weights of each of several averages, with their decays.
    averages: Vec<(f64, Tensor)>,
    stopped: Stopped,
    ledger: Ledger,
    log: Vec<LogEntry>,
    budget: Budget,
}

impl Fit<'_> {
    /// Takes the gradient steps, if the method has any.
    fn train(
        &self,
        student: &Student,
        resumed: Option<Resumed>,
        spent: Spent,
        budget: Budget,
        monitor: &mut dyn Monitor,
    ) -> Result<Trained> {
        let budget = match self.config.method {
            Method::Refine => budget.within(BEFORE_SOLVE),
            Method::Gradient | Method::ClosedForm => budget,
        };
        let mut state = self.begin(student.parameters(), budget, monitor.world())?;
        let mut run = self.run(student, spent)?;
        match resumed {
            Some(resumed) => {
                let (ledger, averages, log) = resumed.restore(&mut state)?;
                run.go_on(&ledger, averages, log);
            }
            None => {
                let begun = run.begin(&mut state, monitor);
                state.exchange.close_failed(begun, state.budget.seconds())?;
            }
        }
        let mut run = Loop::new(run, state, &self.config.training, self.extras.checkpoint.as_ref())?;
        let stopped = match self.config.method {
            Method::ClosedForm => Stopped::Completed,
            Method::Gradient | Method::Refine => {
                run.step.limit_threads();
                let stopped = run.train(monitor);
                run.step.threads = None;
                stopped?
            }
        };
        if run.step.endpoint_alone {
            match run.state.note(Run::STAGE, UNTRAINED.into(), monitor) {
                Ok(()) | Err(Error::Interrupted(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let Loop { step: run, state, .. } = run;
        let ledger = run.ledger(&state);
        let State { best, averages, budget, .. } = state;
        let averaged = averages.chosen().is_some();
        let averages = run.averages.weights();
        Ok(Trained { best, averaged, averages, stopped, ledger, log: run.log, budget })
    }

    /// The state of a new run.
    fn begin<'a>(&self, parameters: &'a Parameters, budget: Budget, world: &World) -> Result<State<'a>> {
        let (config, options) = (&self.config, &self.config.training);
        let multipliers = config
            .generator_learning_rate
            .map(|rate| rate / self.recipe.learning_rate)
            .map(|ratio| {
                parameters.multipliers(|name| if name.starts_with("generator.") { ratio } else { 1.0 })
            })
            .transpose()?;
        let scale = match config.precision {
            Precision::Fp16 => LossScale::dynamic(),
            Precision::Float32 | Precision::Bf16 => LossScale::off(),
        };
        let schedule = Schedule::new(config.schedule, self.recipe.learning_rate, options.warmup_steps);
        let optimiser = Adam::new(parameters, options.optimizer, options.weight_decay)?;
        Ok(State {
            parameters,
            optimiser: optimiser.with_multipliers(multipliers),
            averages: Averages::new(parameters, &config.decays())?,
            best: parameters.flat()?.copy(),
            ledger: training::Ledger { scale, ..training::Ledger::new(schedule) },
            budget,
            exchange: Exchange::new(world, parameters),
        })
    }

    fn run<'a>(&'a self, student: &'a Student, spent: Spent) -> Result<Run<'a>> {
        Ok(Run {
            student,
            objective: Objective {
                weights: self.recipe.weights.clone(),
                scaling: self.config.scaling,
                row_weights: self.recipe.row_weights,
                teacher: self.teacher,
                feature_distance: self.extras.feature_distance.as_deref(),
            },
            data: &self.data,
            evaluator: &self.evaluator,
            config: &self.config,
            rows: self.recipe.rows,
            random: RandomSource::new(self.config.training.seed).fork("distillation batches"),
            log: Vec::new(),
            accumulate: self.config.accumulate,
            endpoint_alone: self.config.endpoint_first > 0.0,
            averages: BestAverages::new(&self.config.averages, &student.parameters().flat()?),
            threads: None,
            spent,
            terms: Vec::new(),
        })
    }

    /// Gives the student the best parameters of the run and applies the linear solve, if the method has one.
    fn finish(
        &self,
        student: &mut Student,
        trained: Trained,
        monitor: &mut dyn Monitor,
    ) -> Result<DistillHistory> {
        let Trained { best, averaged, averages, mut stopped, ledger, mut log, budget } = trained;
        let evaluated = self.teacher.evaluations();
        let raw = student.parameters().flat()?.copy();
        student.set_parameters(&best)?;
        let closed_form = self.solve(student, &mut stopped, budget.deadline(), monitor)?;
        if averaged {
            student.keep_both(&student.parameters().flat()?.copy(), &raw)?;
            student.keep_averages(&averages)?;
        }
        *student = student.without_aids()?;
        if self.config.method == Method::ClosedForm {
            let errors = self.evaluator.errors(student, monitor)?.named();
            let values = errors.map(|(name, value)| (name.to_string(), value)).into();
            log.push(LogEntry { step: 0, seconds: budget.seconds(), values });
        }
        let teacher_evaluations = ledger.teacher_evaluations + self.teacher.evaluations() - evaluated;
        let seconds = budget.seconds();
        Ok(DistillHistory { seconds, teacher_evaluations, closed_form, ..ledger.history(stopped, &log) })
    }

    /// Runs the linear solve; `None` if the method has none.
    fn solve(
        &self,
        student: &mut Student,
        stopped: &mut Stopped,
        deadline: Option<Instant>,
        monitor: &mut dyn Monitor,
    ) -> Result<Option<ClosedFormReport>> {
        let Some(trajectories) = &self.data.trajectories else {
            return Ok(None);
        };
        let score =
            |student: &Student, monitor: &mut dyn Monitor| Ok(self.evaluator.errors(student, monitor)?.score);
        let solver = ClosedForm {
            teacher: self.teacher,
            trajectories,
            config: &self.config,
            weights: &self.recipe.weights,
            score: &score,
            deadline,
        };
        solver.finish(student, stopped, monitor)
    }
}
