//! `_core.Baseline`: a flow distilled with one of the baseline methods, for Python.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use tch::Tensor;

use super::array::{rows, Array, ArrayKind};
use super::door;
use super::handle::{self, Fitted, Reduced};
use super::json;
use super::velocity_field::PyVelocityField;
use super::world::PyWorld;
use crate::baselines;
use crate::baselines::{Baseline, BaselineConfig};
use crate::condition::Conditioning;
use crate::data::Inputs;
use crate::error::Result;
use crate::python::door::PyMonitor;
use crate::tensor::{device_name, dtype_name, parse_device};

#[pyclass(name = "Baseline", module = "koopflow._core", frozen)]
pub struct PyBaseline(Fitted<Baseline>);

impl PyBaseline {
    fn handle(&self) -> Baseline {
        self.0.model.handle()
    }

    fn conditioning(&self) -> Conditioning {
        self.0.model.fact(|student| student.model().conditioning)
    }

    /// The steps shared by all methods that map noise to states.
    fn map<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
        work: impl FnOnce(&Baseline, &Tensor, Option<&Tensor>) -> Result<Tensor> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x0.py();
        let Array { tensor: x0, kind } = Array::import_float("x0", x0)?;
        let condition = Array::import_condition(self.conditioning(), condition, rows(&x0))?;
        let student = self.handle();
        let states = door::enter(py, move || work(&student, &x0, condition.as_ref()))?;
        kind.export(py, states)
    }
}

#[pymethods]
impl PyBaseline {
    #[staticmethod]
    #[pyo3(signature = (teacher, config, *, condition=None, trajectory_file=None, refresh=false, monitor=None, world=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn fit(
        py: Python<'_>,
        teacher: &PyVelocityField,
        config: &str,
        condition: Option<&Bound<'_, PyAny>>,
        trajectory_file: Option<PathBuf>,
        refresh: bool,
        monitor: Option<Bound<'_, PyAny>>,
        world: Option<PyWorld>,
    ) -> PyResult<Self> {
        let config: BaselineConfig = json::parse_options(config)?;
        let pool = Array::import_condition(teacher.conditioning_of(), condition, None)?;
        let inputs = Inputs { pool, trajectory_file, refresh, ..Inputs::default() };
        let field = teacher.handle();
        let mut monitor = PyMonitor::new(monitor).shared(PyWorld::of(world)?);
        let (student, history, resolved) = door::enter(py, move || {
            let resolved = config.with_defaults(field.event_shape(), field.conditioning())?;
            let (student, history) = baselines::fit(&*field, &config, &inputs, &mut monitor)?;
            Ok((student, json::to_value(&history)?, json::to_value(&resolved)?))
        })?;
        Ok(PyBaseline(Fitted::new(student, history, resolved)))
    }

    /// Returns the baseline and the facts that were passed to `save`.
    #[staticmethod]
    #[pyo3(signature = (path, *, device="cpu"))]
    fn load(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<(Self, String)> {
        let (fitted, facts) = Fitted::load(py, path, parse_device(device)?)?;
        Ok((PyBaseline(fitted), facts.to_string()))
    }

    /// The baseline as the bytes of a file, which `from_bytes` reads.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.to_bytes(py)
    }

    #[classmethod]
    #[pyo3(signature = (bytes, device="cpu"))]
    fn from_bytes(_cls: &Bound<'_, PyType>, py: Python<'_>, bytes: &[u8], device: &str) -> PyResult<Self> {
        Ok(PyBaseline(Fitted::from_bytes(py, bytes, parse_device(device)?)?))
    }

    /// Support for pickle and deep copies, through the bytes of a file.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let own = slf.get();
        Ok((slf.get_type().getattr("from_bytes")?, (own.to_bytes(slf.py())?, own.device())))
    }

    #[pyo3(signature = (path, facts="{}"))]
    fn save(&self, py: Python<'_>, path: PathBuf, facts: &str) -> PyResult<()> {
        self.0.save(py, path, handle::object("facts", facts)?)
    }

    #[getter]
    fn event_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.0.model.fact(|student| PyTuple::new(py, &student.model().event_shape))
    }

    #[getter]
    fn device(&self) -> String {
        self.0.model.fact(|student| device_name(student.device()))
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.0.model.fact(|student| dtype_name(student.kind()))
    }

    #[getter]
    fn evaluations(&self) -> u64 {
        self.0.model.fact(Baseline::evaluations)
    }

    #[getter]
    fn parameter_count(&self) -> i64 {
        self.0.model.fact(|student| student.parameters().count())
    }

    #[getter]
    fn history(&self) -> String {
        self.0.history.to_string()
    }

    #[getter]
    fn config(&self) -> String {
        self.0.config.to_string()
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
        self.0.model.fact(|student| {
            let (model, device) = (student.model(), device_name(student.device()));
            format!(
                "Baseline(method={:?}, event_shape={:?}, device={device:?})",
                model.method, model.event_shape
            )
        })
    }
}
