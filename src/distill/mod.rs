//! Distillation: fit a student's observables and generator to a teacher's flow.

mod batch_rows;
mod closed_form;
mod config;
mod data;
mod evaluation;
mod feature_distance;
mod history;
mod inputs;
mod micro;
mod normal_equations;
mod objective;
mod pairs;
mod places;
mod points;
mod regularisers;
mod resume;
mod run;
mod trainer;
mod training_options;
mod trajectories;
mod warm_start;
mod weights;

pub use crate::training::Checkpointing;
pub use batch_rows::{BatchRows, Regime};
pub use closed_form::{
    generator_equations, install, readout_equations, ClosedFormReport, FlowPoints, Solved, StatePairs,
};
pub use config::{Curriculum, DistillConfig, Method, PairKind, Recipe, Scaling};
pub use data::TrainingData;
pub(crate) use data::{check_inputs, stored_trajectories};
pub use evaluation::{Evaluator, HeldOut};
pub use feature_distance::FeatureDistance;
pub use history::{DistillHistory, LogEntry, Note};
pub use inputs::Inputs;
pub use normal_equations::{ridge_curve, select_ridge, NormalEquations, RidgeChoice};
pub use objective::{Objective, Term};
pub use pairs::{Batch, PairDraw, Pairs};
pub use points::{PathPlan, PathPoints, Points};
pub use trainer::distill;
pub use training_options::Metric;
pub use trajectories::{Trajectories, TrajectoryPlan};
pub use weights::{Fidelity, Weights};
