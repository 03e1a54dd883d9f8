//! The architecture of a [`super::NetworkField`].

use serde::{Deserialize, Serialize};

use super::{Conditioning, Path, Preconditioning, SourceDescription};
use crate::error::{Error, Result};
use crate::nets::UNetConfig;
use crate::tensor::{event_size, parse_dtype, shape_text};

/// The architecture of a [`super::NetworkField`]. Its weights and data statistics are stored as tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFieldConfig {
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    /// The path that the field was trained on. It determines the scales of input and output.
    pub path: Path,
    /// Number of units in each hidden layer of a perceptron, at least 1.
    pub width: i64,
    /// Number of hidden layers of a perceptron, 1 to 100.
    pub depth: i64,
    /// Number of frequencies in the time embedding of a perceptron, 0 to 16.
    pub frequencies: i64,
    /// Architecture of the U-Net that is used instead of a perceptron.
    #[serde(default)]
    pub unet: Option<UNetConfig>,
    /// Whether input and output are scaled by the data's statistics. False for networks from outside koopflow, which
    /// return v(t, x) itself.
    #[serde(default = "scaled_by_default")]
    pub scaled: bool,
    /// Whether the field was trained on curves through snapshots. A state is then not a mixture of noise and data.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub curves: bool,
    /// Whether the network also has the growth rate of mass as an output; only for perceptrons.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub growth: bool,
    /// Description of the source that the flow starts from, without its tensors.
    #[serde(default, skip_serializing_if = "SourceDescription::is_normal")]
    pub source: SourceDescription,
    /// Whether a state is a position stacked on its velocity. The rate of the position is then that velocity, and the
    /// network learns only the rate of the velocity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub phase: bool,
    /// What the network learns.
    #[serde(default, skip_serializing_if = "Preconditioning::is_scaled")]
    pub preconditioning: Preconditioning,
    /// Number of values that the network is told of an augmentation in training. Files do not have this map, and a
    /// finished field is without it.
    #[serde(skip)]
    pub augmented: i64,
    /// Dtype of the weights: `"float32"` or `"float64"`.
    pub dtype: String,
}

fn scaled_by_default() -> bool {
    true
}

impl Default for NetworkFieldConfig {
    fn default() -> Self {
        NetworkFieldConfig {
            event_shape: vec![2],
            conditioning: Conditioning::None,
            path: Path::Linear,
            width: 128,
            depth: 3,
            frequencies: 3,
            unet: None,
            scaled: true,
            curves: false,
            growth: false,
            source: SourceDescription::Normal,
            phase: false,
            preconditioning: Preconditioning::Scaled,
            augmented: 0,
            dtype: "float32".into(),
        }
    }
}

impl NetworkFieldConfig {
    /// # Errors
    /// [`Error::Argument`] or [`Error::Dtype`] naming the first option out of its range.
    pub fn check(&self) -> Result<()> {
        if self.event_shape.is_empty() || self.event_shape.iter().any(|&length| length < 1) {
            let got = shape_text(&self.event_shape);
            return Err(Error::argument("event_shape", "positive lengths", got));
        }
        let condition = self.conditioning.size();
        if self.width < 1 {
            return Err(Error::argument("width", "an integer of at least 1", self.width));
        }
        if !(1..=100).contains(&self.depth) {
            return Err(Error::argument("depth", "an integer from 1 to 100", self.depth));
        }
        if self.conditioning != Conditioning::None && !(1..=1 << 24).contains(&condition) {
            return Err(Error::argument("conditioning", "1 to 2^24 classes or dimensions", condition));
        }
        let size = self.event_shape.iter().try_fold(1i64, |size, &length| size.checked_mul(length));
        if size.is_none_or(|size| size > 1 << 40) {
            let got = shape_text(&self.event_shape);
            return Err(Error::argument("event_shape", "at most 2^40 values", got));
        }
        if !(0..=16).contains(&self.frequencies) {
            return Err(Error::argument("frequencies", "an integer from 0 to 16", self.frequencies));
        }
        if self.growth && (self.unet.is_some() || !self.scaled) {
            return Err(Error::argument("growth", "no growth for a U-Net or an unscaled network", "growth"));
        }
        if let Some(unet) = &self.unet {
            unet.check(&self.event_shape)?;
        }
        if self.phase && (self.event_shape[0] != 2 || !self.scaled || self.unet.is_some()) {
            let expected = "(2, *event) of position and velocity, for a scaled perceptron";
            return Err(Error::shape("event_shape", expected, shape_text(&self.event_shape)));
        }
        // The prediction holds for mixtures of source and data.
        if !self.preconditioning.is_scaled() && (self.phase || self.curves || self.growth || !self.scaled) {
            let expected = "'scaled' for snapshots, phase space and networks from outside";
            return Err(Error::argument("preconditioning", expected, "'edm'"));
        }
        if self.parameter_count().is_none() {
            let names = if self.unet.is_some() { "channels, multipliers" } else { "width, depth" };
            return Err(Error::argument(names, "fewer than 2^40 weights", "more"));
        }
        parse_dtype(&self.dtype).map(|_| ())
    }

    /// Number of inputs of a perceptron: sample, embedded time and condition.
    pub(super) fn inputs(&self) -> i64 {
        event_size(&self.event_shape) + 1 + 2 * self.frequencies + self.conditioning.size()
    }

    /// Number of outputs of a perceptron: velocity and, optionally, growth rate.
    pub(super) fn outputs(&self) -> i64 {
        event_size(&self.event_shape) + i64::from(self.growth)
    }

    /// The number of weights, or `None` above 2^40. It is checked before memory is allocated for a file's description.
    pub(crate) fn parameter_count(&self) -> Option<i64> {
        let limit = |value: i64| (value <= 1 << 40).then_some(value);
        if let Some(unet) = &self.unet {
            let channels = self.event_shape[0];
            return limit(unet.parameter_count((channels, channels), self.conditioning.size()));
        }
        let size =
            self.event_shape.iter().try_fold(1_i64, |size, &length| limit(size.checked_mul(length)?))?;
        let inputs =
            limit(size.checked_add(1 + 2 * self.frequencies)?.checked_add(self.conditioning.size())?)?;
        let outputs = size + i64::from(self.growth);
        let first = self.width.checked_mul(inputs + 1)?;
        let hidden = self.width.checked_mul(self.width.checked_add(1)?)?.checked_mul(self.depth - 1)?;
        let last = outputs.checked_mul(self.width.checked_add(1)?)?;
        let skip = outputs.checked_mul(inputs)?;
        limit(first.checked_add(hidden)?.checked_add(last)?.checked_add(skip)?)
    }
}
