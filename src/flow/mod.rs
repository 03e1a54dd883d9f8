//! Training a teacher: probability paths, couplings of noise with data, and the conditional
//! flow-matching loop.

mod config;
mod coupling;
mod path;
mod stream;
mod trainer;

pub use config::{Optimizer, TeacherConfig};
pub use coupling::{assign, Coupling};
pub use path::{Coefficients, Path};
pub use stream::{PairBatch, PairSource, PairStream};
pub use trainer::{train, TeacherHistory};
