//! Training of teachers by conditional flow matching. Probability paths are in [`crate::velocity::Path`], and
//! couplings of noise and data in [`crate::data::Coupling`].

mod config;
mod feed;
mod given;
mod history;
mod objective;
mod phase;
mod resume;
mod snapshots;
mod times;
mod trainer;
mod warm_start;

pub use crate::velocity::Path;
pub use config::{Optimizer, TeacherConfig};
pub use given::Given;
pub use history::TeacherHistory;
pub use objective::{Consistency, Objective};
pub use resume::TrainingFiles;
pub use snapshots::train_on_snapshots;
pub use times::TimeSampler;
pub use trainer::{train, train_with_files};
