//! What training a teacher leaves behind: its history, and the ledger that a checkpoint carries on.

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
    /// (steps done, mean loss over the steps since the entry before).
    pub loss: Vec<(u64, f64)>,
    /// Steps whose loss or gradient was not finite: nothing was learnt from them.
    pub skipped_steps: u64,
    /// Returns to an earlier state after a divergence.
    pub restarts: u64,
    /// Restarts and checkpoints that could not be written, in words.
    pub notes: Vec<Note>,
    /// Options with every default filled in.
    pub config: TeacherConfig,
}

/// Everything about a run that is neither a tensor nor an option.
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
