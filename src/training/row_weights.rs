//! Adaptive weights of the rows of a batch, which depend on the rows' errors.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};

/// Adaptive weights: each row's squared error e contributes e / (e + offset)^power to the loss. No gradient
/// flows through the denominator. Rows with large errors weigh less than with plain squares; at power 1 all
/// rows contribute about equally (Geng et al., "Mean Flows for One-step Generative Modeling", arXiv
/// 2505.13447, eq. 22).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RowWeights {
    /// Power of the denominator, 0 to 2. 0 weighs all rows equally.
    pub power: f64,
    /// Constant added to the squared error in the denominator. Squared errors well below it count as small.
    pub offset: f64,
}

impl RowWeights {
    /// The default offset.
    pub const OFFSET: f64 = 1e-3;
    /// The least offset. Squares of smaller numbers leave the range of single precision.
    const LEAST_OFFSET: f64 = 1e-12;
    const MOST_POWER: f64 = 2.0;

    /// Equal weights for all rows.
    pub const OFF: RowWeights = RowWeights { power: 0.0, offset: RowWeights::OFFSET };

    /// The weights for the options `row_power` and `row_offset`.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option out of range, or `row_offset` if it is given while `row_power`
    /// is 0.
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

    /// The weighted mean of squared errors `[B]`, a scalar.
    pub fn mean(self, squares: &Tensor) -> Tensor {
        let kind = squares.kind();
        if self.power == 0.0 {
            return squares.mean(kind);
        }
        let weight = (squares.detach() + self.offset).pow_tensor_scalar(-self.power);
        (squares * weight).mean(kind)
    }
}
