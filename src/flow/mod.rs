//! Training a teacher: probability paths, couplings of noise with data, and the conditional
//! flow-matching loop.

mod coupling;
mod path;
mod stream;

pub use coupling::{assign, Coupling};
pub use path::{Coefficients, Path};
pub use stream::{PairBatch, PairSource, PairStream};
