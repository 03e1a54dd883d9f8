//! Storage of forecasters in files.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::basis::polynomial_count;
use super::model::{Coordinates, Facts, NextState, Sizes};
use super::{Basis, BasisKind, Evolution, Forecaster, ForecasterConfig};
use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::store::{Stored, Tensors};
use crate::tensor::{check_finite, shape_text, RandomSource};

/// A forecaster without its tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecasterDescription {
    pub config: ForecasterConfig,
    pub sizes: Sizes,
    pub facts: Facts,
}

impl Sizes {
    fn check(&self) -> Result<()> {
        let counts = [
            self.components.unwrap_or(1),
            self.history,
            self.inputs + 1,
            self.conditions + 1,
            self.psi + 1,
            self.rank.unwrap_or(1),
        ];
        let sane = |size: &i64| (1..=1 << 24).contains(size);
        if counts.iter().chain(&self.event_shape).all(sane) && !self.event_shape.is_empty() {
            return Ok(());
        }
        Err(Error::argument("sizes", "positive sizes", format!("{self:?}")))
    }
}

impl Stored for Forecaster {
    const KIND: &'static str = "forecaster";
    type Description = ForecasterDescription;

    fn description(&self) -> Result<ForecasterDescription> {
        Ok(ForecasterDescription {
            config: self.config.clone(),
            sizes: self.sizes.clone(),
            facts: self.facts.clone(),
        })
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let own = &self.evolution;
        let given = [
            ("coordinates", Some(&self.coordinates.table)),
            ("rows", Some(&self.coordinates.rows)),
            ("frame", self.coordinates.frame.as_ref()),
            ("centre", self.coordinates.centre.as_ref()),
            ("transition", Some(&own.transition)),
            ("finer.columns", own.finer.as_ref().map(|finer| &finer.columns)),
            ("finer.drive", own.finer.as_ref().and_then(|finer| finer.drive.as_ref())),
            ("finer.covariance", own.finer.as_ref().map(|finer| &finer.covariance)),
            ("generator", own.generator.as_ref()),
            ("drive", own.drive.as_ref()),
            ("readout", Some(&own.readout)),
            ("covariance", Some(&own.covariance)),
            ("gain", Some(&own.gain)),
            ("mean", Some(&own.mean)),
            ("spread", Some(&own.spread)),
            ("projection", own.projection.as_ref()),
        ];
        let kept = given.into_iter().filter_map(|(name, tensor)| Some((name.to_string(), tensor?.detach())));
        Ok(self.parameters.named().into_iter().chain(kept).collect())
    }

    fn rebuild(description: ForecasterDescription, tensors: &mut Tensors, device: Device) -> Result<Self> {
        let ForecasterDescription { config, sizes, facts } = description;
        config.check()?;
        sizes.check()?;
        if !(facts.step.is_finite() && facts.step > 0.0 && facts.noise.is_finite() && facts.noise >= 0.0) {
            return Err(Error::argument(
                "facts",
                "a positive step and noise of at least 0",
                format!("{facts:?}"),
            ));
        }
        let (m, d) = (sizes.observables(), sizes.dimension());
        let of_basis = match config.basis {
            BasisKind::Fourier => sizes.psi.saturating_mul(sizes.basis_inputs()),
            BasisKind::Kernel => sizes.psi.saturating_mul(sizes.psi),
            BasisKind::Polynomial => 0,
            BasisKind::Network => {
                let hidden = config.width.saturating_mul(config.width);
                sizes.psi.saturating_add(hidden.saturating_mul((config.depth - 1).max(0)))
            }
        };
        tensors.check_budget(&[m.saturating_mul(m), m.saturating_mul(d), d.saturating_mul(4), of_basis])?;
        if config.basis == BasisKind::Polynomial && sizes.psi > 0 {
            polynomial_count(sizes.basis_inputs(), config.degree, sizes.psi)?;
        }
        let mut parameters = Parameters::new(Kind::Double, device);
        let mut random = RandomSource::new(0);
        let basis = Basis::new(&config, sizes.basis_inputs(), sizes.psi, &mut parameters, &mut random)?;
        parameters.pack();
        parameters.restore(|name| tensors.take(name, Kind::Double))?;
        let finer = tensors.get("finer.columns").is_some();
        let mut take = |name: &str, shape: &[i64]| -> Result<Tensor> {
            let tensor = tensors.take(name, Kind::Double)?;
            if tensor.size() != shape {
                return Err(Error::shape(name, shape_text(shape), shape_text(&tensor.size())));
            }
            check_finite(name, &tensor)?;
            Ok(tensor.to_device(device))
        };
        let size = sizes.event_size();
        let along = sizes.components.is_some();
        let coordinates = Coordinates {
            table: take("coordinates", &[4, d])?,
            rows: take("rows", &[2, size])?,
            frame: along.then(|| take("frame", &[size, d])).transpose()?,
            centre: along.then(|| take("centre", &[size])).transpose()?,
        };
        let driven = sizes.inputs > 0;
        let evolution = Evolution {
            transition: take("transition", &[m, m])?,
            finer: match finer {
                true => Some(NextState {
                    columns: take("finer.columns", &[m, d])?,
                    drive: driven.then(|| take("finer.drive", &[sizes.inputs, d])).transpose()?,
                    covariance: take("finer.covariance", &[d, d])?,
                }),
                false => None,
            },
            readout: take("readout", &[m, d])?,
            covariance: take("covariance", &[m, m])?,
            gain: take("gain", &[d, d])?,
            mean: take("mean", &[m])?,
            spread: take("spread", &[m, m])?,
            drive: driven.then(|| take("drive", &[sizes.inputs, m])).transpose()?,
            projection: sizes.rank.map(|_| take("projection", &[sizes.all(), m])).transpose()?,
            generator: None,
        };
        let generator = match tensors.get("generator") {
            Some(_) => Some(tensors.take("generator", Kind::Double)?.to_device(device)),
            None if facts.continuous => return Err(Error::argument("generator", "a generator", "none")),
            None => None,
        };
        if let Some(generator) = &generator {
            if generator.size() != [m, m] {
                return Err(Error::shape("generator", shape_text(&[m, m]), shape_text(&generator.size())));
            }
            check_finite("generator", generator)?;
        }
        let evolution = Evolution { generator, ..evolution };
        Ok(Forecaster { config, sizes, parameters, basis, coordinates, evolution, facts })
    }
}
