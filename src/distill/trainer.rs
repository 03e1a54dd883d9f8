//! The distillation loop: trajectories, then gradient steps with held-out errors, keeping the best.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::closed_form::{ClosedForm, ClosedFormReport};
use super::objective::total;
use super::{DistillConfig, Method, Objective, Term, Trajectories, TrajectoryPlan};
use crate::error::{Error, Result};
use crate::koopman::{Direction, InputCoordinates, Student};
use crate::tensor::{parse_device, parse_dtype, RandomSource};
use crate::threads::IntraOpThreads;
use crate::training::{clip_norm, Adam, Budget, Monitor, Progress, Schedule, Stopped};
use crate::velocity::VelocityField;

/// Values logged at one step: loss terms, held-out errors, learning rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogEntry {
    pub step: u64,
    pub seconds: f64,
    pub values: Vec<(String, f64)>,
}

/// What happened in a distillation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DistillHistory {
    pub steps: u64,
    /// Whole wall-clock, trajectories included.
    pub seconds: f64,
    pub trajectory_seconds: f64,
    /// Trajectories stored: fewer than asked for where `max_seconds` cut them short.
    pub trajectories: i64,
    /// Evaluations of the teacher (NFE, batched calls).
    pub teacher_evaluations: u64,
    pub stopped: Stopped,
    /// The step whose parameters were kept.
    pub best_step: u64,
    pub log: Vec<LogEntry>,
    /// What a linear solve did, for the methods that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_form: Option<ClosedFormReport>,
}

/// Held-out errors in units of the data's (or noise's) deviation.
struct HeldOut {
    endpoint: f64,
    path: f64,
    inverse: f64,
}

impl HeldOut {
    /// What the best state has least of.
    fn score(&self) -> f64 {
        self.endpoint + self.path + self.inverse
    }

    fn named(&self) -> [(String, f64); 3] {
        [
            ("endpoint_error".to_string(), self.endpoint),
            ("path_error".to_string(), self.path),
            ("inversion_error".to_string(), self.inverse),
        ]
    }
}

/// The most of `max_seconds` that trajectories may take.
const TRAJECTORY_SHARE: f64 = 0.4;

/// How often the held-out errors are looked at.
const EVALUATIONS: u64 = 60;

/// Distils `teacher` into a student. Conditions of a conditional teacher are drawn from the rows of
/// `pool`; for labels it may be left out, and every class is then equally likely.
///
/// An interrupt after training began keeps the best student so far; one before is an error.
///
/// # Errors
/// [`Error::Argument`] for a bad option; [`Error::Divergence`] for a loss that is not finite; whatever the
/// teacher or the monitor raises.
pub fn distill(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    pool: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<(Student, DistillHistory)> {
    let recipe = config.resolve(teacher.event_shape(), teacher.conditioning())?;
    let pool = condition_pool(teacher, pool)?;
    let budget = Budget::new(recipe.steps, config.max_seconds);
    let evaluations = teacher.evaluations();
    let plan = TrajectoryPlan {
        count: recipe.trajectories,
        path_steps: config.path_steps,
        seed: config.seed,
        kind: parse_dtype(&config.dtype)?,
        device: parse_device(&config.device)?,
        max_seconds: config.max_seconds.map(|limit| limit * TRAJECTORY_SHARE),
    };
    let trajectories = Trajectories::generate(teacher, &plan, pool.as_ref(), monitor)?;
    let trajectory_seconds = budget.seconds();
    let mut student = Student::new(recipe.student, config.seed, plan.device)?;
    student.set_coordinates(InputCoordinates::from_trajectories(
        trajectories.states(),
        plan.kind,
        plan.device,
    )?);

    let mut run = Run {
        student: &student,
        objective: Objective { weights: config.weights.clone(), teacher },
        trajectories: &trajectories,
        batch_size: config.batch_size,
        clip_norm: config.clip_norm,
        budget: &budget,
        random: RandomSource::new(config.seed).fork("distillation batches"),
        optimiser: Adam::new(student.parameters(), 0.0, false)?,
        schedule: Schedule { peak: recipe.learning_rate, warmup_steps: config.warmup_steps },
        best: Best { step: 0, score: f64::INFINITY, parameters: student.parameters().flat()?.copy() },
        log: Vec::new(),
    };
    let outcome = match config.method {
        Method::ClosedForm => Ok((0, Stopped::Completed)),
        Method::Gradient | Method::Refine => run.train(monitor),
    };
    let (steps, mut stopped) = match outcome {
        Ok(outcome) => outcome,
        // The user's own wish to stop: what was learnt so far is kept.
        Err(Error::Interrupted(_)) => (run.log.last().map_or(0, |entry| entry.step), Stopped::Interrupted),
        Err(error) => return Err(error),
    };
    let Run { best, mut log, .. } = run;
    student.set_parameters(&best.parameters)?;
    let errors = |student: &Student| held_out_errors(student, &trajectories);
    let score = |student: &Student| Ok(errors(student)?.score());
    let closed_form = ClosedForm { teacher, trajectories: &trajectories, config, score: &score }.finish(
        &mut student,
        &mut stopped,
        monitor,
    )?;
    if config.method == Method::ClosedForm {
        let values = errors(&student)?.named().into();
        log.push(LogEntry { step: 0, seconds: budget.seconds(), values });
    }
    let history = DistillHistory {
        steps,
        seconds: budget.seconds(),
        trajectory_seconds,
        trajectories: trajectories.states().size()[0],
        teacher_evaluations: teacher.evaluations() - evaluations,
        stopped,
        best_step: best.step,
        log,
        closed_form,
    };
    Ok((student, history))
}

/// The rows that conditions are drawn from, checked.
fn condition_pool(teacher: &dyn VelocityField, pool: Option<&Tensor>) -> Result<Option<Tensor>> {
    use crate::condition::Conditioning;
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

/// The state whose held-out errors were lowest.
struct Best {
    step: u64,
    score: f64,
    parameters: Tensor,
}

/// One training run.
struct Run<'a> {
    student: &'a Student,
    objective: Objective<'a>,
    trajectories: &'a Trajectories,
    batch_size: i64,
    clip_norm: Option<f64>,
    budget: &'a Budget,
    random: RandomSource,
    optimiser: Adam,
    schedule: Schedule,
    best: Best,
    log: Vec<LogEntry>,
}

impl Run<'_> {
    fn train(&mut self, monitor: &mut dyn Monitor) -> Result<(u64, Stopped)> {
        let (student, budget) = (self.student, self.budget);
        let _threads = IntraOpThreads::for_work(student.parameters().count(), 2 * self.batch_size);
        let every = (budget.steps / EVALUATIONS).max(1);
        // The clock that trajectories used up does not shorten the schedule of what is left.
        let before = budget.done(0);
        for step in 0..budget.steps {
            let by_clock = (budget.done(0) - before) / (1.0 - before).max(1e-9);
            let rate = self.schedule.rate(step, by_clock.max(step as f64 / budget.steps as f64));
            let batch = self.trajectories.batch(&self.random, step, self.batch_size);
            let terms = self.objective.terms(student, &batch)?;
            let loss = total(&terms, student.kind());
            let mut gradient = student.parameters().gradient(&loss)?;
            let _ = clip_norm(&mut gradient, self.clip_norm)?;
            self.optimiser.step(student.parameters(), &gradient, rate)?;
            let done = step + 1;
            let exhausted = budget.exhausted();
            if done == 1 || done % every == 0 || done == budget.steps || exhausted {
                self.look(&terms, done, rate, monitor)?;
            }
            monitor.tick()?;
            if exhausted && done < budget.steps {
                return Ok((done, Stopped::Budget));
            }
        }
        Ok((budget.steps, Stopped::Completed))
    }

    /// Logs, keeps the best state and reports.
    fn look(&mut self, terms: &[Term], step: u64, rate: f64, monitor: &mut dyn Monitor) -> Result<()> {
        let mut values: Vec<(String, f64)> =
            terms.iter().map(|term| (term.name.to_string(), term.value.double_value(&[]))).collect();
        if let Some((name, value)) = values.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::Divergence(format!(
                "the {name} loss is {value} at step {step}: lower learning_rate or check the teacher"
            )));
        }
        let errors = held_out_errors(self.student, self.trajectories)?;
        let score = errors.score();
        if score < self.best.score {
            self.best = Best { step, score, parameters: self.student.parameters().flat()?.copy() };
        }
        values.extend(errors.named());
        values.push(("learning_rate".to_string(), rate));
        let seconds = self.budget.seconds();
        self.log.push(LogEntry { step, seconds, values: values.clone() });
        monitor.report(&Progress { stage: "student", step, total: self.budget.steps, seconds, values })
    }
}

/// Endpoint, path and inversion errors on the trajectories kept out of training.
fn held_out_errors(student: &Student, trajectories: &Trajectories) -> Result<HeldOut> {
    let _guard = tch::no_grad_guard();
    let (states, condition) = trajectories.held_out();
    let last = trajectories.path_times() - 1;
    let kind = student.kind();
    let rms = |error: Tensor, index: i64| {
        (error.square().sum_dim_intlist(1, false, kind).mean(Kind::Double).double_value(&[])
            * trajectories.precision_at(index))
        .sqrt()
    };
    let encode = |index: i64, direction: Direction| {
        let x = states.select(1, index);
        let t = Tensor::full([x.size()[0]], index as f64 / last as f64, (kind, student.device()));
        student.lift_flat(&t, &x, direction, condition.as_ref())
    };
    let noise = encode(0, Direction::Forward);
    let error_at = |index: i64| -> Result<f64> {
        let decoded = student.generator().propagator(index as f64 / last as f64)?.apply(&noise);
        let error = (decoded - states.select(1, index)).square().sum_dim_intlist(1, false, kind);
        Ok((error.mean(Kind::Double).double_value(&[]) * trajectories.precision_at(last)).sqrt())
    };
    let looks: Vec<i64> = (1..8).map(|eighth| (last * eighth + 4) / 8).filter(|index| *index > 0).collect();
    let mut path = 0.0;
    for index in &looks {
        path += error_at(*index)?;
    }
    let inverse = student.generator().propagator(-1.0)?.apply(&encode(last, Direction::Backward));
    Ok(HeldOut {
        endpoint: error_at(last)?,
        path: path / looks.len().max(1) as f64,
        inverse: rms(inverse - states.select(1, 0), 0),
    })
}
