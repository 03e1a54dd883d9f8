//! Distillation: fit a student's observables and generator to a teacher's flow.

mod closed_form;
mod config;
mod normal_equations;
mod objective;
mod pairs;
mod places;
mod trainer;

pub use closed_form::{
    generator_equations, install, readout_equations, ClosedFormReport, FlowPoints, Solved, StatePairs,
};
pub use config::{DistillConfig, Method, Recipe, Weights};
pub use normal_equations::{ridge_curve, select_ridge, NormalEquations, RidgeChoice};
pub use objective::{Objective, Term};
pub use pairs::{Batch, Pairs, Trajectories, TrajectoryPlan};
pub use trainer::{distill, DistillHistory, LogEntry};
