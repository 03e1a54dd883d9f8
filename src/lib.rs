//! koopflow: one-step, interpretable sampling of flow-matching models by Koopman operators.
//!
//! Data flows one way: a teacher's velocity field ([`velocity`], trained by [`flow`], solved by
//! [`ode`]) is lifted to observables and fitted by one linear generator ([`koopman`], trained by
//! [`distill`]), then read off in closed form ([`sampler`], [`inversion`]) and explained ([`spectrum`]). Other ways
//! to distil it stand beside for comparison ([`baselines`]).
//! Method: Turan et al., "Unfolding Generative Flows with Koopman Operators", arXiv 2506.22304.

pub mod baselines;
pub mod checkpoint;
pub mod condition;
pub mod density;
pub mod distill;
pub mod error;
pub mod evaluations;
pub mod flow;
pub mod inversion;
pub mod koopman;
pub mod lanczos;
pub mod metrics;
pub mod nets;
pub mod ode;
pub mod sample_map;
pub mod sampler;
pub mod spectrum;
pub mod student_density;
pub mod tensor;
pub mod threads;
pub mod training;
pub mod velocity;

#[cfg(feature = "python")]
mod python;

pub use error::{Error, Result};
