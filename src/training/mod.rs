//! The parts that all trainers share: the training loop, optimisers, loss logs, learning-rate schedules,
//! gradient clipping, weight averaging, loss scaling, budgets, interrupts, progress, and the exchange between
//! ranks.

mod adam;
mod adam_step;
mod average;
mod budget;
mod checkpointing;
mod exchange;
mod r#loop;
mod loss_log;
mod options;
mod resume;
mod row_weights;
mod scale;
mod schedule;
mod state;

use serde::{Deserialize, Serialize};

pub use adam::{clip_norm, Adam, Optimizer};
pub use average::{Average, Averages};
pub use budget::Budget;
pub use checkpointing::{check_same_options, Checkpointing};
pub use exchange::Exchange;
pub use loss_log::{LossLog, LossState};
pub use options::{check_positive, deserialize, JsonOptions, OptionError, TrainingOptions};
pub(crate) use options::{decided, json_options};
pub use r#loop::{Gradient, Look, Loop, Step};
pub use resume::{save_training, TrainingFile, UpdateCounts};
pub use row_weights::RowWeights;
pub use scale::LossScale;
pub use schedule::{Schedule, ScheduleKind};
pub use state::{Ledger, Note, State};

/// Why a training loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    Completed,
    /// The user stopped training. In a checkpoint: training had not ended when the file was written.
    Interrupted,
    /// `max_seconds` ran out.
    Budget,
    /// No improvement within `patience` evaluations.
    Patience,
    /// The loss or the held-out errors still diverged after `max_restarts` restarts.
    Diverged,
}
