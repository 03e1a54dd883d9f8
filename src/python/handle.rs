//! Building blocks shared by the Python classes of models: a model behind a lock, and a model with the history and
//! options of its fit.

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

/// What pickle stores of a model: the function that rebuilds it, and that function's arguments, bytes and device.
pub type Reduced<'py> = (Bound<'py, PyAny>, (Bound<'py, PyBytes>, String));

/// A model that any Python thread may use. The lock is held only while a fact is read or a handle is made;
/// computations run on the handle.
pub struct Shared<T>(Mutex<T>);

impl<T: Share + Send> Shared<T> {
    pub fn new(model: T) -> Self {
        Shared(Mutex::new(model))
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A separate handle on the same model, which can be moved into [`door::enter`].
    pub fn handle(&self) -> T {
        self.lock().shallow_clone()
    }

    /// Reads a fact of the model without making a handle. `look` must be short and must not call Python.
    pub fn fact<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }
}

/// A fitted model, its history, and its options with every default filled in.
pub struct Fitted<T> {
    pub model: Shared<T>,
    pub history: Value,
    pub config: Value,
}

impl<T: Share + Stored + Send> Fitted<T> {
    pub fn new(model: T, history: Value, config: Value) -> Self {
        Fitted { model: Shared::new(model), history, config }
    }

    /// Another model with the same history and options.
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

    /// Reads a file and returns its model and all its facts.
    pub fn load(py: Python<'_>, path: PathBuf, device: Device) -> PyResult<(Self, Value)> {
        let name = path.display().to_string();
        Fitted::of(&name, door::enter(py, move || store::load::<T>(&path, device))?)
    }

    /// Reads the bytes that [`Fitted::to_bytes`] made.
    pub fn from_bytes(py: Python<'_>, bytes: &[u8], device: Device) -> PyResult<Self> {
        let loaded = door::enter(py, move || store::from_bytes::<T>(bytes, device))?;
        Ok(Fitted::of("the bytes of a model", loaded)?.0)
    }

    fn of(name: &str, (model, facts): (T, Value)) -> PyResult<(Self, Value)> {
        let (history, config) = (part(name, &facts, "history")?, part(name, &facts, "config")?);
        Ok((Fitted::new(model, history, config), facts))
    }
}

/// The JSON object under `key` in the facts of the file `name`.
pub fn part(name: &str, facts: &Value, key: &str) -> Result<Value> {
    match facts.get(key) {
        Some(value @ Value::Object(_)) => Ok(value.clone()),
        _ => Err(Error::checkpoint(name, format!("expected an object '{key}' in the header"))),
    }
}

/// Parses JSON text from Python that must be an object.
pub fn object(argument: &str, text: &str) -> Result<Map<String, Value>> {
    match super::json::parse(argument, text)? {
        Value::Object(object) => Ok(object),
        other => Err(Error::argument(argument, "a JSON object", other)),
    }
}
