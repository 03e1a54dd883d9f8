//! Distillation: fit a student's observables and generator to a teacher's flow.

mod config;
mod data;
mod objective;
mod pairs;
mod points;
mod trainer;
mod trajectories;

pub use config::{Curriculum, DistillConfig, PairKind, Recipe, Weights};
pub use data::{Inputs, TrainingData};
pub use objective::{Objective, Term};
pub use pairs::{Batch, PairDraw, Pairs};
pub use points::{PathPlan, PathPoints, Points};
pub use trainer::{distill, DistillHistory, LogEntry};
pub use trajectories::{Trajectories, TrajectoryPlan};
