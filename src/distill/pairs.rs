//! Where training points come from: stored trajectories of the teacher, and the pairs drawn from them.

use rand::Rng;
use tch::{Device, Kind, Tensor};

use crate::condition::Conditioning;
use crate::error::Result;
use crate::ode::{self, SolveOptions};
use crate::tensor::RandomSource;
use crate::training::{Monitor, Progress};
use crate::velocity::VelocityField;

/// How many trajectories to store, and how.
#[derive(Debug, Clone, Copy)]
pub struct TrajectoryPlan {
    pub count: i64,
    /// Uniform intervals at whose ends a trajectory is stored.
    pub path_steps: i64,
    pub seed: u64,
    pub kind: Kind,
    pub device: Device,
    /// Ends generation early, after one chunk at least.
    pub max_seconds: Option<f64>,
}

/// Trajectories of the teacher at uniform times from 0 (noise) to 1 (data).
#[derive(Debug)]
pub struct Trajectories {
    /// `[N, T, d]`, float32 or the student's dtype.
    states: Tensor,
    /// `[T]`.
    times: Tensor,
    /// One over the summed variance of x_t at each time, `[T]`: what errors at that time are scaled by.
    precision: Tensor,
    /// Condition of each trajectory, as the teacher takes it, `[N, ...]`.
    condition: Option<Tensor>,
    conditioning: Conditioning,
    /// The last so many trajectories are kept out of training.
    held_out: i64,
}

/// Trajectories solved at once: bounds memory and the time between two looks at the monitor.
const CHUNK_ROWS: i64 = 2048;

/// Endpoints then err by less than 1e-3 of the data (measured on curved and 64-D teachers): below what a
/// student is left with, at half the evaluations of 1e-5.
const SOLVER_TOLERANCE: f64 = 1e-4;

impl Trajectories {
    /// Solves trajectories from fresh noise. Where the teacher is conditional, conditions are drawn
    /// uniformly from the rows of `pool`.
    pub fn generate(
        teacher: &dyn VelocityField,
        plan: &TrajectoryPlan,
        pool: Option<&Tensor>,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let started = std::time::Instant::now();
        let TrajectoryPlan { count, path_steps, seed, kind, device, max_seconds } = *plan;
        let target = (kind, device);
        let path_times = path_steps + 1;
        let grid: Vec<f64> = (0..path_times).map(|i| i as f64 / path_steps as f64).collect();
        let mut random = RandomSource::new(seed).fork("trajectories");
        let dimension = teacher.event_size();
        let states = Tensor::f_empty([count, path_times, dimension], target)?;
        let chosen =
            pool.map(|pool| pool.index_select(0, &random.integers(pool.size()[0], count, pool.device())));
        // Adaptive, with dense output at the grid: as cheap as 16 steps of RK4 where the field is smooth, and
        // safe where it is stiff near t = 1 (finite data sets).
        let options = SolveOptions::adaptive(SOLVER_TOLERANCE);
        let mut start = 0;
        while start < count {
            let rows = CHUNK_ROWS.min(count - start);
            let mut shape = vec![rows];
            shape.extend(teacher.event_shape());
            let noise = random.normal(&shape, teacher.dtype(), teacher.device())?;
            let condition = chosen.as_ref().map(|c| c.narrow(0, start, rows).to_device(teacher.device()));
            let solution = ode::solve(teacher, &noise, &grid, &options, condition.as_ref(), monitor)?;
            let paths = solution.trajectory.reshape([path_times, rows, dimension]).transpose(0, 1);
            states.narrow(0, start, rows).f_copy_(&paths)?;
            start += rows;
            monitor.report(&Progress {
                stage: "trajectories",
                step: start as u64,
                total: count as u64,
                seconds: started.elapsed().as_secs_f64(),
                values: Vec::new(),
            })?;
            if max_seconds.is_some_and(|limit| started.elapsed().as_secs_f64() >= limit) {
                break;
            }
        }
        let states = states.narrow(0, 0, start);
        let chosen = chosen.map(|chosen| chosen.narrow(0, 0, start));
        let variance = states.var_dim(0, false, false).sum_dim_intlist(1, false, target.0);
        Ok(Trajectories {
            times: Tensor::from_slice(&grid).to_kind(target.0).to_device(target.1),
            precision: variance.clamp_min(1e-12).reciprocal(),
            condition: chosen.map(|c| c.to_device(target.1)),
            conditioning: teacher.conditioning(),
            held_out: (start / 8).clamp(1, 512),
            states,
        })
    }

    pub fn states(&self) -> &Tensor {
        &self.states
    }

    pub fn times(&self) -> &Tensor {
        &self.times
    }

    pub fn path_times(&self) -> i64 {
        self.times.size()[0]
    }

    fn training_count(&self) -> i64 {
        self.states.size()[0] - self.held_out
    }

    /// The trajectories kept out of training: states `[H, T, d]` and their conditions.
    pub fn held_out(&self) -> (Tensor, Option<Tensor>) {
        let start = self.training_count();
        let take = |tensor: &Tensor| tensor.narrow(0, start, self.held_out);
        let condition = self.condition.as_ref().map(take);
        (take(&self.states), self.conditioning.encode(condition.as_ref(), self.states.kind()))
    }

    /// The conditions of the trajectories kept out of training, as the teacher takes them.
    pub fn held_out_condition(&self) -> Option<Tensor> {
        self.condition.as_ref().map(|c| c.narrow(0, self.training_count(), self.held_out))
    }

    /// One over the summed variance at time index `index`.
    pub fn precision_at(&self, index: i64) -> f64 {
        self.precision.double_value(&[index])
    }

    /// The points of trajectories `rows` at time indices `from` and `to`.
    fn gather(&self, rows: &[i64], from: &[i64], to: &[i64]) -> Pairs {
        let device = self.states.device();
        let (path_times, dimension) = (self.path_times(), self.states.size()[2]);
        let flat = self.states.view([-1, dimension]);
        let points = |index: &[i64]| {
            let place: Vec<i64> = rows.iter().zip(index).map(|(row, i)| row * path_times + i).collect();
            flat.index_select(0, &Tensor::from_slice(&place).to_device(device))
        };
        let from_index = Tensor::from_slice(from).to_device(device);
        let to_index = Tensor::from_slice(to).to_device(device);
        let row_index = Tensor::from_slice(rows).to_device(device);
        let condition = self.condition.as_ref().map(|c| c.index_select(0, &row_index));
        Pairs {
            s: self.times.index_select(0, &from_index),
            t: self.times.index_select(0, &to_index),
            x_s: points(from),
            x_t: points(to),
            precision: self.precision.index_select(0, &to_index),
            source_precision: self.precision.index_select(0, &from_index),
            condition: self.conditioning.encode(condition.as_ref(), flat.kind()),
            teacher_condition: condition,
        }
    }

    /// The batch of one step: a pure function of the source's seed and the step.
    pub fn batch(&self, random: &RandomSource, step: u64, batch_size: i64) -> Batch {
        let mut rng = random.at(step);
        let (count, last) = (self.training_count(), self.path_times() - 1);
        let half = batch_size / 2;
        let rows = |n: i64, rng: &mut rand_chacha::ChaCha8Rng| -> Vec<i64> {
            (0..n).map(|_| rng.random_range(0..count)).collect()
        };
        let noise_rows = rows(batch_size, &mut rng);
        let zeros = vec![0; noise_rows.len()];
        let endpoint = self.gather(&noise_rows, &zeros, &vec![last; noise_rows.len()]);
        let somewhere: Vec<i64> = zeros.iter().map(|_| rng.random_range(1..=last)).collect();
        let path = self.gather(&noise_rows, &zeros, &somewhere);
        let pair_rows = rows(half, &mut rng);
        let from: Vec<i64> = pair_rows.iter().map(|_| rng.random_range(0..last)).collect();
        let to: Vec<i64> = from
            .iter()
            .enumerate()
            .map(|(i, s)| if i % 2 == 0 { last } else { rng.random_range(s + 1..=last) })
            .collect();
        let pairs = self.gather(&pair_rows, &from, &to);
        let inverse_rows = rows(half, &mut rng);
        let ends = vec![last; inverse_rows.len()];
        let inverse = self.gather(&inverse_rows, &ends, &vec![0; inverse_rows.len()]);
        Batch { endpoint, path, pairs, inverse }
    }
}

/// Two points of each of `B` trajectories.
#[derive(Debug)]
pub struct Pairs {
    /// `[B]`, where it is encoded.
    pub s: Tensor,
    /// `[B]`, where it is decoded.
    pub t: Tensor,
    /// `[B, d]`.
    pub x_s: Tensor,
    /// `[B, d]`.
    pub x_t: Tensor,
    /// One over the summed variance at t, `[B]`.
    pub precision: Tensor,
    /// One over the summed variance at s, `[B]`.
    pub source_precision: Tensor,
    /// As the student takes it, `[B, c]`.
    pub condition: Option<Tensor>,
    /// As the teacher takes it.
    pub teacher_condition: Option<Tensor>,
}

impl Pairs {
    pub fn count(&self) -> i64 {
        self.s.size()[0]
    }

    pub fn tau(&self) -> Tensor {
        &self.t - &self.s
    }
}

/// The training points of one step.
#[derive(Debug)]
pub struct Batch {
    /// From noise to data.
    pub endpoint: Pairs,
    /// The same noise, to a random time.
    pub path: Pairs,
    /// From a random time to a later one.
    pub pairs: Pairs,
    /// From data back to noise.
    pub inverse: Pairs,
}
