//! Distillation: fit a student's observables and generator to a teacher's flow.

mod config;
mod objective;
mod pairs;
mod regularisers;
mod trainer;
mod weights;

pub use config::{DistillConfig, Recipe, Scaling};
pub use objective::{Objective, Term};
pub use pairs::{Batch, Pairs, Trajectories, TrajectoryPlan};
pub use trainer::{distill, DistillHistory, LogEntry};
pub use weights::{Fidelity, Weights};
