//! Samples of a one-step model x = S(z) under a tilted distribution. Targets are written as weights of the
//! noise z ~ N(0, I).
//!
//! A reward r at temperature T has the target p(x) exp(r(x) / T). In noise space this is N(z) exp(l(z)) with
//! l(z) = r(S(z)) / T, without a determinant. An energy E has the target exp(-E(x)), for which
//! l(z) = -E(S(z)) - log N(z) + log |det dS/dz|. The caller evaluates S, l and its gradient. This module computes
//! weights, moves that leave a target invariant, temperatures, and Gaussians about the modes.

mod laplace;
mod population;
mod reference;
mod weights;

pub use laplace::{gauss_newton_step, Laplace};
pub use population::{Evaluated, Move, Population};
pub use weights::{effective_size, effective_size_interval, log_mean, systematic};
