//! The options of a distillation. [`super::Recipe`] fills in their defaults.

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
    /// Squared errors divided by the summed variance of the target at its time.
    #[default]
    Relative,
    /// Mean squared errors per coordinate.
    Absolute,
}

/// The method of fitting a student.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Gradient steps on the objective.
    #[default]
    Gradient,
    /// Random observables, and a linear solve for a dense generator or for the readout of a spectral one.
    ClosedForm,
    /// Gradient steps, then the linear solve. The result with the lower held-out score is kept.
    Refine,
}

/// The options of [`super::distill`], as the user gives them. The defaults of options that are `None` depend
/// on the dimension of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct DistillConfig {
    /// Number of learned observables k.
    pub observables: Option<i64>,
    /// Kind of functions from which the observables are made.
    pub basis: Basis,
    /// Inputs of a perceptron, made from (t, x).
    pub inputs: Inputs,
    /// Total degree of a polynomial basis, which determines its number of observables.
    pub degree: Option<i64>,
    /// Options of the U-Net, for a basis that is a U-Net or its contracting half. `None` chooses them by the
    /// size of the images.
    pub unet: Option<UNetConfig>,
    /// Whether each pixel of a hierarchy has its own eigenvalues.
    pub per_pixel: bool,
    /// Whether U-Nets begin with the weights of the teacher's U-Net, which must have the same architecture.
    pub warm_start: bool,
    /// Parametrisation of the generator. A hierarchy always has `"levels"`.
    pub generator: GeneratorKind,
    /// Whether a student of data far from mean 0 and deviation 1 learns in standard coordinates
    /// ([`crate::velocity::Units`]).
    pub standardise: bool,
    /// Frame of the features. `None` is the moving frame for trained networks without a dense generator, and
    /// the fixed frame otherwise. A dense generator cannot have the moving frame.
    pub frame: Option<Frame>,
    /// Structure of a dense generator.
    pub stability: Stability,
    pub readout: ReadoutKind,
    pub lifts: i64,
    /// Whether a single lift serves both directions and takes the direction as an input. `lifts` is then 1.
    pub directed: bool,
    pub width: Option<i64>,
    pub depth: Option<i64>,
    /// Peak learning rate of the generator. `None` is the rate of the observables.
    pub generator_learning_rate: Option<f64>,
    pub schedule: ScheduleKind,
    /// Precision of the observables' matrix products in training.
    pub precision: Precision,
    /// Number of micro-batches per step, from 1 to [`crate::data::BatchRows::most_parts`].
    pub accumulate: i64,
    /// Number of steps between two held-out evaluations. `None` makes 20 evaluations.
    pub evaluate_every: Option<u64>,
    /// Held-out error by which the best model is kept, and which plateaus and `patience` use.
    pub metric: Metric,
    /// Number of evaluations without improvement after which training ends; `None` for no such limit.
    pub patience: Option<u64>,
    /// Number of stored teacher trajectories.
    pub trajectories: Option<i64>,
    /// Number of uniform intervals at whose ends each trajectory is stored.
    pub path_steps: Option<i64>,
    /// Solver of the trajectories. dopri5 solves to a fixed tolerance.
    pub solver: Solver,
    /// Number of steps of a solver with fixed steps, over the whole path. `None` is
    /// [`crate::data::SOLVER_STEPS`].
    pub solver_steps: Option<u64>,
    /// Largest memory of stored trajectories in GiB. If they would need more, fewer are stored. A file of
    /// trajectories is not limited.
    pub trajectory_memory: f64,
    pub pairs: PairKind,
    /// Order of the time differences of [`PairKind::TimeGrouped`]. `None` draws a random one for each batch.
    pub curriculum: Option<Curriculum>,
    /// Coupling of the teacher's noise and data, for points of its probability path.
    pub coupling: Coupling,
    /// The teacher's probability path.
    pub path: Path,
    /// Largest number of pairs in one optimal-transport assignment.
    pub coupling_size: usize,
    /// Whether the teacher was trained on mirrored data as well.
    pub flip: bool,
    pub fidelity: Fidelity,
    /// Weights of terms by name, which override those of `fidelity`.
    pub weights: BTreeMap<String, f64>,
    pub scaling: Scaling,
    /// Power of [`crate::training::RowWeights`], for errors of states. 0 weighs all rows equally.
    pub row_power: f64,
    /// Offset of [`crate::training::RowWeights`]. `None` is the default offset.
    pub row_offset: Option<f64>,
    /// Share of training, in [0, 1), in which only the endpoint terms are trained.
    pub endpoint_first: f64,
    /// Decays, in (0, 1), of several simultaneous averages of the weights, instead of `ema_decay`.
    pub averages: Vec<f64>,
    pub method: Method,
    /// Ridge of the linear solve, relative to the mean square of the regressors. `None` chooses it on
    /// held-out trajectories.
    pub ridge: Option<f64>,
    /// Shared options. `batch_size` is the number of noise-to-data rows of a step; the numbers of other rows
    /// follow from it ([`crate::data::BatchRows`]). Averaged weights are evaluated, kept and saved.
    #[serde(flatten)]
    pub training: TrainingOptions,
}

json_options!(DistillConfig);

impl DistillConfig {
    /// The decays of all averages in training.
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
