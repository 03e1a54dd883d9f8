//! The trainer of students, as the training loop sees it: gradient steps and held-out evaluations.

use super::averages::{best_place, BestAverages};
use super::evaluation::{Evaluator, HeldOut, Metric};
use super::history::{Ledger, LogEntry};
use super::resume::Snapshot;
use super::{accumulate, Checkpointing, DistillConfig, Objective, Term, TrainingData};
use crate::data::{Batch, BatchRows};
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::{Monitor, Progress, Until};
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::{out_of_memory, RandomSource};
use crate::training::{Gradient, Look, Note, State, Step, Stopped};

/// Default number of held-out evaluations.
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
    /// Number of micro-batches per step.
    pub accumulate: i64,
    /// Whether only the endpoint terms are trained, in the first stage of `endpoint_first`.
    pub endpoint_alone: bool,
    /// The best state of each of several averages.
    pub averages: BestAverages,
    /// Limit of libtorch's threads during training.
    pub threads: Option<IntraOpThreads>,
    pub spent: Spent,
    /// The terms of the last step; empty if it failed before they were computed.
    pub terms: Vec<Term>,
}

/// The cost of a run before its first step, and the teacher's evaluations.
pub(super) struct Spent {
    pub trajectory_seconds: f64,
    pub trajectories: i64,
    /// Number of the teacher's evaluations in the runs that this one resumes.
    pub teacher_evaluations: u64,
    /// The teacher's count of evaluations when this fit began.
    pub evaluations_before: u64,
}

impl Run<'_> {
    /// Measures the untrained student, which is the first best state.
    pub fn begin(&mut self, state: &mut State<'_>, monitor: &mut dyn Monitor) -> Result<()> {
        let parts = self.rows.most_parts();
        if state.exchange.world().size() > parts {
            let size = state.exchange.world().size();
            let expected = format!("at least two rows of each kind of pair for each of {size} ranks");
            return Err(Error::argument("batch_size", expected, self.rows.noise));
        }
        let notes = self.data.trajectories.iter().flat_map(|trajectories| trajectories.notes());
        state.ledger.notes.extend(notes.map(|text| Note { step: 0, text: text.clone() }));
        state.ledger.began = state.budget.seconds();
        let sums = self.evaluator.sums(self.student, state.exchange.world(), monitor)?;
        let metric = self.evaluator.held_out(&state.add_up(&sums)?).metric(self.metric());
        state.ledger.best = metric.is_finite().then_some(metric);
        // All averages begin with the student's weights.
        self.averages.look(&state.averages, &vec![metric; state.averages.all().len()], false, 0);
        Ok(())
    }

    /// The metric by which the best state is kept. In the first stage it is the endpoint error, the only one
    /// trained.
    fn metric(&self) -> Metric {
        match self.endpoint_alone {
            true => Metric::EndpointError,
            false => self.final_metric(),
        }
    }

    /// The metric by which the finished student is kept. Where only the distribution is trained, the score may rise
    /// as the samples get better, so that the latest state is kept instead.
    fn final_metric(&self) -> Metric {
        match (self.config.metric, self.objective.weights.of_distribution_alone()) {
            (Metric::Score, true) => Metric::Latest,
            (metric, _) => metric,
        }
    }

    /// Limits libtorch's threads to a number that is useful for the current terms.
    pub fn limit_threads(&mut self) {
        let weights = match self.endpoint_alone {
            true => self.objective.weights.of_endpoint(),
            false => self.objective.weights.clone(),
        };
        let student = self.student;
        let work = 2 * self.rows.noise * student.config().reuse();
        let count = student.weights_per_lift();
        // The old limit is lifted first, because a new limit cannot exceed it.
        self.threads = None;
        self.threads = Some(IntraOpThreads::for_sides(weights.sides(), count, work));
    }

    /// Begins the second stage. Its metric cannot be compared with that of the first stage, so the current
    /// state becomes the best one.
    fn form_all_terms(&mut self, state: &mut State<'_>, monitor: &mut dyn Monitor) -> Result<()> {
        let errors = self.errors(state, monitor)?;
        let metrics: Vec<f64> = errors.iter().map(|errors| errors.metric(self.final_metric())).collect();
        let place = best_place(&metrics);
        state.averages.choose(place);
        self.averages.restart(&state.averages, &metrics, state.ledger.step);
        let metric = metrics[place];
        state.best = state.current()?.copy();
        let ledger = &mut state.ledger;
        ledger.best = metric.is_finite().then_some(metric);
        (ledger.best_step, ledger.stale) = (ledger.step, 0);
        self.endpoint_alone = false;
        self.limit_threads();
        Ok(())
    }

    /// The held-out errors of each average of the weights, or of the latest weights without averages.
    fn errors(&self, state: &State<'_>, monitor: &mut dyn Monitor) -> Result<Vec<HeldOut>> {
        let (world, parameters) = (state.exchange.world(), self.student.parameters());
        let mut sums = Vec::new();
        for average in state.averages.all() {
            sums.extend(
                parameters.with(average.value(), || self.evaluator.sums(self.student, world, monitor))?,
            );
        }
        if sums.is_empty() {
            sums = self.evaluator.sums(self.student, world, monitor)?;
        }
        let sums = state.add_up(&sums)?;
        Ok(sums.chunks(self.evaluator.sums_count()).map(|sums| self.evaluator.held_out(sums)).collect())
    }

    /// Restores everything from a file that is not part of the loop's state.
    pub fn go_on(&mut self, ledger: &Ledger, averages: BestAverages, log: Vec<LogEntry>) {
        (self.averages, self.log) = (averages, log);
        self.accumulate = ledger.accumulate;
        self.endpoint_alone = ledger.endpoint_alone;
        self.spent.trajectory_seconds = ledger.trajectory_seconds;
        self.spent.trajectories = ledger.trajectories;
        self.spent.teacher_evaluations = ledger.teacher_evaluations;
    }

    /// The gradient and the terms of a batch. If memory runs out, the number of micro-batches is doubled
    /// until the step fits.
    fn differentiate(
        &mut self,
        batch: &Batch,
        state: &mut State<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<(tch::Tensor, Vec<Term>)> {
        let first = self.endpoint_alone.then(|| self.objective.of_endpoint());
        let rank = state.exchange.world().clone();
        let most = (self.rows.most_parts() / rank.size()).max(1);
        loop {
            let parts = self.accumulate;
            let (precision, scale) = (self.config.precision, state.ledger.scale.value);
            // with_grad is needed because a panic inside tch::no_grad leaves gradients off for the next
            // attempt.
            let attempt = out_of_memory(|| {
                let masks = (self.config.training.seed, state.ledger.step);
                tch::with_grad(|| {
                    let objective = first.as_ref().unwrap_or(&self.objective);
                    accumulate::gradient(
                        objective,
                        self.student,
                        batch,
                        (&rank, parts),
                        precision,
                        scale,
                        masks,
                    )
                })
            })?;
            if let Some(outcome) = attempt {
                return Ok(outcome);
            }
            let parts = (2 * parts).min(most);
            if parts == self.accumulate {
                let message = format!("out of memory, even with {parts} micro-batches per step");
                return Err(Error::OutOfMemory(message));
            }
            self.accumulate = parts;
            let rows = self.rows.noise / rank.size() / parts;
            let text = format!("out of memory: steps now take {parts} micro-batches of {rows} rows");
            state.note(Self::STAGE, text, monitor)?;
        }
    }

    /// The complete ledger of a run in `state`.
    pub fn ledger(&self, state: &State<'_>) -> Ledger {
        let Spent { trajectory_seconds, trajectories, teacher_evaluations, evaluations_before } = self.spent;
        let own = self.objective.teacher.evaluations() - evaluations_before;
        Ledger {
            run: state.closed_ledger(),
            accumulate: self.accumulate,
            endpoint_alone: self.endpoint_alone,
            averages: self.averages.entries.clone(),
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
        if self.endpoint_alone && state.spent() >= self.config.endpoint_first {
            self.form_all_terms(state, &mut until)?;
        }
        let (random, step, rows) = (&self.random, state.ledger.step, self.rows);
        let batch = match self.endpoint_alone {
            true => self.data.endpoint_batch(random, step, rows),
            false => self.data.batch(random, step, rows, state.done(), &mut until)?,
        };
        let (flat, terms) = self.differentiate(&batch, state, monitor)?;
        let losses = terms.iter().map(|term| term.value.shallow_clone()).collect();
        self.terms = terms;
        Ok(Gradient { flat, losses })
    }

    fn stepped(&mut self, losses: &[tch::Tensor]) -> Result<()> {
        // With several ranks, these are the values of all ranks together.
        for (term, loss) in self.terms.iter_mut().zip(losses) {
            term.value = loss.shallow_clone();
        }
        Ok(())
    }

    fn due(&mut self, state: &State<'_>, last: bool) -> bool {
        let (step, steps) = (state.ledger.step, state.budget.steps);
        let every = self.config.evaluate_every.unwrap_or(steps / EVALUATIONS).max(1);
        step == 1 || step % every == 0 || last
    }

    fn look(&mut self, state: &State<'_>, rate: f64, monitor: &mut dyn Monitor) -> Result<Look> {
        let (errors, metric) = (self.errors(state, monitor)?, self.metric());
        let metrics: Vec<f64> = errors.iter().map(|errors| errors.metric(metric)).collect();
        self.averages.look(&state.averages, &metrics, metric == Metric::Latest, state.ledger.step);
        let chosen = best_place(&metrics);
        let errors = &errors[chosen];
        let mut values: Vec<(String, f64)> =
            self.terms.iter().map(|term| (term.name.to_string(), term.value.double_value(&[]))).collect();
        values.extend(errors.named().map(|(name, value)| (name.to_string(), value)));
        values.push(("learning_rate".into(), rate));
        if state.ledger.scale.is_dynamic() {
            values.push(("loss_scale".into(), state.ledger.scale.value));
        }
        if let Some(kept) = self.averages.entries.get(chosen) {
            values.push(("average".into(), kept.decay));
            let each = self.averages.entries.iter().zip(&metrics);
            values.extend(each.map(|(entry, value)| (format!("{}_{}", metric.name(), entry.decay), *value)));
        }
        let latest = metric == Metric::Latest;
        Ok(Look { metric: Some(metrics[chosen]), name: format!("{metric:?}"), values, chosen, latest })
    }

    fn log(&mut self, progress: &Progress) {
        // JSON cannot represent values that are not finite.
        let finite = progress.values.iter().filter(|(_, value)| value.is_finite()).cloned().collect();
        self.log.push(LogEntry { step: progress.step, seconds: progress.seconds, values: finite });
    }

    fn patience(&self) -> Option<u64> {
        // In the first stage the terms of the second are not trained yet and may still improve.
        self.config.patience.filter(|_| !self.endpoint_alone)
    }

    fn save(&mut self, state: &State<'_>, plan: &Checkpointing, stopped: Stopped) -> Result<()> {
        let snapshot = Snapshot {
            student: self.student,
            state,
            config: self.config,
            ledger: self.ledger(state),
            averages: &self.averages,
            log: &self.log,
        };
        snapshot.save(&plan.file, &plan.header, stopped)
    }
}
