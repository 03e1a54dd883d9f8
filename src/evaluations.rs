//! Counting network evaluations: the cost that samplers are compared by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Counts evaluations (NFE): one for each batched call, shared by its clones.
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
