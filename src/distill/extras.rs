//! What a distillation may be given besides options and data.

use std::path::PathBuf;

use super::{Checkpointing, FeatureDistance};

/// Everything is optional.
#[derive(Default)]
pub struct Extras {
    /// Distance between samples in the space of a network's features, for the objective's term of that name.
    pub feature_distance: Option<Box<dyn FeatureDistance>>,
    /// Where, and how often, the state of training is written.
    pub checkpoint: Option<Checkpointing>,
    /// A file that [`Checkpointing`] wrote: training goes on where it was.
    pub resume: Option<PathBuf>,
}
