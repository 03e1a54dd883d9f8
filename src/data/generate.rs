//! Trajectories solved from a teacher, chunk by chunk.

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::ode;
use crate::ode::SolveOptions;
use crate::tensor::RandomSource;
use crate::velocity::VelocityField;

/// Which trajectories to store.
#[derive(Debug, Clone, Copy)]
pub struct TrajectoryPlan {
    /// Number of trajectories.
    pub count: i64,
    /// Number of uniform intervals of time at whose ends a trajectory is stored.
    pub path_steps: i64,
    /// Random seed of the noise and of the conditions drawn.
    pub seed: u64,
    /// Dtype and device of batches.
    pub kind: Kind,
    pub device: Device,
    /// Seconds after which generation ends early, after one chunk at least.
    pub max_seconds: Option<f64>,
}

/// Number of trajectories solved at once: bounds memory and the time between two looks at the monitor.
const CHUNK_ROWS: i64 = 2048;
/// Number of stored values of one chunk, which bounds it for large samples.
const CHUNK_VALUES: i64 = 1 << 26;

/// Endpoints then err by less than 1e-3 of the data (measured on curved and 64-D teachers): below what a
/// student is left with, at half the evaluations of 1e-5.
pub(super) const SOLVER_TOLERANCE: f64 = 1e-4;

/// Numbers of points, and of coordinates of each, that a teacher is recognised by.
const FINGERPRINT_POINTS: i64 = 8;
const FINGERPRINT_COORDINATES: i64 = 64;
/// The trajectories as a function of the plan and the chunk's number.
pub(super) struct Generation<'a> {
    teacher: &'a dyn VelocityField,
    plan: TrajectoryPlan,
    chunk_rows: i64,
    /// Conditions of all trajectories.
    pub condition: Option<Tensor>,
}

impl<'a> Generation<'a> {
    pub fn new(
        teacher: &'a dyn VelocityField,
        plan: TrajectoryPlan,
        chunk_rows: i64,
        pool: Option<&Tensor>,
    ) -> Result<Self> {
        let mut generation = Generation { teacher, plan, chunk_rows, condition: None };
        if let Some(pool) = pool {
            let mut chosen = Vec::new();
            for index in 0..(plan.count as u64).div_ceil(chunk_rows as u64) as i64 {
                let rows = chunk_rows.min(plan.count - index * chunk_rows);
                let mut random = generation.random(index).fork("condition");
                chosen.push(random.integers(pool.size()[0], rows, pool.device()));
            }
            generation.condition = Some(pool.f_index_select(0, &Tensor::f_cat(&chosen, 0)?)?);
        }
        Ok(generation)
    }

    fn random(&self, chunk: i64) -> RandomSource {
        RandomSource::new(self.plan.seed).fork("trajectories").fork_numbered("chunk ", chunk as u64)
    }

    /// Solves the chunks from row `done` on, until all are there or time is up; returns the rows done.
    pub fn run(
        &self,
        mut done: i64,
        mut store: impl FnMut(i64, &Tensor) -> Result<()>,
        monitor: &mut dyn Monitor,
    ) -> Result<i64> {
        let started = Instant::now();
        let count = self.plan.count;
        let report = |done: i64, monitor: &mut dyn Monitor| {
            monitor.report(&Progress {
                stage: "trajectories",
                step: done as u64,
                total: count as u64,
                seconds: started.elapsed().as_secs_f64(),
                values: Vec::new(),
            })
        };
        if done > 0 && done < count {
            report(done, monitor)?;
        }
        while done < count {
            let states = self.chunk(done / self.chunk_rows, self.chunk_rows.min(count - done), monitor)?;
            store(done, &states)?;
            done += states.size()[0];
            report(done, monitor)?;
            if self.plan.max_seconds.is_some_and(|limit| started.elapsed().as_secs_f64() >= limit) {
                break;
            }
        }
        Ok(done)
    }

    /// One chunk `[rows, T, d]`, float32.
    fn chunk(&self, index: i64, rows: i64, monitor: &mut dyn Monitor) -> Result<Tensor> {
        let (teacher, path_steps) = (self.teacher, self.plan.path_steps);
        let grid: Vec<f64> = (0..=path_steps).map(|i| i as f64 / path_steps as f64).collect();
        // Adaptive, with dense output at the grid: as cheap as 16 steps of RK4 where the field is smooth, and
        // safe where it is stiff near t = 1 (finite data sets).
        let options = SolveOptions::adaptive(SOLVER_TOLERANCE);
        let mut shape = vec![rows];
        shape.extend(teacher.event_shape());
        let noise = self.random(index).fork("noise").normal(&shape, teacher.dtype(), teacher.device())?;
        let condition = self.condition.as_ref().map(|c| c.narrow(0, index * self.chunk_rows, rows));
        let solution = ode::solve(teacher, &noise, &grid, &options, condition.as_ref(), monitor)?;
        let paths = solution.trajectory.f_reshape([path_steps + 1, rows, teacher.event_size()])?;
        Ok(paths.transpose(0, 1).to_kind(Kind::Float))
    }

    /// Some velocities at fixed points: one evaluation.
    pub fn fingerprint(&self) -> Result<Vec<f64>> {
        let (teacher, points) = (self.teacher, FINGERPRINT_POINTS);
        let (kind, device) = (teacher.dtype(), teacher.device());
        let mut shape = vec![points];
        shape.extend(teacher.event_shape());
        let x = RandomSource::new(0).fork("fingerprint").normal(&shape, kind, device)?;
        let t = (Tensor::arange(points, (kind, device)) + 0.5) / points as f64;
        let condition = self.condition.as_ref().map(|c| {
            let rows = Tensor::arange(points, (Kind::Int64, c.device())).remainder(c.size()[0]);
            c.index_select(0, &rows).to_device(device)
        });
        let v = teacher.velocity(&t, &x, condition.as_ref())?.f_reshape([points, -1])?;
        let stride = (v.size()[1] / FINGERPRINT_COORDINATES).max(1);
        let some = v.slice(1, 0, stride * FINGERPRINT_COORDINATES, stride);
        let flat = some.to_kind(Kind::Double).to_device(Device::Cpu).contiguous().f_view([-1])?;
        let values = Vec::<f64>::try_from(&flat)?;
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(Error::teacher("the velocity has values that are not finite")),
        }
    }
}

/// Number of trajectories solved at once, by the size of one.
pub(super) fn chunk_rows(plan: &TrajectoryPlan, dimension: i64) -> i64 {
    (CHUNK_VALUES / ((plan.path_steps + 1) * dimension)).clamp(16, CHUNK_ROWS)
}
