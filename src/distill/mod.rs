//! Distillation: fit a student's observables and generator to a teacher's flow.

mod config;
mod data;
mod objective;
mod pairs;
mod points;
mod regularisers;
mod trainer;
mod trajectories;
mod weights;

pub use config::{Curriculum, DistillConfig, PairKind, Recipe, Scaling};
pub use data::{Inputs, TrainingData};
pub use objective::{Objective, Term};
pub use pairs::{Batch, PairDraw, Pairs};
pub use points::{PathPlan, PathPoints, Points};
pub use trainer::{distill, DistillHistory, LogEntry};
pub use trajectories::{Trajectories, TrajectoryPlan};
pub use weights::{Fidelity, Weights};
