//! What the training loop trains: a student's gradient steps and held-out looks.

use super::evaluation::Evaluator;
use super::history::{Ledger, LogEntry};
use super::resume::Snapshot;
use super::{accumulate, Checkpointing, DistillConfig, Objective, Term, TrainingData};
use crate::data::{Batch, BatchRows};
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::{Monitor, Progress, Until};
use crate::tensor::{out_of_memory, RandomSource};
use crate::training::{Gradient, Look, Note, State, Step, Stopped};

/// Number of held-out evaluations where `evaluate_every` is open.
const EVALUATIONS: u64 = 20;

pub(super) struct Run<'a> {
    pub student: &'a Student,
    pub objective: Objective<'a>,
    pub data: &'a TrainingData,
    pub evaluator: &'a Evaluator,
    /// Options with every default filled in.
    pub config: &'a DistillConfig,
    pub rows: BatchRows,
    pub random: RandomSource,
    pub log: Vec<LogEntry>,
    /// Micro-batches of one step.
    pub accumulate: i64,
    pub spent: Spent,
    /// The terms of the last step; none where it failed before they were known.
    pub terms: Vec<Term>,
}

/// Cost of a run besides its steps.
pub(super) struct Spent {
    pub trajectory_seconds: f64,
    pub trajectories: i64,
    /// The teacher's evaluations of runs that this one resumes.
    pub teacher_evaluations: u64,
    /// The teacher's count when this process began with it.
    pub evaluations_before: u64,
}

impl Run<'_> {
    /// Measures the untrained student, the first best state.
    pub fn begin(&self, state: &mut State<'_>, monitor: &mut dyn Monitor) -> Result<()> {
        let notes = self.data.trajectories.iter().flat_map(|trajectories| trajectories.notes());
        state.ledger.notes.extend(notes.map(|text| Note { step: 0, text: text.clone() }));
        state.ledger.began = state.budget.seconds();
        let metric = self.evaluator.errors(self.student, monitor)?.metric(self.config.metric);
        state.ledger.best = metric.is_finite().then_some(metric);
        Ok(())
    }

    /// Goes on with what a file kept besides the loop's own state.
    pub fn go_on(&mut self, ledger: &Ledger, log: Vec<LogEntry>) {
        self.log = log;
        self.accumulate = ledger.accumulate;
        self.spent.trajectory_seconds = ledger.trajectory_seconds;
        self.spent.trajectories = ledger.trajectories;
        self.spent.teacher_evaluations = ledger.teacher_evaluations;
    }

    /// The gradient and the terms of a batch. Doubles the number of micro-batches until the step fits the device's
    /// memory.
    fn differentiate(
        &mut self,
        batch: &Batch,
        state: &mut State<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<(tch::Tensor, Vec<Term>)> {
        loop {
            let parts = self.accumulate;
            let (precision, scale) = (self.config.precision, state.ledger.scale.value);
            // with_grad: a panic inside tch::no_grad would leave gradients off for the next attempt.
            let attempt = out_of_memory(|| {
                let masks = (self.config.training.seed, state.ledger.step);
                tch::with_grad(|| {
                    accumulate::gradient(&self.objective, self.student, batch, parts, precision, scale, masks)
                })
            })?;
            if let Some(outcome) = attempt {
                return Ok(outcome);
            }
            let parts = (2 * parts).min(self.rows.most_parts());
            if parts == self.accumulate {
                let message = format!("out of memory, even with a step cut into {parts} micro-batches");
                return Err(Error::OutOfMemory(message));
            }
            self.accumulate = parts;
            let rows = self.rows.noise / parts;
            let text = format!("out of memory: steps now take {parts} micro-batches of {rows} rows");
            state.note(Self::STAGE, text, monitor)?;
        }
    }

    /// The ledger of a run in `state`, with everything filled in.
    pub fn ledger(&self, state: &State<'_>) -> Ledger {
        let Spent { trajectory_seconds, trajectories, teacher_evaluations, evaluations_before } = self.spent;
        let own = self.objective.teacher.evaluations() - evaluations_before;
        Ledger {
            run: state.closed_ledger(),
            accumulate: self.accumulate,
            trajectory_seconds,
            trajectories,
            teacher_evaluations: teacher_evaluations + own,
        }
    }
}

impl Step for Run<'_> {
    const STAGE: &'static str = "student";
    const MEASURED: bool = true;

    fn gradient(&mut self, state: &mut State<'_>, monitor: &mut dyn Monitor) -> Result<Gradient> {
        self.terms.clear();
        let deadline = state.budget.deadline();
        let mut until = Until::new(monitor, deadline);
        let batch = self.data.batch(&self.random, state.ledger.step, self.rows, state.done(), &mut until)?;
        let (flat, terms) = self.differentiate(&batch, state, monitor)?;
        let losses = terms.iter().map(|term| term.value.shallow_clone()).collect();
        self.terms = terms;
        Ok(Gradient { flat, losses })
    }

    fn due(&mut self, state: &State<'_>, last: bool) -> bool {
        let (step, steps) = (state.ledger.step, state.budget.steps);
        let every = self.config.evaluate_every.unwrap_or(steps / EVALUATIONS).max(1);
        step == 1 || step % every == 0 || last
    }

    fn look(&mut self, state: &State<'_>, rate: f64, monitor: &mut dyn Monitor) -> Result<Look> {
        let evaluator = self.evaluator;
        let errors = match &state.average {
            Some(average) => {
                self.student.parameters().with(average.value(), || evaluator.errors(self.student, monitor))
            }
            None => evaluator.errors(self.student, monitor),
        }?;
        let mut values: Vec<(String, f64)> =
            self.terms.iter().map(|term| (term.name.to_string(), term.value.double_value(&[]))).collect();
        values.extend(errors.named().map(|(name, value)| (name.to_string(), value)));
        values.push(("learning_rate".into(), rate));
        if state.ledger.scale.is_dynamic() {
            values.push(("loss_scale".into(), state.ledger.scale.value));
        }
        let metric = self.config.metric;
        Ok(Look { metric: Some(errors.metric(metric)), name: format!("{metric:?}"), values })
    }

    fn log(&mut self, progress: &Progress) {
        // JSON has no word for values that are not finite.
        let finite = progress.values.iter().filter(|(_, value)| value.is_finite()).cloned().collect();
        self.log.push(LogEntry { step: progress.step, seconds: progress.seconds, values: finite });
    }

    fn save(&mut self, state: &State<'_>, plan: &Checkpointing, stopped: Stopped) -> Result<()> {
        let snapshot = Snapshot {
            student: self.student,
            state,
            config: self.config,
            ledger: self.ledger(state),
            log: &self.log,
        };
        snapshot.save(&plan.file, &plan.header, stopped)
    }
}
