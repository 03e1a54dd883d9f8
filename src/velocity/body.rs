//! The network inside a [`super::NetworkField`].

use tch::{Device, Kind, Tensor};

use super::NetworkFieldConfig;
use crate::error::Result;
use crate::nets::{Mlp, MlpConfig, Network, Parameters, TimeEmbedding, UNet};
use crate::tensor::RandomSource;

pub(super) enum Body {
    Perceptron { embedding: TimeEmbedding, network: Mlp },
    UNet { network: Box<UNet>, event_shape: Vec<i64> },
}

impl Body {
    /// Builds the network and registers its parameters under the prefix `network`.
    pub fn new(
        config: &NetworkFieldConfig,
        (kind, device): (Kind, Device),
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let event_shape = config.event_shape.clone();
        Ok(match &config.unet {
            Some(unet) => {
                let channels = (event_shape[0], event_shape[0]);
                let mut network =
                    UNet::new("network.", unet, channels, config.conditioning, parameters, random)?;
                if config.augmented > 0 {
                    network.tell_augmentation("network.", unet, config.augmented, parameters)?;
                }
                Body::UNet { network: Box::new(network), event_shape }
            }
            None => {
                let (inputs, outputs) = (config.inputs(), config.outputs());
                let (width, depth) = (config.width, config.depth);
                let network = MlpConfig { inputs, outputs, width, depth, skip: true };
                Body::Perceptron {
                    embedding: TimeEmbedding::new(config.frequencies, kind, device),
                    network: Mlp::new("network", &network, parameters, random)?,
                }
            }
        })
    }

    /// The numbers that a network is told of each row: the encoded condition `[B, c]`, and those of an augmentation
    /// `[B, n]` after it.
    pub fn told(&self, condition: Option<Tensor>, augmentation: Option<&Tensor>) -> Result<Option<Tensor>> {
        Ok(match (condition, augmentation) {
            (Some(condition), Some(numbers)) => Some(Tensor::f_cat(&[&condition, numbers], 1)?),
            (None, Some(numbers)) => Some(numbers.shallow_clone()),
            (condition, None) => condition,
        })
    }

    /// The output `[B, dim]`, or `[B, dim + 1]` with a growth rate, for times `[B]`, flattened samples `[B, dim]` and
    /// conditions `[B, c]`.
    pub fn forward(&self, t: &Tensor, x: Tensor, condition: Option<Tensor>) -> Result<Tensor> {
        match self {
            Body::Perceptron { embedding, network } => {
                let mut parts = vec![x, embedding.forward(t)];
                parts.extend(condition);
                Ok(network.forward(&Tensor::f_cat(&parts, 1)?))
            }
            Body::UNet { network, event_shape } => {
                let mut shape = vec![-1];
                shape.extend(event_shape);
                let image = x.f_reshape(shape.as_slice())?;
                Ok(network.apply(t, &image, condition.as_ref()).f_reshape(x.size())?)
            }
        }
    }

    /// The feature maps of a U-Net's encoder for the arguments of [`Body::forward`]; `None` for a perceptron.
    pub fn feature_maps(
        &self,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Vec<Tensor>>> {
        let Body::UNet { network, event_shape } = self else { return Ok(None) };
        let mut shape = vec![-1];
        shape.extend(event_shape);
        Ok(Some(network.feature_maps(t, &x.f_reshape(shape.as_slice())?, condition)))
    }

    pub fn shallow_clone(&self) -> Self {
        match self {
            Body::Perceptron { embedding, network } => {
                Body::Perceptron { embedding: embedding.shallow_clone(), network: network.shallow_clone() }
            }
            Body::UNet { network, event_shape } => {
                Body::UNet { network: Box::new(network.shallow_clone()), event_shape: event_shape.clone() }
            }
        }
    }
}
