//! Drawing the rows of a batch from stored trajectories.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::batch::sampler_steps;
use super::{Batch, BatchRows, Points, Trajectories};
use crate::tensor::RandomSource;

/// The two points of a trajectory that the `pairs` group connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum PairKind {
    /// A random time and a random later time. Half of the later times are t = 1.
    #[default]
    Trajectory,
    /// Noise and the teacher's endpoint.
    Endpoints,
    /// Random starts and one difference of times for the whole batch, as in the paper's code.
    TimeGrouped,
}

/// The curriculum of the time differences of [`PairKind::TimeGrouped`] over training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curriculum {
    /// Grows from one step of the grid to the whole path.
    Forward,
    /// Shrinks from the whole path to one step.
    Reverse,
}

/// Options for drawing the `pairs` group.
#[derive(Debug, Clone, Copy, Default)]
pub struct PairDraw {
    pub kind: PairKind,
    pub curriculum: Option<Curriculum>,
    /// Share of training that is done, 0 to 1. A curriculum follows it.
    pub done: f64,
}

impl PairDraw {
    /// The indices of both times for each of `count` rows, on a grid from 0 to `last`.
    fn times(&self, count: usize, last: i64, rng: &mut ChaCha8Rng) -> (Vec<i64>, Vec<i64>) {
        match self.kind {
            PairKind::Endpoints => (vec![0; count], vec![last; count]),
            PairKind::Trajectory => {
                let from: Vec<i64> = (0..count).map(|_| rng.random_range(0..last)).collect();
                let end = |(i, s): (usize, &i64)| match i % 2 {
                    0 => last,
                    _ => rng.random_range(s + 1..=last),
                };
                let to = from.iter().enumerate().map(end).collect();
                (from, to)
            }
            PairKind::TimeGrouped => {
                let grown = (self.done.clamp(0.0, 1.0) * (last - 1) as f64).round() as i64;
                let gap = match self.curriculum {
                    Some(Curriculum::Forward) => 1 + grown,
                    Some(Curriculum::Reverse) => last - grown,
                    None => rng.random_range(1..=last),
                };
                let from: Vec<i64> = (0..count).map(|_| rng.random_range(0..=last - gap)).collect();
                let to = from.iter().map(|s| s + gap).collect();
                (from, to)
            }
        }
    }
}

impl Trajectories {
    /// The batch of one step, a pure function of the source's seed, the step and `draw`. Its `points` are
    /// `None`; another source may fill them.
    pub fn batch(
        &self,
        random: &RandomSource,
        step: u64,
        size: impl Into<BatchRows>,
        draw: PairDraw,
    ) -> Batch {
        let size = size.into();
        let mut rng = random.at(step);
        let last = self.path_times() - 1;
        let rows = |n: i64, rng: &mut ChaCha8Rng| self.rows(n, rng);
        let noise_rows = rows(size.noise, &mut rng);
        let zeros = vec![0; noise_rows.len()];
        let endpoint = self.gather(&noise_rows, &zeros, &vec![last; noise_rows.len()]);
        let somewhere: Vec<i64> = zeros.iter().map(|_| rng.random_range(1..=last)).collect();
        let path = self.gather(&noise_rows, &zeros, &somewhere);
        let pair_rows = rows(size.pairs, &mut rng);
        let (from, to) = draw.times(pair_rows.len(), last, &mut rng);
        let pairs = self.gather(&pair_rows, &from, &to);
        let inverse_rows = rows(size.inverse, &mut rng);
        let ends = vec![last; inverse_rows.len()];
        let inverse = self.gather(&inverse_rows, &ends, &vec![0; inverse_rows.len()]);
        Batch {
            endpoint: Some(endpoint),
            path: Some(path),
            pairs: Some(pairs),
            inverse: Some(inverse),
            path_rows: size.path,
            round_trip: size.round_trip,
            ends: size.ends,
            points: None,
            fresh: None,
            sampler_steps: sampler_steps(step),
        }
    }

    /// A batch with only the `endpoint` pairs of [`Trajectories::batch`].
    pub fn endpoint_batch(&self, random: &RandomSource, step: u64, size: impl Into<BatchRows>) -> Batch {
        let rows = self.rows(size.into().noise, &mut random.at(step));
        let last = vec![self.path_times() - 1; rows.len()];
        Batch { endpoint: Some(self.gather(&rows, &vec![0; rows.len()], &last)), ..Batch::empty(step) }
    }

    /// The indices of `n` random trajectories.
    fn rows(&self, n: i64, rng: &mut ChaCha8Rng) -> Vec<i64> {
        let count = self.training_count();
        (0..n).map(|_| rng.random_range(0..count)).collect()
    }

    /// Points of the trajectories at random times of the grid, for the consistency term if no data are known.
    /// They are a pure function of the source's seed and the step.
    pub fn points(&self, random: &RandomSource, step: u64, count: i64) -> Points {
        let mut rng = random.fork("points of trajectories").at(step);
        let (trajectories, last) = (self.training_count(), self.path_times() - 1);
        let rows: Vec<i64> = (0..count).map(|_| rng.random_range(0..trajectories)).collect();
        // The last time is left out: a teacher of a finite data set is singular there.
        let at: Vec<i64> = rows.iter().map(|_| rng.random_range(0..last)).collect();
        self.points_at(&rows, &at)
    }
}
