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
}

impl Budget {
    pub fn new(steps: u64, max_seconds: Option<f64>) -> Self {
        Budget { steps, max_seconds, started: Instant::now(), before: Duration::ZERO }
    }

    /// The same budget after `seconds` of it have been spent.
    pub fn resumed(self, seconds: f64) -> Self {
        Budget { before: Duration::try_from_secs_f64(seconds).unwrap_or_default(), ..self }
    }

    pub fn seconds(&self) -> f64 {
        self.before.saturating_add(self.started.elapsed()).as_secs_f64()
    }

    pub fn exhausted(&self) -> bool {
        self.max_seconds.is_some_and(|limit| self.seconds() >= limit)
    }
}
