//! The options of a distillation. [`super::Recipe`] decides those that are left open.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::evaluation::Metric;
use crate::data::{Coupling, Curriculum, PairKind};
use crate::distill::objective::Fidelity;
use crate::flow::Path;
use crate::koopman::{Basis, Frame, GeneratorKind, Inputs, ReadoutKind, Stability};
use crate::nets::precision::Precision;
use crate::nets::UNetConfig;
use crate::ode::Solver;
use crate::training::{json_options, ScheduleKind, TrainingOptions};

/// Units of errors in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// Squared errors divided by the summed variance of their target at its time.
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
#[serde(remote = "Self")]
pub struct DistillConfig {
    /// k, the number of learned observables.
    pub observables: Option<i64>,
    /// Kind of functions that the observables are made of.
    pub basis: Basis,
    /// Inputs of a perceptron, made from (t, x).
    pub inputs: Inputs,
    /// Total degree of a polynomial basis, which decides its number of observables.
    pub degree: Option<i64>,
    /// U-Net of the bases that are one, or its way down; `None` is one for the size of the images.
    pub unet: Option<UNetConfig>,
    /// Whether each pixel of a hierarchy has eigenvalues of its own.
    pub per_pixel: bool,
    /// Whether U-Nets begin as the teacher's, which is one of the same architecture.
    pub warm_start: bool,
    /// Parametrisation of the generator; a hierarchy has `"levels"`, whatever is given.
    pub generator: GeneratorKind,
    /// Whether a student of data far from mean 0 and deviation 1 learns in standard coordinates
    /// ([`crate::velocity::Units`]).
    pub standardise: bool,
    /// Frame of the features; `None` is the moving one for trained networks with a spectral generator, which others
    /// cannot have.
    pub frame: Option<Frame>,
    /// Structure of a dense generator.
    pub stability: Stability,
    pub readout: ReadoutKind,
    pub lifts: i64,
    /// Whether one lift serves both directions and is told which; `lifts` is then 1.
    pub directed: bool,
    pub width: Option<i64>,
    pub depth: Option<i64>,
    /// Peak learning rate of the generator; `None` is that of the observables.
    pub generator_learning_rate: Option<f64>,
    pub schedule: ScheduleKind,
    /// Precision of the observables' products while training.
    pub precision: Precision,
    /// Micro-batches of one step, from 1 to [`crate::data::BatchRows::most_parts`].
    pub accumulate: i64,
    /// Steps between two held-out evaluations; `None` makes 20 of them.
    pub evaluate_every: Option<u64>,
    /// Held-out error that best-model keeping, plateaus and `patience` look at.
    pub metric: Metric,
    /// Evaluations without improvement that end training; `None` never does.
    pub patience: Option<u64>,
    /// Stored teacher trajectories.
    pub trajectories: Option<i64>,
    /// Uniform intervals at whose ends each trajectory is stored.
    pub path_steps: Option<i64>,
    /// What trajectories are solved by; dopri5 to a fixed tolerance.
    pub solver: Solver,
    /// Steps of a solver that does not adapt, over the whole path; `None` is [`crate::data::SOLVER_STEPS`].
    pub solver_steps: Option<u64>,
    /// Memory in GiB that stored trajectories may take; fewer are stored where they would take more. A file of
    /// trajectories is not bounded.
    pub trajectory_memory: f64,
    pub pairs: PairKind,
    /// Order of the time differences of [`PairKind::TimeGrouped`]; `None` draws one for each batch.
    pub curriculum: Option<Curriculum>,
    /// Coupling of the teacher's noise and data, for points of its probability path.
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
    /// Power and offset of [`crate::training::RowWeights`], of errors of states; 0 weighs all rows alike, and an open
    /// offset is theirs.
    pub row_power: f64,
    pub row_offset: Option<f64>,
    /// Share of training, in [0, 1), in which only the terms of the endpoint are formed.
    pub endpoint_first: f64,
    /// Decays, in (0, 1), of several averages of the weights that are kept at once, in place of `ema_decay`.
    pub averages: Vec<f64>,
    pub method: Method,
    /// Ridge of the linear solve, relative to the mean square of the regressors; `None` chooses it on held-out
    /// trajectories.
    pub ridge: Option<f64>,
    /// `batch_size` is the number of noise-to-data encodings of a step, which other kinds of rows join
    /// ([`crate::data::BatchRows`]). Averaged weights are what is evaluated, kept and saved.
    #[serde(flatten)]
    pub training: TrainingOptions,
}

json_options!(DistillConfig);

impl DistillConfig {
    /// The decays of all averages that training keeps.
    pub(super) fn decays(&self) -> Vec<f64> {
        match self.averages.is_empty() {
            true => Some(self.training.ema_decay).filter(|decay| *decay > 0.0).into_iter().collect(),
            false => self.averages.clone(),
        }
    }
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
            standardise: true,
            frame: None,
            stability: Stability::Free,
            readout: ReadoutKind::Slice,
            lifts: 2,
            directed: false,
            width: None,
            depth: None,
            generator_learning_rate: None,
            schedule: ScheduleKind::Cosine,
            precision: Precision::Float32,
            accumulate: 1,
            evaluate_every: None,
            metric: Metric::Score,
            patience: None,
            trajectories: None,
            path_steps: None,
            solver: Solver::default(),
            solver_steps: None,
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
            row_power: 0.0,
            row_offset: None,
            endpoint_first: 0.0,
            averages: Vec::new(),
            method: Method::default(),
            ridge: None,
            training: TrainingOptions { warmup_steps: 50, ema_decay: 0.0, ..TrainingOptions::default() },
        }
    }
}
