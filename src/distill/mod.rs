//! Distillation: fit a student's observables and generator to a teacher's flow.

mod config;
mod evaluation;
mod history;
mod inputs;
mod micro;
mod objective;
mod pairs;
mod resume;
mod run;
mod trainer;
mod training_options;

pub use config::{DistillConfig, Recipe, Weights};
pub use evaluation::{Evaluator, HeldOut};
pub use history::{DistillHistory, LogEntry, Note};
pub use inputs::{Checkpointing, Inputs};
pub use objective::{Objective, Term};
pub use pairs::{Batch, Pairs, Trajectories, TrajectoryPlan};
pub use trainer::distill;
pub use training_options::Metric;
