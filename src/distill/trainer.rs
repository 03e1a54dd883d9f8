//! The distillation loop: trajectories, then gradient steps with held-out errors, keeping the best.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::objective::total;
use super::{DistillConfig, Inputs, Objective, Scaling, Term, TrainingData, Trajectories};
use crate::error::{Error, Result};
use crate::koopman::{Direction, Student};
use crate::tensor::{parse_device, RandomSource};
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
    /// Trajectories stored: fewer than asked for where `max_seconds` or `trajectory_memory` cut them
    /// short, none where no term needs them.
    pub trajectories: i64,
    /// Evaluations of the teacher (NFE, batched calls).
    pub teacher_evaluations: u64,
    pub stopped: Stopped,
    /// The step whose parameters were kept.
    pub best_step: u64,
    pub log: Vec<LogEntry>,
}

/// Held-out errors in units of the data's (or noise's) deviation.
struct HeldOut {
    endpoint: f64,
    path: f64,
    inverse: f64,
}

/// How often the held-out errors are looked at.
const EVALUATIONS: u64 = 60;

/// Distils `teacher` into a student. An ODE is solved only where a term with a positive weight needs
/// trajectories: with `consistency` alone and the teacher's data among the `inputs`, the teacher is
/// evaluated once a step and once more for the held-out points.
///
/// An interrupt after training began keeps the best student so far; one before is an error.
///
/// # Errors
/// [`Error::Argument`] for a bad option; [`Error::Divergence`] for a loss that is not finite; whatever the
/// teacher or the monitor raises.
pub fn distill(
    teacher: &dyn VelocityField,
    config: &DistillConfig,
    inputs: &Inputs,
    monitor: &mut dyn Monitor,
) -> Result<(Student, DistillHistory)> {
    let recipe = config.resolve(teacher.event_shape(), teacher.conditioning())?;
    let budget = Budget::new(recipe.steps, config.max_seconds);
    let evaluations = teacher.evaluations();
    let data = TrainingData::prepare(teacher, config, &recipe, inputs, monitor)?;
    let trajectory_seconds = budget.seconds();
    let table_times = recipe.student.table_times;
    let mut student = Student::new(recipe.student, config.seed, parse_device(&config.device)?)?;
    student.set_coordinates(data.coordinates(table_times)?);

    let mut run = Run {
        student: &student,
        objective: Objective { weights: recipe.weights, scaling: config.scaling, teacher },
        data: &data,
        batch_size: config.batch_size,
        clip_norm: config.clip_norm,
        budget: &budget,
        random: RandomSource::new(config.seed).fork("distillation batches"),
        optimiser: Adam::new(student.parameters(), 0.0, false)?,
        schedule: Schedule { peak: recipe.learning_rate, warmup_steps: config.warmup_steps },
        best: Best { step: 0, score: f64::INFINITY, parameters: student.parameters().flat()?.copy() },
        log: Vec::new(),
    };
    let (steps, stopped) = match run.train(monitor) {
        Ok(outcome) => outcome,
        // The user's own wish to stop: what was learnt so far is kept.
        Err(Error::Interrupted(_)) => (run.log.last().map_or(0, |entry| entry.step), Stopped::Interrupted),
        Err(error) => return Err(error),
    };
    let Run { best, log, .. } = run;
    student.set_parameters(&best.parameters)?;
    let history = DistillHistory {
        steps,
        seconds: budget.seconds(),
        trajectory_seconds,
        trajectories: data.trajectory_count(),
        teacher_evaluations: teacher.evaluations() - evaluations,
        stopped,
        best_step: best.step,
        log,
    };
    Ok((student, history))
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
    data: &'a TrainingData,
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
            let progress = by_clock.max(step as f64 / budget.steps as f64);
            let rate = self.schedule.rate(step, progress);
            let batch = self.data.batch(&self.random, step, self.batch_size, progress)?;
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
        let mut score = 0.0;
        if let Some(trajectories) = &self.data.trajectories {
            let errors = held_out_errors(self.student, trajectories)?;
            score = errors.endpoint + errors.path + errors.inverse;
            values.extend([
                ("endpoint_error".to_string(), errors.endpoint),
                ("path_error".to_string(), errors.path),
                ("inversion_error".to_string(), errors.inverse),
            ]);
        }
        if let Some((points, velocity)) = &self.data.held_out_points {
            let residual = tch::no_grad(|| Scaling::Relative.consistency(self.student, points, velocity));
            let residual = residual.double_value(&[]).sqrt();
            values.push(("consistency_error".to_string(), residual));
            if self.data.trajectories.is_none() {
                score = residual;
            }
        }
        values.push(("learning_rate".to_string(), rate));
        if score < self.best.score {
            self.best = Best { step, score, parameters: self.student.parameters().flat()?.copy() };
        }
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
        let decoded = student.fresh_horizon(index as f64 / last as f64)?.apply(&noise)?;
        let error = (decoded - states.select(1, index)).square().sum_dim_intlist(1, false, kind);
        Ok((error.mean(Kind::Double).double_value(&[]) * trajectories.precision_at(last)).sqrt())
    };
    let looks: Vec<i64> = (1..8).map(|eighth| (last * eighth + 4) / 8).filter(|index| *index > 0).collect();
    let mut path = 0.0;
    for index in &looks {
        path += error_at(*index)?;
    }
    let inverse = student.fresh_horizon(-1.0)?.apply(&encode(last, Direction::Backward))?;
    Ok(HeldOut {
        endpoint: error_at(last)?,
        path: path / looks.len().max(1) as f64,
        inverse: rms(inverse - states.select(1, 0), 0),
    })
}
