//! A distilled baseline, with everything needed to rebuild it.

use tch::{Device, Kind, Tensor};

use super::{BaselineModel, Networks, Space};
use crate::error::{Error, Result};
use crate::monitor::EvaluationCounter;
use crate::nets::InputCoordinates;
use crate::nets::Parameters;
use crate::tensor::{parse_dtype, shared, RandomSource};
use crate::velocity::Units;

/// Like a student, a baseline learns in standard coordinates. `units` maps them to the data's coordinates, if
/// those differ.
pub struct Baseline {
    model: BaselineModel,
    pub(super) units: Option<Units>,
    parameters: Parameters,
    pub(super) space: Space,
    pub(super) networks: Networks,
    pub(super) counter: EvaluationCounter,
}

impl Baseline {
    /// An untrained baseline, whose input coordinates are the identity.
    ///
    /// # Errors
    /// An error that names the option of `model` that is out of range.
    pub fn new(model: BaselineModel, seed: u64, device: Device) -> Result<Self> {
        model.validate()?;
        let kind = parse_dtype(&model.dtype)?;
        let mut parameters = Parameters::new(kind, device);
        let mut random = RandomSource::new(seed).fork("baseline weights");
        let networks = Networks::new(&model, &mut parameters, &mut random)?;
        parameters.pack();
        let space = Space::identity(model.dimension(), model.table_times, kind, device);
        let units = match model.units {
            Some(path) => Some(Units::new(path, &Tensor::f_zeros(model.dimension(), (kind, device))?, 1.0)?),
            None => None,
        };
        Ok(Baseline { model, units, parameters, space, networks, counter: EvaluationCounter::default() })
    }

    pub fn model(&self) -> &BaselineModel {
        &self.model
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    pub fn kind(&self) -> Kind {
        self.parameters.kind()
    }

    /// Number of batched evaluations of the map so far (NFE). Clones share the count.
    pub fn evaluations(&self) -> u64 {
        self.counter.get()
    }

    /// Replaces the input statistics, before training.
    pub fn set_coordinates(&mut self, coordinates: InputCoordinates) {
        self.space.coordinates = coordinates;
    }

    /// Sets the map from standard coordinates to the data's coordinates, before training.
    pub fn set_units(&mut self, units: &Units) {
        self.model.units = Some(units.path());
        self.units = Some(units.to(self.kind(), self.device()));
    }

    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The operator K of a KDM, `[m, m]`, float64: latents of data are latents of noise times K.
    ///
    /// # Errors
    /// [`Error::Argument`] if the method is not a KDM.
    pub fn operator(&self) -> Result<Tensor> {
        match &self.networks {
            Networks::Kdm(networks) => Ok(networks.operator().detach().to_kind(Kind::Double)),
            _ => {
                let got = format!("{:?}", self.model.method);
                Err(Error::argument("method", "a method with an operator (Kdm)", got))
            }
        }
    }

    /// Parameters and input statistics, by name.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.parameters.named();
        tensors.extend(self.space.coordinates.named());
        tensors.extend(self.units.iter().flat_map(Units::named));
        tensors
    }

    /// Overwrites parameters and input statistics with tensors taken by name.
    pub fn restore(&mut self, mut take: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        self.parameters.restore(&mut take)?;
        if let Some(path) = self.model.units {
            let (kind, device) = (self.kind(), self.device());
            self.units = Some(Units::stored(path, self.model.dimension(), &mut take)?.to(kind, device));
        }
        self.space.coordinates.restore(&mut take)
    }
}

shared!(Baseline { units, parameters, space, networks; model, counter });
