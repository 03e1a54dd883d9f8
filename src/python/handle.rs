//! What the classes of models share: a handle under a lock, and the history and options of a fit.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Map, Value};
use tch::Device;

use super::door;
use crate::error::{Error, Result};
use crate::store::{self, Stored};
use crate::tensor::Share;

/// What pickle keeps of a model: the function that makes it again, and its bytes and device.
pub type Reduced<'py> = (Bound<'py, PyAny>, (Bound<'py, PyBytes>, String));

/// A model that any Python thread may use. The lock is held only long enough to look at a fact or to share a
/// handle; work runs on the handle.
pub struct Shared<T>(Mutex<T>);

impl<T: Share + Send> Shared<T> {
    pub fn new(model: T) -> Self {
        Shared(Mutex::new(model))
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle of its own, to move through the door.
    pub fn handle(&self) -> T {
        self.lock().shallow_clone()
    }

    /// A fact of the model, without a handle. `look` is short and never asks Python.
    pub fn fact<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }
}

/// A model that was fitted: itself, its history and its options with every default filled in.
pub struct Fitted<T> {
    pub model: Shared<T>,
    pub history: Value,
    pub config: Value,
}

impl<T: Share + Stored + Send> Fitted<T> {
    pub fn new(model: T, history: Value, config: Value) -> Self {
        Fitted { model: Shared::new(model), history, config }
    }

    /// Another model of the same history and options.
    pub fn with_model(&self, model: T) -> Self {
        Fitted::new(model, self.history.clone(), self.config.clone())
    }

    /// Writes the model with its history, its options and `facts`.
    pub fn save(&self, py: Python<'_>, path: PathBuf, facts: Map<String, Value>) -> PyResult<()> {
        let (model, facts) = (self.model.handle(), self.with_own(facts));
        door::enter(py, move || store::save(&path, &model, facts))
    }

    /// The bytes of the file that [`Fitted::save`] writes, without further facts.
    pub fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let (model, facts) = (self.model.handle(), self.with_own(Map::new()));
        Ok(PyBytes::new(py, &door::enter(py, move || store::to_bytes(&model, facts))?))
    }

    fn with_own(&self, mut facts: Map<String, Value>) -> Value {
        facts.insert("history".into(), self.history.clone());
        facts.insert("config".into(), self.config.clone());
        facts.into()
    }

    /// The model of a file, and all facts in that file.
    pub fn load(py: Python<'_>, path: PathBuf, device: Device) -> PyResult<(Self, Value)> {
        let name = path.display().to_string();
        Fitted::of(&name, door::enter(py, move || store::load::<T>(&path, device))?)
    }

    /// The model of the bytes that [`Fitted::to_bytes`] made.
    pub fn from_bytes(py: Python<'_>, bytes: &[u8], device: Device) -> PyResult<Self> {
        let loaded = door::enter(py, move || store::from_bytes::<T>(bytes, device))?;
        Ok(Fitted::of("the bytes of a model", loaded)?.0)
    }

    fn of(name: &str, (model, facts): (T, Value)) -> PyResult<(Self, Value)> {
        let (history, config) = (part(name, &facts, "history")?, part(name, &facts, "config")?);
        Ok((Fitted::new(model, history, config), facts))
    }
}

/// The object under `key` among the facts of the file called `name`.
pub fn part(name: &str, facts: &Value, key: &str) -> Result<Value> {
    match facts.get(key) {
        Some(value @ Value::Object(_)) => Ok(value.clone()),
        _ => Err(Error::checkpoint(name, format!("its header has no {key}"))),
    }
}

/// JSON text from Python that must be an object.
pub fn object(argument: &str, text: &str) -> Result<Map<String, Value>> {
    match super::json::parse(argument, text)? {
        Value::Object(object) => Ok(object),
        other => Err(Error::argument(argument, "a JSON object", other)),
    }
}
