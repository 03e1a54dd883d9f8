//! The history of a distillation, and the ledger that a checkpoint stores.

use serde::{Deserialize, Serialize};

use super::averages::{best_decay, BestAverage};
use super::ClosedFormReport;
use crate::training;
pub use crate::training::Note;
use crate::training::Stopped;

/// The values that were logged at one step: loss terms, held-out errors and the learning rate. Values that
/// are not finite are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    pub step: u64,
    pub seconds: f64,
    pub values: Vec<(String, f64)>,
}

/// The history of a distillation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DistillHistory {
    pub steps: u64,
    /// Wall-clock time of the whole fit, including trajectories and the runs that it resumed.
    pub seconds: f64,
    pub trajectory_seconds: f64,
    /// Number of stored trajectories. `max_seconds` or `trajectory_memory` may make it smaller than the
    /// option.
    pub trajectories: i64,
    /// Number of evaluations of the teacher (NFE, batched calls).
    pub teacher_evaluations: u64,
    pub stopped: Stopped,
    /// The step whose parameters were kept; 0 is the untrained student.
    pub best_step: u64,
    /// The best state of each of several averages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub averages: Vec<BestAverage>,
    /// The decay of the average that was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
    /// Number of steps that were skipped because the loss or the gradient was not finite.
    #[serde(default)]
    pub skipped_steps: u64,
    /// Number of restarts from the best state after a divergence.
    #[serde(default)]
    pub restarts: u64,
    #[serde(default)]
    pub notes: Vec<Note>,
    /// Report of the linear solve, for a method that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_form: Option<ClosedFormReport>,
    pub log: Vec<LogEntry>,
}

/// Everything that a checkpoint stores of a run except tensors, options and the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ledger {
    #[serde(flatten)]
    pub run: training::Ledger,
    /// Number of micro-batches per step: the option `accumulate`, or more if memory ran out.
    pub accumulate: i64,
    /// Whether only the endpoint terms are trained so far.
    #[serde(default)]
    pub endpoint_alone: bool,
    /// The best state of each of several averages.
    #[serde(default)]
    pub averages: Vec<BestAverage>,
    pub trajectory_seconds: f64,
    pub trajectories: i64,
    pub teacher_evaluations: u64,
}

impl Ledger {
    pub fn history(&self, stopped: Stopped, log: &[LogEntry]) -> DistillHistory {
        DistillHistory {
            steps: self.run.step,
            seconds: self.run.seconds,
            trajectory_seconds: self.trajectory_seconds,
            trajectories: self.trajectories,
            teacher_evaluations: self.teacher_evaluations,
            stopped,
            best_step: self.run.best_step,
            average: best_decay(&self.averages),
            averages: self.averages.clone(),
            skipped_steps: self.run.skipped_steps,
            restarts: self.run.restarts,
            notes: self.run.notes.clone(),
            closed_form: None,
            log: log.to_vec(),
        }
    }
}
