//! Distillation from end to end: trajectories, a run, the best student.

use tch::Tensor;

use super::evaluation::Evaluator;
use super::history::{DistillHistory, Ledger};
use super::resume::Resumed;
use super::run::{Run, Spent};
use super::warm_start::begin_as;
use super::{ClosedFormReport, DistillConfig, Extras, LogEntry, Method, Objective, Recipe, TrainingData};
use crate::data::{InStandardUnits, Inputs};
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
use crate::velocity::{Units, VelocityField};

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
    let (event_shape, conditioning) = (teacher.event_shape(), teacher.conditioning());
    let recipe = config.resolve(event_shape, conditioning)?;
    let config = config.with_defaults(event_shape, conditioning)?;
    check_features(&recipe, extras)?;
    let mut resumed =
        extras.resume.as_ref().map(|path| Resumed::read(path, &config, event_shape)).transpose()?;
    let before = resumed.as_ref().map(|resumed| &resumed.ledger);
    let seconds = before.map_or(0.0, |ledger| ledger.run.seconds);
    let budget = Budget::new(recipe.steps, config.training.max_seconds).resumed(seconds);
    let evaluations_before = teacher.evaluations();
    let standard = standard(teacher, inputs, &config, resumed.as_ref(), monitor)?;
    let (teacher, inputs, units) = match &standard {
        Some(InStandardUnits { teacher, inputs, units }) => (&**teacher, inputs, Some(units)),
        None => (teacher, inputs, None),
    };
    let data = prepare(teacher, &config, &recipe, inputs, before, monitor)?;
    let spent = Spent {
        trajectory_seconds: budget.seconds(),
        trajectories: data.trajectory_count(),
        teacher_evaluations: 0,
        evaluations_before,
    };
    let evaluator = Evaluator::new(teacher, &data, &recipe.weights)?;
    let fit = Fit { teacher, units, config, recipe, extras, data, evaluator };
    let mut student = fit.untrained(resumed.is_none())?;
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

/// What the student learns from, where that is not the teacher's data as they are: as a resumed student has it.
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
    // The weights of somebody else's network fit its own units.
    if !config.standardise || (config.warm_start && teacher.standard()?.is_none()) {
        return Ok(None);
    }
    InStandardUnits::find(teacher, inputs, config.path, config.training.place()?.0, monitor)
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
    let mut recipe = recipe.clone();
    if before.trajectories > 0 {
        recipe.trajectories = before.trajectories;
    }
    TrainingData::prepare(teacher, &config, &recipe, inputs, monitor)
}

/// Everything that a distillation is made from.
struct Fit<'a> {
    teacher: &'a dyn VelocityField,
    /// What leads from what is learnt to the data's own coordinates.
    units: Option<&'a Units>,
    /// Options with every default filled in.
    config: DistillConfig,
    recipe: Recipe,
    extras: &'a Extras,
    data: TrainingData,
    evaluator: Evaluator,
}

/// What a run has made of the student.
struct Trained {
    best: Tensor,
    averaged: bool,
    stopped: Stopped,
    ledger: Ledger,
    log: Vec<LogEntry>,
    budget: Budget,
}

impl Fit<'_> {
    /// The student before its first step; `fresh` where no file says what it has become.
    fn untrained(&self, fresh: bool) -> Result<Student> {
        let own = &self.recipe.student;
        let images = own.unet.as_ref().map(|_| own.event_shape.as_slice());
        let options = &self.config.training;
        let mut student = Student::new(own.clone(), options.seed, options.place()?.1)?;
        student.set_coordinates(self.data.coordinates(own.table_times, images)?);
        if let Some(units) = self.units {
            student.set_units(units);
        }
        if self.config.warm_start && fresh {
            begin_as(&mut student, self.teacher)?;
        }
        Ok(student)
    }

    /// The gradient steps of a method that has any.
    fn train(
        &self,
        student: &Student,
        resumed: Option<Resumed>,
        spent: Spent,
        budget: Budget,
        monitor: &mut dyn Monitor,
    ) -> Result<Trained> {
        let mut state = self.begin(student.parameters(), budget)?;
        let mut run = self.run(student, spent);
        match resumed {
            Some(resumed) => {
                let (ledger, log) = resumed.restore(&mut state)?;
                run.go_on(&ledger, log);
            }
            None => run.begin(&mut state)?,
        }
        let mut run = Loop::new(run, state, &self.config.training, self.extras.checkpoint.as_ref())?;
        run.patience = self.config.patience;
        let stopped = match self.config.method {
            Method::ClosedForm => Stopped::Completed,
            Method::Gradient | Method::Refine => {
                let _threads = self.threads(student);
                run.train(monitor)?
            }
        };
        let Loop { step: run, state, .. } = run;
        let ledger = run.ledger(&state);
        let State { best, average, budget, .. } = state;
        Ok(Trained { best, averaged: average.is_some(), stopped, ledger, log: run.log, budget })
    }

    /// The state of a run that begins now.
    fn begin<'a>(&self, parameters: &'a Parameters, budget: Budget) -> Result<State<'a>> {
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
        let average = match options.ema_decay > 0.0 {
            true => Some(Average::new(parameters, options.ema_decay)?),
            false => None,
        };
        let optimiser = Adam::new(parameters, options.optimizer, options.weight_decay)?;
        Ok(State {
            parameters,
            optimiser: optimiser.with_multipliers(multipliers),
            average,
            best: parameters.flat()?.copy(),
            ledger: training::Ledger { scale, ..training::Ledger::new(schedule) },
            budget,
        })
    }

    fn run<'a>(&'a self, student: &'a Student, spent: Spent) -> Run<'a> {
        Run {
            student,
            objective: Objective {
                weights: self.recipe.weights.clone(),
                scaling: self.config.scaling,
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
            spent,
            terms: Vec::new(),
        }
    }

    fn threads(&self, student: &Student) -> IntraOpThreads {
        let work = 2 * self.recipe.rows.noise * student.config().reuse();
        let weights = student.parameters().count() / student.config().lifts;
        IntraOpThreads::for_sides(self.recipe.weights.sides(), weights, work)
    }

    /// Makes the student the best one of the run, or what the linear solve of a method that has one makes of it.
    fn finish(
        &self,
        student: &mut Student,
        trained: Trained,
        monitor: &mut dyn Monitor,
    ) -> Result<DistillHistory> {
        let Trained { best, averaged, mut stopped, ledger, mut log, budget } = trained;
        let evaluated = self.teacher.evaluations();
        let raw = student.parameters().flat()?.copy();
        student.set_parameters(&best)?;
        let closed_form = self.solve(student, &mut stopped, monitor)?;
        if averaged {
            student.keep_both(&student.parameters().flat()?.copy(), &raw)?;
        }
        if self.config.method == Method::ClosedForm {
            let errors = self.evaluator.errors(student)?.named();
            let values = errors.map(|(name, value)| (name.to_string(), value)).into();
            log.push(LogEntry { step: 0, seconds: budget.seconds(), values });
        }
        let teacher_evaluations = ledger.teacher_evaluations + self.teacher.evaluations() - evaluated;
        let seconds = budget.seconds();
        Ok(DistillHistory { seconds, teacher_evaluations, closed_form, ..ledger.history(stopped, &log) })
    }

    /// The linear solve of a method that has one.
    fn solve(
        &self,
        student: &mut Student,
        stopped: &mut Stopped,
        monitor: &mut dyn Monitor,
    ) -> Result<Option<ClosedFormReport>> {
        let Some(trajectories) = &self.data.trajectories else {
            return Ok(None);
        };
        let score = |student: &Student| Ok(self.evaluator.errors(student)?.score);
        let solver = ClosedForm {
            teacher: self.teacher,
            trajectories,
            config: &self.config,
            weights: &self.recipe.weights,
            score: &score,
        };
        solver.finish(student, stopped, monitor)
    }
}
