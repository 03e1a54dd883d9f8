//! The linear layer.

use super::init::linear_uniform;
use super::signal::Signal;
use super::{precision, Parameters};
use crate::error::Result;
use crate::tensor::{shared, RandomSource};
use tch::Tensor;

/// A linear map from `[B, inputs]` to `[B, outputs]` with a bias.
pub(super) struct Linear {
    pub weight: Tensor, // [outputs, inputs]
    pub bias: Tensor,   // [outputs]
}

impl Linear {
    /// Registers `<name>.weight` and `<name>.bias`.
    pub fn new(
        name: &str,
        inputs: i64,
        outputs: i64,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let (kind, device) = (parameters.kind(), parameters.device());
        let weight = linear_uniform(&[outputs, inputs], inputs, kind, device, random)?;
        let bias = linear_uniform(&[outputs], inputs, kind, device, random)?;
        Ok(Linear {
            weight: parameters.add(format!("{name}.weight"), weight),
            bias: parameters.add(format!("{name}.bias"), bias),
        })
    }

    /// Applies the layer to a value, or to a value and its tangent with one product.
    pub fn apply<S: Signal>(&self, input: &S) -> S {
        let product = |input: &Tensor, bias: Option<&Tensor>| match (precision::lowered(), bias) {
            (None, bias) => input.linear(&self.weight, bias),
            (Some(_), None) => precision::product(input, &self.weight),
            (Some(_), Some(bias)) => precision::product(input, &self.weight) + bias,
        };
        input.affine(product, &self.bias)
    }
}

shared!(Linear { weight, bias });
