//! The mean velocity: a flow map between any two times, learnt from the velocity alone.

use tch::Tensor;

use super::{BaselineModel, Source, Space};
use crate::data::Points;
use crate::error::Result;
use crate::nets::{Dual, Mlp, MlpConfig, Network, Parameters, Signal};
use crate::tensor::{shared, RandomSource};
use crate::training::RowWeights;

/// X_{s,t}(x) = x + (t - s) u(x, s, t), with u the mean of the velocity along the path from (s, x) to t (Geng et
/// al., "Mean Flows for One-step Generative Modeling", arXiv 2505.13447, whose time runs the other way: its t is
/// s here and its r is t).
///
/// By definition (t - s) u(x_s, s, t) is the integral of v(τ, x_τ) from s to t. Its derivative in s along the
/// flow, where x_s moves by v and t stays, is -u + (t - s) du/ds = -v(s, x_s): the identity
/// u = v + (t - s) du/ds, with du/ds = J u · (v, 1, 0) in (x, s, t). At s = t it says u = v.
///
/// The network sees both times as they are, s and t - s. Sines of them would raise du/ds by their frequencies,
/// and with it the noise that the target takes from the network itself: three octaves made the endpoint error on
/// the two moons .22 instead of .007.
pub struct MeanVelocity {
    network: Mlp,
}

/// Each sample's mean square is over its own root.
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

    /// Its derivative along (x', s', t'): `[B, d]`.
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

    /// u - (v + (t - s) du/ds), the second taken as given, over the deviation of x1 - x0; as a mean of squares, each
    /// sample's over its own root (the paper's adaptive weights, with p = 1/2). One evaluation of the teacher.
    ///
    /// # Errors
    /// Whatever the teacher answers.
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
