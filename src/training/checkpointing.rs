//! When training writes checkpoints, and which checkpoints it may resume.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The checkpoint file of a training, and the interval at which it is written. It is also written before the
/// first step and when training ends, for any reason. It always holds a whole model, the best one so far.
#[derive(Debug, Clone, Default)]
pub struct Checkpointing {
    pub file: PathBuf,
    /// Number of steps between two writes.
    pub every_steps: Option<u64>,
    /// Seconds between two writes; 600 if neither interval is given.
    pub every_seconds: Option<f64>,
    /// A JSON object for the caller's own use, stored with the model.
    pub header: Value,
}

impl Checkpointing {
    /// Whether a write is due after `step` steps, `seconds` after the last write.
    pub fn due(&self, step: u64, seconds: f64) -> bool {
        let by_steps = self.every_steps.is_some_and(|every| step % every.max(1) == 0);
        let limit = match (self.every_steps, self.every_seconds) {
            (None, None) => Some(600.0),
            (_, limit) => limit,
        };
        by_steps || limit.is_some_and(|limit| seconds >= limit)
    }
}

/// Checks that a run is resumed with the options with which `file` was written, except those in `may_differ`.
///
/// # Errors
/// [`Error::Argument`] naming the first option that differs.
pub fn check_same_options<C: Serialize>(stored: &C, own: &C, may_differ: &[&str], file: &Path) -> Result<()> {
    let plain = |config: &C| -> Result<Map<String, Value>> {
        match serde_json::to_value(config) {
            Ok(Value::Object(options)) => Ok(options),
            Ok(_) => Err(Error::Internal(anyhow::anyhow!("a configuration is an object"))),
            Err(error) => Err(Error::Internal(error.into())),
        }
    };
    let (stored, own) = (plain(stored)?, plain(own)?);
    for (option, value) in own.iter().filter(|(option, _)| !may_differ.contains(&option.as_str())) {
        let before = stored.get(option).unwrap_or(&Value::Null);
        if before != value {
            return Err(Error::argument(option, format!("{before}, as in {}", file.display()), value));
        }
    }
    Ok(())
}
