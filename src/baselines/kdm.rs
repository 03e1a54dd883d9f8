//! The Koopman distillation model: noise and data have an encoder each, and one linear map joins their
//! latents.

use tch::Tensor;

use super::source::relative_error;
use super::{BaselineModel, KdmWeights, Source, Space};
use crate::error::Result;
use crate::nets::{Mlp, MlpConfig, Network, Parameters};
use crate::tensor::{shared, RandomSource};

/// x1 = D(E0(x0) K), after Berman, Naiman et al., "One-Step Offline Distillation of Diffusion-based Models
/// via Koopman Modeling" (arXiv 2505.13358). The paper's adversarial term, which is for images, is left out.
/// Latents are rows, as everywhere in koopflow, so K stands on the right.
pub struct Kdm {
    noise_encoder: Mlp,
    data_encoder: Mlp,
    decoder: Mlp,
    /// `[m, m]`.
    operator: Tensor,
}

impl Kdm {
    /// Registers its parameters under `noise_encoder`, `data_encoder`, `decoder` and `operator`.
    pub fn new(
        model: &BaselineModel,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let BaselineModel { width, depth, observables, .. } = *model;
        let mut network = |name: &str, inputs: i64, outputs: i64| {
            let config = MlpConfig { inputs, outputs, width, depth, skip: true };
            Mlp::new(name, &config, parameters, random)
        };
        let latent_inputs = observables + model.conditioning.size();
        let noise_encoder = network("noise_encoder", model.inputs(), observables)?;
        let data_encoder = network("data_encoder", model.inputs(), observables)?;
        let decoder = network("decoder", latent_inputs, model.dimension())?;
        let identity = Tensor::f_eye(observables, (parameters.kind(), parameters.device()))?;
        let operator = parameters.add("operator", identity);
        Ok(Kdm { noise_encoder, data_encoder, decoder, operator })
    }

    /// The operator K, `[m, m]`: latents of data are latents of noise times K.
    pub fn operator(&self) -> &Tensor {
        &self.operator
    }

    /// Latents `[B, m]` at the time of data, for noise `[B, d]`.
    fn carried(&self, space: &Space, x0: &Tensor, condition: Option<&Tensor>) -> Tensor {
        self.noise_encoder.forward(&space.see_at(0.0, x0, condition)).matmul(&self.operator)
    }

    fn decode(&self, space: &Space, latents: &Tensor, condition: Option<&Tensor>) -> Tensor {
        let mut parts = vec![latents.shallow_clone()];
        parts.extend(condition.map(Tensor::shallow_clone));
        space.data(&self.decoder.forward(&Tensor::cat(&parts, 1)))
    }

    /// Data `[B, d]` for noise `[B, d]`.
    pub fn endpoint(&self, space: &Space, x0: &Tensor, condition: Option<&Tensor>) -> Tensor {
        self.decode(space, &self.carried(space, x0, condition), condition)
    }

    /// Weighted sum of three terms: target ||D(E0(x0) K) - x1||², latent ||E0(x0) K - E1(x1)||² and
    /// reconstruction
    /// ||D(E1(x1)) - x1||². Each is divided by the variance of its reference, x1 or E1(x1). The variance of E1(x1) is
    /// differentiated too: the latent term is then invariant to a rescaling of all latents, so that they
    /// cannot collapse. Terms of weight 0 are not computed.
    pub fn loss(&self, space: &Space, source: &Source, step: u64) -> Tensor {
        let KdmWeights { target, latent, reconstruction } = source.config.weights;
        let ends = source.ends(step);
        let condition = ends.condition.as_ref();
        let carried = self.carried(space, &ends.x_s, condition);
        let mut terms = Vec::new();
        if target > 0.0 {
            terms.push(relative_error(&self.decode(space, &carried, condition), &ends) * target);
        }
        if latent > 0.0 || reconstruction > 0.0 {
            let there = self.data_encoder.forward(&space.see_at(1.0, &ends.x_t, condition));
            if latent > 0.0 {
                let variance = there.var_dim(0, false, false).sum(there.kind());
                let square = (&carried - &there).square().sum_dim_intlist(1, false, there.kind());
                terms.push(square.mean(there.kind()) / variance * latent);
            }
            if reconstruction > 0.0 {
                terms.push(relative_error(&self.decode(space, &there, condition), &ends) * reconstruction);
            }
        }
        Tensor::stack(&terms, 0).sum(carried.kind())
    }
}

shared!(Kdm { noise_encoder, data_encoder, decoder, operator });
