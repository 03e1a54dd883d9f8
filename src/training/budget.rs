//! The budget of a training, in steps and seconds.

use std::time::{Duration, Instant};

/// A limit of steps and optionally of seconds. Training ends when the first of them is spent.
#[derive(Debug, Clone)]
pub struct Budget {
    pub steps: u64,
    pub max_seconds: Option<f64>,
    started: Instant,
    /// Time spent before this process started, by the run that is resumed.
    before: Duration,
    /// The share of `max_seconds` at which the budget is exhausted.
    pub(super) share: f64,
    /// The elapsed seconds that the leading rank sent last; `None` if this process's own clock counts.
    told: Option<f64>,
}

/// Work is begun if it will end within this many times the limit.
const OVERRUN: f64 = 1.1;

impl Budget {
    pub fn new(steps: u64, max_seconds: Option<f64>) -> Self {
        Budget { steps, max_seconds, started: Instant::now(), before: Duration::ZERO, share: 1.0, told: None }
    }

    /// The same budget with `seconds` of it already spent.
    pub fn resumed(self, seconds: f64) -> Self {
        Budget { before: Duration::try_from_secs_f64(seconds).unwrap_or_default(), ..self }
    }

    /// Elapsed seconds, by the clock of the leading rank as it was sent last, or else by this process's own
    /// clock.
    pub fn seconds(&self) -> f64 {
        self.told.unwrap_or_else(|| self.own_seconds())
    }

    /// Sets the elapsed seconds to those of the leading rank, which then count on all ranks.
    pub(super) fn tell(&mut self, seconds: f64) {
        self.told = Some(seconds);
    }

    /// Returns to this process's own clock.
    pub(super) fn tell_no_more(&mut self) {
        self.told = None;
    }

    pub(super) fn own_seconds(&self) -> f64 {
        self.before.saturating_add(self.started.elapsed()).as_secs_f64()
    }

    pub fn exhausted(&self) -> bool {
        self.max_seconds.is_some_and(|limit| self.seconds() >= self.share * limit)
    }

    /// Whether work that takes `seconds` would end in time, or nearly so.
    pub fn allows(&self, seconds: f64) -> bool {
        self.max_seconds.is_none_or(|limit| self.seconds() + seconds <= OVERRUN * self.share * limit)
    }

    /// The same budget, exhausted when `share` of the seconds is spent. The rest is left for later work.
    pub fn within(self, share: f64) -> Self {
        Budget { share, ..self }
    }

    /// The time at which `share` of the seconds is spent; `None` without a limit.
    pub fn at(&self, share: f64) -> Option<Instant> {
        let left = Duration::try_from_secs_f64(self.max_seconds? * share).ok()?.saturating_sub(self.before);
        self.started.checked_add(left)
    }

    /// The time at which all seconds are spent; `None` without a limit.
    pub fn deadline(&self) -> Option<Instant> {
        self.at(1.0)
    }
}
