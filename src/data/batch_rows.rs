//! How many rows of each kind a step draws.

use serde::{Deserialize, Serialize};

/// Which measured recipe a student is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// Up to eight dimensions.
    Few,
    /// Up to 256, by a perceptron.
    Several,
    /// Beyond.
    Many,
    /// By a U-Net.
    Images,
}

/// Numbers of rows of each kind in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRows {
    /// Rows from noise to data.
    pub noise: i64,
    /// Rows among `noise`, the first ones, that are decoded at a random time as well.
    pub path: i64,
    /// Rows among `noise`, the first ones, whose observables are carried to data.
    pub ends: i64,
    /// Rows that connect two times of a trajectory.
    pub pairs: i64,
    /// Rows from data back to noise.
    pub inverse: i64,
    /// Rows among `inverse`, the first ones, that go on to data again.
    pub round_trip: i64,
    /// Single points of the flow.
    pub points: i64,
}

impl BatchRows {
    pub fn of(batch_size: i64, regime: Regime) -> Self {
        let b = batch_size;
        // Errors in observable space are in units of the rows' own variance: one row has none.
        let part = |share: i64| (b / share).max(2).min(b);
        let points = b / 2;
        match regime {
            // In 64 dimensions endpoints are what is hard, and rows of noise what they are learnt from: on digits
            // they came 5% nearer by twice as many in place of round trips and pairs.
            Regime::Several => BatchRows {
                noise: b,
                path: part(4),
                ends: part(4),
                pairs: part(8),
                inverse: b - b / 4,
                round_trip: part(4),
                points,
            },
            // A row costs so much here that each kind has only as many as its term needs: half the time of a step.
            Regime::Images => BatchRows {
                noise: b,
                path: part(2),
                ends: part(8),
                pairs: part(8),
                inverse: part(2),
                round_trip: part(4),
                points,
            },
            Regime::Few | Regime::Many => BatchRows {
                noise: b,
                path: b,
                ends: part(2),
                pairs: part(2),
                inverse: b,
                round_trip: b,
                points,
            },
        }
    }

    /// Rows that a step draws from trajectories.
    pub fn drawn(&self) -> i64 {
        self.noise + self.pairs + self.inverse + self.points
    }

    /// Largest number of micro-batches that leaves two rows of each kind of pair in each.
    pub fn most_parts(&self) -> i64 {
        (self.noise.min(self.pairs).min(self.inverse) / 2).max(1)
    }
}

/// The rows of a batch of this size in a few dimensions.
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
