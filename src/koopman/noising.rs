//! The velocity field of the student's own noised samples. Only training uses it.

use tch::{Device, Tensor};

use super::StudentConfig;
use crate::error::Result;
use crate::nets::Parameters;
use crate::tensor::{shared, RandomSource};
use crate::velocity::NetworkField;

/// Prefix of the names of its tensors.
pub(super) const PREFIX: &str = "noising.";

/// The velocity field of the flow from noise to the student's own samples: what the teacher's field would be if the
/// student's samples were the data. Where both fields agree, both sets of samples have the same distribution (Tong et
/// al., arXiv 2511.19428, section 3.3; the fake score of Yin et al., arXiv 2311.18828).
pub struct Noising {
    field: Option<NetworkField>,
}

impl Noising {
    /// Registers the parameters of an untrained field, if the configuration has one.
    ///
    /// # Errors
    /// Errors that name an option of the network.
    pub fn new(config: &StudentConfig, parameters: &mut Parameters, device: Device) -> Result<Self> {
        let build = |config: &_| NetworkField::untrained(config, device, &mut RandomSource::new(0));
        let field = config.noising.as_deref().map(build).transpose()?;
        if let Some(field) = &field {
            parameters.adopt(PREFIX, field.parameters());
        }
        Ok(Noising { field })
    }

    /// The field; `None` if training does not need it.
    pub fn field(&self) -> Option<&NetworkField> {
        self.field.as_ref()
    }

    /// Begins with the weights and the statistics of another field of the same architecture.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] naming a tensor of another architecture.
    pub fn begin_as(&mut self, other: &NetworkField) -> Result<()> {
        match &mut self.field {
            Some(field) => field.copy_from(other),
            None => Ok(()),
        }
    }

    /// Statistics of the data, by name. (Weights are among the student's parameters.)
    pub(super) fn named(&self) -> Vec<(String, Tensor)> {
        let named = self.field.iter().flat_map(NetworkField::statistics);
        named.map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)).collect()
    }

    /// Overwrites the statistics with tensors taken by name.
    pub(super) fn restore(&mut self, mut take: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        match &mut self.field {
            Some(field) => field.set_statistics(|name| take(&format!("{PREFIX}{name}"))),
            None => Ok(()),
        }
    }
}

shared!(Noising { field });
