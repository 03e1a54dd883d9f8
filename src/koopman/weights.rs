//! A student whose training averaged its weights keeps both kinds: the averaged ones, which it samples
//! with unless told otherwise, and the raw ones of the last step.

use std::str::FromStr;

use tch::Tensor;

use super::Student;
use crate::error::{Error, Result};
use crate::tensor::Share;
use crate::tensor::{shape_text, shared};

/// The names of both kinds in a file.
pub const AVERAGED_WEIGHTS: &str = "weights.averaged";
pub const RAW_WEIGHTS: &str = "weights.raw";

/// Flat snapshots of all parameters, `[count]` each.
#[derive(Debug)]
pub struct BothWeights {
    averaged: Tensor,
    raw: Tensor,
}

impl BothWeights {
    pub(super) fn named(&self) -> [(String, Tensor); 2] {
        [(AVERAGED_WEIGHTS.into(), self.averaged.copy()), (RAW_WEIGHTS.into(), self.raw.copy())]
    }
}

shared!(BothWeights { averaged, raw });

/// Which weights to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsChoice {
    Averaged,
    Raw,
}

impl FromStr for WeightsChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "ema" => Ok(WeightsChoice::Averaged),
            "raw" => Ok(WeightsChoice::Raw),
            _ => Err(Error::argument("weights", "'ema' or 'raw'", format!("{name:?}"))),
        }
    }
}

impl Student {
    /// Remembers both kinds; the parameters in use stay what they are.
    ///
    /// # Errors
    /// [`Error::Shape`] for snapshots of other parameters.
    pub fn keep_both(&mut self, averaged: &Tensor, raw: &Tensor) -> Result<()> {
        let own = self.parameters().flat()?;
        for (name, weights) in [(AVERAGED_WEIGHTS, averaged), (RAW_WEIGHTS, raw)] {
            if weights.size() != own.size() {
                return Err(Error::shape(name, shape_text(&own.size()), shape_text(&weights.size())));
            }
        }
        let copy = |weights: &Tensor| weights.detach().to_device(own.device()).to_kind(own.kind()).copy();
        self.both = Some(BothWeights { averaged: copy(averaged), raw: copy(raw) });
        Ok(())
    }

    /// The weights of the last step, `[count]`, where training averaged; `None` where the parameters are
    /// all there is.
    pub fn raw(&self) -> Option<Tensor> {
        self.both.as_ref().map(|both| both.raw.shallow_clone())
    }

    /// The averaged weights, `[count]`.
    pub fn averaged(&self) -> Option<Tensor> {
        self.both.as_ref().map(|both| both.averaged.shallow_clone())
    }

    /// A student of its own that uses the weights asked for; without averages both kinds are the same.
    pub fn with_weights(&self, choice: WeightsChoice) -> Result<Student> {
        let mut tensors: std::collections::HashMap<String, Tensor> = self.named().into_iter().collect();
        let mut student = Student::new(self.config().clone(), 0, self.device())?;
        student.set_source(self.source().shallow_clone());
        student.restore(|name| {
            tensors.remove(name).ok_or_else(|| Error::Internal(anyhow::anyhow!("no tensor {name}")))
        })?;
        if let Some(both) = &self.both {
            student.keep_both(&both.averaged, &both.raw)?;
            student.set_parameters(match choice {
                WeightsChoice::Averaged => &both.averaged,
                WeightsChoice::Raw => &both.raw,
            })?;
        }
        Ok(student)
    }
}
