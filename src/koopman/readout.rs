//! Readouts: x as a function of the observables.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{FeatureMap, Observables, StudentConfig};
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::nets::{Mlp, MlpConfig, Network, Parameters, UNetDecoder};
use crate::tensor::RandomSource;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ReadoutKind {
    /// The coordinates of x among the observables: exact at tau = 0.
    #[default]
    Slice,
    /// x = g C, where C is learned and initialised as the slice.
    Linear,
    /// The slice plus a learned correction by a network.
    Network,
    /// The decoder of a U-Net, applied to the feature maps of a hierarchy.
    Decoder,
}

pub enum Readout {
    Slice,
    /// C, `[m, d]`.
    Linear(Tensor),
    /// x + network([t, x, phi]).
    Network(Mlp),
    /// decoder(t, phi), phi being feature maps of these shapes.
    Decoder {
        decoder: UNetDecoder,
        maps: Vec<FeatureMap>,
    },
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
            ReadoutKind::Decoder => {
                let Some(unet) = &config.unet else {
                    return Err(Error::Internal(anyhow::anyhow!("the configuration has no U-Net")));
                };
                // The features depend on the condition already.
                let (channels, condition) = (config.event_shape[0], Conditioning::None);
                let decoder = UNetDecoder::new("readout.", unet, channels, condition, parameters, random)?;
                Readout::Decoder { decoder, maps: config.feature_maps() }
            }
        })
    }

    /// C in float64 on the CPU, `[m, d]`, where x = g C; `None` if a network decodes x.
    pub fn columns(&self, dimension: i64, size: i64) -> Result<Option<Tensor>> {
        Ok(match self {
            Readout::Slice => {
                let unit = Tensor::f_eye(dimension, (Kind::Double, Device::Cpu))?;
                Some(unit.f_constant_pad_nd([0, 0, 2, size - 2 - dimension])?)
            }
            Readout::Linear(matrix) => Some(matrix.detach().to_device(Device::Cpu).to_kind(Kind::Double)),
            Readout::Network(_) | Readout::Decoder { .. } => None,
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
            Readout::Decoder { decoder, maps } => {
                let lengths: Vec<i64> = maps.iter().map(FeatureMap::size).collect();
                let parts = g.features.split_with_sizes(&lengths, 1);
                let image = |(part, map): (&Tensor, &FeatureMap)| {
                    part.reshape([-1, map.channels, map.height, map.width])
                };
                let maps: Vec<Tensor> = parts.iter().zip(maps).map(image).collect();
                decoder.apply(&g.t, &maps, None).flatten(1, -1)
            }
        }
    }

    /// x of observables and its derivative, each `[B, d]`, if time changes at rate 1 and x and phi at the
    /// given rates.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn decode_with_rate(
        &self,
        g: &Observables,
        x_rate: &Tensor,
        rate: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let time_rate = g.t.ones_like();
        match self {
            Readout::Slice => Ok((g.x.shallow_clone(), x_rate.shallow_clone())),
            Readout::Linear(matrix) => {
                let time_rate = time_rate.unsqueeze(1);
                let moved = Tensor::f_cat(&[&time_rate.zeros_like(), &time_rate, x_rate, rate], 1)?;
                Ok((self.decode(g), moved.f_matmul(matrix)?))
            }
            Readout::Network(_) | Readout::Decoder { .. } => {
                let parts = [&g.t, &g.x, &g.features].map(|part| part.detach().set_requires_grad(true));
                let [t, x, features] = parts.each_ref().map(Tensor::shallow_clone);
                tch::with_grad(|| {
                    // The gradient of <u, decode> is linear in u. The gradient with respect to u of its
                    // product with the rates is the derivative.
                    let decoded = self.decode(&Observables { t, x, features });
                    let u = decoded.zeros_like().set_requires_grad(true);
                    let inputs: Vec<&Tensor> = parts.iter().filter(|part| part.numel() > 0).collect();
                    let product = (&decoded * &u).sum(decoded.kind());
                    let gradients = Tensor::f_run_backward(&[product], &inputs, true, true)?;
                    let rates = [&time_rate, x_rate, rate].into_iter().filter(|rate| rate.numel() > 0);
                    let known = gradients.iter().zip(rates).filter(|(gradient, _)| gradient.defined());
                    let along: Vec<Tensor> =
                        known.map(|(gradient, rate)| (gradient * rate).sum(decoded.kind())).collect();
                    let along = Tensor::f_stack(&along, 0)?.sum(decoded.kind());
                    let mut derivative = Tensor::f_run_backward(&[along], &[&u], false, false)?;
                    Ok((decoded.detach(), derivative.swap_remove(0)))
                })
            }
        }
    }

    pub fn shallow_clone(&self) -> Self {
        match self {
            Readout::Slice => Readout::Slice,
            Readout::Linear(matrix) => Readout::Linear(matrix.shallow_clone()),
            Readout::Network(network) => Readout::Network(network.shallow_clone()),
            Readout::Decoder { decoder, maps } => {
                Readout::Decoder { decoder: decoder.shallow_clone(), maps: maps.clone() }
            }
        }
    }
}
