//! The multilayer perceptron, with SiLU activations and an optional linear skip from input to output.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::init::linear_uniform;
use super::{precision, Dual, Network, Parameters};
use crate::error::Result;
use crate::tensor::RandomSource;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    pub inputs: i64,
    pub outputs: i64,
    /// Units of each hidden layer.
    pub width: i64,
    /// Number of hidden layers; 0 is a linear map.
    pub depth: i64,
    /// Adds a linear map of the input to the output.
    pub skip: bool,
}

struct Linear {
    weight: Tensor, // [outputs, inputs]
    bias: Tensor,   // [outputs]
}

impl Linear {
    fn new(
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

    fn forward(&self, input: &Tensor) -> Tensor {
        match precision::lowered() {
            None => input.linear(&self.weight, Some(&self.bias)),
            Some(_) => precision::product(input, &self.weight) + &self.bias,
        }
    }

    /// One product for value and tangent, stacked along the batch; the bias has no tangent.
    fn forward_with_tangent(&self, input: &Dual) -> Dual {
        let batch = input.primal.size()[0];
        let stacked = precision::product(&Tensor::cat(&[&input.primal, &input.tangent], 0), &self.weight);
        let parts = stacked.split(batch, 0);
        Dual::new(&parts[0] + &self.bias, parts[1].shallow_clone())
    }

    fn shallow_clone(&self) -> Self {
        Linear { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() }
    }
}

/// `[B, inputs] -> [B, outputs]`.
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

    /// Multiplies the last layer's initial weights, before training: a small correction starts small.
    pub fn scale_output(&self, factor: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        if let Some(last) = self.layers.last() {
            for tensor in [&last.weight, &last.bias] {
                let _ = tensor.shallow_clone().f_mul_scalar_(factor)?;
            }
        }
        Ok(())
    }

    pub fn shallow_clone(&self) -> Self {
        Mlp {
            layers: self.layers.iter().map(Linear::shallow_clone).collect(),
            skip: self.skip.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// SiLU and its tangent: d(x σ(x)) = σ(x) (1 + x (1 - σ(x))) dx.
fn silu_with_tangent(input: &Dual) -> Dual {
    let gate = input.primal.sigmoid();
    let value = &input.primal * &gate;
    let slope = &gate * (1.0 + &input.primal - &value);
    Dual::new(value, slope * &input.tangent)
}

impl Network for Mlp {
    fn forward(&self, input: &Tensor) -> Tensor {
        let mut hidden = input.shallow_clone();
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = if index == 0 { layer.forward(&hidden) } else { layer.forward(&hidden.silu()) };
        }
        match &self.skip {
            Some(weight) => hidden + precision::product(input, weight),
            None => hidden,
        }
    }

    fn forward_with_tangent(&self, input: &Dual) -> Dual {
        let mut hidden = Dual::new(input.primal.shallow_clone(), input.tangent.shallow_clone());
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = match index {
                0 => layer.forward_with_tangent(&hidden),
                _ => layer.forward_with_tangent(&silu_with_tangent(&hidden)),
            };
        }
        match &self.skip {
            Some(weight) => Dual::new(
                hidden.primal + precision::product(&input.primal, weight),
                hidden.tangent + precision::product(&input.tangent, weight),
            ),
            None => hidden,
        }
    }
}
