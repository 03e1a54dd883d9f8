//! What a distillation is given besides its options: data and files.

use std::path::PathBuf;

use serde_json::Value;
use tch::Tensor;

use super::FeatureDistance;

/// Everything optional.
#[derive(Default)]
pub struct Inputs {
    /// For a conditional teacher: labels `[P]` or vectors `[P, dim]` that trajectories draw their
    /// conditions from. Where it is left out: the conditions of the data for vectors, all classes
    /// equally for labels.
    pub pool: Option<Tensor>,
    /// `[N, *event]`: the teacher's training data, for simulation-free points.
    pub data: Option<Tensor>,
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

/// Where and how often training writes its state. Whatever ends training writes it once more. The file is
/// at any moment a whole student, the best so far.
#[derive(Debug, Clone, Default)]
pub struct Checkpointing {
    pub file: PathBuf,
    /// Steps between two files.
    pub every_steps: Option<u64>,
    /// Seconds between two files; 600 where `every_steps` is open too.
    pub every_seconds: Option<f64>,
    /// Stored beside the student under `header`, for the caller's own use: a JSON object.
    pub header: Value,
}

impl Checkpointing {
    /// Whether a file is due after `step` steps, `seconds` after the last one.
    pub(super) fn due(&self, step: u64, seconds: f64) -> bool {
        let by_steps = self.every_steps.is_some_and(|every| step % every.max(1) == 0);
        let limit = match (self.every_steps, self.every_seconds) {
            (None, None) => Some(600.0),
            (_, limit) => limit,
        };
        by_steps || limit.is_some_and(|limit| seconds >= limit)
    }
}
