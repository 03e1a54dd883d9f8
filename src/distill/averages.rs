//! The best state of each of several averages of the weights.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::training::Averages;

/// The step and the metric at which one of several averages was best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestAverage {
    pub decay: f64,
    /// Step of the best state; 0 is the untrained student.
    pub step: u64,
    /// Best metric; `None` until a metric was finite.
    pub metric: Option<f64>,
}

/// The best states of several averages, with their weights; empty if training has at most one average.
#[derive(Default)]
pub(super) struct BestAverages {
    pub entries: Vec<BestAverage>,
    weights: Vec<Tensor>,
}

impl BestAverages {
    /// The states at the start of a run with these weights.
    pub fn new(decays: &[f64], weights: &Tensor) -> Self {
        let entries = decays.iter().map(|decay| BestAverage { decay: *decay, step: 0, metric: None });
        BestAverages { entries: entries.collect(), weights: decays.iter().map(|_| weights.copy()).collect() }
    }

    /// The states from a file.
    pub fn of(entries: Vec<BestAverage>, weights: Vec<Tensor>) -> Self {
        BestAverages { entries, weights }
    }

    /// Keeps each average whose metric improved, or all of them as the `latest`. `metrics` were measured after `step`
    /// steps.
    pub fn look(&mut self, averages: &Averages, metrics: &[f64], latest: bool, step: u64) {
        let now = averages.all().iter().zip(metrics);
        for ((entry, weights), (average, metric)) in self.entries.iter_mut().zip(&mut self.weights).zip(now) {
            if metric.is_finite() && (latest || entry.metric.is_none_or(|best| *metric < best)) {
                (entry.metric, entry.step) = (Some(*metric), step);
                *weights = average.value().copy();
            }
        }
    }

    /// Discards all best states and begins with the current averages.
    pub fn restart(&mut self, averages: &Averages, metrics: &[f64], step: u64) {
        for ((entry, weights), average) in self.entries.iter_mut().zip(&mut self.weights).zip(averages.all())
        {
            (entry.metric, entry.step) = (None, step);
            *weights = average.value().copy();
        }
        self.look(averages, metrics, false, step);
    }

    /// The weights of each decay, as a student keeps them.
    pub fn weights(&self) -> Vec<(f64, Tensor)> {
        let entries = self.entries.iter().map(|entry| entry.decay);
        entries.zip(self.weights.iter().map(Tensor::shallow_clone)).collect()
    }
}

/// The decay of the best average. If no metric is finite, it is the first one.
pub(super) fn best_decay(entries: &[BestAverage]) -> Option<f64> {
    let metrics: Vec<f64> = entries.iter().map(|entry| entry.metric.unwrap_or(f64::INFINITY)).collect();
    entries.get(best_place(&metrics)).map(|entry| entry.decay)
}

/// The index of the smallest metric. If none is finite, it is 0.
pub(super) fn best_place(metrics: &[f64]) -> usize {
    let of = |place: &usize| if metrics[*place].is_finite() { metrics[*place] } else { f64::INFINITY };
    (0..metrics.len()).min_by(|one, other| of(one).total_cmp(&of(other))).unwrap_or(0)
}
