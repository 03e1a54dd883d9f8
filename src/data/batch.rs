//! The training data of one step: single points of the flow, pairs of points on its trajectories, and batches
//! of both.

use tch::Tensor;

use crate::error::Result;
use crate::nets::precision::Lowered;
use crate::tensor::{in_halves, shared, RandomSource};
use crate::velocity::VelocityField;

/// Single points (t, x_t).
#[derive(Debug)]
pub struct Points {
    /// Times, `[B]`.
    pub t: Tensor,
    /// States, `[B, d]`.
    pub x: Tensor,
    /// Conditions in the student's encoding, `[B, c]`.
    pub condition: Option<Tensor>,
    /// Conditions in the teacher's form.
    pub teacher_condition: Option<Tensor>,
}

impl Points {
    pub fn count(&self) -> i64 {
        self.t.size()[0]
    }

    /// The teacher's velocity at the points, `[B, d]`, in their dtype and on their device. It takes one
    /// evaluation.
    ///
    /// # Errors
    /// Any error of the teacher.
    pub fn velocity(&self, teacher: &dyn VelocityField) -> Result<Tensor> {
        let (kind, device) = (teacher.dtype(), teacher.device());
        let mut shape = vec![self.count()];
        shape.extend(teacher.event_shape());
        // Regression targets are computed in full precision.
        let _full = Lowered::to(None);
        let velocity = tch::no_grad(|| {
            let x = self.x.to_kind(kind).to_device(device).f_reshape(shape.as_slice())?;
            let condition = self.teacher_condition.as_ref().map(|c| c.to_device(device));
            teacher.velocity(&self.t.to_kind(kind).to_device(device), &x, condition.as_ref())
        })?;
        Ok(velocity.to_kind(self.x.kind()).to_device(self.x.device()).f_reshape(self.x.size().as_slice())?)
    }

    /// [`Points::velocity`] in one evaluation or, if memory runs out, in several with fewer points.
    ///
    /// # Errors
    /// Any error of the teacher.
    pub fn velocity_in_parts(&self, teacher: &dyn VelocityField) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let mut parts = Vec::new();
        in_halves(self.count(), self.count(), |first, rows| {
            parts.push(self.rows(first, rows).velocity(teacher)?);
            Ok(())
        })?;
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    /// Points `start .. start + length`.
    pub(crate) fn rows(&self, start: i64, length: i64) -> Points {
        let part = |tensor: &Tensor| tensor.narrow(0, start, length);
        Points {
            t: part(&self.t),
            x: part(&self.x),
            condition: self.condition.as_ref().map(part),
            teacher_condition: self.teacher_condition.as_ref().map(part),
        }
    }
}

shared!(Points { t, x, condition, teacher_condition });

/// Two points on each of `B` trajectories.
#[derive(Debug)]
pub struct Pairs {
    /// Times of the encoded points, `[B]`.
    pub s: Tensor,
    /// Times of the decoded points, `[B]`.
    pub t: Tensor,
    /// States at s, `[B, d]`.
    pub x_s: Tensor,
    /// States at t, `[B, d]`.
    pub x_t: Tensor,
    /// Inverse of the summed variance at t, `[B]`.
    pub precision: Tensor,
    /// Inverse of the summed variance at s, `[B]`.
    pub source_precision: Tensor,
    /// Conditions in the student's encoding, `[B, c]`.
    pub condition: Option<Tensor>,
    /// Conditions in the teacher's form.
    pub teacher_condition: Option<Tensor>,
}

impl Pairs {
    pub fn count(&self) -> i64 {
        self.s.size()[0]
    }

    pub fn tau(&self) -> Tensor {
        &self.t - &self.s
    }

    pub(crate) fn shallow_clone(&self) -> Pairs {
        self.rows(0, self.count())
    }

    /// Rows `start .. start + length`.
    pub(crate) fn rows(&self, start: i64, length: i64) -> Pairs {
        let part = |tensor: &Tensor| tensor.narrow(0, start, length);
        Pairs {
            s: part(&self.s),
            t: part(&self.t),
            x_s: part(&self.x_s),
            x_t: part(&self.x_t),
            precision: part(&self.precision),
            source_precision: part(&self.source_precision),
            condition: self.condition.as_ref().map(part),
            teacher_condition: self.teacher_condition.as_ref().map(part),
        }
    }
}

/// Noise of which no solution is known, and what is needed to noise the student's samples of it again.
#[derive(Debug)]
pub struct FreshNoise {
    /// Noise that the student maps to samples, `[B, d]`.
    pub start: Tensor,
    /// Noise that is mixed with these samples, `[B, d]`.
    pub noise: Tensor,
    /// Times of the mixtures, `[B]`.
    pub t: Tensor,
    /// Inverse of the summed variance of data, `[B]`.
    pub precision: Tensor,
    /// Conditions in the student's encoding, `[B, c]`.
    pub condition: Option<Tensor>,
    /// Conditions in the teacher's form.
    pub teacher_condition: Option<Tensor>,
}

/// Times of mixtures keep this distance from noise, where all samples look alike, and from data, where a field says
/// nothing.
const EDGE: f64 = 0.02;

impl FreshNoise {
    /// Noise for the first `count` conditions of `pairs`, which are from noise to data. A pure function of the
    /// source's seed and the step.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn draw(random: &RandomSource, step: u64, pairs: &Pairs, count: i64) -> Result<Self> {
        let (kind, device) = (pairs.x_s.kind(), pairs.x_s.device());
        let pairs = pairs.rows(0, count.clamp(1, pairs.count()));
        let mut random = random.fork_numbered("fresh noise ", step);
        let shape = pairs.x_s.size();
        Ok(FreshNoise {
            start: random.normal(&shape, kind, device)?,
            noise: random.normal(&shape, kind, device)?,
            t: random.uniform(&[pairs.count()], kind, device)? * (1.0 - 2.0 * EDGE) + EDGE,
            precision: pairs.precision,
            condition: pairs.condition,
            teacher_condition: pairs.teacher_condition,
        })
    }

    pub fn count(&self) -> i64 {
        self.t.size()[0]
    }

    /// Rows `start .. start + length`.
    pub(crate) fn rows(&self, start: i64, length: i64) -> FreshNoise {
        let part = |tensor: &Tensor| tensor.narrow(0, start, length);
        FreshNoise {
            start: part(&self.start),
            noise: part(&self.noise),
            t: part(&self.t),
            precision: part(&self.precision),
            condition: self.condition.as_ref().map(part),
            teacher_condition: self.teacher_condition.as_ref().map(part),
        }
    }

    /// Pairs from the noise to data, whose targets are not known.
    pub(crate) fn pairs(&self) -> Pairs {
        Pairs {
            s: self.t.zeros_like(),
            t: self.t.ones_like(),
            x_s: self.start.shallow_clone(),
            x_t: self.start.zeros_like(),
            precision: self.precision.shallow_clone(),
            source_precision: self.precision.shallow_clone(),
            condition: self.condition.as_ref().map(Tensor::shallow_clone),
            teacher_condition: self.teacher_condition.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// The training points of one step. A group that cannot be drawn is `None`.
#[derive(Debug)]
pub struct Batch {
    /// Pairs from noise to data.
    pub endpoint: Option<Pairs>,
    /// Pairs from the same noise to a random time.
    pub path: Option<Pairs>,
    /// Number of rows of `path`, the first ones, that are decoded.
    pub path_rows: i64,
    /// Pairs of two times of a trajectory, drawn according to [`super::PairKind`].
    pub pairs: Option<Pairs>,
    /// Pairs from data back to noise.
    pub inverse: Option<Pairs>,
    /// Number of rows of `inverse`, the first ones, that are mapped on to data again.
    pub round_trip: i64,
    /// Number of rows of `endpoint`, the first ones, from which the phase term carries observables to data.
    pub ends: i64,
    /// Single points, for the consistency term.
    pub points: Option<Points>,
    /// Noise without solutions, for the correction term.
    pub fresh: Option<FreshNoise>,
    /// Number of sampling steps from noise to data in the re-encoding term.
    pub sampler_steps: i64,
}

impl Batch {
    /// A batch without rows, for one step.
    pub(crate) fn empty(step: u64) -> Self {
        Batch {
            endpoint: None,
            path: None,
            path_rows: 0,
            pairs: None,
            inverse: None,
            round_trip: 0,
            ends: 0,
            points: None,
            fresh: None,
            sampler_steps: sampler_steps(step),
        }
    }
}

/// 2, 4 and 8 in turn.
pub(crate) fn sampler_steps(step: u64) -> i64 {
    2 << (step % 3)
}
