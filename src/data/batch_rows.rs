//! The numbers of rows of each kind in a training step.

use serde::{Deserialize, Serialize};

/// The kind of data, which selects one of the measured recipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// Up to eight dimensions.
    Few,
    /// Up to 256 dimensions, with a perceptron.
    Several,
    /// More dimensions, with a perceptron.
    Many,
    /// Images, with a U-Net.
    Images,
}

/// Numbers of rows of each kind in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRows {
    /// Number of rows from noise to data.
    pub noise: i64,
    /// Rows among `noise`, the first ones, that are decoded at a random time as well.
    pub path: i64,
    /// Rows among `noise`, the first ones, whose observables are carried to data.
    pub ends: i64,
    /// Rows that connect two times of a trajectory.
    pub pairs: i64,
    /// Rows from data back to noise.
    pub inverse: i64,
    /// Rows among `inverse`, the first ones, that are mapped on to data again.
    pub round_trip: i64,
    /// Single points of the flow.
    pub points: i64,
    /// Rows of noise without solutions.
    pub fresh: i64,
}

impl BatchRows {
    pub fn of(batch_size: i64, regime: Regime) -> Self {
        let b = batch_size;
        // Errors in observable space are divided by the variance of the rows, which needs at least two rows.
        let part = |share: i64| (b / share).max(2).min(b);
        let points = b / 2;
        match regime {
            // In 64 dimensions endpoints are the hardest part, and they are learnt from rows of noise. On
            // digits, twice as many of these in place of round trips and pairs lowered the endpoint error by
            // 5%.
            Regime::Several => BatchRows {
                noise: b,
                path: part(4),
                ends: part(4),
                pairs: part(8),
                inverse: b - b / 4,
                round_trip: part(4),
                points,
                fresh: part(2),
            },
            // Rows are expensive here, so each kind has only as many as its term needs. This halves the time
            // of a step.
            Regime::Images => BatchRows {
                noise: b,
                path: part(2),
                ends: part(8),
                pairs: part(8),
                inverse: part(2),
                round_trip: part(4),
                points,
                fresh: part(2),
            },
            Regime::Few | Regime::Many => BatchRows {
                noise: b,
                path: b,
                ends: part(2),
                pairs: part(2),
                inverse: b,
                round_trip: b,
                points,
                fresh: b,
            },
        }
    }

    /// Number of rows that a step draws from trajectories.
    pub fn drawn(&self) -> i64 {
        self.noise + self.pairs + self.inverse + self.points
    }

    /// Largest number of micro-batches with at least two rows of each kind of pair.
    pub fn most_parts(&self) -> i64 {
        (self.noise.min(self.pairs).min(self.inverse) / 2).max(1)
    }
}

/// The rows of a batch of this size in [`Regime::Few`].
impl From<i64> for BatchRows {
    fn from(batch_size: i64) -> Self {
        BatchRows::of(batch_size, Regime::Few)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_batches_keep_rows_that_vary() {
        for regime in [Regime::Few, Regime::Several, Regime::Many, Regime::Images] {
            for batch_size in 2..40 {
                let rows = BatchRows::of(batch_size, regime);
                assert!(rows.pairs >= 2 && rows.ends >= 2, "{rows:?}");
                assert!(rows.path <= rows.noise && rows.ends <= rows.noise, "{rows:?}");
                assert!(rows.round_trip <= rows.inverse && rows.inverse >= 2, "{rows:?}");
            }
        }
    }
}
