//! `_core.Segments`: a sequence of students, each for one interval of time, for Python.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use serde_json::Value;
use tch::Tensor;

use super::array::{rows, Array, ArrayKind};
use super::door::{self, PyMonitor};
use super::handle::{Fitted, Reduced, Shared};
use super::json;
use super::source::PySource;
use super::student::PyStudent;
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::koopman::Segments;
use crate::sampling::{self, Inversion, Polish};
use crate::store;
use crate::tensor::{device_name, dtype_name, parse_device, Share};

#[pyclass(name = "Segments", module = "koopflow._core", frozen)]
pub struct PySegments(Shared<Segments>);

impl PySegments {
    fn conditioning_of(&self) -> Conditioning {
        self.0.fact(|segments| segments.first().config().conditioning)
    }

    /// The steps shared by all methods that map one batch to another.
    fn map<'py>(
        &self,
        argument: &str,
        x: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
        work: impl FnOnce(&Segments, &Tensor, Option<&Tensor>) -> Result<Tensor> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x.py();
        let Array { tensor: x, kind } = Array::import_float(argument, x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let segments = self.0.handle();
        let y = door::enter(py, move || work(&segments, &x, condition.as_ref()))?;
        kind.export(py, y)
    }
}

#[pymethods]
impl PySegments {
    /// Combines students in the order of time; `breaks` are the ends of their intervals, from 0 to 1.
    #[new]
    fn new(students: Vec<PyRef<'_, PyStudent>>, breaks: Vec<f64>) -> PyResult<Self> {
        let students = students.iter().map(|student| student.handle()).collect();
        Ok(PySegments(Shared::new(Segments::new(students, breaks)?)))
    }

    /// One of the students, with the history and options of its fit, both as JSON.
    fn student(&self, place: usize, history: &str, config: &str) -> PyResult<PyStudent> {
        let student = self.0.fact(|segments| segments.students().get(place).map(Share::shallow_clone));
        let Some(student) = student else {
            let got = place.to_string();
            return Err(Error::argument(
                "place",
                format!("an index below the number of segments, {}", self.breaks().len() - 1),
                got,
            )
            .into());
        };
        let (history, config) = (json::parse("history", history)?, json::parse("config", config)?);
        Ok(PyStudent::from_fitted(Fitted::new(student, history, config)))
    }

    #[getter]
    fn breaks(&self) -> Vec<f64> {
        self.0.fact(|segments| segments.breaks().to_vec())
    }

    #[getter]
    fn event_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.0.fact(|segments| PyTuple::new(py, &segments.first().config().event_shape))
    }

    #[getter]
    fn conditioning(&self) -> PyResult<String> {
        let json = serde_json::to_string(&self.conditioning_of());
        Ok(json.map_err(|error| Error::Internal(error.into()))?)
    }

    #[getter]
    fn source(&self) -> PySource {
        self.0.fact(|segments| {
            let first = segments.first();
            PySource::new(first.source().shallow_clone(), &first.config().event_shape)
        })
    }

    #[getter]
    fn device(&self) -> String {
        self.0.fact(|segments| device_name(segments.first().device()))
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.0.fact(|segments| dtype_name(segments.first().kind()))
    }

    #[getter]
    fn evaluations(&self) -> u64 {
        self.0.fact(Segments::evaluations)
    }

    #[pyo3(signature = (x0, *, condition=None, monitor=None))]
    fn sample<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut monitor = PyMonitor::new(monitor);
        self.map("x0", x0, condition, move |segments, x0, condition| {
            sampling::sample_segments(segments, x0, condition, &mut monitor)
        })
    }

    #[pyo3(signature = (n, *, seed=0, condition=None, monitor=None))]
    fn sample_count<'py>(
        &self,
        py: Python<'py>,
        n: i64,
        seed: u64,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let condition = Array::import_condition(self.conditioning_of(), condition, Some(n))?;
        let mut monitor = PyMonitor::new(monitor);
        let segments = self.0.handle();
        let x = door::enter(py, move || {
            let condition = condition.as_ref();
            let x0 = sampling::starts_of_segments(&segments, n, seed, condition, &mut monitor)?;
            sampling::sample_segments(&segments, &x0, condition, &mut monitor)
        })?;
        ArrayKind::Numpy.export(py, x)
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
        self.map("x0", x0, condition, move |segments, x0, condition| {
            sampling::path_of_segments(segments, x0, &times, condition, &mut monitor)
        })
    }

    #[pyo3(signature = (x, *, condition=None, monitor=None))]
    fn invert<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut monitor = PyMonitor::new(monitor);
        self.map("x", x, condition, move |segments, x, condition| {
            sampling::invert_segments(segments, x, condition, &mut monitor)
        })
    }

    /// States of the source and the residual of each sample. Each student is polished against its own forward map.
    #[pyo3(signature = (x, *, method="newton", polish=0, damping=0.0, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn invert_polished<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        method: &str,
        polish: i64,
        damping: f64,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let method = method.parse::<Polish>()?;
        let mut monitor = PyMonitor::new(monitor);
        let segments = self.0.handle();
        let Inversion { noise, residuals } = door::enter(py, move || {
            let (condition, monitor) = (condition.as_ref(), &mut monitor);
            sampling::invert_segments_polished(&segments, &x, condition, method, polish, damping, monitor)
        })?;
        Ok((kind.export(py, noise)?, kind.export(py, residuals)?))
    }

    #[pyo3(signature = (path, header="{}"))]
    fn save(&self, py: Python<'_>, path: PathBuf, header: &str) -> PyResult<()> {
        let header = json::parse("header", header)?;
        let segments = self.0.handle();
        door::enter(py, move || store::save(&path, &segments, header))
    }

    #[staticmethod]
    #[pyo3(signature = (path, *, device="cpu"))]
    fn load(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<(Self, String)> {
        let device = parse_device(device)?;
        let (segments, header) = door::enter(py, move || store::load::<Segments>(&path, device))?;
        Ok((PySegments(Shared::new(segments)), header.to_string()))
    }

    /// The segments as the bytes of a file, which `from_bytes` reads.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let segments = self.0.handle();
        Ok(PyBytes::new(py, &door::enter(py, move || store::to_bytes(&segments, Value::Null))?))
    }

    #[classmethod]
    #[pyo3(signature = (bytes, device="cpu"))]
    fn from_bytes(_cls: &Bound<'_, PyType>, py: Python<'_>, bytes: &[u8], device: &str) -> PyResult<Self> {
        let device = parse_device(device)?;
        let (segments, _) = door::enter(py, move || store::from_bytes::<Segments>(bytes, device))?;
        Ok(PySegments(Shared::new(segments)))
    }

    /// Support for pickle and deep copies, through the bytes of a file.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let own = slf.get();
        Ok((slf.get_type().getattr("from_bytes")?, (own.to_bytes(slf.py())?, own.device())))
    }
}
