//! The plain network: a direct map from noise to data, without a path between them.

use tch::Tensor;

use super::source::relative_error;
use super::{BaselineModel, Source, Space};
use crate::error::Result;
use crate::nets::{Mlp, MlpConfig, Network, Parameters};
use crate::tensor::{shared, RandomSource};

/// x1 = skip(x0) + network(x0), fitted by regression to the teacher's endpoints.
pub struct PlainNetwork {
    network: Mlp,
}

impl PlainNetwork {
    /// Registers its parameters under `network`.
    pub fn new(
        model: &BaselineModel,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let BaselineModel { width, depth, .. } = *model;
        let (inputs, outputs) = (model.inputs(), model.dimension());
        let config = MlpConfig { inputs, outputs, width, depth, skip: true };
        Ok(PlainNetwork { network: Mlp::new("network", &config, parameters, random)? })
    }

    /// Data `[B, d]` for noise `[B, d]`.
    pub fn endpoint(&self, space: &Space, x0: &Tensor, condition: Option<&Tensor>) -> Tensor {
        space.data(&self.network.forward(&space.see_at(0.0, x0, condition)))
    }

    /// The mean squared endpoint error, divided by the data's variance.
    pub fn loss(&self, space: &Space, source: &Source, step: u64) -> Tensor {
        let ends = source.ends(step);
        relative_error(&self.endpoint(space, &ends.x_s, ends.condition.as_ref()), &ends)
    }
}

shared!(PlainNetwork { network });
