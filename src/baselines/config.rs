//! Options of the baselines. As for koopflow's own students, the defaults depend on the size of a sample.

use serde::{Deserialize, Serialize};

use crate::condition::Conditioning;
use crate::distill::{DistillConfig, Recipe};
use crate::error::{Error, Result};
use crate::koopman::StudentConfig;
use crate::ode::Solver;
use crate::tensor::event_size;
use crate::training::{json_options, TrainingOptions};
use crate::velocity::Path;

/// The distillation method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// [`super::PlainNetwork`].
    #[default]
    PlainNetwork,
    /// [`super::Kdm`].
    Kdm,
    /// [`super::MeanVelocity`].
    MeanVelocity,
}

/// Options that a file stores to rebuild a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineModel {
    pub method: Method,
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    /// Size of a KDM's latents. Other methods ignore it.
    pub observables: i64,
    pub width: i64,
    pub depth: i64,
    /// Rows of the table of running statistics in [`crate::nets::InputCoordinates`].
    pub table_times: i64,
    pub dtype: String,
    /// The units of the data, as in [`StudentConfig::units`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<Path>,
}

impl BaselineModel {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Argument`] or [`Error::Dtype`] naming the option.
    pub fn validate(&self) -> Result<()> {
        self.as_student().validate()
    }

    /// d, the number of values in one sample.
    pub fn dimension(&self) -> i64 {
        event_size(&self.event_shape)
    }

    /// Number of network inputs for a state: time, x twice, and the condition.
    pub fn inputs(&self) -> i64 {
        self.as_student().inputs()
    }

    /// Sizes of the large tensors of this model, saturating. A file must hold at least as many values.
    pub fn tensor_sizes(&self) -> Vec<i64> {
        let product = |sizes: &[i64]| sizes.iter().fold(1i64, |size, next| size.saturating_mul(*next));
        let d = self.dimension();
        let mut sizes = vec![product(&[self.table_times, d]), product(&[d, d])];
        if self.depth > 0 {
            sizes.push(product(&[self.inputs(), self.width]));
            sizes.push(product(&[self.width, self.width, self.depth - 1]));
        }
        if self.method == Method::Kdm {
            sizes.push(product(&[self.observables, self.observables]));
        }
        sizes
    }

    /// The options of a koopflow student with the same inputs, whose ranges are checked.
    fn as_student(&self) -> StudentConfig {
        StudentConfig {
            event_shape: self.event_shape.clone(),
            conditioning: self.conditioning,
            observables: self.observables,
            width: self.width,
            depth: self.depth,
            table_times: self.table_times,
            dtype: self.dtype.clone(),
            ..StudentConfig::default()
        }
    }
}

/// Weights of the terms of [`super::Kdm`]'s loss, each at least 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KdmWeights {
    pub target: f64,
    pub latent: f64,
    pub reconstruction: f64,
}

impl Default for KdmWeights {
    fn default() -> Self {
        KdmWeights { target: 1.0, latent: 1.0, reconstruction: 1.0 }
    }
}

/// The options of [`super::fit`]; in JSON, the keyword arguments of Python's classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct BaselineConfig {
    pub method: Method,
    /// Size of a KDM's latents. `None` takes the default number of observables of a student.
    pub observables: Option<i64>,
    /// Weights of a KDM's loss.
    pub weights: KdmWeights,
    /// Share of the rows of a batch with s = t, in [0, 1], for [`super::MeanVelocity`].
    pub instant_share: f64,
    pub width: Option<i64>,
    pub depth: Option<i64>,
    pub trajectories: Option<i64>,
    pub path_steps: Option<i64>,
    /// Solver of the trajectories, as in [`DistillConfig::solver`].
    pub solver: Solver,
    pub solver_steps: Option<u64>,
    /// Shared options. `max_seconds` limits the whole fit, trajectories included. If it is given and `steps`
    /// is `None`, only the clock ends training. The learning rate follows a cosine. The averaged weights are
    /// kept.
    #[serde(flatten)]
    pub training: TrainingOptions,
}

json_options!(BaselineConfig);

/// Default batch size.
const BATCH_SIZE: i64 = 256;

impl Default for BaselineConfig {
    fn default() -> Self {
        BaselineConfig {
            method: Method::default(),
            observables: None,
            weights: KdmWeights::default(),
            instant_share: 0.25,
            width: None,
            depth: None,
            trajectories: None,
            path_steps: None,
            solver: Solver::default(),
            solver_steps: None,
            training: TrainingOptions { batch_size: Some(BATCH_SIZE), ..TrainingOptions::default() },
        }
    }
}

impl BaselineConfig {
    /// The same options with every default filled in. `steps` stays `None` if only the clock ends training.
    /// The defaults of width, depth, latents and trajectories are those of koopflow's own students.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Dtype`] or [`Error::Device`] naming the option that is out of its range.
    pub fn with_defaults(&self, event_shape: &[i64], conditioning: Conditioning) -> Result<Self> {
        // Measured on the two moons and on digits: with lower rates every method was worse. Larger sizes are
        // a guess.
        let (steps, learning_rate) = match event_size(event_shape) {
            ..=8 => (10_000, 1e-2),
            9..=256 => (8_000, 5e-3),
            _ => (8_000, 2e-3),
        };
        let training = TrainingOptions {
            steps: self.training.steps.or(self.training.max_seconds.is_none().then_some(steps)),
            batch_size: self.training.batch_size.or(Some(BATCH_SIZE)),
            learning_rate: self.training.learning_rate.or(Some(learning_rate)),
            ..self.training.clone()
        };
        let own = DistillConfig {
            observables: self.observables,
            width: self.width,
            depth: self.depth,
            trajectories: self.trajectories,
            path_steps: self.path_steps,
            solver: self.solver,
            solver_steps: self.solver_steps,
            training: training.clone(),
            ..DistillConfig::default()
        };
        let Recipe { student, trajectories, path_steps, fixed, .. } =
            own.resolve(event_shape, conditioning)?;
        let KdmWeights { target, latent, reconstruction } = self.weights;
        for (name, weight) in [("target", target), ("latent", latent), ("reconstruction", reconstruction)] {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::argument(&format!("weights.{name}"), "a number of at least 0", weight));
            }
        }
        if target + latent + reconstruction == 0.0 {
            return Err(Error::argument("weights", "at least one weight above 0", "all 0"));
        }
        if !(0.0..=1.0).contains(&self.instant_share) {
            return Err(Error::argument("instant_share", "0 to 1", self.instant_share));
        }
        Ok(BaselineConfig {
            observables: Some(student.observables),
            width: Some(student.width),
            depth: Some(student.depth),
            trajectories: Some(trajectories),
            path_steps: Some(path_steps),
            solver_steps: fixed.map(|fixed| fixed.steps),
            training,
            ..self.clone()
        })
    }

    /// Number of samples per step.
    pub(super) fn batch_size(&self) -> i64 {
        self.training.batch_size.unwrap_or(BATCH_SIZE)
    }

    /// The model that options ask for, with every default filled in.
    pub(super) fn model(&self, event_shape: &[i64], conditioning: Conditioning) -> Result<BaselineModel> {
        let (Some(observables), Some(width), Some(depth), Some(path_steps)) =
            (self.observables, self.width, self.depth, self.path_steps)
        else {
            return Err(Error::Internal(anyhow::anyhow!("an option was left open")));
        };
        Ok(BaselineModel {
            method: self.method,
            event_shape: event_shape.to_vec(),
            conditioning,
            observables,
            width,
            depth,
            table_times: path_steps + 1,
            dtype: self.training.dtype.clone(),
            units: None,
        })
    }
}
