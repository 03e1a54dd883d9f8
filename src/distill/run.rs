//! One training run: gradient steps, held-out looks, restarts.

use std::path::Path;

use serde_json::Value;
use tch::Tensor;

use super::evaluation::Evaluator;
use super::history::{Ledger, LogEntry, Note};
use super::resume::Snapshot;
use super::{accumulate, Checkpointing, DistillConfig, Objective, Term, TrainingData};
use crate::data::{Batch, BatchRows};
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::{Monitor, Progress};
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::RandomSource;
use crate::training::{clip_norm, Adam, Average, Budget, Stopped};

/// Steps in a row without a finite gradient that count as a divergence.
const SKIPPED_LIMIT: u64 = 10;

/// A held-out metric so many times the best is a divergence.
const BLOW_UP: f64 = 100.0;

pub(super) struct Run<'a> {
    pub student: &'a Student,
    pub objective: Objective<'a>,
    pub data: &'a TrainingData,
    pub evaluator: &'a Evaluator,
    /// With nothing left open.
    pub config: &'a DistillConfig,
    pub rows: BatchRows,
    pub budget: &'a Budget,
    pub random: RandomSource,
    pub optimiser: Adam,
    pub average: Option<Average>,
    /// The parameters whose metric was lowest.
    pub best: Tensor,
    pub ledger: Ledger,
    pub log: Vec<LogEntry>,
    /// The teacher's count when this process began with it.
    pub evaluations_before: u64,
    pub checkpoint: Option<&'a Checkpointing>,
}

impl Run<'_> {
    /// Measures the untrained student, the first best state.
    pub fn begin(&mut self) -> Result<()> {
        self.ledger.began = self.budget.seconds();
        let metric = self.evaluator.errors(self.student)?.metric(self.config.metric);
        self.ledger.best = metric.is_finite().then_some(metric);
        Ok(())
    }

    /// Trains, and writes a last checkpoint whatever ends it; an interrupt is an ordinary end.
    pub fn train(&mut self, monitor: &mut dyn Monitor) -> Result<Stopped> {
        let work = 2 * self.rows.noise * self.student.config().reuse();
        let weights = self.student.parameters().count() / self.student.config().lifts;
        let sides = self.objective.weights.sides();
        let _threads = IntraOpThreads::for_sides(sides, weights, work);
        let stopped = match self.steps(monitor) {
            // The user's own wish to stop: what was learnt so far is kept.
            Err(Error::Interrupted(_)) => Stopped::Interrupted,
            outcome => outcome?,
        };
        if let Some(Checkpointing { file, header, .. }) = self.checkpoint {
            self.save(file, header, stopped)?;
        }
        Ok(stopped)
    }

    fn steps(&mut self, monitor: &mut dyn Monitor) -> Result<Stopped> {
        let every = self.config.evaluation_interval(self.budget.steps);
        let mut written = self.budget.seconds();
        while self.ledger.step < self.budget.steps {
            let (terms, rate) = self.step(monitor)?;
            let step = self.ledger.step;
            if self.ledger.consecutive >= SKIPPED_LIMIT {
                let why = format!("{SKIPPED_LIMIT} steps in a row had no finite gradient");
                if let Some(stopped) = self.restart(&why, monitor)? {
                    return Ok(stopped);
                }
            }
            let exhausted = self.budget.exhausted();
            if step == 1 || step % every == 0 || step == self.budget.steps || exhausted {
                if let Some(stopped) = self.look(&terms, rate, monitor)? {
                    return Ok(stopped);
                }
            }
            if let Some(Checkpointing { file, header, .. }) =
                self.checkpoint.filter(|plan| plan.due(step, self.budget.seconds() - written))
            {
                // A file that is read later tells of a run that was cut.
                self.save(file, header, Stopped::Interrupted)?;
                written = self.budget.seconds();
            }
            monitor.tick()?;
            if exhausted && step < self.budget.steps {
                return Ok(Stopped::Budget);
            }
        }
        Ok(Stopped::Completed)
    }

    /// The learning rate of the next step. It follows the clock where that is ahead of the steps; what
    /// trajectories used up does not count.
    fn rate(&self) -> f64 {
        let step = self.ledger.step;
        let by_steps = step as f64 / self.budget.steps as f64;
        let by_clock = self.budget.max_seconds.map_or(0.0, |limit| {
            (self.budget.seconds() - self.ledger.began) / (limit - self.ledger.began).max(1e-9)
        });
        self.ledger.schedule.rate(step, by_clock.max(by_steps))
    }

    /// One step: the values of its terms before it, and its learning rate.
    fn step(&mut self, monitor: &mut dyn Monitor) -> Result<(Vec<Term>, f64)> {
        let rate = self.rate();
        let done = self.ledger.step as f64 / self.budget.steps as f64;
        let batch = self.data.batch(&self.random, self.ledger.step, self.rows, done)?;
        let (gradient, terms) = match self.gradient(&batch, monitor) {
            Ok((gradient, terms)) => (Some(gradient), terms),
            // Propagation overflowed: a loss that is not finite, found early.
            Err(Error::Divergence(_)) => (None, Vec::new()),
            Err(error) => return Err(error),
        };
        self.ledger.step += 1;
        if let Some(gradient) = gradient.map(|own| self.clipped(own, &terms)).transpose()?.flatten() {
            self.optimiser.step(self.student.parameters(), &gradient, rate)?;
            if let Some(average) = &mut self.average {
                average.update(self.student.parameters())?;
            }
            self.ledger.scale.succeeded();
            self.ledger.consecutive = 0;
        } else {
            self.ledger.skipped_steps += 1;
            if !self.ledger.scale.overflowed() {
                self.ledger.consecutive += 1;
            }
        }
        Ok((terms, rate))
    }

    /// The gradient that will be applied; `None` where it or the loss is not finite.
    fn clipped(&self, mut gradient: Tensor, terms: &[Term]) -> Result<Option<Tensor>> {
        let mut probe = clip_norm(&mut gradient, self.config.clip_norm)?;
        for term in terms {
            probe += &term.value * 0.0;
        }
        Ok(probe.double_value(&[]).is_finite().then_some(gradient))
    }

    /// Doubles the number of micro-batches until the step fits the device's memory.
    fn gradient(&mut self, batch: &Batch, monitor: &mut dyn Monitor) -> Result<(Tensor, Vec<Term>)> {
        loop {
            let parts = self.ledger.accumulate;
            let (precision, scale) = (self.config.precision, self.ledger.scale.value);
            let attempt = accumulate::out_of_memory(|| {
                let masks = (self.config.seed, self.ledger.step);
                accumulate::gradient(&self.objective, self.student, batch, parts, precision, scale, masks)
            })?;
            if let Some(outcome) = attempt {
                return Ok(outcome);
            }
            let parts = (2 * parts).min(self.rows.most_parts());
            if parts == self.ledger.accumulate {
                let message = format!("out of memory, even with a step cut into {parts} micro-batches");
                return Err(Error::OutOfMemory(message));
            }
            self.ledger.accumulate = parts;
            let rows = self.rows.noise / parts;
            let text = format!("out of memory: steps now take {parts} micro-batches of {rows} rows");
            self.note(text, monitor)?;
        }
    }

    /// Measures, logs, keeps the best state and reports; answers where training should stop.
    fn look(&mut self, terms: &[Term], rate: f64, monitor: &mut dyn Monitor) -> Result<Option<Stopped>> {
        let errors = match &self.average {
            Some(average) => {
                self.student.parameters().with(average.value(), || self.evaluator.errors(self.student))
            }
            None => self.evaluator.errors(self.student),
        }?;
        let metric = errors.metric(self.config.metric);
        let improved = metric.is_finite() && self.ledger.best.is_none_or(|best| metric < best);
        let diverged =
            !metric.is_finite() || self.ledger.best.is_some_and(|best| metric > BLOW_UP * best.max(1e-9));
        if improved {
            let current = self.student.parameters().flat()?;
            self.best = self.average.as_ref().map_or(current, |own| own.value().shallow_clone()).copy();
            (self.ledger.best, self.ledger.best_step, self.ledger.stale) =
                (Some(metric), self.ledger.step, 0);
        } else {
            self.ledger.stale += 1;
        }
        self.ledger.schedule.evaluated(improved);

        let mut values: Vec<(String, f64)> =
            terms.iter().map(|term| (term.name.to_string(), term.value.double_value(&[]))).collect();
        values.extend(errors.named().map(|(name, value)| (name.to_string(), value)));
        values.push(("learning_rate".into(), rate));
        if self.ledger.scale.is_dynamic() {
            values.push(("loss_scale".into(), self.ledger.scale.value));
        }
        // JSON has no word for values that are not finite.
        let finite = values.iter().filter(|(_, value)| value.is_finite()).cloned().collect();
        let progress = Progress { values, ..self.progress() };
        self.log.push(LogEntry { step: progress.step, seconds: progress.seconds, values: finite });
        let patience = self.config.patience.is_some_and(|limit| self.ledger.stale >= limit);
        let stopped = match diverged {
            true => {
                self.restart(&format!("the held-out {:?} was {metric:.3e}", self.config.metric), monitor)?
            }
            false => patience.then_some(Stopped::Patience),
        };
        monitor.report(&progress)?;
        Ok(stopped)
    }

    /// Goes back to the best state at half the learning rate; answers where that was done often enough.
    fn restart(&mut self, why: &str, monitor: &mut dyn Monitor) -> Result<Option<Stopped>> {
        let best = self.ledger.best_step;
        let allowed = self.config.max_restarts;
        let exhausted = self.ledger.restarts >= allowed;
        let text = match exhausted {
            true => format!("{why}: stopped after {allowed} restarts, step {best} is kept"),
            false => format!("{why}: back to step {best}, with half the learning rate"),
        };
        let mut flat = self.student.parameters().flat()?;
        tch::no_grad(|| flat.f_copy_(&self.best))?;
        if let Some(average) = &mut self.average {
            average.restore(&self.best, 0)?;
        }
        self.optimiser.reset();
        self.ledger.consecutive = 0;
        if !exhausted {
            self.ledger.restarts += 1;
            self.ledger.schedule.halve();
        }
        self.note(text, monitor)?;
        Ok(exhausted.then_some(Stopped::Diverged))
    }

    fn progress(&self) -> Progress {
        Progress {
            stage: "student",
            step: self.ledger.step,
            total: self.budget.steps,
            seconds: self.budget.seconds(),
            values: Vec::new(),
        }
    }

    fn note(&mut self, text: String, monitor: &mut dyn Monitor) -> Result<()> {
        self.ledger.notes.push(Note { step: self.ledger.step, text: text.clone() });
        monitor.note(&self.progress(), &text)
    }

    /// Writes the best student and everything that training needs to go on.
    fn save(&self, path: &Path, header: &Value, stopped: Stopped) -> Result<()> {
        let snapshot = Snapshot {
            student: self.student,
            best: &self.best,
            config: self.config,
            optimiser: &self.optimiser,
            average: self.average.as_ref(),
            ledger: self.closed_ledger(),
            log: &self.log,
        };
        snapshot.save(path, header, stopped)
    }

    /// The ledger, with what lives elsewhere filled in.
    pub fn closed_ledger(&self) -> Ledger {
        let evaluations = self.objective.teacher.evaluations() - self.evaluations_before;
        Ledger {
            seconds: self.budget.seconds(),
            teacher_evaluations: self.ledger.teacher_evaluations + evaluations,
            optimiser_steps: self.optimiser.state().2,
            average_updates: self.average.as_ref().map_or(0, Average::updates),
            ..self.ledger.clone()
        }
    }
}
