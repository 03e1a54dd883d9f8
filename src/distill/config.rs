//! Options of a distillation. Those left open resolve by the size of a sample.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Metric;
use crate::condition::Conditioning;
use crate::data::Coupling;
use crate::data::{BatchRows, Curriculum, PairKind, Regime};
use crate::distill::objective::{Fidelity, Weights};
use crate::error::{Error, Result};
use crate::flow::Path;
use crate::koopman::{
    polynomial_size, Basis, Frame, GeneratorKind, Inputs, ReadoutKind, Stability, StudentConfig,
};
use crate::nets::precision::Precision;
use crate::nets::{feature_maps, UNetConfig};
use crate::tensor::{event_size, parse_device, parse_dtype};
use crate::training::{check_positive, Optimizer, ScheduleKind};

/// What errors are measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// Each over the summed variance of what it is compared with, at its time.
    #[default]
    Relative,
    /// Mean squares, coordinate by coordinate.
    Absolute,
}

/// How a student is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Gradient steps on the objective.
    #[default]
    Gradient,
    /// Random observables and a linear solve for the dense generator, or for the spectral readout.
    ClosedForm,
    /// Gradient steps, then the linear solve, and whichever has the lower held-out score.
    Refine,
}

/// Options as the user gives them; `None` resolves by the dimension of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// k, the number of learned observables.
    pub observables: Option<i64>,
    /// What the observables are made of.
    pub basis: Basis,
    /// What a perceptron sees of (t, x).
    pub inputs: Inputs,
    /// Total degree of a polynomial basis, which decides its number of observables.
    pub degree: Option<i64>,
    /// Of the bases that are a U-Net or its way down; `None` is one for the size of the images.
    pub unet: Option<UNetConfig>,
    /// Whether each pixel of a hierarchy has eigenvalues of its own.
    pub per_pixel: bool,
    /// Whether U-Nets begin as the teacher's, which is one of the same architecture.
    pub warm_start: bool,
    /// Of a hierarchy: `"levels"`, whatever is given.
    pub generator: GeneratorKind,
    /// `None` moves with a spectral generator, for networks that are trained; others cannot.
    pub frame: Option<Frame>,
    /// Structure of a dense generator.
    pub stability: Stability,
    pub readout: ReadoutKind,
    pub lifts: i64,
    pub width: Option<i64>,
    pub depth: Option<i64>,
    pub steps: Option<u64>,
    /// Noise-to-data encodings a step, which other kinds of rows join ([`BatchRows`]).
    pub batch_size: Option<i64>,
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
    /// Micro-batches of one step, from 1 to [`BatchRows::most_parts`].
    pub accumulate: i64,
    /// Steps between two held-out evaluations; `None` makes 20 of them.
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
    pub path_steps: Option<i64>,
    /// GiB that stored trajectories may take in memory; fewer are stored where they would take more. A
    /// file of trajectories is not bounded.
    pub trajectory_memory: f64,
    pub pairs: PairKind,
    /// For [`PairKind::TimeGrouped`]; a random difference for each batch where there is none.
    pub curriculum: Option<Curriculum>,
    /// How the teacher's noise and data were paired, for points of its probability path.
    pub coupling: Coupling,
    /// The teacher's probability path.
    pub path: Path,
    /// Pairs in one optimal-transport assignment, at most.
    pub coupling_size: usize,
    /// Whether the teacher saw mirrored data as well.
    pub flip: bool,
    pub fidelity: Fidelity,
    /// Weights by name, over those that `fidelity` sets.
    pub weights: BTreeMap<String, f64>,
    pub scaling: Scaling,
    pub method: Method,
    /// Of the linear solve, relative to the mean square of the regressors; `None` chooses on held-out
    /// trajectories.
    pub ridge: Option<f64>,
    pub max_seconds: Option<f64>,
    pub seed: u64,
    pub device: String,
    pub dtype: String,
}

impl Default for DistillConfig {
    fn default() -> Self {
        DistillConfig {
            observables: None,
            basis: Basis::Network,
            inputs: Inputs::Standardised,
            degree: None,
            unet: None,
            per_pixel: false,
            warm_start: false,
            generator: GeneratorKind::Spectral,
            frame: None,
            stability: Stability::Free,
            readout: ReadoutKind::Slice,
            lifts: 2,
            width: None,
            depth: None,
            steps: None,
            batch_size: None,
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
            path_steps: None,
            trajectory_memory: 2.0,
            pairs: PairKind::default(),
            curriculum: None,
            coupling: Coupling::default(),
            path: Path::default(),
            coupling_size: 128,
            flip: false,
            fidelity: Fidelity::default(),
            weights: BTreeMap::new(),
            scaling: Scaling::default(),
            method: Method::default(),
            ridge: None,
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
    pub rows: BatchRows,
    pub steps: u64,
    pub learning_rate: f64,
    pub trajectories: i64,
    pub path_steps: i64,
    pub weights: Weights,
}

impl DistillConfig {
    /// The same options with nothing left open.
    pub fn with_defaults(&self, event_shape: &[i64], conditioning: Conditioning) -> Result<Self> {
        let recipe = self.resolve(event_shape, conditioning)?;
        Ok(DistillConfig {
            observables: Some(recipe.student.observables),
            degree: Some(recipe.student.degree),
            width: Some(recipe.student.width),
            depth: Some(recipe.student.depth),
            unet: recipe.student.unet.clone(),
            generator: recipe.student.generator,
            readout: recipe.student.readout,
            frame: Some(recipe.student.frame),
            lifts: recipe.student.lifts,
            steps: Some(recipe.steps),
            batch_size: Some(recipe.rows.noise),
            learning_rate: Some(recipe.learning_rate),
            trajectories: Some(recipe.trajectories),
            path_steps: Some(recipe.path_steps),
            weights: recipe.weights.to_map(),
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
        let degree = self.degree.unwrap_or(pick(4, 2));
        if !(2..=12).contains(&degree) {
            return Err(Error::argument("degree", "an integer from 2 to 12", degree));
        }
        let (unet, generator, readout) = self.resolve_unet(event_shape)?;
        let observables = match (self.observables, self.basis) {
            (Some(count), _) => count,
            // As many channels as the image has, as in the paper.
            (None, Basis::UNet) => event_size(event_shape),
            (None, Basis::Hierarchy) => unet.as_ref().map_or(0, |unet| hierarchy_size(unet, event_shape)),
            (None, Basis::Polynomial) => polynomial_size(event_size(event_shape), conditioning, degree)?,
            (None, Basis::Network | Basis::Fourier) => pick(64, 128),
        };
        let moves = generator != GeneratorKind::Dense;
        let trained = matches!(self.basis, Basis::Network | Basis::UNet | Basis::Hierarchy);
        let frame = match self.frame {
            Some(Frame::Moving) if !moves => {
                return Err(Error::argument("frame", "'fixed' with a dense generator", "'moving'"));
            }
            Some(frame) => frame,
            None if moves && trained && self.method != Method::ClosedForm => Frame::Moving,
            None => Frame::Fixed,
        };
        let regime = match event_size(event_shape) {
            ..=8 => Regime::Few,
            9..=256 if unet.is_none() => Regime::Several,
            _ => Regime::Many,
        };
        let batch_size = self.batch_size.unwrap_or(if regime == Regime::Several { 256 } else { 128 });
        // About a minute in the plane and three on 64 pixels, on two cores.
        let (steps, learning_rate) = match (regime, self.fidelity) {
            (Regime::Few, Fidelity::Endpoint) => (11_000, 5e-3),
            (Regime::Few, _) => (10_000, 5e-3),
            (Regime::Several, Fidelity::Endpoint) => (8_200, 4e-3),
            (Regime::Several, _) => (6_200, 4e-3),
            (Regime::Many, _) if unet.is_some() => (5_000, 1e-3),
            (Regime::Many, _) => (8_000, 3e-3),
        };
        // In many dimensions more paths are worth more than more of each: on digits 131,072 for 65,536 lowered
        // the endpoint error by 4%, the inversion by 3% and the round trip by 9%. Large samples are the slowest
        // to solve for.
        let trajectories = match event_size(event_shape) {
            9..=256 => 131_072,
            ..=8 => 65_536,
            _ => 16_384,
        };
        let path_steps = self.path_steps.unwrap_or(pick(32, 16));
        let recipe = Recipe {
            student: StudentConfig {
                event_shape: event_shape.to_vec(),
                conditioning,
                observables,
                basis: self.basis,
                sees: self.inputs,
                degree,
                generator,
                frame,
                stability: self.stability,
                readout,
                pairs: None,
                mixing: None,
                unet,
                per_pixel: self.per_pixel,
                // Only training tells two lifts apart.
                lifts: if self.method == Method::ClosedForm { self.lifts.min(1) } else { self.lifts },
                width: self.width.unwrap_or(pick(128, 384)),
                depth: self.depth.unwrap_or(pick(4, 3)),
                table_times: path_steps + 1,
                dtype: self.dtype.clone(),
            },
            rows: BatchRows::of(batch_size, regime),
            steps: self.steps.unwrap_or(steps),
            learning_rate: self.learning_rate.unwrap_or(learning_rate),
            trajectories: self.trajectories.unwrap_or(trajectories),
            path_steps,
            weights: Weights::preset(self.fidelity, readout == ReadoutKind::Slice, regime)
                .with(&self.weights)?,
        };
        check_positive(&[
            ("learning_rate", recipe.learning_rate),
            ("trajectory_memory", self.trajectory_memory),
        ])?;
        if self.curriculum.is_some() && self.pairs != PairKind::TimeGrouped {
            return Err(Error::argument("curriculum", "none unless pairs is 'time_grouped'", "one"));
        }
        if let Some(limit) = self.clip_norm {
            check_positive(&[("clip_norm", limit)])?;
        }
        if let Some(limit) = self.max_seconds {
            check_positive(&[("max_seconds", limit)])?;
        }
        if let Some(ridge) = self.ridge.filter(|ridge| !(ridge.is_finite() && *ridge >= 0.0)) {
            return Err(Error::argument("ridge", "a number >= 0, or none", ridge));
        }
        if self.basis == Basis::Hierarchy {
            self.check_hierarchy(&recipe.weights)?;
        }
        let solves_readout = self.method != Method::Gradient && generator == GeneratorKind::Spectral;
        let Weights { endpoint, path, target, inverse, .. } = recipe.weights;
        if solves_readout && [endpoint, path, target, inverse].iter().all(|weight| *weight == 0.0) {
            let expected =
                "a positive weight of endpoint, path, target or inverse for the readout to be solved by";
            return Err(Error::argument("weights", expected, "none"));
        }
        let ranges = [
            ("steps", recipe.steps as i64, 1, i64::MAX),
            ("batch_size", batch_size, 2, 1 << 24),
            ("trajectories", recipe.trajectories, 16, 1 << 32),
            ("path_steps", recipe.path_steps, 1, 4096),
            ("coupling_size", i64::try_from(self.coupling_size).unwrap_or(i64::MAX), 1, 1 << 24),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::argument(name, format!("an integer from {low} to {high}"), value));
            }
        }
        recipe.student.validate()?;
        parse_dtype(&self.dtype)?;
        parse_device(&self.device)?;
        self.check_training(&recipe.rows)?;
        Ok(recipe)
    }

    /// The U-Net, and what goes with a basis that is half of one.
    fn resolve_unet(&self, event_shape: &[i64]) -> Result<(Option<UNetConfig>, GeneratorKind, ReadoutKind)> {
        let unet = match self.basis {
            Basis::UNet | Basis::Hierarchy => {
                let unet = self.unet.clone().unwrap_or_default().for_images(event_shape);
                unet.check(event_shape)?;
                Some(unet)
            }
            _ => self.unet.clone(),
        };
        if self.warm_start && unet.is_none() {
            return Err(Error::argument("warm_start", "a basis of a U-Net or its half", "another"));
        }
        if self.basis != Basis::Hierarchy {
            return Ok((unet, self.generator, self.readout));
        }
        if self.generator == GeneratorKind::Dense {
            return Err(Error::argument("generator", "'spectral' for a hierarchy", "'dense'"));
        }
        if matches!(self.readout, ReadoutKind::Linear | ReadoutKind::Network) {
            let got = format!("'{:?}'", self.readout).to_lowercase();
            return Err(Error::argument("decoder", "none for a hierarchy, which has its own", got));
        }
        Ok((unet, GeneratorKind::Levels, ReadoutKind::Decoder))
    }

    fn check_hierarchy(&self, weights: &Weights) -> Result<()> {
        if self.method != Method::Gradient {
            let expected = "'gradient' for a hierarchy, which has no linear readout";
            return Err(Error::argument("method", expected, format!("'{:?}'", self.method)));
        }
        if weights.orthogonality > 0.0 {
            let expected = "0 for a hierarchy, which has no modes";
            return Err(Error::argument(
                "weights",
                expected,
                format!("orthogonality {}", weights.orthogonality),
            ));
        }
        Ok(())
    }
}

/// Values of all feature maps.
fn hierarchy_size(unet: &UNetConfig, event_shape: &[i64]) -> i64 {
    let pixels = event_shape[1] * event_shape[2];
    feature_maps(unet).iter().map(|(channels, factor)| channels * pixels / (factor * factor)).sum()
}
