//! The multilayer perceptron, with SiLU activations and an optional linear skip connection from input to output.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::init::linear_uniform;
use super::linear::Linear;
use super::signal::Signal;
use super::{precision, Dual, Network, Parameters};
use crate::error::Result;
use crate::tensor::{shared, RandomSource};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    pub inputs: i64,
    pub outputs: i64,
    /// Number of units in each hidden layer.
    pub width: i64,
    /// Number of hidden layers; 0 is a linear map.
    pub depth: i64,
    /// Whether a linear map of the input is added to the output.
    pub skip: bool,
}

/// A multilayer perceptron from `[B, inputs]` to `[B, outputs]`.
pub struct Mlp {
    layers: Vec<Linear>,
    skip: Option<Tensor>, // [outputs, inputs]
}

impl Mlp {
    /// Registers its parameters under `name`.
    pub fn new(
        name: &str,
        config: &MlpConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        let mut inputs = config.inputs;
        for index in 0..=config.depth {
            let outputs = if index == config.depth { config.outputs } else { config.width };
            layers.push(Linear::new(&format!("{name}.{index}"), inputs, outputs, parameters, random)?);
            inputs = outputs;
        }
        let skip = match config.skip {
            true => {
                let (kind, device) = (parameters.kind(), parameters.device());
                let shape = [config.outputs, config.inputs];
                let weight = linear_uniform(&shape, config.inputs, kind, device, random)?;
                Some(parameters.add(format!("{name}.skip"), weight))
            }
            false => None,
        };
        Ok(Mlp { layers, skip })
    }

    /// Multiplies the initial weights of the last layer by `factor`, so that a network that learns a small correction
    /// starts with a small output.
    pub fn scale_output(&self, factor: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        if let Some(last) = self.layers.last() {
            for tensor in [&last.weight, &last.bias] {
                let _ = tensor.shallow_clone().f_mul_scalar_(factor)?;
            }
        }
        Ok(())
    }
}

shared!(Mlp { layers, skip });

impl Mlp {
    fn apply<S: Signal>(&self, input: &S) -> S {
        let mut layers = self.layers.iter();
        let first =
            layers.next().map_or_else(|| input.map(Tensor::shallow_clone), |layer| layer.apply(input));
        let output = layers.fold(first, |hidden, layer| layer.apply(&hidden.silu()));
        match &self.skip {
            Some(weight) => output.add(&input.map(|input| precision::product(input, weight))),
            None => output,
        }
    }
}

impl Mlp {
    /// Derivatives `[B, K, outputs]` of the output at inputs `[B, inputs]` along each of `directions` `[K, inputs]`,
    /// which are the same for all rows. Values are computed once, and the products of the directions with the first
    /// layer do not depend on the row.
    pub fn along_directions(&self, input: &Tensor, directions: &Tensor) -> Tensor {
        let mut hidden = input.shallow_clone();
        let mut tangents = directions.unsqueeze(0);
        for (place, layer) in self.layers.iter().enumerate() {
            if place > 0 {
                // d(x s(x)) = s(x) (1 + x (1 - s(x))) dx.
                let gate = hidden.sigmoid();
                let value = &hidden * &gate;
                let slope: Tensor = &gate * (1.0 + &hidden - &value);
                (hidden, tangents) = (value, tangents * slope.unsqueeze(1));
            }
            hidden = precision::product(&hidden, &layer.weight) + &layer.bias;
            tangents = precision::product(&tangents, &layer.weight);
        }
        match &self.skip {
            Some(weight) => tangents + precision::product(directions, weight),
            None => tangents,
        }
    }
}

impl Network for Mlp {
    fn forward(&self, input: &Tensor) -> Tensor {
        self.apply(input)
    }

    fn forward_with_tangent(&self, input: &Dual) -> Dual {
        self.apply(input)
    }
}
