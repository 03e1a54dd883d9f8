//! What all trainers share: optimisers, loss logs, learning-rate schedules, clipping, averaging, loss scaling,
//! budgets, interrupts and progress.

mod adam;
mod average;
mod budget;
mod checkpointing;
mod loss_log;
mod scale;
mod schedule;

use serde::{Deserialize, Serialize};

pub use adam::{clip_norm, Adam, Optimizer};
pub use average::Average;
pub use budget::Budget;
pub use checkpointing::{check_same_options, Checkpointing};
pub use loss_log::{LossLog, LossState};
pub use scale::LossScale;
pub use schedule::{Schedule, ScheduleKind};

use crate::error::{Error, Result};

/// One report of a long computation.
#[derive(Debug, Clone, Serialize)]
pub struct Progress {
    /// `"trajectories"`, `"teacher"`, `"student"`, `"sample"`.
    pub stage: &'static str,
    pub step: u64,
    pub total: u64,
    /// Seconds since the stage began.
    pub seconds: f64,
    /// Named values, in a fixed order: each loss term, the learning rate, held-out errors.
    pub values: Vec<(String, f64)>,
}

/// Who watches a long computation. An error stops it: [`Error::Interrupted`] keeps the best state so
/// far, any other is passed on.
pub trait Monitor {
    /// Called after every step or chunk; cheap implementors answer at once most of the time.
    fn tick(&mut self) -> Result<()>;

    /// Called when there is something to show.
    fn report(&mut self, progress: &Progress) -> Result<()>;

    /// Called when something happened that a person should read: a smaller micro-batch, a restart.
    fn note(&mut self, progress: &Progress, text: &str) -> Result<()> {
        let _ = (progress, text);
        Ok(())
    }
}

/// Watches nothing.
pub struct Silent;

impl Monitor for Silent {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn report(&mut self, _: &Progress) -> Result<()> {
        Ok(())
    }
}

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
