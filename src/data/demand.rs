//! How many trajectories a training is worth.

/// What a training asks of trajectories, in counts: the same on every machine, so that a seed gives the same student.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    pub steps: u64,
    /// Rows that one step draws from trajectories.
    pub rows: i64,
    /// Multiplications of the gradient by one row, about.
    pub work: f64,
}

/// Trajectories that are solved however much work they are, if training can use them.
const FLOOR: i64 = 512;
/// Trajectories kept out of training, at most.
pub(super) const HELD_OUT: i64 = 512;
/// How much faster a multiplication is in a solve than in training, whose batches are smaller and whose products are
/// with transposes. (Measured between 2 and 6 on two cores; beyond what it says, solving takes longer than training.)
const ADVANTAGE: f64 = 4.0;

impl Demand {
    /// Trajectories that training can use: each row of each step may be of another one.
    pub fn usable(&self) -> i64 {
        let rows = self.steps.saturating_mul(self.rows as u64).min(1 << 60) as i64;
        rows + HELD_OUT
    }

    /// Trajectories whose solutions are as much work as the training, where one takes `work` multiplications;
    /// never fewer than a floor.
    pub fn affordable(&self, work: f64) -> i64 {
        let training = self.steps as f64 * self.rows as f64 * self.work;
        ((ADVANTAGE * training / work) as i64).max(FLOOR)
    }
}
