//! The history of a teacher's training, and the ledger that a checkpoint stores.

use serde::{Deserialize, Serialize};

use super::TeacherConfig;
use crate::training;
use crate::training::{LossState, Note, Stopped};

/// What happened while a teacher was trained.
#[derive(Debug, Clone, Serialize)]
pub struct TeacherHistory {
    /// Number of steps taken, skipped ones included.
    pub steps: u64,
    pub seconds: f64,
    pub stopped: Stopped,
    /// Pairs (steps done, mean loss over the steps since the previous entry).
    pub loss: Vec<(u64, f64)>,
    /// Number of steps that were skipped because the loss or the gradient was not finite.
    pub skipped_steps: u64,
    /// Number of returns to an earlier state after a divergence.
    pub restarts: u64,
    /// Descriptions of restarts and of checkpoints that could not be written.
    pub notes: Vec<Note>,
    /// Options with every default filled in.
    pub config: TeacherConfig,
}

/// Everything that a checkpoint stores of a run except tensors and options.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ledger {
    #[serde(flatten)]
    pub run: training::Ledger,
    pub loss: LossState,
}

impl Ledger {
    pub fn history(&self, stopped: Stopped, config: &TeacherConfig) -> TeacherHistory {
        TeacherHistory {
            steps: self.run.step,
            seconds: self.run.seconds,
            stopped,
            loss: self.loss.closed(),
            skipped_steps: self.run.skipped_steps,
            restarts: self.run.restarts,
            notes: self.run.notes.clone(),
            config: config.clone(),
        }
    }
}
