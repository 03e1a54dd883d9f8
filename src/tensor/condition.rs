//! Checks of conditions (shape, dtype, range) and their encoding as network input.

use tch::{Device, Kind, Tensor};

use super::{check_finite, dtype_name, shape_text};
use crate::condition::Conditioning;
use crate::error::{Error, Result};

impl Conditioning {
    /// Brings a condition into the form that [`Conditioning::check`] expects. A single label or vector is
    /// repeated for every sample of `batch` (`None` if rows are only drawn from the condition). Booleans
    /// become the labels 0 and 1, and vectors of integers become floats. Anything else that is wrong is left
    /// for the check to report.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `condition` for labels that are a column or floating-point numbers. The
    /// message says how to convert them.
    pub fn arrange(&self, condition: Tensor, batch: Option<i64>) -> Result<Tensor> {
        if let (Conditioning::Labels { .. }, Some(remedy)) = (self, almost_labels(&condition)) {
            let got = format!("{} {}", dtype_name(condition.kind()), shape_text(&condition.size()));
            let got = format!("{got} (use {remedy})");
            return Err(Error::argument("condition", "integers of shape (N,) as labels", got));
        }
        let (kind, row) = match (self, condition.kind()) {
            (Conditioning::None, _) => return Ok(condition),
            (Conditioning::Labels { .. }, Kind::Bool) => (Kind::Int64, vec![]),
            (Conditioning::Labels { .. }, kind) => (kind, vec![]),
            (Conditioning::Vector { dim }, Kind::Bool | Kind::Int64) => (Kind::Float, vec![*dim]),
            (Conditioning::Vector { dim }, kind) => (kind, vec![*dim]),
        };
        let condition = condition.f_to_kind(kind)?;
        let rows = |count: i64| [&[count], row.as_slice()].concat();
        let condition = if condition.size() == row { condition.f_unsqueeze(0)? } else { condition };
        match batch {
            Some(batch) if condition.size() == rows(1) => Ok(condition.f_expand(rows(batch), false)?),
            _ => Ok(condition),
        }
    }

    /// Checks a condition for a batch of `batch` samples.
    pub fn check(&self, condition: Option<&Tensor>, batch: i64) -> Result<()> {
        let expected = match self {
            Conditioning::None => "no condition (this field is unconditional)".to_string(),
            Conditioning::Labels { classes } => {
                format!("int64 labels of shape ({batch},) from 0 to {}", classes - 1)
            }
            Conditioning::Vector { dim } => format!("a float array of shape ({batch}, {dim})"),
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
                // One transfer from the device reads both.
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

    /// Conditions for `count` samples. Given conditions are repeated as often as needed. Without any, the
    /// labels cycle through the classes.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `condition` if vectors are needed and none are given, or if the array is
    /// empty.
    pub fn spread(&self, given: Option<&Tensor>, count: i64) -> Result<Option<Tensor>> {
        let turn = |length: i64| Tensor::arange(count, (Kind::Int64, Device::Cpu)).f_remainder(length);
        match (self, given) {
            (_, Some(given)) => {
                let rows = if given.dim() == 0 { given.unsqueeze(0) } else { given.shallow_clone() };
                match rows.size()[0] {
                    0 => Err(Error::argument("condition", "at least one condition", "an empty array")),
                    length => Ok(Some(rows.f_index_select(0, &turn(length)?.to_device(rows.device()))?)),
                }
            }
            (Conditioning::None, None) => Ok(None),
            (Conditioning::Labels { classes }, None) => Ok(Some(turn(*classes)?)),
            (Conditioning::Vector { dim }, None) => {
                Err(Error::argument("condition", format!("vectors of shape (P, {dim}) to draw from"), "none"))
            }
        }
    }

    /// A condition as network input, `[B, size]`. Labels become one-hot rows. The label `classes` stands for
    /// no condition and becomes a row of zeros.
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

/// Python expression that turns a column or floating-point numbers into labels; `None` for any other tensor.
fn almost_labels(condition: &Tensor) -> Option<&'static str> {
    match *condition.size() {
        _ if condition.numel() == 0 => None,
        _ if condition.is_floating_point() => Some("labels.astype(int) or labels.long()"),
        [_, 1] => Some("labels[:, 0]"),
        _ => None,
    }
}
