//! What training a teacher leaves behind.

use serde::Serialize;

use super::TeacherConfig;
use crate::training::Stopped;

/// What happened while a teacher was trained.
#[derive(Debug, Clone, Serialize)]
pub struct TeacherHistory {
    /// Number of steps taken.
    pub steps: u64,
    pub seconds: f64,
    pub stopped: Stopped,
    /// (steps done, mean loss over the steps since the entry before).
    pub loss: Vec<(u64, f64)>,
    /// The options, with nothing left open.
    pub config: TeacherConfig,
}
