//! Linear heads through which a hierarchy's feature maps are compared with those of its teacher. Only
//! training uses them.

use tch::Tensor;

use super::{FeatureMap, StudentConfig};
use crate::error::Result;
use crate::nets::Parameters;
use crate::tensor::shared;

/// Prefix of the names of their parameters.
pub(super) const PREFIX: &str = "heads.";

/// One affine map of each pixel's channels for every feature map.
pub struct Heads {
    /// `[C', C]` each, for C channels of the student and C' of the teacher.
    weights: Vec<Tensor>,
    /// `[C', 1]` each.
    biases: Vec<Tensor>,
    maps: Vec<FeatureMap>,
}

impl Heads {
    /// Registers `heads.<map>.weight` and `.bias`, which are initialised as the identity: feature maps that
    /// are initialised from the teacher's are at first compared directly.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn new(config: &StudentConfig, parameters: &mut Parameters) -> Result<Self> {
        let options = (parameters.kind(), parameters.device());
        let maps = if config.heads.is_empty() { Vec::new() } else { config.feature_maps() };
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (index, (map, channels)) in maps.iter().zip(&config.heads).enumerate() {
            let weight = Tensor::f_eye_m(*channels, map.channels, options)?;
            weights.push(parameters.add(format!("{PREFIX}{index}.weight"), weight));
            let bias = Tensor::f_zeros([*channels, 1], options)?;
            biases.push(parameters.add(format!("{PREFIX}{index}.bias"), bias));
        }
        Ok(Heads { weights, biases, maps })
    }

    /// Applies the heads to features `[B, k]`: `[B, C' H W]` for each map, and nothing without heads.
    pub fn apply(&self, features: &Tensor) -> Vec<Tensor> {
        if self.maps.is_empty() {
            return Vec::new();
        }
        let lengths: Vec<i64> = self.maps.iter().map(FeatureMap::size).collect();
        let parts = features.split_with_sizes(&lengths, 1);
        let heads = self.weights.iter().zip(&self.biases).zip(&self.maps);
        let project = |(part, ((weight, bias), map)): (&Tensor, ((&Tensor, &Tensor), &FeatureMap))| {
            let pixels = part.reshape([-1, map.channels, map.pixels()]);
            (weight.matmul(&pixels) + bias).flatten(1, 2)
        };
        parts.iter().zip(heads).map(project).collect()
    }
}

shared!(Heads { weights, biases; maps });
