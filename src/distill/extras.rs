//! Optional arguments of a distillation besides options and data.

use std::path::PathBuf;

use super::{Checkpointing, FeatureDistance};

/// Optional arguments of [`super::distill_with`].
#[derive(Default)]
pub struct Extras {
    /// Distance between samples in a network's feature space, for the term `feature_distance` of the
    /// objective.
    pub feature_distance: Option<Box<dyn FeatureDistance>>,
    /// File and interval of checkpoints.
    pub checkpoint: Option<Checkpointing>,
    /// A file that [`Checkpointing`] wrote, from which training is resumed.
    pub resume: Option<PathBuf>,
}
