//! What a step learns from: solved trajectories, points on probability paths, coupled minibatches.

mod batch;
mod batch_rows;
mod coupling;
mod demand;
mod draw;
mod file;
mod generate;
mod inputs;
mod observed;
mod path_points;
mod portions;
mod standard;
mod stream;
mod trajectories;

pub(crate) use batch::sampler_steps;
pub use batch::{Batch, Pairs, Points};
pub use batch_rows::{BatchRows, Regime};
pub use coupling::{assign, Coupling};
pub use demand::Demand;
pub use draw::{Curriculum, PairDraw, PairKind};
pub use file::{StoredPlan, TrajectoryFile};
pub use generate::TrajectoryPlan;
pub use inputs::Inputs;
pub use observed::{Observed, Segment, Statistics};
pub use path_points::{PathPlan, PathPoints};
pub use portions::Portions;
pub use standard::InStandardUnits;
pub use stream::{PairBatch, PairSource, PairStream};
pub use trajectories::Trajectories;
