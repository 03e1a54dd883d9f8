//! The options of the training loop, as distinct from those of the model and of the data.

use serde::{Deserialize, Serialize};

use super::DistillConfig;
use crate::data::BatchRows;
use crate::error::{Error, Result};
use crate::tensor::parse_device;
use crate::training::{check_positive, check_weights_options};

/// What best-model keeping, plateaus and early stopping look at: all are errors, the smaller the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The sum of endpoint, path and inversion errors.
    #[default]
    Score,
    EndpointError,
    PathError,
    InversionError,
    PhaseError,
    ConsistencyResidual,
}

/// How often held-out errors are looked at where `evaluate_every` is open.
const EVALUATIONS: u64 = 20;

impl DistillConfig {
    /// Steps between two held-out evaluations.
    pub(super) fn evaluation_interval(&self, steps: u64) -> u64 {
        self.evaluate_every.unwrap_or(steps / EVALUATIONS).max(1)
    }

    /// # Errors
    /// [`Error::Argument`] naming the option out of its range.
    pub(super) fn check_training(&self, rows: &BatchRows) -> Result<()> {
        check_weights_options(self.weight_decay, self.ema_decay)?;
        if let Some(rate) = self.generator_learning_rate {
            check_positive(&[("generator_learning_rate", rate)])?;
        }
        let limit = rows.most_parts();
        if !(1..=limit).contains(&self.accumulate) {
            let expected =
                format!("an integer from 1 to {limit}, which leaves two rows of each kind of pair in a part");
            return Err(Error::argument("accumulate", expected, self.accumulate));
        }
        for (name, value) in [("evaluate_every", self.evaluate_every), ("patience", self.patience)] {
            if value == Some(0) {
                return Err(Error::argument(name, "an integer of at least 1", 0));
            }
        }
        self.precision.check(parse_device(&self.device)?)
    }
}
