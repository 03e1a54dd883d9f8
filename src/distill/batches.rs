//! What a student learns from: stored trajectories, points of the teacher's probability path, or both.

use tch::{Kind, Tensor};

use super::{DistillConfig, Method, Recipe};
use crate::condition::Conditioning;
use crate::data::sampler_steps;
use crate::data::{
    Batch, BatchRows, Inputs, PairDraw, PathPlan, PathPoints, Points, Trajectories, TrajectoryPlan,
};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::nets::InputCoordinates;
use crate::tensor::{check_batch, parse_device, parse_dtype, RandomSource};
use crate::velocity::VelocityField;

/// The most of `max_seconds` that trajectories may take.
const TRAJECTORY_SHARE: f64 = 0.4;

/// Where batches come from.
pub struct TrainingData {
    /// Present where a term needs the flow solved, or consistency has no data to start from.
    pub trajectories: Option<Trajectories>,
    /// Present where only the consistency term is on and data were given: where trajectories are solved anyway,
    /// its points lie on them, at the same marginals and without an assignment of noise to data at each step.
    pub points: Option<PathPoints>,
    /// Held-out points and the teacher's velocity there, `[H, d]`; present where there are no
    /// trajectories to judge by.
    pub held_out_points: Option<(Points, Tensor)>,
    draw: PairDraw,
    consistency: bool,
}

impl TrainingData {
    /// Prepares what the positive weights of `config` ask for. Without trajectories, the teacher is
    /// evaluated once, at the held-out points; with a trajectory file, once more.
    ///
    /// # Errors
    /// Names the input that does not fit; otherwise as [`Trajectories::generate`] and
    /// [`Trajectories::in_file`].
    pub fn prepare(
        teacher: &dyn VelocityField,
        config: &DistillConfig,
        recipe: &Recipe,
        inputs: &Inputs,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        let (kind, device) = (parse_dtype(&config.training.dtype)?, parse_device(&config.training.device)?);
        check_inputs(teacher, inputs)?;
        let consistency = recipe.weights.consistency > 0.0;
        let solved = recipe.weights.need_trajectories() || config.method != Method::Gradient;
        let data = inputs.data.as_ref().filter(|_| consistency && !solved);
        let points = data
            .map(|data| {
                let plan = PathPlan {
                    coupling: config.coupling,
                    path: config.path,
                    coupling_size: config.coupling_size,
                    flip: config.flip,
                    seed: config.training.seed,
                    kind,
                    device,
                };
                let condition = inputs.data_condition.as_ref().or(inputs.pool.as_ref());
                PathPoints::new(teacher, data, inputs.noise.as_ref(), condition, plan)
            })
            .transpose()?;
        let trajectories = match solved || (consistency && points.is_none()) {
            false => None,
            true => {
                let plan = TrajectoryPlan {
                    count: recipe.trajectories,
                    path_steps: recipe.path_steps,
                    seed: config.training.seed,
                    kind,
                    device,
                    max_seconds: config.training.max_seconds,
                };
                Some(stored_trajectories(teacher, plan, config.trajectory_memory, inputs, monitor)?)
            }
        };
        let held_out_points = points
            .as_ref()
            .filter(|_| trajectories.is_none())
            .map(|points| {
                let held_out = points.held_out()?;
                let velocity = held_out.velocity(teacher)?;
                Ok::<_, Error>((held_out, velocity))
            })
            .transpose()?;
        let draw = PairDraw { kind: config.pairs, curriculum: config.curriculum, done: 0.0 };
        Ok(TrainingData { trajectories, points, held_out_points, draw, consistency })
    }

    /// The batch of one step: a pure function of the source's seed, the step, its numbers of rows and, for a
    /// curriculum, of `done`, the share of training that is behind.
    ///
    /// # Errors
    /// [`Error::Internal`] where worker threads fail.
    pub fn batch(
        &self,
        random: &RandomSource,
        step: u64,
        size: impl Into<BatchRows>,
        done: f64,
    ) -> Result<Batch> {
        let size = size.into();
        let mut batch = match &self.trajectories {
            Some(trajectories) => trajectories.batch(random, step, size, PairDraw { done, ..self.draw }),
            None => Batch {
                endpoint: None,
                path: None,
                pairs: None,
                inverse: None,
                path_rows: 0,
                round_trip: 0,
                ends: 0,
                points: None,
                sampler_steps: sampler_steps(step),
            },
        };
        batch.points = self.points_of(random, step, &size)?;
        Ok(batch)
    }

    /// Points for the consistency term, if it is on.
    fn points_of(&self, random: &RandomSource, step: u64, size: &BatchRows) -> Result<Option<Points>> {
        Ok(match (&self.points, &self.trajectories) {
            _ if !self.consistency => None,
            (Some(points), _) => Some(points.batch(random, step, size.noise)?),
            (None, Some(trajectories)) => Some(trajectories.points(random, step, size.points)),
            (None, None) => None,
        })
    }

    /// The table of the student's inputs at `times` uniform times; of channels where it sees images of
    /// `event_shape`.
    pub fn coordinates(&self, times: i64, images: Option<&[i64]>) -> Result<InputCoordinates> {
        match (&self.trajectories, &self.points) {
            (Some(trajectories), _) => trajectories.coordinates(images),
            (None, Some(points)) => points.coordinates(times, images),
            (None, None) => Err(Error::Internal(anyhow::anyhow!("nothing to learn from"))),
        }
    }

    /// Trajectories in use.
    pub fn trajectory_count(&self) -> i64 {
        self.trajectories.as_ref().map_or(0, |trajectories| trajectories.states().size()[0])
    }
}

/// Trajectories of the inputs' conditions: in their file, or in memory, where they take `memory` GiB at most. They
/// may take up to a fixed share of the plan's `max_seconds`, which is that of the whole fit.
pub(crate) fn stored_trajectories(
    teacher: &dyn VelocityField,
    plan: TrajectoryPlan,
    memory: f64,
    inputs: &Inputs,
    monitor: &mut dyn Monitor,
) -> Result<Trajectories> {
    let pool = condition_pool(teacher, inputs)?;
    let max_seconds = plan.max_seconds.map(|limit| limit * TRAJECTORY_SHARE);
    let plan = TrajectoryPlan { max_seconds, ..plan };
    match &inputs.trajectory_file {
        Some(path) => Trajectories::in_file(teacher, &plan, pool.as_ref(), path, inputs.refresh, monitor),
        None => {
            let count = bounded(memory, &plan, teacher.event_size())?;
            Trajectories::generate(teacher, &TrajectoryPlan { count, ..plan }, pool.as_ref(), monitor)
        }
    }
}

/// Checks shapes and lengths, whether or not a term will use them.
pub(crate) fn check_inputs(teacher: &dyn VelocityField, inputs: &Inputs) -> Result<()> {
    let conditioning = teacher.conditioning();
    if let Some(pool) = &inputs.pool {
        let rows = pool.size().first().copied().unwrap_or(0);
        if rows == 0 && conditioning != Conditioning::None {
            return Err(Error::argument("condition", "at least one row", "an empty array"));
        }
        conditioning.check(Some(pool), rows)?;
    }
    if let Some(data) = &inputs.data {
        let count = check_batch("data", data, teacher.event_shape())?;
        conditioning.check(inputs.data_condition.as_ref().or(inputs.pool.as_ref()), count)?;
    }
    Ok(())
}

/// The rows that the trajectories' conditions are drawn from.
fn condition_pool(teacher: &dyn VelocityField, inputs: &Inputs) -> Result<Option<Tensor>> {
    let conditioning = teacher.conditioning();
    let pool = match (conditioning, &inputs.pool) {
        (Conditioning::Labels { classes }, None) => {
            Some(Tensor::arange(classes, (Kind::Int64, teacher.device())))
        }
        (_, pool) => pool.as_ref().or(inputs.data_condition.as_ref()).map(Tensor::shallow_clone),
    };
    conditioning.check(pool.as_ref(), pool.as_ref().map_or(0, |rows| rows.size()[0]))?;
    Ok(pool)
}

/// As many of the plan's trajectories as `memory` GiB hold.
fn bounded(memory: f64, plan: &TrajectoryPlan, dimension: i64) -> Result<i64> {
    let bytes = 4.0 * (plan.path_steps + 1) as f64 * dimension as f64;
    let fit = (memory * (1u64 << 30) as f64 / bytes).floor() as i64;
    if fit < 16 {
        let expected = format!("room for at least 16 trajectories of {bytes} bytes each");
        let got = format!("{memory} GiB");
        return Err(Error::argument("trajectory_memory", expected, got));
    }
    Ok(plan.count.min(fit))
}
