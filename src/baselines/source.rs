//! The training points of one step.

use rand::Rng;
use tch::Tensor;

use super::BaselineConfig;
use crate::data::{Pairs, Points, Trajectories};
use crate::tensor::RandomSource;
use crate::velocity::VelocityField;

/// Source of training points. Each draw is a pure function of the source's seed and the step.
pub struct Source<'a> {
    pub teacher: &'a dyn VelocityField,
    pub trajectories: &'a Trajectories,
    /// Options with every default filled in.
    pub config: &'a BaselineConfig,
    pub random: RandomSource,
    /// This rank's rows of a batch: the first row and the number of rows.
    pub share: (i64, i64),
}

impl Source<'_> {
    fn rows(&self, rng: &mut impl Rng) -> Vec<i64> {
        // The trajectories that koopflow's students hold out are held out here too.
        let count = self.trajectories.training_count();
        (0..self.config.batch_size()).map(|_| rng.random_range(0..count)).collect()
    }

    /// Noise and the teacher's endpoints.
    pub fn ends(&self, step: u64) -> Pairs {
        let rows = self.rows(&mut self.random.at(step));
        let last = self.trajectories.path_times() - 1;
        let (first, count) = self.share;
        let own = &rows[first as usize..(first + count) as usize];
        self.trajectories.gather(own, &vec![0; own.len()], &vec![last; own.len()])
    }

    /// Points (s, x_s) near the trajectories, at any s, and a time t >= s for each, `[B]`. A share of the
    /// points (`instant_share`) has t = s. Half of the others have t = 1, the time of samples. Points lie
    /// between stored times too, by interpolation: stored times alone would leave the derivative in s
    /// undetermined between them, and the identity of the loss holds at every point.
    pub fn spans(&self, step: u64) -> (Points, Tensor) {
        let mut rng = self.random.at(step);
        let rows = self.rows(&mut rng);
        let last = self.trajectories.path_times() - 1;
        let left: Vec<i64> = rows.iter().map(|_| rng.random_range(0..last)).collect();
        let right: Vec<i64> = left.iter().map(|index| index + 1).collect();
        let between: Vec<f64> = rows.iter().map(|_| rng.random()).collect();
        let instant = (self.config.instant_share * rows.len() as f64).round() as usize;
        // (t - s) / (1 - s), for each row.
        let ahead = |row: usize| match row.checked_sub(instant) {
            None => 0.0,
            Some(rest) if rest % 2 == 0 => 1.0,
            Some(_) => rng.random::<f64>(),
        };
        let ahead: Vec<f64> = (0..rows.len()).map(ahead).collect();
        let Pairs { s, t, x_s, x_t, condition, teacher_condition, .. } =
            self.trajectories.gather(&rows, &left, &right);
        let column = |values: &[f64]| Tensor::from_slice(values).to_device(s.device()).to_kind(s.kind());
        let between = column(&between);
        let x = x_s.lerp_tensor(&x_t, &between.unsqueeze(1));
        let s = s.lerp_tensor(&t, &between);
        let t: Tensor = &s + (1.0 - &s) * column(&ahead);
        let (first, count) = self.share;
        (Points { t: s, x, condition, teacher_condition }.rows(first, count), t.narrow(0, first, count))
    }
}

/// Mean over the batch of ||x - x_t||², divided by the summed variance at t.
pub(super) fn relative_error(x: &Tensor, pairs: &Pairs) -> Tensor {
    let kind = x.kind();
    let square = (x - &pairs.x_t).square().sum_dim_intlist(1, false, kind);
    (square * &pairs.precision).mean(kind)
}
