//! Steps and seconds.

use std::time::{Duration, Instant};

/// Steps and, optionally, seconds: whichever runs out first.
#[derive(Debug, Clone)]
pub struct Budget {
    pub steps: u64,
    pub max_seconds: Option<f64>,
    started: Instant,
    /// Spent before this process: by a run that a checkpoint resumes.
    before: Duration,
    /// The share of the seconds that is spent when the budget is exhausted.
    pub(super) share: f64,
    /// Seconds by the clock that counts, where that is another process's.
    told: Option<f64>,
}

/// Work that ends within this many times the limit is still begun.
const OVERRUN: f64 = 1.1;

impl Budget {
    pub fn new(steps: u64, max_seconds: Option<f64>) -> Self {
        Budget { steps, max_seconds, started: Instant::now(), before: Duration::ZERO, share: 1.0, told: None }
    }

    /// The same budget after `seconds` of it have been spent.
    pub fn resumed(self, seconds: f64) -> Self {
        Budget { before: Duration::try_from_secs_f64(seconds).unwrap_or_default(), ..self }
    }

    /// Seconds spent, by the clock that counts: the last time it was told, where it is another process's.
    pub fn seconds(&self) -> f64 {
        self.told.unwrap_or_else(|| self.own_seconds())
    }

    /// From now on a clock that is told counts, the same for all who share a training.
    pub(super) fn tell(&mut self, seconds: f64) {
        self.told = Some(seconds);
    }

    /// One's own clock counts again.
    pub(super) fn tell_no_more(&mut self) {
        self.told = None;
    }

    pub(super) fn own_seconds(&self) -> f64 {
        self.before.saturating_add(self.started.elapsed()).as_secs_f64()
    }

    pub fn exhausted(&self) -> bool {
        self.max_seconds.is_some_and(|limit| self.seconds() >= self.share * limit)
    }

    /// Whether work of so many seconds ends in time, or nearly so.
    pub fn allows(&self, seconds: f64) -> bool {
        self.max_seconds.is_none_or(|limit| self.seconds() + seconds <= OVERRUN * self.share * limit)
    }

    /// The same budget, exhausted when a share of the seconds is spent: the rest is for what follows.
    pub fn within(self, share: f64) -> Self {
        Budget { share, ..self }
    }

    /// When a share of the seconds is spent; `None` without a limit.
    pub fn at(&self, share: f64) -> Option<Instant> {
        let left = Duration::try_from_secs_f64(self.max_seconds? * share).ok()?.saturating_sub(self.before);
        self.started.checked_add(left)
    }

    /// When all seconds are spent.
    pub fn deadline(&self) -> Option<Instant> {
        self.at(1.0)
    }
}
