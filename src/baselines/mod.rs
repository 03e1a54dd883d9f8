//! Baselines: other ways to distil a flow, against which koopflow's students are measured. They are trained
//! on the same trajectories, in the same coordinates, with networks of the same width and depth.

mod config;
mod kdm;
mod mean_velocity;
mod networks;
mod plain;
mod sampler;
mod source;
mod space;
mod store;
mod student;
mod trainer;

pub use config::{BaselineConfig, BaselineModel, KdmWeights, Method};
pub use kdm::Kdm;
pub use mean_velocity::MeanVelocity;
pub use networks::Networks;
pub use plain::PlainNetwork;
pub use source::Source;
pub use space::Space;
pub use store::BaselineDescription;
pub use student::Baseline;
pub use trainer::{fit, BaselineHistory};
