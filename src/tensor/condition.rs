//! Conditions at the door: shape, dtype and range, and how a network takes them.

use tch::{Kind, Tensor};

use super::{check_finite, dtype_name, shape_text};
use crate::condition::Conditioning;
use crate::error::{Error, Result};

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
                // One read from the device for both.
                let (low, high) = c.f_aminmax(None, false)?;
                let ends = Vec::<i64>::try_from(&Tensor::f_stack(&[low, high], 0)?)?;
                let (low, high) = (ends[0], ends[1]);
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
