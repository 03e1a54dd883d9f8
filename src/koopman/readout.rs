//! How x is read off observables.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{Observables, StudentConfig};
use crate::error::Result;
use crate::nets::{Mlp, MlpConfig, Network, Parameters};
use crate::tensor::RandomSource;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ReadoutKind {
    /// The coordinates of x among the observables: exact at tau = 0.
    #[default]
    Slice,
    /// x = g C, C learned from the slice on.
    Linear,
    /// The slice and a learned network's correction.
    Network,
}

pub enum Readout {
    Slice,
    /// C, `[m, d]`.
    Linear(Tensor),
    /// x + network([t, x, phi]).
    Network(Mlp),
}

/// The correction starts at this fraction of a usual initialisation.
const INITIAL_CORRECTION: f64 = 1e-2;

impl Readout {
    /// Registers its parameters under `readout`.
    pub fn new(
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let (dimension, observables) = (config.dimension(), config.observables);
        Ok(match config.readout {
            ReadoutKind::Slice => Readout::Slice,
            ReadoutKind::Linear => {
                let options = (parameters.kind(), parameters.device());
                let slice = Tensor::f_eye(dimension, options)?.f_constant_pad_nd([0, 0, 2, observables])?;
                Readout::Linear(parameters.add("readout.matrix", slice))
            }
            ReadoutKind::Network => {
                let network = MlpConfig {
                    inputs: 1 + dimension + observables,
                    outputs: dimension,
                    width: config.width,
                    depth: config.depth.clamp(1, 2),
                    skip: false,
                };
                let network = Mlp::new("readout", &network, parameters, random)?;
                network.scale_output(INITIAL_CORRECTION)?;
                Readout::Network(network)
            }
        })
    }

    /// C in float64 on the CPU, `[m, d]`, where x = g C.
    pub fn columns(&self, dimension: i64, size: i64) -> Result<Option<Tensor>> {
        Ok(match self {
            Readout::Slice => {
                let unit = Tensor::f_eye(dimension, (Kind::Double, Device::Cpu))?;
                Some(unit.f_constant_pad_nd([0, 0, 2, size - 2 - dimension])?)
            }
            Readout::Linear(matrix) => Some(matrix.detach().to_device(Device::Cpu).to_kind(Kind::Double)),
            Readout::Network(_) => None,
        })
    }

    /// x of observables: `[B, d]`, differentiable.
    pub fn decode(&self, g: &Observables) -> Tensor {
        match self {
            Readout::Slice => g.x.shallow_clone(),
            Readout::Linear(matrix) => g.assemble().matmul(matrix),
            Readout::Network(network) => {
                &g.x + network.forward(&Tensor::cat(&[&g.t.unsqueeze(1), &g.x, &g.features], 1))
            }
        }
    }

    pub fn shallow_clone(&self) -> Self {
        match self {
            Readout::Slice => Readout::Slice,
            Readout::Linear(matrix) => Readout::Linear(matrix.shallow_clone()),
            Readout::Network(network) => Readout::Network(network.shallow_clone()),
        }
    }
}
