//! The forecaster: observables and their linear evolution, fitted to observed sequences instead of a teacher.
//!
//! The observables are g(x) = [1, z, psi(z)], where z are the standardised states of the last few times. One step of
//! the data maps g to g K (extended dynamic mode decomposition: Williams, Kevrekidis and Rowley, J. Nonlinear Sci.
//! 25, 2015). For irregular times dg/dt = g L. The state is a slice of g and evolves like every other observable. A
//! forecast decodes the state after some steps and encodes it again; the number of steps is chosen on held-out paths.
mod basis;
mod components;
mod config;
mod continuous;
mod exponentials;
mod facts;
mod filter;
mod fit;
mod fitting;
mod gradient;
mod history;
mod model;
mod moments;
mod noise;
mod refine;
mod rollout;
mod score;
mod smooth;
mod solve;
mod start;
mod store;

pub use basis::{Basis, BasisKind};
pub use config::{ForecasterConfig, Method, ReEncode};

pub use facts::{ModeFacts, Modes};
pub use fit::fit;
pub use history::{ForecasterHistory, Trial};
pub use model::{Evolution, Forecaster};
pub use rollout::{forecast, Request};
pub use smooth::{smooth, Observations, Smoothed};
