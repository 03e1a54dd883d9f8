//! Copies of a network field: of its weights and of the statistics that scale its input and output.

use tch::{Device, Tensor};

use super::super::gaussian::find_tensor;
use super::super::standard::Standard;
use super::super::{Conditioning, NetworkFieldConfig, VelocityField};
use super::NetworkField;
use crate::error::{Error, Result};
use crate::tensor::{event_size, RandomSource, Share};

impl NetworkField {
    /// A copy of the network that `field` is, or that it guides, with weights of dtype `dtype` on `device`. `None` if
    /// there is no such network, if it has units, or if it is not one of velocities that begin at noise.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn copy_of(field: &dyn VelocityField, dtype: &str, device: Device) -> Result<Option<Self>> {
        let plain = |config: &NetworkFieldConfig| {
            config.source.is_normal() && !config.growth && !config.phase && !config.curves
        };
        let Some(own) = field.network().filter(|own| own.units.is_none() && plain(&own.config)) else {
            return Ok(None);
        };
        let config = NetworkFieldConfig { dtype: dtype.to_string(), ..own.config.clone() };
        let mut copy =
            NetworkField::build(config, &own.data, &own.condition, device, &mut RandomSource::new(0))?;
        copy.copy_from(own)?;
        Ok(Some(copy))
    }

    /// Overwrites weights and statistics with those of a field of the same architecture.
    ///
    /// # Errors
    /// [`Error::Shape`] naming a weight of another shape.
    pub fn copy_from(&mut self, other: &NetworkField) -> Result<()> {
        let tensors = other.parameters.named();
        self.parameters.restore(|name| find_tensor(&tensors, name).map(Tensor::shallow_clone))?;
        let of = |standard: &Standard| standard.to(self.device, self.dtype);
        (self.data, self.condition) = (of(&other.data), of(&other.condition));
        Ok(())
    }

    /// The statistics with which input, output and condition are scaled, by name, for a field that begins at noise.
    pub fn statistics(&self) -> Vec<(String, Tensor)> {
        let tensors = self.tensors().into_iter();
        tensors.filter(|(name, _)| ["data.", "condition."].iter().any(|own| name.starts_with(own))).collect()
    }

    /// Overwrites the statistics with tensors taken by name.
    ///
    /// # Errors
    /// The error of `take` for a missing name; errors that name a tensor of another shape.
    pub fn set_statistics(&mut self, mut take: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        let known = self.statistics();
        let taken: Vec<_> =
            known.iter().map(|(name, _)| Ok((name.clone(), take(name)?))).collect::<Result<_>>()?;
        let stored = |name: &str, length: i64| {
            Ok::<_, Error>(Standard::stored(&taken, name, length)?.to(self.device, self.dtype))
        };
        if self.config.scaled {
            self.data = stored("data", event_size(&self.config.event_shape))?;
        }
        if let Conditioning::Vector { dim } = self.config.conditioning {
            self.condition = stored("condition", dim)?;
        }
        Ok(())
    }

    /// A field of the same architecture with separate weights that require no gradients.
    pub fn twin(&self) -> Result<NetworkField> {
        let mut random = RandomSource::new(0);
        let twin =
            NetworkField::build(self.config.clone(), &self.data, &self.condition, self.device, &mut random)?;
        twin.freeze();
        let shared = |standard: &Option<Standard>| standard.as_ref().map(Standard::shallow_clone);
        let (origin, growth) = (shared(&self.origin), shared(&self.growth));
        Ok(NetworkField { origin, growth, source: self.source.shallow_clone(), ..twin })
    }
}
