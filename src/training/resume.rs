//! Training files: a model together with everything needed to resume its training.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::{Adam, Averages};
use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::store::{self, Stored, Tensors, BESIDE};
use crate::tensor::shape_text;

/// Upper bound of the counts in a file. Real counts stay far below it.
const MOST_COUNTED: u64 = 1 << 30;

/// Update counters of the optimiser and of the moving averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateCounts {
    pub optimiser_steps: i32,
    pub average_updates: u64,
}

/// Writes `model` with its facts as [`store::save`] does. The file also holds the raw weights `raw` of
/// training, the optimiser's moments and the averages, if there are any. The facts must contain
/// [`UpdateCounts::of`].
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn save_training<T: Stored>(
    path: &Path,
    model: &T,
    facts: Value,
    raw: &Tensor,
    optimiser: &Adam,
    averages: &Averages,
) -> Result<()> {
    let (first, second, _) = optimiser.state();
    let mut beside = vec![("raw".into(), raw), ("first".into(), first), ("second".into(), second)];
    let places = averages.all().iter().enumerate();
    beside.extend(places.map(|(place, average)| (average_name(place), average.value())));
    let beside = beside.into_iter().map(|(name, tensor)| (name, tensor.shallow_clone())).collect();
    store::save_with(path, model, facts, beside)
}

/// Name of an average in a file. The first is called `average`, as in files from before there were several.
fn average_name(place: usize) -> String {
    match place {
        0 => "average".into(),
        _ => format!("average.{place}"),
    }
}

impl UpdateCounts {
    pub fn of(optimiser: &Adam, averages: &Averages) -> Self {
        UpdateCounts { optimiser_steps: optimiser.state().2, average_updates: averages.updates() }
    }
}

/// Whether all counts and durations of a ledger are in a plausible range, so that arithmetic on them is safe.
fn plausible(ledger: &Value) -> bool {
    match ledger {
        Value::Number(number) if number.is_f64() => number.as_f64().is_some_and(|value| value.abs() < 1e100),
        Value::Number(number) => number.as_u64().is_some_and(|value| value < MOST_COUNTED),
        Value::Array(items) => items.iter().all(plausible),
        Value::Object(entries) => entries.values().all(plausible),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Contents of a file that [`save_training`] wrote for a model of type `T`.
pub struct TrainingFile<T: Stored> {
    pub description: T::Description,
    /// The model's own tensors, and those of its training.
    pub tensors: Tensors,
    facts: Value,
}

impl<T: Stored> TrainingFile<T> {
    /// Reads a training file.
    ///
    /// # Errors
    /// As [`store::load`]; [`Error::Checkpoint`] if the file holds only a finished model.
    pub fn read(path: &Path) -> Result<Self> {
        let (description, facts, tensors) = store::open::<T>(path)?;
        if !tensors.has_beside() {
            let message = format!("holds a finished {}, not one in training: nothing to resume", T::KIND);
            return Err(Error::checkpoint(path.display(), message));
        }
        match facts.get("training").is_none_or(plausible) {
            true => Ok(TrainingFile { description, tensors, facts }),
            false => Err(Error::checkpoint(path.display(), "the counters of its training are out of range")),
        }
    }

    /// The part of the facts under `key`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is missing or has another form.
    pub fn fact<F: DeserializeOwned>(&self, key: &str) -> Result<F> {
        let value = self.facts.get(key).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value)
            .map_err(|error| self.refuse(Error::checkpoint("", format!("its {key} is damaged ({error})"))))
    }

    /// Turns `error` into an error about this file.
    pub fn refuse(&self, error: Error) -> Error {
        self.tensors.refuse(error)
    }

    /// Restores weights, moments and averages, and sets the counters to `counts`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for missing tensors or wrong shapes.
    pub fn restore(
        &mut self,
        parameters: &Parameters,
        optimiser: &mut Adam,
        averages: &mut Averages,
        counts: UpdateCounts,
    ) -> Result<()> {
        let (kind, mut flat) = (parameters.kind(), parameters.flat()?);
        let raw = self.take("raw", kind)?;
        if raw.size() != flat.size() {
            let (expected, got) = (shape_text(&flat.size()), shape_text(&raw.size()));
            return Err(self.refuse(Error::shape("training.raw", expected, got)));
        }
        tch::no_grad(|| flat.f_copy_(&raw))?;
        let (first, second) = (self.take("first", kind)?, self.take("second", kind)?);
        let restored = optimiser.restore(&first, &second, counts.optimiser_steps);
        restored.map_err(|error| self.refuse(error))?;
        let restored =
            averages.restore(counts.average_updates, |place| self.take(&average_name(place), kind));
        restored.map_err(|error| self.refuse(error))
    }

    fn take(&mut self, name: &str, kind: Kind) -> Result<Tensor> {
        self.tensors.take(&format!("{BESIDE}{name}"), kind)
    }
}
