//! The Koopman model: observables g(t, x) = [1, t, x, phi(t, x)] that evolve by one linear generator,
//! dg/dt = g L (row convention), so that g(t + tau) = g(t) exp(tau L) and x is read off as a slice.
//! Source: Turan et al., arXiv 2506.22304, section 3.

mod blocks;
mod config;
mod convert;
mod coordinates;
mod dense;
mod generator;
mod horizon;
mod levels;
mod lift;
mod observer;
mod propagator;
mod readout;
mod spectral;
mod stability;
mod student;
mod weights;

use tch::Tensor;

pub use blocks::Blocks;
pub use config::{polynomial_size, StudentConfig};
pub use convert::Conversion;
pub use coordinates::InputCoordinates;
pub use dense::DenseGenerator;
pub use generator::{Generator, GeneratorKind};
pub use horizon::{Horizon, Motion};
pub use levels::{FeatureMap, LevelBlocks, LevelGenerator};
pub use lift::{Basis, Frame, Inputs, Lift, Rates};
pub use observer::weight_of_encoding;
pub use propagator::Propagator;
pub use readout::{Readout, ReadoutKind};
pub use spectral::SpectralGenerator;
pub use stability::Stability;
pub(crate) use student::finite_or_divergence;
pub use student::{Direction, Student};
pub use weights::{BothWeights, WeightsChoice, AVERAGED_WEIGHTS, RAW_WEIGHTS};

/// A batch of observables in its parts; `m = 2 + d + k`.
#[derive(Debug)]
pub struct Observables {
    /// `[B]`.
    pub t: Tensor,
    /// `[B, d]`; `[B, 0]` where the state is not among the observables.
    pub x: Tensor,
    /// phi: `[B, k]`.
    pub features: Tensor,
}

impl Observables {
    /// g = [1, t, x, phi]: `[B, m]`.
    pub fn assemble(&self) -> Tensor {
        let t = self.t.unsqueeze(1);
        Tensor::cat(&[t.ones_like(), t, self.x.shallow_clone(), self.features.shallow_clone()], 1)
    }

    /// The parts of `g`, `[B, m]`, whose first coordinate is taken to be 1.
    pub fn split(g: &Tensor, dimension: i64) -> Observables {
        let features = g.size()[1] - 2 - dimension;
        Observables {
            t: g.select(1, 1),
            x: g.narrow(1, 2, dimension),
            features: g.narrow(1, 2 + dimension, features),
        }
    }

    /// The rows of several batches, in order.
    pub fn cat(batches: &[&Observables]) -> Observables {
        let join = |part: fn(&Observables) -> &Tensor| {
            Tensor::cat(&batches.iter().map(|g| part(g)).collect::<Vec<_>>(), 0)
        };
        Observables { t: join(|g| &g.t), x: join(|g| &g.x), features: join(|g| &g.features) }
    }

    pub fn shallow_clone(&self) -> Observables {
        Observables {
            t: self.t.shallow_clone(),
            x: self.x.shallow_clone(),
            features: self.features.shallow_clone(),
        }
    }

    /// Rows `start .. start + length`.
    pub fn rows(&self, start: i64, length: i64) -> Observables {
        Observables {
            t: self.t.narrow(0, start, length),
            x: self.x.narrow(0, start, length),
            features: self.features.narrow(0, start, length),
        }
    }
}
