//! Distillation: fitting the observables and the generator of a student to a teacher's flow.

mod accumulate;
mod averages;
mod batches;
mod config;
mod evaluation;
mod extras;
mod history;
mod objective;
mod recipe;
mod resume;
mod run;
mod solve;
mod trainer;
mod warm_start;

pub use crate::training::Checkpointing;
pub use averages::BestAverage;
pub use batches::TrainingData;
pub use config::{DistillConfig, Method, Scaling};
pub use evaluation::{Evaluator, HeldOut, Metric};
pub use extras::Extras;
pub use history::{DistillHistory, LogEntry, Note};
pub use objective::{FeatureDistance, Fidelity, Objective, Term, Weights};
pub use recipe::Recipe;
pub use solve::{
    generator_equations, install, readout_equations, ridge_curve, select_ridge, ClosedFormReport, FlowPoints,
    NormalEquations, RidgeChoice, Solved, StatePairs,
};
pub use trainer::{distill, distill_with};
