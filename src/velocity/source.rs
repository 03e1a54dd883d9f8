//! What a flow starts from at time 0: standard normal noise, unless it leads from one set of data to another.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::store::{build, own_state};
use super::{FieldDescription, FieldState, VelocityField};
use crate::error::{Error, Result};
use crate::tensor::{check_batch, Share};

/// A law to start from. Draws and densities are [`crate::ode::draw`] and [`crate::ode::log_density`], for some of them
/// are flows themselves.
#[derive(Default)]
pub enum Source {
    /// N(0, I).
    #[default]
    Normal,
    /// Each row of a set `[N, *event]` as often as any other, with normal noise of deviation `noise` added to it.
    Rows { rows: Tensor, noise: f64 },
    /// Where another flow ends.
    Flow(Box<dyn VelocityField>),
    /// Somebody's own sampler, which no file holds.
    Sampler(Arc<dyn Sampler>),
    /// A sampler that a file could not hold: nothing can be drawn from it.
    Lost,
}

/// Somebody's own law.
pub trait Sampler: Send + Sync {
    /// `count` samples `[count, *event]`, the same for the same seed, under the condition of each, if there is one.
    ///
    /// # Errors
    /// Whatever the sampler fails on.
    fn draw(&self, count: i64, seed: u64, condition: Option<&Tensor>) -> Result<Tensor>;

    /// Log-density in nats `[B]` of `x` `[B, *event]`; `None` where it is not known.
    ///
    /// # Errors
    /// Whatever the density fails on.
    fn log_density(&self, x: &Tensor) -> Result<Option<Tensor>>;
}

/// A source without its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum SourceDescription {
    #[default]
    Normal,
    Rows {
        /// Files without it are of rows as they are.
        #[serde(default, skip_serializing_if = "is_none")]
        noise: f64,
    },
    Flow {
        model: Box<FieldDescription>,
    },
    Sampler,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde asks.
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
    /// Rows `[N, *event]` to draw from.
    ///
    /// # Errors
    /// Names `source` where they do not fit or are not finite.
    pub fn rows(rows: &Tensor, event_shape: &[i64]) -> Result<Source> {
        check_batch("source", rows, event_shape)?;
        Ok(Source::Rows { rows: rows.detach().copy(), noise: 0.0 })
    }

    /// These rows with normal noise of deviation `noise` in place of what noise they have.
    ///
    /// # Errors
    /// Names `source_noise` unless it is finite and not negative, and where there is any for a source without rows.
    pub fn with_noise(self, noise: f64) -> Result<Source> {
        if !(noise >= 0.0 && noise.is_finite()) {
            return Err(Error::argument("source_noise", "a finite number that is not negative", noise));
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

    /// Deviation of the noise on rows; 0 for every other source.
    pub fn noise(&self) -> f64 {
        match self {
            Source::Rows { noise, .. } => *noise,
            _ => 0.0,
        }
    }

    /// The end of another flow.
    ///
    /// # Errors
    /// Names `source` where its samples have another shape.
    pub fn flow(field: Box<dyn VelocityField>, event_shape: &[i64]) -> Result<Source> {
        if field.event_shape() != event_shape {
            let [expected, got] = [event_shape, field.event_shape()].map(crate::tensor::shape_text);
            return Err(Error::shape("source", format!("samples of shape {expected}"), got));
        }
        Ok(Source::Flow(field))
    }

    pub fn is_normal(&self) -> bool {
        matches!(self, Source::Normal)
    }

    /// What it is called in messages and files.
    pub fn name(&self) -> &'static str {
        match self {
            Source::Normal => "normal",
            Source::Rows { .. } => "rows",
            Source::Flow(_) => "flow",
            Source::Sampler(_) | Source::Lost => "sampler",
        }
    }

    /// What a file holds of it.
    ///
    /// # Errors
    /// [`Error::Teacher`] for a flow that cannot be kept in a file.
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

    /// The source that [`Source::state`] described, of named tensors that `take` hands over.
    ///
    /// # Errors
    /// As [`Source::rows`] and for a flow's own tensors.
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

    /// Whether a tensor of a file is a source's.
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

/// What a file holds of a field from which nothing will be drawn: its source is [`Source::Lost`].
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
