//! The mean-velocity baseline: a flow map between any two times, learnt from the velocity alone.

use tch::Tensor;

use super::{BaselineModel, Source, Space};
use crate::data::Points;
use crate::error::Result;
use crate::nets::{Dual, Mlp, MlpConfig, Network, Parameters, Signal};
use crate::tensor::{shared, RandomSource};
use crate::training::RowWeights;

/// X_{s,t}(x) = x + (t - s) u(x, s, t), with u the mean of the velocity along the path from (s, x) to t (Geng
/// et al., "Mean Flows for One-step Generative Modeling", arXiv 2505.13447). The paper's time runs the other
/// way: its t is s here and its r is t.
///
/// By definition (t - s) u(x_s, s, t) is the integral of v(τ, x_τ) from s to t. We differentiate it in s
/// along the flow, where x_s moves by v and t is fixed: -u + (t - s) du/ds = -v(s, x_s). This gives the
/// identity u = v + (t - s) du/ds, with du/ds = J u · (v, 1, 0) in (x, s, t). At s = t it reads u = v.
///
/// The network's inputs are the plain times s and t - s. Sines of them would multiply du/ds by their
/// frequencies, and with it the noise that the target inherits from the network. With three octaves of sines
/// the endpoint error on the two moons was .22 instead of .007.
pub struct MeanVelocity {
    network: Mlp,
}

/// Each sample's mean squared error is divided by its own square root.
const ROW_WEIGHTS: RowWeights = RowWeights { power: 0.5, offset: RowWeights::OFFSET };

impl MeanVelocity {
    /// Registers its parameters under `network`.
    pub fn new(
        model: &BaselineModel,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let BaselineModel { width, depth, .. } = *model;
        let (inputs, outputs) = (model.inputs() + 1, model.dimension());
        let config = MlpConfig { inputs, outputs, width, depth, skip: true };
        Ok(MeanVelocity { network: Mlp::new("network", &config, parameters, random)? })
    }

    /// u(x, s, t): `[B, d]`, for x `[B, d]` and s and t `[B]`.
    pub fn mean_velocity(
        &self,
        space: &Space,
        x: &Tensor,
        s: &Tensor,
        t: &Tensor,
        condition: Option<&Tensor>,
    ) -> Tensor {
        let span = (t - s).unsqueeze(1);
        space.velocity(&self.network.forward(&space.see(s, x, &[Some(&span), condition])))
    }

    /// The derivative of u along (x', s', t'): `[B, d]`.
    pub fn rate(&self, space: &Space, x: &Dual, s: &Dual, t: &Dual, condition: Option<&Tensor>) -> Tensor {
        let span = Dual::new(&t.primal - &s.primal, &t.tangent - &s.tangent).map(|span| span.unsqueeze(1));
        let mut others = vec![span];
        others.extend(condition.map(|condition| Dual::constant(condition.shallow_clone())));
        let answer = self.network.forward_with_tangent(&space.see_with_tangent(s, x, others));
        answer.tangent * space.velocity_unit()
    }

    /// X_{s,t}(x): `[B, d]`.
    pub fn flow(
        &self,
        space: &Space,
        x: &Tensor,
        s: &Tensor,
        t: &Tensor,
        condition: Option<&Tensor>,
    ) -> Tensor {
        x + (t - s).unsqueeze(1) * self.mean_velocity(space, x, s, t, condition)
    }

    /// Mean squared error of u against the target v + (t - s) du/ds, through which no gradient flows. Errors
    /// are in units of the deviation of x1 - x0. Each sample's square is divided by its own root (the paper's
    /// adaptive weights, with p = 1/2). The loss evaluates the teacher once.
    ///
    /// # Errors
    /// Any error of the teacher.
    pub fn loss(&self, space: &Space, source: &Source, step: u64) -> Result<Tensor> {
        let (points, t) = source.spans(step);
        let Points { t: s, x, condition, .. } = &points;
        let condition = condition.as_ref();
        let velocity = points.velocity(source.teacher)?;
        let target = tch::no_grad(|| {
            let along = Dual::new(x.shallow_clone(), velocity.shallow_clone());
            let now = Dual::new(s.shallow_clone(), s.ones_like());
            let then = Dual::constant(t.shallow_clone());
            &velocity + (&t - s).unsqueeze(1) * self.rate(space, &along, &now, &then, condition)
        });
        let error = (self.mean_velocity(space, x, s, &t, condition) - target) / space.velocity_unit();
        let square = error.square().mean_dim([1].as_slice(), false, error.kind());
        Ok(ROW_WEIGHTS.mean(&square))
    }
}

shared!(MeanVelocity { network });
