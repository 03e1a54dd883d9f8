//! The options of teacher training.

use serde::{Deserialize, Serialize};

use super::{Objective, Path, TimeSampler};
use crate::data::{Coupling, AUGMENTATION_NUMBERS};
use crate::error::{Error, Result};
use crate::nets::UNetConfig;
use crate::tensor::event_size;
pub use crate::training::Optimizer;
use crate::training::{json_options, TrainingOptions};
use crate::velocity::{Conditioning, NetworkFieldConfig, Preconditioning};

const BATCH_SIZE: i64 = 256;

/// The options of [`crate::flow::train`]; in JSON, the keyword arguments of Python's `FlowTeacher`.
/// Options left `None` are chosen by the dimension of the data ([`TeacherConfig::resolve`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct TeacherConfig {
    pub coupling: Coupling,
    pub path: Path,
    pub objective: Objective,
    pub time_sampler: TimeSampler,
    /// The kind of condition that is given with the data.
    pub conditioning: Conditioning,
    /// Share of labels that are hidden in training, in [0, 1). The teacher then also learns the velocity
    /// without a class, which classifier-free guidance needs.
    pub label_dropout: f64,
    /// Number of units of each hidden layer, at least 1.
    pub width: Option<i64>,
    /// Number of hidden layers, 1 to 100.
    pub depth: Option<i64>,
    /// Options of a U-Net for images; `None` is a perceptron.
    pub unet: Option<UNetConfig>,
    /// What the network learns.
    pub preconditioning: Preconditioning,
    /// Largest number of pairs in one optimal-transport assignment, at least 1. Larger batches are cut into
    /// parts, because an assignment costs up to the cube of its size.
    pub coupling_size: usize,
    /// Whether each row of a batch is mirrored left to right with probability one half. Only for images
    /// `[channels, height, width]`.
    pub flip: bool,
    /// Probability of each change of a training image that the network is told of ([`crate::data::Augmentation`]), in
    /// [0, 1]. Only for U-Nets.
    pub augment: f64,
    /// Whether data far from mean 0 and deviation 1 are learnt in standard coordinates ([`crate::velocity::Units`]).
    pub standardise: bool,
    /// Number of steps that one entry of the history averages over, at least 1.
    pub log_every: u64,
    /// Shared options. A batch has 1 to 65,536 pairs, 256 by default. The learning rate falls to zero along a
    /// cosine. Training returns the averaged weights, or the latest ones without averaging.
    #[serde(flatten)]
    pub training: TrainingOptions,
}

json_options!(TeacherConfig);

impl Default for TeacherConfig {
    fn default() -> Self {
        TeacherConfig {
            coupling: Coupling::Ot,
            path: Path::Linear,
            objective: Objective::FlowMatching,
            time_sampler: TimeSampler::Uniform,
            conditioning: Conditioning::None,
            label_dropout: 0.0,
            width: None,
            depth: None,
            unet: None,
            preconditioning: Preconditioning::Scaled,
            // In two dimensions assignments are the slowest part, and one of 256 pairs takes as long as eight
            // of 128.
            coupling_size: 128,
            flip: false,
            augment: 0.0,
            standardise: true,
            log_every: 50,
            training: TrainingOptions { batch_size: Some(BATCH_SIZE), ..TrainingOptions::default() },
        }
    }
}

impl TeacherConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// An error that names the first option out of range.
    pub fn check(&self) -> Result<()> {
        self.training.check(1..=65_536)?;
        if self.coupling_size == 0 {
            return Err(Error::argument("coupling_size", "at least 1", 0));
        }
        if !(0.0..1.0).contains(&self.label_dropout) {
            return Err(Error::argument("label_dropout", "0 to below 1", self.label_dropout));
        }
        if self.label_dropout > 0.0 && !matches!(self.conditioning, Conditioning::Labels { .. }) {
            return Err(Error::argument("label_dropout", "0 without class labels", self.label_dropout));
        }
        if !(0.0..=1.0).contains(&self.augment) {
            return Err(Error::argument("augment", "0 to 1", self.augment));
        }
        if self.augment > 0.0 && self.unet.is_none() {
            return Err(Error::argument("augment", "0 without a U-Net", self.augment));
        }
        if self.augment > 0.0 && self.coupling == Coupling::Given {
            return Err(Error::argument("augment", "0 for given pairs", self.augment));
        }
        self.objective.check(self.path)?;
        self.time_sampler.check()?;
        if self.log_every == 0 {
            return Err(Error::argument("log_every", "at least 1", 0));
        }
        // A U-Net is checked later, when the shape of the data is known.
        NetworkFieldConfig { unet: None, augmented: 0, ..self.network(&[2]) }.check()
    }

    /// This configuration with every default filled in for samples of `event_shape`. The defaults were
    /// measured in 2 and 64 dimensions; beyond 256 they are a guess.
    pub fn resolve(&self, event_shape: &[i64]) -> TeacherConfig {
        // On digits 6000 steps overfit: the held-out loss was .258, and .233 after 3000 steps.
        let (width, learning_rate, steps) = match event_size(event_shape) {
            _ if self.unet.is_some() => (512, 1e-3, 10_000),
            ..=8 => (128, 5e-3, 6000),
            9..=256 => (256, 5e-3, 3000),
            _ => (512, 2e-3, 6000),
        };
        // Consistency is learnt near the data first and has to spread to the noise. On the moons W2 was .267
        // after 6000 steps and .241 after 12,000.
        let steps = if matches!(self.objective, Objective::Consistency(_)) { 2 * steps } else { steps };
        TeacherConfig {
            width: self.width.or(Some(width)),
            depth: self.depth.or(Some(3)),
            training: TrainingOptions {
                steps: self.training.steps.or(Some(steps)),
                batch_size: self.training.batch_size.or(Some(BATCH_SIZE)),
                learning_rate: self.training.learning_rate.or(Some(learning_rate)),
                ..self.training.clone()
            },
            ..self.clone()
        }
    }

    /// The options of the network, for samples of `event_shape`.
    pub fn network(&self, event_shape: &[i64]) -> NetworkFieldConfig {
        let resolved = self.resolve(event_shape);
        let defaults = NetworkFieldConfig::default();
        NetworkFieldConfig {
            event_shape: event_shape.to_vec(),
            conditioning: self.conditioning,
            path: self.path,
            width: resolved.width.unwrap_or(defaults.width),
            depth: resolved.depth.unwrap_or(defaults.depth),
            unet: self.unet.clone().map(|unet| unet.for_images(event_shape)),
            preconditioning: self.preconditioning,
            augmented: if self.augment > 0.0 { AUGMENTATION_NUMBERS } else { 0 },
            phase: self.objective == Objective::Acceleration,
            dtype: self.training.dtype.clone(),
            ..defaults
        }
    }
}
