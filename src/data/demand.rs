//! The number of trajectories that a training needs.

/// The work of a training, from which the default number of trajectories follows. It consists of counts that
/// are the same on every machine, so that a seed gives the same student.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    pub steps: u64,
    /// Number of rows that one step draws from trajectories.
    pub rows: i64,
    /// Approximate number of multiplications of the gradient per row.
    pub work: f64,
}

/// Number of trajectories that are solved at any cost, if training can use them.
const FLOOR: i64 = 512;
/// Largest number of held-out trajectories.
pub(super) const HELD_OUT: i64 = 512;
/// Speed of a multiplication in a solve, relative to training, which has smaller batches and products with
/// transposes. It was measured between 2 and 6 on two cores. With too large a value, solving takes longer
/// than training.
const ADVANTAGE: f64 = 4.0;

impl Demand {
    /// Largest number of trajectories that training can use: one for each row of each step, and the held-out
    /// ones.
    pub fn usable(&self) -> i64 {
        let rows = self.steps.saturating_mul(self.rows as u64).min(1 << 60) as i64;
        rows + HELD_OUT
    }

    /// Number of trajectories that can be solved in about the time of training, if one takes `work`
    /// multiplications. It is at least 512.
    pub fn affordable(&self, work: f64) -> i64 {
        let training = self.steps as f64 * self.rows as f64 * self.work;
        ((ADVANTAGE * training / work) as i64).max(FLOOR)
    }
}
