//! The forecaster: observables and a linear evolution that are fitted to observed sequences instead of a teacher.
//!
//! Observables are g(x) = [1, z, psi(z)], where z are standardised states of the last few times, and one step of the data
//! takes g to g K (extended dynamic mode decomposition: Williams, Kevrekidis and Rowley, J. Nonlinear Sci. 25, 2015);
//! for irregular times dg/dt = g L. The state is a slice of g, and an observable like others: nothing integrates it.
//! A forecast reads the state off after some steps and encodes it anew, as often as held-out paths say.
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
