//! What a step learns from: solved trajectories, points on probability paths, coupled minibatches.

mod batch_rows;
mod coupling;
mod draw;
mod file;
mod inputs;
mod path_points;
mod stream;
mod trajectories;

pub use batch_rows::{BatchRows, Regime};
pub use coupling::{assign, Coupling};
pub(crate) use draw::sampler_steps;
pub use draw::{Batch, Curriculum, PairDraw, PairKind, Pairs};
pub use file::{StoredPlan, TrajectoryFile};
pub use inputs::Inputs;
pub use path_points::{PathPlan, PathPoints, Points};
pub use stream::{PairBatch, PairSource, PairStream};
pub use trajectories::{Trajectories, TrajectoryPlan};
