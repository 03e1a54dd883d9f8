//! Conditions: class labels or continuous vectors, which a velocity field or a student may depend on.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{check_finite, dtype_name, shape_text};

/// What a field is conditioned on, besides t and x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Conditioning {
    #[default]
    None,
    /// Class labels: an integer tensor `[B]` with values in `0..classes`.
    Labels { classes: i64 },
    /// A continuous vector: a float tensor `[B, dim]`.
    Vector { dim: i64 },
}

impl Conditioning {
    /// Checks a condition for a batch of `batch` samples.
    pub fn check(&self, condition: Option<&Tensor>, batch: i64) -> Result<()> {
        let expected = match self {
            Conditioning::None => "no condition (this field is unconditional)".to_string(),
            Conditioning::Labels { classes } => format!("int64 labels ({batch},) in 0..{classes}"),
            Conditioning::Vector { dim } => format!("a float array ({batch}, {dim})"),
        };
        let wrong = |got: String| Err(Error::argument("condition", &expected, got));
        match (self, condition) {
            (Conditioning::None, None) => Ok(()),
            (_, None) => wrong("none".into()),
            (Conditioning::None, Some(c)) => wrong(format!("an array {}", shape_text(&c.size()))),
            (Conditioning::Labels { classes }, Some(c)) => {
                if c.kind() != Kind::Int64 || c.size() != [batch] {
                    return wrong(format!("{} {}", dtype_name(c.kind()), shape_text(&c.size())));
                }
                let (low, high) = (c.min().int64_value(&[]), c.max().int64_value(&[]));
                if low < 0 || high >= *classes {
                    return wrong(format!("labels from {low} to {high}"));
                }
                Ok(())
            }
            (Conditioning::Vector { dim }, Some(c)) => {
                if !c.is_floating_point() || c.size() != [batch, *dim] {
                    return wrong(format!("{} {}", dtype_name(c.kind()), shape_text(&c.size())));
                }
                check_finite("condition", c)
            }
        }
    }

    /// Number of columns that [`Conditioning::encode`] gives.
    pub fn size(&self) -> i64 {
        match self {
            Conditioning::None => 0,
            Conditioning::Labels { classes } => *classes,
            Conditioning::Vector { dim } => *dim,
        }
    }

    /// A condition as network input, `[B, size]`: labels become one-hot rows, and the label `classes`, which
    /// stands for no condition at all, a row of zeros.
    pub fn encode(&self, condition: Option<&Tensor>, kind: Kind) -> Option<Tensor> {
        match self {
            Conditioning::None => None,
            Conditioning::Labels { classes } => {
                condition.map(|c| c.one_hot(*classes + 1).narrow(1, 0, *classes).to_kind(kind))
            }
            Conditioning::Vector { .. } => condition.map(|c| c.to_kind(kind)),
        }
    }
}
