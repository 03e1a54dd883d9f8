//! Options of a distillation. Those left open resolve by the size of a sample.

use serde::{Deserialize, Serialize};

use super::Metric;
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::koopman::{GeneratorKind, StudentConfig};
use crate::nets::precision::Precision;
use crate::tensor::{event_size, parse_device, parse_dtype};
use crate::training::{check_positive, Optimizer, ScheduleKind};

/// Weights of the objective's terms; 0 turns a term off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Target on x: encode noise, decode at t = 1.
    pub endpoint: f64,
    /// Target on x: the same encodings decoded at one random time.
    pub path: f64,
    /// Target on x: encode at a random s, decode at a random t > s, half of them at t = 1.
    pub pairs: f64,
    /// Target on x: encode data at t = 1, decode the noise at t = 0.
    pub inverse: f64,
    /// Target on x: data inverted as for `inverse`, generated from again, and compared with itself.
    pub round_trip: f64,
    /// Phase on phi: the `pairs` in observable space.
    pub phase: f64,
    /// J g (1, v) against g L at points of the trajectories (paper, equation of the generator).
    pub consistency: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights {
            endpoint: 1.0,
            path: 0.5,
            pairs: 0.5,
            inverse: 1.0,
            round_trip: 0.1,
            phase: 0.0,
            consistency: 0.0,
        }
    }
}

/// Options as the user gives them; `None` resolves by the dimension of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// k, the number of learned observables.
    pub observables: Option<i64>,
    pub generator: GeneratorKind,
    pub lifts: i64,
    pub width: Option<i64>,
    pub depth: Option<i64>,
    pub steps: Option<u64>,
    /// Noise-to-data encodings a step; half as many pairs and half as many backward pairs join them.
    pub batch_size: i64,
    pub learning_rate: Option<f64>,
    pub warmup_steps: u64,
    pub clip_norm: Option<f64>,
    pub optimizer: Optimizer,
    /// At least 0; of the weights themselves for `adamw`, through the gradient for `adam`.
    pub weight_decay: f64,
    /// Peak learning rate of the generator; `None` is that of the observables.
    pub generator_learning_rate: Option<f64>,
    pub schedule: ScheduleKind,
    /// Of the averaged weights that are evaluated, kept and saved, in [0, 1); 0 does not average.
    pub ema_decay: f64,
    /// What the products of the observables run in while training.
    pub precision: Precision,
    /// Micro-batches of one step, from 1 to a quarter of `batch_size`.
    pub accumulate: i64,
    /// Steps between two held-out evaluations; `None` makes 60 of them.
    pub evaluate_every: Option<u64>,
    /// What best-model keeping, plateaus and `patience` look at.
    pub metric: Metric,
    /// Evaluations without improvement that end training; `None` never does.
    pub patience: Option<u64>,
    /// How often a training that diverges starts again from its best state, at half the rate.
    pub max_restarts: u64,
    /// Stored teacher trajectories.
    pub trajectories: Option<i64>,
    /// Uniform intervals at whose ends each trajectory is stored.
    pub path_steps: i64,
    pub weights: Weights,
    pub max_seconds: Option<f64>,
    pub seed: u64,
    pub device: String,
    pub dtype: String,
}

impl Default for DistillConfig {
    fn default() -> Self {
        DistillConfig {
            observables: None,
            generator: GeneratorKind::Spectral,
            lifts: 2,
            width: None,
            depth: None,
            steps: None,
            batch_size: 128,
            learning_rate: None,
            warmup_steps: 50,
            clip_norm: Some(1.0),
            optimizer: Optimizer::Adam,
            weight_decay: 0.0,
            generator_learning_rate: None,
            schedule: ScheduleKind::Cosine,
            ema_decay: 0.0,
            precision: Precision::Float32,
            accumulate: 1,
            evaluate_every: None,
            metric: Metric::Score,
            patience: None,
            max_restarts: 3,
            trajectories: None,
            path_steps: 32,
            weights: Weights::default(),
            max_seconds: None,
            seed: 0,
            device: "cpu".into(),
            dtype: "float32".into(),
        }
    }
}

/// A configuration with every open option decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub student: StudentConfig,
    pub steps: u64,
    pub learning_rate: f64,
    pub trajectories: i64,
}

impl DistillConfig {
    /// The same options with nothing left open.
    pub fn with_defaults(&self, event_shape: &[i64], conditioning: Conditioning) -> Result<Self> {
        let recipe = self.resolve(event_shape, conditioning)?;
        Ok(DistillConfig {
            observables: Some(recipe.student.observables),
            width: Some(recipe.student.width),
            depth: Some(recipe.student.depth),
            steps: Some(recipe.steps),
            learning_rate: Some(recipe.learning_rate),
            trajectories: Some(recipe.trajectories),
            ..self.clone()
        })
    }

    /// Decides what was left open and checks every range. The two columns are METHOD's measured recipes:
    /// small models and a high rate in a few dimensions, larger ones and a lower rate beyond.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option out of its range.
    pub fn resolve(&self, event_shape: &[i64], conditioning: Conditioning) -> Result<Recipe> {
        let small = event_size(event_shape) <= 8;
        let pick = |low: i64, high: i64| if small { low } else { high };
        let recipe = Recipe {
            student: StudentConfig {
                event_shape: event_shape.to_vec(),
                conditioning,
                observables: self.observables.unwrap_or(pick(32, 128)),
                generator: self.generator,
                lifts: self.lifts,
                width: self.width.unwrap_or(pick(128, 384)),
                depth: self.depth.unwrap_or(3),
                table_times: self.path_steps + 1,
                dtype: self.dtype.clone(),
            },
            steps: self.steps.unwrap_or(pick(8_000, 4_500) as u64),
            learning_rate: self.learning_rate.unwrap_or(if small { 5e-3 } else { 3e-3 }),
            trajectories: self.trajectories.unwrap_or(pick(16_384, 32_768)),
        };
        recipe.student.validate()?;
        check_positive(&[("learning_rate", recipe.learning_rate)])?;
        if let Some(limit) = self.clip_norm {
            check_positive(&[("clip_norm", limit)])?;
        }
        if let Some(limit) = self.max_seconds {
            check_positive(&[("max_seconds", limit)])?;
        }
        let Weights { endpoint, path, pairs, inverse, round_trip, phase, consistency } = self.weights;
        let named = [
            ("endpoint", endpoint),
            ("path", path),
            ("pairs", pairs),
            ("inverse", inverse),
            ("round_trip", round_trip),
            ("phase", phase),
            ("consistency", consistency),
        ];
        for (name, weight) in named {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::argument(&format!("weights[{name:?}]"), "a number >= 0", weight));
            }
        }
        if named.iter().all(|(_, weight)| *weight == 0.0) {
            return Err(Error::argument("weights", "at least one positive weight", "all zero"));
        }
        let ranges = [
            ("steps", recipe.steps as i64, 1, i64::MAX),
            ("batch_size", self.batch_size, 2, 1 << 24),
            ("trajectories", recipe.trajectories, 16, 1 << 32),
            ("path_steps", self.path_steps, 1, 4096),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::argument(name, format!("an integer from {low} to {high}"), value));
            }
        }
        parse_dtype(&self.dtype)?;
        parse_device(&self.device)?;
        self.check_training()?;
        Ok(recipe)
    }
}
