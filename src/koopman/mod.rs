//! The Koopman model: observables g(t, x) = [1, t, x, phi(t, x)] that evolve by one linear generator,
//! dg/dt = g L (row convention), so that g(t + tau) = g(t) exp(tau L) and x is read off as a slice.
//! Source: Turan et al., arXiv 2506.22304, section 3.

mod config;
mod convert;
mod generator;
mod heads;
mod horizon;
mod horizons;
mod lift;
mod noising;
mod observables;
mod propagator;
mod readout;
mod segments;
mod store;
mod student;
mod weights;

pub use config::{polynomial_size, StudentConfig};
pub use convert::Conversion;
pub use generator::{
    exponential_integral, Blocks, DenseGenerator, Eigenvectors, FeatureMap, Generator, GeneratorKind,
    LevelBlocks, LevelGenerator, SpectralGenerator, Stability,
};
pub use heads::Heads;
pub use horizon::{Horizon, Motion};
pub use lift::{Basis, Frame, Inputs, Lift, Rates};
pub use noising::Noising;
pub use observables::{weight_of_encoding, Observables};
pub use propagator::Propagator;
pub use readout::{Readout, ReadoutKind};
pub use segments::{Segments, SegmentsDescription};
pub use store::StudentDescription;
pub use student::{Direction, Student};
pub(crate) use weights::average_name;
pub use weights::{BothWeights, WeightsChoice, AVERAGED_WEIGHTS, RAW_WEIGHTS};
