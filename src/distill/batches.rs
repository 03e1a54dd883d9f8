//! The training data of a student: stored trajectories or points of the teacher's probability path.

use tch::Tensor;

use super::{DistillConfig, Method, Recipe};
use crate::data::{
    Batch, BatchRows, Demand, FreshNoise, Inputs, PairDraw, PathPlan, PathPoints, Points, Trajectories,
    TrajectoryPlan,
};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::nets::InputCoordinates;
use crate::tensor::{parse_device, parse_dtype, RandomSource};
use crate::velocity::VelocityField;

/// Source of the batches of a distillation.
pub struct TrainingData {
    /// Solved trajectories; `None` if no term needs them.
    pub trajectories: Option<Trajectories>,
    /// Points of the probability path, if consistency is the only term on data and data were given. If there
    /// are trajectories, consistency uses points on them: they have the same marginals and need no assignment
    /// of noise to data at each step.
    pub points: Option<PathPoints>,
    /// Held-out points and the teacher's velocity there, `[H, d]`, for evaluation without trajectories.
    pub held_out_points: Option<(Points, Tensor)>,
    draw: PairDraw,
    consistency: bool,
    correction: bool,
}

impl TrainingData {
    /// Prepares the data that the terms with positive weights need. `demand` limits a default number of
    /// trajectories. Without trajectories the teacher is evaluated once, at the held-out points. A trajectory
    /// file takes one more evaluation.
    ///
    /// # Errors
    /// An error that names the input that does not fit; otherwise as [`Trajectories::generate`] and
    /// [`Trajectories::in_file`].
    pub fn prepare(
        teacher: &dyn VelocityField,
        config: &DistillConfig,
        recipe: &Recipe,
        inputs: &Inputs,
        demand: Option<&Demand>,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        let (kind, device) = (parse_dtype(&config.training.dtype)?, parse_device(&config.training.device)?);
        inputs.check(teacher)?;
        let [consistency, correction] =
            [recipe.weights.consistency, recipe.weights.correction].map(|weight| weight > 0.0);
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
                    fixed: recipe.fixed,
                    seed: config.training.seed,
                    kind,
                    device,
                    max_seconds: config.training.max_seconds,
                };
                let memory = config.trajectory_memory;
                Some(Trajectories::of_inputs(teacher, plan, memory, inputs, demand, monitor)?)
            }
        };
        let held_out_points = points
            .as_ref()
            .filter(|_| trajectories.is_none())
            .map(|points| {
                let held_out = points.held_out()?;
                let velocity = held_out.velocity_in_parts(teacher)?;
                Ok::<_, Error>((held_out, velocity))
            })
            .transpose()?;
        let draw = PairDraw { kind: config.pairs, curriculum: config.curriculum, done: 0.0 };
        Ok(TrainingData { trajectories, points, held_out_points, draw, consistency, correction })
    }

    /// The batch of one step. It is a pure function of the source's seed, the step, the numbers of rows and,
    /// with a curriculum, of `done`, the share of training that is done.
    ///
    /// # Errors
    /// [`Error::Internal`] if worker threads fail.
    pub fn batch(
        &self,
        random: &RandomSource,
        step: u64,
        size: impl Into<BatchRows>,
        done: f64,
        monitor: &mut dyn Monitor,
    ) -> Result<Batch> {
        let size = size.into();
        let mut batch = match &self.trajectories {
            Some(trajectories) => trajectories.batch(random, step, size, PairDraw { done, ..self.draw }),
            None => Batch::empty(step),
        };
        batch.points = self.points_of(random, step, &size, monitor)?;
        if let Some(pairs) = batch.endpoint.as_ref().filter(|_| self.correction) {
            batch.fresh = Some(FreshNoise::draw(random, step, pairs, size.fresh)?);
        }
        Ok(batch)
    }

    /// The part of [`TrainingData::batch`] that the terms of [`super::Weights::of_endpoint`] need.
    pub fn endpoint_batch(&self, random: &RandomSource, step: u64, size: impl Into<BatchRows>) -> Batch {
        match &self.trajectories {
            Some(trajectories) => trajectories.endpoint_batch(random, step, size),
            None => Batch::empty(step),
        }
    }

    /// Points for the consistency term; `None` if its weight is 0.
    fn points_of(
        &self,
        random: &RandomSource,
        step: u64,
        size: &BatchRows,
        monitor: &mut dyn Monitor,
    ) -> Result<Option<Points>> {
        Ok(match (&self.points, &self.trajectories) {
            _ if !self.consistency => None,
            (Some(points), _) => Some(points.batch(random, step, size.noise, monitor)?),
            (None, Some(trajectories)) => Some(trajectories.points(random, step, size.points)),
            (None, None) => None,
        })
    }

    /// The table of input coordinates at `times` uniform times. For images of shape `images` statistics are
    /// measured per channel.
    pub fn coordinates(&self, times: i64, images: Option<&[i64]>) -> Result<InputCoordinates> {
        match (&self.trajectories, &self.points) {
            (Some(trajectories), _) => trajectories.coordinates(images),
            (None, Some(points)) => points.coordinates(times, images),
            (None, None) => Err(Error::Internal(anyhow::anyhow!("no training data were prepared"))),
        }
    }

    /// Number of trajectories in use.
    pub fn trajectory_count(&self) -> i64 {
        self.trajectories.as_ref().map_or(0, |trajectories| trajectories.states().size()[0])
    }
}
