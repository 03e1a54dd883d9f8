//! Averaged and raw weights of a student. If training averaged the weights, the student keeps the averaged
//! ones, which it uses by default, and the raw ones of the last step. If training had several averages, the
//! student keeps each of them.

use std::str::FromStr;

use tch::Tensor;

use super::{heads, noising, Student, StudentConfig};
use crate::error::{Error, Result};
use crate::tensor::Share;
use crate::tensor::{shape_text, shared};

/// The names of both kinds in a file.
pub const AVERAGED_WEIGHTS: &str = "weights.averaged";
pub const RAW_WEIGHTS: &str = "weights.raw";
/// Prefix of the names of several averages; their decay follows.
const SEVERAL: &str = "weights.average.";

/// Flat snapshots of all parameters, `[count]` each.
#[derive(Debug)]
pub struct BothWeights {
    averaged: Tensor,
    raw: Tensor,
    /// Several averages and their decays; empty if there was only one.
    several: Vec<Tensor>,
    decays: Vec<f64>,
}

impl BothWeights {
    pub(super) fn named(&self) -> Vec<(String, Tensor)> {
        let mut named =
            vec![(AVERAGED_WEIGHTS.into(), self.averaged.copy()), (RAW_WEIGHTS.into(), self.raw.copy())];
        let several = self.decays.iter().zip(&self.several);
        named.extend(several.map(|(decay, weights)| (average_name(*decay), weights.copy())));
        named
    }
}

shared!(BothWeights { averaged, raw, several; decays });

/// The name in a file of one of several averages.
pub(crate) fn average_name(decay: f64) -> String {
    format!("{SEVERAL}{decay}")
}

/// The decay of one of several averages, by its name in a file; `None` for any other name.
pub(super) fn decay_of(name: &str) -> Option<f64> {
    name.strip_prefix(SEVERAL)?.parse().ok()
}

/// Which weights to use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WeightsChoice {
    /// The averaged weights; the best of several averages.
    Averaged,
    Raw,
    /// One of several averages, by its decay.
    Average(f64),
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
    /// Stores averaged and raw weights. The parameters in use do not change.
    ///
    /// # Errors
    /// [`Error::Shape`] for snapshots of other parameters.
    pub fn keep_both(&mut self, averaged: &Tensor, raw: &Tensor) -> Result<()> {
        let averaged = self.snapshot(AVERAGED_WEIGHTS, averaged)?;
        let raw = self.snapshot(RAW_WEIGHTS, raw)?;
        self.both = Some(BothWeights { averaged, raw, several: Vec::new(), decays: Vec::new() });
        Ok(())
    }

    /// Stores each of several averages by its decay, in addition to averaged and raw weights.
    ///
    /// # Errors
    /// As [`Student::keep_both`]; [`Error::Internal`] if that was not called before.
    pub fn keep_averages(&mut self, averages: &[(f64, Tensor)]) -> Result<()> {
        let own: Result<_> =
            averages.iter().map(|(decay, weights)| self.snapshot(&average_name(*decay), weights)).collect();
        let both = self.both.as_mut();
        let both =
            both.ok_or_else(|| Error::Internal(anyhow::anyhow!("averages without averaged weights")))?;
        both.several = own?;
        both.decays = averages.iter().map(|(decay, _)| *decay).collect();
        Ok(())
    }

    /// A copy of weights, which must have this student's size.
    fn snapshot(&self, name: &str, weights: &Tensor) -> Result<Tensor> {
        let own = self.parameters().flat()?;
        if weights.size() != own.size() {
            return Err(Error::shape(name, shape_text(&own.size()), shape_text(&weights.size())));
        }
        Ok(weights.detach().to_device(own.device()).to_kind(own.kind()).copy())
    }

    /// The weights of the last step, `[count]`; `None` if training did not average.
    pub fn raw(&self) -> Option<Tensor> {
        self.both.as_ref().map(|both| both.raw.shallow_clone())
    }

    /// The averaged weights, `[count]`; `None` if training did not average.
    pub fn averaged(&self) -> Option<Tensor> {
        self.both.as_ref().map(|both| both.averaged.shallow_clone())
    }

    /// The decays of several averages; empty if training had one average or none.
    pub fn decays(&self) -> &[f64] {
        self.both.as_ref().map_or(&[], |both| &both.decays)
    }

    /// The chosen weights; `None` for averaged and raw weights if training did not average.
    fn chosen(&self, choice: WeightsChoice) -> Result<Option<Tensor>> {
        let decay = match choice {
            WeightsChoice::Averaged => return Ok(self.averaged()),
            WeightsChoice::Raw => return Ok(self.raw()),
            WeightsChoice::Average(decay) => decay,
        };
        let place = self.decays().iter().position(|own| *own == decay);
        match (place, &self.both) {
            (Some(place), Some(both)) => Ok(Some(both.several[place].shallow_clone())),
            _ => {
                let known: Vec<String> = self.decays().iter().map(f64::to_string).collect();
                let expected = match known.is_empty() {
                    true => "a student that was trained with several averages".into(),
                    false => format!("one of {}", known.join(", ")),
                };
                Err(Error::argument("decay", expected, decay))
            }
        }
    }

    /// The student without what only training uses: heads and the field of its noised samples. Its parameters
    /// are a copy if it had any of them, and shared otherwise.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn without_aids(&self) -> Result<Student> {
        if self.config().heads.is_empty() && self.config().noising.is_none() {
            return Ok(self.shallow_clone());
        }
        let config = StudentConfig { heads: Vec::new(), noising: None, ..self.config().clone() };
        let mut student = Student::new(config, 0, self.device())?;
        student.set_source(self.source().shallow_clone());
        let tensors = self.named();
        student.restore(|name| {
            let found = tensors.iter().find(|(own, _)| own == name);
            let missing = || Error::Internal(anyhow::anyhow!("no tensor {name}"));
            found.map(|(_, tensor)| tensor.shallow_clone()).ok_or_else(missing)
        })?;
        // Such parameters are the last ones.
        let count = student.parameters().count();
        let cut = |weights: &Tensor| weights.narrow(0, 0, count).copy();
        student.both = self.both.as_ref().map(|both| BothWeights {
            averaged: cut(&both.averaged),
            raw: cut(&both.raw),
            several: both.several.iter().map(cut).collect(),
            decays: both.decays.clone(),
        });
        Ok(student)
    }

    /// About the number of weights that one encoding uses: those of one lift, without what only training uses.
    pub fn weights_per_lift(&self) -> i64 {
        let aids = [heads::PREFIX, noising::PREFIX];
        let own = |name: &str| !aids.iter().any(|prefix| name.starts_with(prefix));
        self.parameters().count_of(own) / self.config().lifts
    }

    /// A copy of the student that uses the chosen weights. If training did not average, averaged and raw
    /// weights are the same.
    ///
    /// # Errors
    /// [`Error::Argument`] for the decay of an average that does not exist.
    pub fn with_weights(&self, choice: WeightsChoice) -> Result<Student> {
        let chosen = self.chosen(choice)?;
        let mut tensors: std::collections::HashMap<String, Tensor> = self.named().into_iter().collect();
        let mut student = Student::new(self.config().clone(), 0, self.device())?;
        student.set_source(self.source().shallow_clone());
        student.restore(|name| {
            tensors.remove(name).ok_or_else(|| Error::Internal(anyhow::anyhow!("no tensor {name}")))
        })?;
        if let Some(both) = &self.both {
            student.both = Some(both.shallow_clone());
        }
        if let Some(weights) = chosen {
            student.set_parameters(&weights)?;
        }
        Ok(student)
    }
}
