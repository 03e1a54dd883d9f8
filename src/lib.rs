//! koopflow: one-step, interpretable sampling of flow-matching models by Koopman operators.
//!
//! Data flows one way. A teacher's velocity field ([`velocity`]) is trained by [`flow`] and solved by
//! [`ode`]. Its states are lifted to observables, to which one linear generator is fitted ([`koopman`],
//! trained by [`distill`]). The student is then sampled in closed form ([`sampling`]) and explained by its
//! spectrum ([`spectrum`]). Other ways to distil a teacher serve for comparison ([`baselines`]). Method:
//! Turan et al., "Unfolding Generative Flows with Koopman Operators", arXiv 2506.22304.

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
