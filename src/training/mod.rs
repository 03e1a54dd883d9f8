//! What all trainers share: optimisers, loss logs, learning-rate schedules, clipping, averaging, loss scaling,
//! budgets, interrupts and progress.

mod adam;
mod average;
mod budget;
mod checkpointing;
mod loss_log;
mod resume;
mod scale;
mod schedule;

use serde::{Deserialize, Serialize};

pub use adam::{clip_norm, Adam, Optimizer};
pub use average::Average;
pub use budget::Budget;
pub use checkpointing::{check_same_options, Checkpointing};
pub use loss_log::{LossLog, LossState};
pub use resume::{save_training, TrainingFile, UpdateCounts};
pub use scale::LossScale;
pub use schedule::{Schedule, ScheduleKind};

use crate::error::{Error, Result};

/// Why a training loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    Completed,
    /// The user's wish; in a checkpoint, that training had not ended when it was written.
    Interrupted,
    /// `max_seconds` ran out.
    Budget,
    /// No improvement within `patience` evaluations.
    Patience,
    /// The loss or the held-out errors kept blowing up, `max_restarts` restarts notwithstanding.
    Diverged,
}

/// Checks the options that all trainers share.
///
/// # Errors
/// [`Error::Argument`] naming the first one out of its range.
pub fn check_positive(options: &[(&str, f64)]) -> Result<()> {
    for (name, value) in options {
        if !(value.is_finite() && *value > 0.0) {
            return Err(Error::argument(name, "a positive number", value));
        }
    }
    Ok(())
}

/// Checks what [`Average`] and weight decay may be.
///
/// # Errors
/// [`Error::Argument`] naming the first one out of its range.
pub fn check_weights_options(weight_decay: f64, ema_decay: f64) -> Result<()> {
    if !(weight_decay.is_finite() && weight_decay >= 0.0) {
        return Err(Error::argument("weight_decay", "a number of at least 0", weight_decay));
    }
    if !(0.0..1.0).contains(&ema_decay) {
        return Err(Error::argument("ema_decay", "at least 0 and below 1", ema_decay));
    }
    Ok(())
}
