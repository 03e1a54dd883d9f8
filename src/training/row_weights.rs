//! Adaptive weights of a batch's rows, by their own errors.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};

/// Each row's squared error e counts as e / (e + offset)^power, whose denominator is taken as given: rows that are far
/// off pull less than their squares would, at power 1 all rows alike (Geng et al., "Mean Flows for One-step Generative
/// Modeling", arXiv 2505.13447, eq. 22).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RowWeights {
    /// 0 weighs all rows alike.
    pub power: f64,
    /// Where errors count as small.
    pub offset: f64,
}

impl RowWeights {
    /// The offset where none is given.
    pub const OFFSET: f64 = 1e-3;
    /// Squares of smaller ones leave the range of single precision.
    const LEAST_OFFSET: f64 = 1e-12;
    const MOST_POWER: f64 = 2.0;

    /// All rows alike.
    pub const OFF: RowWeights = RowWeights { power: 0.0, offset: RowWeights::OFFSET };

    /// The weights that two options ask for.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option out of its range; `row_offset` where `row_power` is 0.
    pub fn of(power: f64, offset: Option<f64>) -> Result<Self> {
        if !(0.0..=Self::MOST_POWER).contains(&power) {
            return Err(Error::argument(
                "row_power",
                format!("a number from 0 to {}", Self::MOST_POWER),
                power,
            ));
        }
        let Some(offset) = offset else { return Ok(RowWeights { power, ..Self::OFF }) };
        if power == 0.0 {
            return Err(Error::argument("row_offset", "none unless row_power is positive", offset));
        }
        if !(offset.is_finite() && offset >= Self::LEAST_OFFSET) {
            let expected = format!("a number of at least {:e}", Self::LEAST_OFFSET);
            return Err(Error::argument("row_offset", expected, offset));
        }
        Ok(RowWeights { power, offset })
    }

    /// The mean of squared errors `[B]` by their weights, a scalar.
    pub fn mean(self, squares: &Tensor) -> Tensor {
        let kind = squares.kind();
        if self.power == 0.0 {
            return squares.mean(kind);
        }
        let weight = (squares.detach() + self.offset).pow_tensor_scalar(-self.power);
        (squares * weight).mean(kind)
    }
}
