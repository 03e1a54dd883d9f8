//! What a step learns from: solved trajectories, points on probability paths, coupled minibatches.

mod batch;
mod batch_rows;
mod coupling;
mod demand;
mod draw;
mod file;
mod generate;
mod inputs;
mod interpolant;
mod observed;
mod path_points;
mod plan;
mod portions;
mod prefetch;
mod snapshots;
mod standard;
mod stream;
mod trajectories;

pub use batch::{Batch, Pairs, Points};
pub use batch_rows::{BatchRows, Regime};
pub use coupling::{assign, Coupling};
pub use demand::Demand;
pub use draw::{Curriculum, PairDraw, PairKind};
pub use file::{StoredPlan, TrajectoryFile};
pub use generate::{fixed_steps, TrajectoryPlan, SOLVER_STEPS};
pub use inputs::Inputs;
pub use interpolant::Interpolant;
pub use observed::{Observed, Segment, Statistics};
pub use path_points::{PathPlan, PathPoints};
pub use plan::Plan;
pub use portions::Portions;
pub use prefetch::{Batches, Prefetch};
pub use snapshots::{Chaining, Chains, PointBatch, Snapshots};
pub use standard::InStandardUnits;
pub use stream::{PairBatch, PairSource, PairStream};
pub use trajectories::Trajectories;
