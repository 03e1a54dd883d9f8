//! What a distillation is given besides its options: data and files.

use std::path::PathBuf;

use tch::Tensor;

use crate::distill::FeatureDistance;
use crate::training::Checkpointing;

/// Everything optional.
#[derive(Default)]
pub struct Inputs {
    /// For a conditional teacher: labels `[P]` or vectors `[P, dim]` that trajectories draw their
    /// conditions from. Where it is left out: the conditions of the data for vectors, all classes
    /// equally for labels.
    pub pool: Option<Tensor>,
    /// `[N, *event]`: the teacher's training data, for simulation-free points.
    pub data: Option<Tensor>,
    /// `[N, *event]`: the noise of each row of `data`, for a teacher that was trained on given pairs.
    pub noise: Option<Tensor>,
    /// The condition of each row of `data`; `pool` where it is left out.
    pub data_condition: Option<Tensor>,
    /// Where trajectories are stored and found again.
    pub trajectory_file: Option<PathBuf>,
    /// Where the objective has a distance of features.
    pub feature_distance: Option<Box<dyn FeatureDistance>>,
    /// Regenerates the trajectories of that file.
    pub refresh: bool,
    pub checkpoint: Option<Checkpointing>,
    /// A file that [`Checkpointing`] wrote: training goes on where it was.
    pub resume: Option<PathBuf>,
}
