//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// A half cosine from the peak to zero over the whole budget.
    #[default]
    Cosine,
    /// A constant rate, the peak.
    Constant,
    /// The peak, halved after every [`PLATEAU_EVALUATIONS`] evaluations without improvement.
    Plateau,
}

/// Number of evaluations without improvement after which a plateau schedule halves the rate.
pub const PLATEAU_EVALUATIONS: u64 = 5;

/// A learning-rate schedule: linear warm-up, times the shape that `kind` names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub kind: ScheduleKind,
    pub peak: f64,
    pub warmup_steps: u64,
    /// Factor of the peak learning rate. Plateaus and restarts halve it.
    pub factor: f64,
    /// Number of evaluations since the last improvement or halving.
    pub stale: u64,
}

/// The schedule of a file without one: the peak learning rate has not been changed.
impl Default for Schedule {
    fn default() -> Self {
        Schedule::new(ScheduleKind::default(), 0.0, 0)
    }
}

impl Schedule {
    pub fn new(kind: ScheduleKind, peak: f64, warmup_steps: u64) -> Self {
        Schedule { kind, peak, warmup_steps, factor: 1.0, stale: 0 }
    }

    /// The rate at `step`, when the share `done` (0 to 1) of training is done.
    pub fn rate(&self, step: u64, done: f64) -> f64 {
        let warm = ((step + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let shape = match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done.clamp(0.0, 1.0)).cos()),
            ScheduleKind::Constant | ScheduleKind::Plateau => 1.0,
        };
        self.peak * self.factor * warm * shape
    }

    /// Must be called after every evaluation. `improved` says whether it was the best so far.
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
