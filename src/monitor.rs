//! Monitors of long calls: progress reports, requests to stop, counts of network evaluations, and the
//! processes that share the call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::world::{World, ALONE};

/// Counts evaluations (NFE), one for each batched call. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct EvaluationCounter(Arc<AtomicU64>);

impl EvaluationCounter {
    pub fn add(&self, evaluations: u64) {
        self.0.fetch_add(evaluations, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One report of a long computation.
#[derive(Debug, Clone, Serialize)]
pub struct Progress {
    /// Name of the computation: `"trajectories"`, `"teacher"`, `"student"` or `"sample"`.
    pub stage: &'static str,
    pub step: u64,
    pub total: u64,
    /// Seconds since the stage began.
    pub seconds: f64,
    /// Named values, in a fixed order: loss terms, the learning rate, held-out errors.
    pub values: Vec<(String, f64)>,
}

/// An observer of a long computation. An error from it stops the computation. After [`Error::Interrupted`],
/// training keeps the best state so far; any other error is passed on.
pub trait Monitor {
    /// Called after every step or chunk. It should be cheap: most calls should return at once.
    fn tick(&mut self) -> Result<()>;

    /// Called when there is something to show.
    fn report(&mut self, progress: &Progress) -> Result<()>;

    /// Called with a message for the user, for example about a smaller micro-batch or a restart.
    fn note(&mut self, progress: &Progress, text: &str) -> Result<()> {
        let _ = (progress, text);
        Ok(())
    }

    /// The processes that share the computation.
    fn world(&self) -> &World {
        &ALONE
    }
}

/// A monitor with a deadline. After the deadline every tick fails with [`Error::OutOfTime`].
pub struct Until<'a> {
    monitor: &'a mut dyn Monitor,
    deadline: Option<Instant>,
}

impl<'a> Until<'a> {
    /// Wraps `monitor`. With `None` there is no deadline.
    pub fn new(monitor: &'a mut dyn Monitor, deadline: Option<Instant>) -> Self {
        Until { monitor, deadline }
    }
}

impl Monitor for Until<'_> {
    fn tick(&mut self) -> Result<()> {
        self.monitor.tick()?;
        match self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            true => Err(Error::OutOfTime),
            false => Ok(()),
        }
    }

    fn report(&mut self, progress: &Progress) -> Result<()> {
        self.monitor.report(progress)
    }

    fn note(&mut self, progress: &Progress, text: &str) -> Result<()> {
        self.monitor.note(progress, text)
    }

    fn world(&self) -> &World {
        self.monitor.world()
    }
}

/// A monitor that ignores everything.
pub struct Silent;

impl Monitor for Silent {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn report(&mut self, _: &Progress) -> Result<()> {
        Ok(())
    }
}
