//! The architecture of a U-Net.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor::shape_text;

/// The options of a U-Net like torchcfm's `UNetModel` (after Dhariwal & Nichol, arXiv 2105.05233). Names in brackets
/// are those of torchcfm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Number of channels at full resolution (`num_channels`).
    pub channels: i64,
    /// Number of channels of each level divided by `channels`, from the full resolution to the lowest
    /// (`channel_mult`). Each level has half the resolution of the previous one. If empty, the levels are chosen for
    /// the size of the images.
    pub multipliers: Vec<f64>,
    /// Number of residual blocks of each level in the encoder (`num_res_blocks`). The decoder has one more.
    pub blocks: i64,
    /// Levels with self-attention, as downsampling factors 1, 2, 4, ... (`attention_resolutions` of `UNetModel`). The
    /// middle block always has self-attention.
    pub attention: Vec<i64>,
    /// Number of attention heads (`num_heads`); ignored if `head_channels` is set.
    pub heads: i64,
    /// Number of channels of one head (`num_head_channels`).
    pub head_channels: Option<i64>,
    /// Dropout probability in training, in [0, 1).
    pub dropout: f64,
    /// Maximum number of groups of channels in a group normalisation. The actual number is the largest power of two
    /// up to this maximum that divides the number of channels. torchcfm uses 32. With one channel per group,
    /// normalisation removes any shift by the embedding, so that time and condition have an effect only through
    /// `scale_shift`.
    pub groups: i64,
    /// Whether the embedding scales activations in addition to shifting them (`use_scale_shift_norm`).
    pub scale_shift: bool,
    /// Whether the resolution is changed by residual blocks instead of convolutions (`resblock_updown`).
    pub residual_resampling: bool,
    /// Whether channels are split into q, k and v before they are split into heads (`use_new_attention_order`).
    pub qkv_first: bool,
    /// Factor of the time t in [0, 1] in its sinusoidal embedding, whose frequencies are from 1e-4 to 1. torchcfm
    /// uses 1.
    pub time_scale: f64,
}

impl Default for UNetConfig {
    fn default() -> Self {
        UNetConfig {
            channels: 32,
            multipliers: Vec::new(),
            blocks: 1,
            attention: Vec::new(),
            heads: 1,
            head_channels: None,
            dropout: 0.0,
            groups: 8,
            scale_shift: true,
            residual_resampling: false,
            qkv_first: false,
            time_scale: 100.0,
        }
    }
}

impl UNetConfig {
    /// Fills in `multipliers` if they are empty: (1, 2, 2), or fewer levels if images of `event_shape` cannot be
    /// halved that often with at least four pixels per side left.
    pub fn for_images(mut self, event_shape: &[i64]) -> UNetConfig {
        if self.multipliers.is_empty() {
            let fits = |count: &usize| {
                let factor = 1i64 << (count - 1);
                event_shape.iter().skip(1).all(|side| side % factor == 0 && side / factor >= 4)
            };
            let count = (1..=3).rev().find(fits).unwrap_or(1);
            self.multipliers = [1.0, 2.0, 2.0][..count].to_vec();
        }
        self
    }

    /// Number of channels of a level.
    pub fn level_channels(&self, level: usize) -> i64 {
        (self.multipliers[level] * self.channels as f64) as i64
    }

    pub fn levels(&self) -> usize {
        self.multipliers.len()
    }

    /// Whether the level has attention.
    pub fn attends(&self, level: usize) -> bool {
        self.attention.contains(&(1 << level))
    }

    /// Size of the embedding of time and condition.
    pub fn embedding_size(&self) -> i64 {
        4 * self.channels
    }

    pub fn groups_of(&self, channels: i64) -> i64 {
        1 << channels.trailing_zeros().min(self.groups.ilog2())
    }

    pub fn heads_of(&self, channels: i64) -> i64 {
        self.head_channels.map_or(self.heads, |width| channels / width)
    }

    /// The number of weights, for given numbers of input channels, output channels and condition values.
    pub fn parameter_count(&self, (inputs, outputs): (i64, i64), condition: i64) -> i64 {
        let embedding = self.embedding_size();
        let time = (self.channels + 1 + embedding + 1 + condition) * embedding;
        let convolution = |inputs: i64, outputs: i64, side: i64| inputs * outputs * side * side + outputs;
        let residual = |inputs: i64, outputs: i64| {
            let shifts = if self.scale_shift { 2 * outputs } else { outputs };
            let skip = if inputs == outputs { 0 } else { convolution(inputs, outputs, 1) };
            let convolutions = convolution(inputs, outputs, 3) + convolution(outputs, outputs, 3);
            2 * (inputs + outputs) + convolutions + (embedding + 1) * shifts + skip
        };
        let attention = |channels: i64| channels * 6 + 4 * channels * channels;
        let resampling = |channels: i64| match self.residual_resampling {
            true => residual(channels, channels),
            false => convolution(channels, channels, 3),
        };
        let mut channels = self.level_channels(0);
        let mut total = time + convolution(inputs, channels, 3);
        let mut joined = vec![channels];
        for level in 0..self.levels() {
            let width = self.level_channels(level);
            for _ in 0..self.blocks {
                total += residual(channels, width) + if self.attends(level) { attention(width) } else { 0 };
                channels = width;
                joined.push(width);
            }
            if level + 1 < self.levels() {
                total += resampling(width);
                joined.push(width);
            }
        }
        total += 2 * residual(channels, channels) + attention(channels);
        for level in (0..self.levels()).rev() {
            let width = self.level_channels(level);
            for _ in 0..=self.blocks {
                let skip = joined.pop().unwrap_or(0);
                total += residual(channels + skip, width);
                total += if self.attends(level) { attention(width) } else { 0 };
                channels = width;
            }
            total += if level > 0 { resampling(width) } else { 0 };
        }
        total + 2 * channels + convolution(channels, outputs, 3)
    }

    /// A lower bound of the number of weights of the encoder; the whole network has a small multiple of it. A file
    /// must hold at least this many values before a network is built from its header. The arithmetic saturates.
    pub fn least_weights(&self, inputs: i64, condition: i64) -> i64 {
        let embedding = self.embedding_size();
        let time = (self.channels + embedding).saturating_add(condition).saturating_mul(embedding);
        let levels = (0..self.levels()).map(|level| self.blocks * 9 * self.level_channels(level).pow(2));
        let first = inputs.saturating_mul(9 * self.level_channels(0));
        levels.fold(time.saturating_add(first), i64::saturating_add)
    }

    /// # Errors
    /// [`Error::Argument`] naming the first option out of its range, or the shape that does not fit.
    pub fn check(&self, event_shape: &[i64]) -> Result<()> {
        if event_shape.len() != 3 {
            let got = shape_text(event_shape);
            return Err(Error::argument("event_shape", "(C, H, W) for a U-Net", got));
        }
        if !(1..=1 << 16).contains(&event_shape[0]) {
            let got = shape_text(event_shape);
            return Err(Error::argument("event_shape", "1 to 65536 channels for a U-Net", got));
        }
        let levels = self.levels();
        if !(1..=12).contains(&levels) {
            return Err(Error::argument("multipliers", "1 to 12 levels", levels));
        }
        if !(2..=1 << 14).contains(&self.channels) {
            return Err(Error::argument("channels", "an integer from 2 to 16384", self.channels));
        }
        let channels: Vec<f64> = self.multipliers.iter().map(|m| m * self.channels as f64).collect();
        if channels.iter().any(|&count| !(1.0..=65_536.0).contains(&count)) {
            let got = format!("{:?}", self.multipliers);
            return Err(Error::argument("multipliers", "1 to 65536 channels at every level", got));
        }
        let factor = 1i64 << (levels - 1);
        if event_shape[1..].iter().any(|length| length % factor != 0) {
            let expected = format!("sides that are multiples of {factor} for {levels} levels");
            return Err(Error::argument("event_shape", expected, shape_text(event_shape)));
        }
        if !(1..=64).contains(&self.blocks) {
            return Err(Error::argument("blocks", "an integer from 1 to 64", self.blocks));
        }
        let known = |&rate: &i64| (0..levels).any(|level| rate == 1 << level);
        if let Some(unknown) = self.attention.iter().find(|rate| !known(rate)) {
            let expected = format!("downsampling factors from 1, 2, ... {factor}");
            return Err(Error::argument("attention", expected, unknown));
        }
        if !(1..=1 << 14).contains(&self.groups) {
            return Err(Error::argument("groups", "an integer from 1 to 16384", self.groups));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::argument("dropout", "a number in [0, 1)", self.dropout));
        }
        if !(self.time_scale.is_finite() && self.time_scale > 0.0) {
            return Err(Error::argument("time_scale", "a positive number", self.time_scale));
        }
        let (name, per) = match self.head_channels {
            Some(width) => ("head_channels", width),
            None => ("heads", self.heads),
        };
        let attended = (0..levels).filter(|&level| level == levels - 1 || self.attends(level));
        for level in attended {
            let channels = self.level_channels(level);
            if per < 1 || channels % per != 0 {
                let expected = format!("a divisor of {channels}, the channels of attention at level {level}");
                return Err(Error::argument(name, expected, per));
            }
        }
        Ok(())
    }
}
