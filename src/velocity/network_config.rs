//! The shape of a [`super::NetworkField`].

use serde::{Deserialize, Serialize};

use super::{Conditioning, Path, SourceDescription};
use crate::error::{Error, Result};
use crate::nets::UNetConfig;
use crate::tensor::{event_size, parse_dtype, shape_text};

/// The shape of a [`super::NetworkField`]; its weights and data statistics are tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFieldConfig {
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    /// The path that the field was trained on: it sets the scales of input and output.
    pub path: Path,
    /// Units of each hidden layer of a perceptron, at least 1.
    pub width: i64,
    /// Hidden layers of a perceptron, 1 to 100.
    pub depth: i64,
    /// Frequencies of a perceptron's time embedding, 0 to 16.
    pub frequencies: i64,
    /// A U-Net takes the perceptron's place.
    #[serde(default)]
    pub unet: Option<UNetConfig>,
    /// Whether input and output are scaled by the data's statistics. Networks from elsewhere are not: they answer
    /// v(t, x) itself.
    #[serde(default = "scaled_by_default")]
    pub scaled: bool,
    /// Whether it was trained on curves through snapshots: no pair of noise and data is then behind a state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub curves: bool,
    /// Whether it also answers the rate at which mass grows: perceptrons only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub growth: bool,
    /// What the flow starts from, without its tensors.
    #[serde(default, skip_serializing_if = "SourceDescription::is_normal")]
    pub source: SourceDescription,
    /// Whether a state is a position and its velocity, stacked: the position's rate is then the velocity itself, and
    /// only the velocity's is the network's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub phase: bool,
    /// `"float32"` or `"float64"`.
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
            return Err(Error::argument("width", "at least 1", self.width));
        }
        if !(1..=100).contains(&self.depth) {
            return Err(Error::argument("depth", "1 to 100", self.depth));
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
            return Err(Error::argument("frequencies", "0 to 16", self.frequencies));
        }
        if self.growth && (self.unet.is_some() || !self.scaled) {
            return Err(Error::argument("growth", "none for a U-Net or a network from elsewhere", "some"));
        }
        if let Some(unet) = &self.unet {
            unet.check(&self.event_shape)?;
        }
        if self.phase && (self.event_shape[0] != 2 || !self.scaled || self.unet.is_some()) {
            let expected = "(2, *event), position and velocity, for a perceptron";
            return Err(Error::shape("event_shape", expected, shape_text(&self.event_shape)));
        }
        if self.parameter_count().is_none() {
            let names = if self.unet.is_some() { "channels, multipliers" } else { "width, depth" };
            return Err(Error::argument(names, "fewer than 2^40 weights", "more"));
        }
        parse_dtype(&self.dtype).map(|_| ())
    }

    /// Numbers that a perceptron takes: sample, embedded time and condition.
    pub(super) fn inputs(&self) -> i64 {
        event_size(&self.event_shape) + 1 + 2 * self.frequencies + self.conditioning.size()
    }

    /// Numbers that a perceptron answers: velocity, and the rate of growth.
    pub(super) fn outputs(&self) -> i64 {
        event_size(&self.event_shape) + i64::from(self.growth)
    }

    /// The number of weights, or `None` beyond 2^40: asked before memory is taken for what a file says.
    pub(super) fn parameter_count(&self) -> Option<i64> {
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
