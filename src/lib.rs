//! koopflow: one-step, interpretable sampling of flow-matching models by Koopman operators.
//!
//! Data flows one way: a teacher's velocity field ([`velocity`], trained by [`flow`], solved by
//! [`ode`]) is lifted to observables and fitted by one linear generator ([`koopman`], trained by
//! [`distill`]), then read off in closed form ([`sampling`]) and explained ([`spectrum`]). Other ways
//! to distil it are there for comparison ([`baselines`]).
//! Method: Turan et al., "Unfolding Generative Flows with Koopman Operators", arXiv 2506.22304.

pub mod baselines;
pub mod condition;
pub mod data;
pub mod distill;
pub mod error;
pub mod flow;
pub mod forecast;
pub mod koopman;
pub mod metrics;
pub mod monitor;
pub mod nets;
pub mod ode;
pub mod sampling;
pub mod spectrum;
pub mod store;
pub mod tensor;
pub mod training;
pub mod velocity;
pub mod world;

#[cfg(feature = "python")]
mod python;

pub use error::{Error, Result};
