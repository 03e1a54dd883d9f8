//! What both trainers share: optimiser, learning-rate schedule, clipping, averaging, budgets,
//! interrupts and progress.

use serde::Serialize;

use crate::error::Result;

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

/// Who watches a long computation. An error stops it: [`crate::error::Error::Interrupted`] keeps the
/// best state so far, any other is passed on.
pub trait Monitor {
    /// Called after every step or chunk; cheap implementors answer at once most of the time.
    fn tick(&mut self) -> Result<()>;

    /// Called when there is something to show.
    fn report(&mut self, progress: &Progress) -> Result<()>;
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
