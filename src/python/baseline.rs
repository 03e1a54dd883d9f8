//! `_core.Baseline`: a flow distilled in another way than koopflow's, for Python.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde_json::Value;
use tch::Tensor;

use super::array::{Array, ArrayKind};
use super::door;
use super::json;
use super::velocity_field::PyVelocityField;
use crate::baselines;
use crate::baselines::{Baseline, BaselineConfig};
use crate::data::Inputs;
use crate::error::{Error, Result};
use crate::python::door::PyMonitor;
use crate::store;
use crate::tensor::{device_name, dtype_name, parse_device};

/// The mutex is held only long enough to clone the handle; work runs on the clone.
#[pyclass(name = "Baseline", module = "koopflow._core", frozen)]
pub struct PyBaseline {
    student: Mutex<Baseline>,
    history: Value,
    config: Value,
}

impl PyBaseline {
    fn handle(&self) -> Baseline {
        self.student.lock().unwrap_or_else(PoisonError::into_inner).shallow_clone()
    }

    /// The common shape of the methods that make states of noise.
    fn map<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
        work: impl FnOnce(&Baseline, &Tensor, Option<&Tensor>) -> Result<Tensor> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x0.py();
        let Array { tensor: x0, kind } = Array::import_float("x0", x0)?;
        let condition = Array::import_optional("condition", condition)?.map(|array| array.tensor);
        let student = self.handle();
        let states = door::enter(py, move || work(&student, &x0, condition.as_ref()))?;
        kind.export(py, states)
    }
}

#[pymethods]
impl PyBaseline {
    #[staticmethod]
    #[pyo3(signature = (teacher, config, *, condition=None, trajectory_file=None, refresh=false, monitor=None))]
    fn fit(
        py: Python<'_>,
        teacher: &PyVelocityField,
        config: &str,
        condition: Option<&Bound<'_, PyAny>>,
        trajectory_file: Option<PathBuf>,
        refresh: bool,
        monitor: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let config: BaselineConfig = json::parse_config(config)?;
        let pool = Array::import_optional("condition", condition)?.map(|array| array.tensor);
        let inputs = Inputs { pool, trajectory_file, refresh, ..Inputs::default() };
        let field = teacher.handle();
        let mut monitor = PyMonitor::new(monitor);
        let resolved = config.with_defaults(field.event_shape(), field.conditioning())?;
        let (student, history) =
            door::enter(py, move || baselines::fit(&*field, &config, &inputs, &mut monitor))?;
        Ok(PyBaseline {
            student: Mutex::new(student),
            history: json::to_value(&history)?,
            config: json::to_value(&resolved)?,
        })
    }

    /// The baseline and the facts that `save` was given.
    #[staticmethod]
    #[pyo3(signature = (path, *, device="cpu"))]
    fn load(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<(Self, String)> {
        let device = parse_device(device)?;
        let name = path.display().to_string();
        let (student, facts) = door::enter(py, move || store::load_baseline(&path, device))?;
        let part = |key: &str| match facts.get(key) {
            Some(value @ Value::Object(_)) => Ok(value.clone()),
            _ => Err(Error::checkpoint(&name, format!("its header has no {key}"))),
        };
        let (history, config) = (part("history")?, part("config")?);
        Ok((PyBaseline { student: Mutex::new(student), history, config }, facts.to_string()))
    }

    #[pyo3(signature = (path, facts="{}"))]
    fn save(&self, py: Python<'_>, path: PathBuf, facts: &str) -> PyResult<()> {
        let Value::Object(mut facts) = json::parse("facts", facts)? else {
            return Err(Error::argument("facts", "a JSON object", facts).into());
        };
        facts.extend(
            [("history", &self.history), ("config", &self.config)].map(|(k, v)| (k.into(), v.clone())),
        );
        let student = self.handle();
        door::enter(py, move || store::save_baseline(&path, &student, facts.into()))
    }

    #[getter]
    fn event_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.handle().model().event_shape)
    }

    #[getter]
    fn device(&self) -> String {
        device_name(self.handle().device())
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        dtype_name(self.handle().kind())
    }

    #[getter]
    fn evaluations(&self) -> u64 {
        self.handle().evaluations()
    }

    #[getter]
    fn parameter_count(&self) -> i64 {
        self.handle().parameters().count()
    }

    #[getter]
    fn history(&self) -> String {
        self.history.to_string()
    }

    #[getter]
    fn config(&self) -> String {
        self.config.to_string()
    }

    #[pyo3(signature = (x0, *, steps=1, condition=None, monitor=None))]
    fn sample<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        steps: i64,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut monitor = PyMonitor::new(monitor);
        self.map(x0, condition, move |student, x0, condition| {
            student.sample(x0, condition, steps, &mut monitor)
        })
    }

    #[pyo3(signature = (x0, times, *, condition=None, monitor=None))]
    fn sample_path<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        times: Vec<f64>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut monitor = PyMonitor::new(monitor);
        self.map(x0, condition, move |student, x0, condition| {
            student.sample_path(x0, &times, condition, &mut monitor)
        })
    }

    fn operator<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let student = self.handle();
        let operator = door::enter(py, move || Ok(student.operator()?.copy()))?;
        ArrayKind::Numpy.export(py, operator)
    }

    fn __repr__(&self) -> String {
        let student = self.handle();
        let model = student.model();
        format!(
            "Baseline(method={:?}, event_shape={:?}, device={:?})",
            model.method,
            model.event_shape,
            device_name(student.device()),
        )
    }
}

/// What kind of thing a file holds, and the facts beside it as JSON.
#[pyfunction]
pub fn describe_file(py: Python<'_>, path: PathBuf) -> PyResult<(&'static str, String)> {
    let (kind, facts) = door::enter(py, move || store::describe(&path))?;
    Ok((kind, facts.to_string()))
}
