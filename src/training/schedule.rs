//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// A half cosine from the peak to zero over the whole budget.
    #[default]
    Cosine,
    /// The peak throughout.
    Constant,
    /// The peak, halved whenever [`PLATEAU_EVALUATIONS`] evaluations bring no improvement.
    Plateau,
}

/// Evaluations without improvement after which a plateau schedule halves the rate.
pub const PLATEAU_EVALUATIONS: u64 = 5;

/// Linear warm-up, then what the kind says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub kind: ScheduleKind,
    pub peak: f64,
    pub warmup_steps: u64,
    /// Factor of the peak learning rate after plateaus and restarts.
    pub factor: f64,
    /// Evaluations since the last improvement or halving.
    pub stale: u64,
}

/// Schedule of a file that has none: nothing has changed the peak yet.
impl Default for Schedule {
    fn default() -> Self {
        Schedule::new(ScheduleKind::default(), 0.0, 0)
    }
}

impl Schedule {
    pub fn new(kind: ScheduleKind, peak: f64, warmup_steps: u64) -> Self {
        Schedule { kind, peak, warmup_steps, factor: 1.0, stale: 0 }
    }

    /// The rate at `step`, when `done` (0 to 1) of the whole training is behind.
    pub fn rate(&self, step: u64, done: f64) -> f64 {
        let warm = ((step + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let shape = match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done.clamp(0.0, 1.0)).cos()),
            ScheduleKind::Constant | ScheduleKind::Plateau => 1.0,
        };
        self.peak * self.factor * warm * shape
    }

    /// Told after every evaluation whether it was the best so far.
    pub fn evaluated(&mut self, improved: bool) {
        self.stale = if improved { 0 } else { self.stale + 1 };
        if self.kind == ScheduleKind::Plateau && self.stale >= PLATEAU_EVALUATIONS {
            self.halve();
        }
    }

    /// Halves the rate from now on.
    pub fn halve(&mut self) {
        self.factor *= 0.5;
        self.stale = 0;
    }
}
