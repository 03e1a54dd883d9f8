//! The source of a flow, which is its distribution at time 0: standard normal noise, unless the flow leads from one
//! set of data to another.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::store::{build, own_state};
use super::{FieldDescription, FieldState, VelocityField};
use crate::error::{Error, Result};
use crate::tensor::{check_batch, Share};

/// A distribution that a flow starts from. It is sampled by [`crate::ode::draw`], and [`crate::ode::log_density`]
/// gives its density. They are in `ode` because a source may itself be a flow.
#[derive(Default)]
pub enum Source {
    /// The standard normal distribution N(0, I).
    #[default]
    Normal,
    /// The uniform distribution over rows `[N, *event]`, plus normal noise of standard deviation `noise`.
    Rows { rows: Tensor, noise: f64 },
    /// The end of another flow.
    Flow(Box<dyn VelocityField>),
    /// A sampler of the user, which files do not store.
    Sampler(Arc<dyn Sampler>),
    /// A sampler that was not stored in the file. It cannot be sampled.
    Lost,
}

/// A distribution implemented by the user.
pub trait Sampler: Send + Sync {
    /// Draws `count` samples `[count, *event]`, given the condition of each sample if there is one. The same seed
    /// gives the same samples.
    ///
    /// # Errors
    /// Errors of the sampler.
    fn draw(&self, count: i64, seed: u64, condition: Option<&Tensor>) -> Result<Tensor>;

    /// Log-density in nats `[B]` of `x` `[B, *event]`; `None` if it is not known.
    ///
    /// # Errors
    /// Errors of the density.
    fn log_density(&self, x: &Tensor) -> Result<Option<Tensor>>;
}

/// A source without its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum SourceDescription {
    #[default]
    Normal,
    Rows {
        /// Standard deviation of the noise; 0 if a file does not contain it.
        #[serde(default, skip_serializing_if = "is_none")]
        noise: f64,
    },
    Flow {
        model: Box<FieldDescription>,
    },
    Sampler,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde requires a reference.
fn is_none(noise: &f64) -> bool {
    *noise == 0.0
}

impl SourceDescription {
    pub fn is_normal(&self) -> bool {
        *self == SourceDescription::Normal
    }
}

/// Names of the tensors in a file.
const ROWS: &str = "source.rows";
const MODEL: &str = "source.model.";

impl Source {
    /// A source that draws from rows `[N, *event]`.
    ///
    /// # Errors
    /// Errors naming `source` if the rows do not have this shape or are not finite.
    pub fn rows(rows: &Tensor, event_shape: &[i64]) -> Result<Source> {
        check_batch("source", rows, event_shape)?;
        Ok(Source::Rows { rows: rows.detach().copy(), noise: 0.0 })
    }

    /// The same rows with normal noise of standard deviation `noise`, which replaces their previous noise.
    ///
    /// # Errors
    /// Errors naming `source_noise` unless it is finite and not negative, and if it is above 0 for a source without
    /// rows.
    pub fn with_noise(self, noise: f64) -> Result<Source> {
        if !(noise >= 0.0 && noise.is_finite()) {
            return Err(Error::argument("source_noise", "a finite number of at least 0", noise));
        }
        match self {
            Source::Rows { rows, .. } => Ok(Source::Rows { rows, noise }),
            other if noise == 0.0 => Ok(other),
            other => {
                let got = format!("{noise} with a source of kind '{}'", other.name());
                Err(Error::argument("source_noise", "0 for a source that is not an array of rows", got))
            }
        }
    }

    /// Standard deviation of the noise on rows; 0 for every other source.
    pub fn noise(&self) -> f64 {
        match self {
            Source::Rows { noise, .. } => *noise,
            _ => 0.0,
        }
    }

    /// The end of another flow as a source.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `source` if its samples have another shape.
    pub fn flow(field: Box<dyn VelocityField>, event_shape: &[i64]) -> Result<Source> {
        if field.event_shape() != event_shape {
            let [expected, got] = [event_shape, field.event_shape()].map(crate::tensor::shape_text);
            return Err(Error::shape("source", expected, got));
        }
        Ok(Source::Flow(field))
    }

    pub fn is_normal(&self) -> bool {
        matches!(self, Source::Normal)
    }

    /// The name of the kind of source in messages and files.
    pub fn name(&self) -> &'static str {
        match self {
            Source::Normal => "normal",
            Source::Rows { .. } => "rows",
            Source::Flow(_) => "flow",
            Source::Sampler(_) | Source::Lost => "sampler",
        }
    }

    /// The description and tensors that a file stores.
    ///
    /// # Errors
    /// [`Error::Teacher`] for a flow that cannot be stored in a file.
    pub fn state(&self) -> Result<(SourceDescription, Vec<(String, Tensor)>)> {
        Ok(match self {
            Source::Normal => (SourceDescription::Normal, Vec::new()),
            Source::Rows { rows, noise } => {
                (SourceDescription::Rows { noise: *noise }, vec![(ROWS.into(), rows.shallow_clone())])
            }
            Source::Flow(field) => {
                let state = own_state(&**field)?;
                let named =
                    state.tensors.into_iter().map(|(name, tensor)| (format!("{MODEL}{name}"), tensor));
                (SourceDescription::Flow { model: Box::new(state.description) }, named.collect())
            }
            Source::Sampler(_) | Source::Lost => (SourceDescription::Sampler, Vec::new()),
        })
    }

    /// Rebuilds the source that [`Source::state`] described, from the named tensors of a file.
    ///
    /// # Errors
    /// The errors of [`Source::rows`], and those of rebuilding a flow.
    pub fn from_state(
        description: &SourceDescription,
        tensors: &[(String, Tensor)],
        event_shape: &[i64],
        device: tch::Device,
    ) -> Result<Source> {
        Ok(match description {
            SourceDescription::Normal => Source::Normal,
            SourceDescription::Rows { noise } => {
                let rows = super::gaussian::find_tensor(tensors, ROWS)?;
                Source::rows(&rows.to_device(device), event_shape)?.with_noise(*noise)?
            }
            SourceDescription::Flow { model } => {
                let own = |(name, tensor): &(String, Tensor)| {
                    Some((name.strip_prefix(MODEL)?.to_string(), tensor.shallow_clone()))
                };
                let tensors: Vec<_> = tensors.iter().filter_map(own).collect();
                Source::flow(build(model, &tensors, device)?, event_shape)?
            }
            SourceDescription::Sampler => Source::Lost,
        })
    }

    /// Whether a tensor of this name in a file belongs to a source.
    pub fn owns(name: &str) -> bool {
        name == ROWS || name.starts_with(MODEL)
    }
}

impl Share for Source {
    fn shallow_clone(&self) -> Self {
        match self {
            Source::Normal => Source::Normal,
            Source::Rows { rows, noise } => Source::Rows { rows: rows.shallow_clone(), noise: *noise },
            Source::Flow(field) => Source::Flow(field.shallow_clone()),
            Source::Sampler(sampler) => Source::Sampler(Arc::clone(sampler)),
            Source::Lost => Source::Lost,
        }
    }
}

/// The state of a field without its source, for a field that is never sampled on its own. A source other than noise
/// becomes [`Source::Lost`].
pub(super) fn without_source(FieldState { description, mut tensors }: FieldState) -> FieldState {
    let of_source = |name: &str| name.starts_with(MODEL) || name.contains(&format!(".{MODEL}"));
    let rows = |name: &str| name == ROWS || name.ends_with(&format!(".{ROWS}"));
    tensors.retain(|(name, _)| !of_source(name) && !rows(name));
    FieldState { description: forgotten(description), tensors }
}

fn forgotten(description: FieldDescription) -> FieldDescription {
    match description {
        FieldDescription::Network(mut config) => {
            if !config.source.is_normal() {
                config.source = SourceDescription::Sampler;
            }
            FieldDescription::Network(config)
        }
        FieldDescription::Guided { scale, model } => {
            FieldDescription::Guided { scale, model: Box::new(forgotten(*model)) }
        }
        FieldDescription::Sourced { model, .. } => {
            FieldDescription::Sourced { source: SourceDescription::Sampler, model }
        }
        FieldDescription::Window { from, to, model } => {
            FieldDescription::Window { from, to, model: Box::new(forgotten(*model)) }
        }
        FieldDescription::Reversed { model } => {
            FieldDescription::Reversed { model: Box::new(forgotten(*model)) }
        }
        FieldDescription::Chain { breaks, mut models } => {
            if let Some(first) = models.first_mut() {
                *first = forgotten(first.clone());
            }
            FieldDescription::Chain { breaks, models }
        }
        closed @ (FieldDescription::Gaussian { .. } | FieldDescription::Empirical { .. }) => closed,
    }
}
