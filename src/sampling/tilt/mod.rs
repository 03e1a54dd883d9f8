//! Samples of a one-step model, given something: targets are reweighted against the noise z ~ N(0, I) that a sample
//! x = S(z) came from.
//!
//! A reward r at temperature T asks for p(x) exp(r(x) / T), which in noise space is N(z) exp(l(z)) with l = r(S(z)) / T,
//! without a determinant. An energy asks for exp(-E(x)), where l(z) = -E(S(z)) - log N(z) + log |det dS/dz|. Whoever
//! calls evaluates S, l and its gradient; this room holds what is done with them: weights, moves that leave a target
//! invariant, temperatures, and Gaussians about the modes.

mod laplace;
mod population;
mod reference;
mod weights;

pub use laplace::{gauss_newton_step, Laplace};
pub use population::{Evaluated, Move, Population};
pub use weights::{effective_size, effective_size_interval, log_mean, systematic};
