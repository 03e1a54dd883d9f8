//! The state of a training: tensors, counters and notes.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Adam, Averages, Budget, Exchange, LossScale, Schedule, UpdateCounts};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::nets::Parameters;
use crate::tensor::finite_or_divergence;

/// A message for the user, about an event such as a smaller micro-batch or a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub step: u64,
    pub text: String,
}

/// Everything that the loop knows of a run except tensors and options. It is stored in training files.
///
/// Fields with defaults are missing in older files of teachers, which neither skipped steps nor restarted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ledger {
    /// Steps done, skipped ones included.
    pub step: u64,
    #[serde(default)]
    pub schedule: Schedule,
    #[serde(default = "LossScale::off")]
    pub scale: LossScale,
    /// The step with the best parameters; 0 is the untrained model.
    #[serde(default)]
    pub best_step: u64,
    /// The metric of the best state; `None` until a metric was finite.
    #[serde(default)]
    pub best: Option<f64>,
    /// Number of evaluations since the best one.
    #[serde(default)]
    pub stale: u64,
    /// Number of steps that were skipped because the loss or the gradient was not finite.
    #[serde(default)]
    pub skipped_steps: u64,
    /// Number of consecutive skipped steps.
    #[serde(default)]
    pub consecutive: u64,
    /// Number of returns to the best state after a divergence.
    #[serde(default)]
    pub restarts: u64,
    pub seconds: f64,
    /// Elapsed seconds when the first step began.
    #[serde(default)]
    pub began: f64,
    pub optimiser_steps: i32,
    pub average_updates: u64,
    #[serde(default)]
    pub notes: Vec<Note>,
}

impl Ledger {
    /// A run that begins now.
    pub fn new(schedule: Schedule) -> Self {
        Ledger {
            step: 0,
            schedule,
            scale: LossScale::off(),
            best_step: 0,
            best: None,
            stale: 0,
            skipped_steps: 0,
            consecutive: 0,
            restarts: 0,
            seconds: 0.0,
            began: 0.0,
            optimiser_steps: 0,
            average_updates: 0,
            notes: Vec::new(),
        }
    }
}

/// A model in training.
pub struct State<'a> {
    pub parameters: &'a Parameters,
    pub optimiser: Adam,
    pub averages: Averages,
    /// The best parameters, to which training returns after a divergence: those of the lowest metric, or
    /// without a metric the last ones from which a step was finite.
    pub best: Tensor,
    pub ledger: Ledger,
    pub budget: Budget,
    pub exchange: Exchange,
}

impl State<'_> {
    /// The averaged parameters, or the latest ones if nothing is averaged.
    ///
    /// # Errors
    /// An internal error before the parameters are packed.
    pub fn current(&self) -> Result<Tensor> {
        match self.averages.chosen() {
            Some(average) => Ok(average.value().shallow_clone()),
            None => self.parameters.flat(),
        }
    }

    /// The sums of `numbers` over all ranks, after a check that all have the same weights. With a single rank
    /// they are returned unchanged.
    ///
    /// # Errors
    /// As [`Exchange::add_up`].
    pub fn add_up(&self, numbers: &[f64]) -> Result<Vec<f64>> {
        self.exchange.add_up(self.parameters, self.budget.seconds(), numbers)
    }

    /// The share of the steps that is done.
    pub fn done(&self) -> f64 {
        self.ledger.step as f64 / self.budget.steps as f64
    }

    /// The spent share of the budget: of the steps or of the seconds since the first step, whichever is
    /// larger. The learning rate follows it, so that a run that the time limit ends has a small learning rate
    /// at its end.
    pub fn spent(&self) -> f64 {
        let by_clock = self.budget.max_seconds.map_or(0.0, |limit| {
            (self.budget.seconds() - self.ledger.began)
                / (limit * self.budget.share - self.ledger.began).max(1e-9)
        });
        by_clock.max(self.done())
    }

    /// The learning rate of the next step.
    pub(super) fn rate(&self) -> f64 {
        self.ledger.schedule.rate(self.ledger.step, self.spent())
    }

    /// Records a message for the user and passes it to the monitor.
    ///
    /// # Errors
    /// Any error of the monitor.
    pub fn note(&mut self, stage: &'static str, text: String, monitor: &mut dyn Monitor) -> Result<()> {
        self.ledger.notes.push(Note { step: self.ledger.step, text: text.clone() });
        monitor.note(&self.progress(stage, self.budget.steps), &text)
    }

    pub(super) fn progress(&self, stage: &'static str, total: u64) -> Progress {
        let (step, seconds) = (self.ledger.step, self.budget.seconds());
        Progress { stage, step, total, seconds, values: Vec::new() }
    }

    /// Replaces the parameters by their average.
    ///
    /// # Errors
    /// [`Error::Divergence`] if the average is not finite.
    pub fn keep_average(&self) -> Result<()> {
        let current = self.current()?;
        tch::no_grad(|| self.parameters.flat()?.f_copy_(&current).map_err(Error::from))?;
        finite_or_divergence(&current, "weights")
    }

    /// The ledger for a file, with seconds and the counts of optimiser and averages filled in.
    pub fn closed_ledger(&self) -> Ledger {
        let UpdateCounts { optimiser_steps, average_updates } =
            UpdateCounts::of(&self.optimiser, &self.averages);
        let seconds = self.budget.seconds();
        Ledger { seconds, optimiser_steps, average_updates, ..self.ledger.clone() }
    }
}
