//! `_core.Source`: the distribution that a flow starts from, for Python.

use std::sync::Arc;

use pyo3::prelude::*;
use tch::{Device, Kind, Tensor};

use super::array::{check_event_shape, Array, ArrayKind};
use super::door::{self, PyMonitor};
use super::errors::from_callback;
use super::handle::Shared;
use crate::error::Result;
use crate::ode;
use crate::velocity::{Sampler, Source};

#[pyclass(name = "Source", module = "koopflow._core", frozen)]
pub struct PySource {
    source: Shared<Source>,
    event_shape: Vec<i64>,
}

impl PySource {
    pub fn new(source: Source, event_shape: &[i64]) -> Self {
        PySource { source: Shared::new(source), event_shape: event_shape.to_vec() }
    }

    /// A handle on the same source, which can be moved into [`door::enter`].
    pub fn handle(&self) -> Source {
        self.source.handle()
    }
}

#[pymethods]
impl PySource {
    /// The standard normal distribution N(0, I).
    #[staticmethod]
    fn normal(event_shape: Vec<i64>) -> PyResult<Self> {
        Ok(PySource::new(Source::Normal, &check_event_shape(event_shape)?))
    }

    /// The uniform distribution over rows `[N, *event]`, which are copied.
    #[staticmethod]
    fn rows(py: Python<'_>, rows: &Bound<'_, PyAny>, event_shape: Vec<i64>) -> PyResult<Self> {
        let rows = Array::import_float("source", rows)?.tensor;
        let event_shape = check_event_shape(event_shape)?;
        let shape = event_shape.clone();
        let source = door::enter(py, move || Source::rows(&rows, &shape))?;
        Ok(PySource::new(source, &event_shape))
    }

    /// A source that calls Python: `draw(count, seed)` returns samples and `log_prob(x)`, if it is known, their
    /// log-densities, as arrays of floats. With `conditional`, `draw` takes the conditions of the samples, or
    /// None, as a third argument.
    #[staticmethod]
    #[pyo3(signature = (draw, log_prob, *, event_shape, conditional=false))]
    fn sampler(
        draw: Py<PyAny>,
        log_prob: Option<Py<PyAny>>,
        event_shape: Vec<i64>,
        conditional: bool,
    ) -> PyResult<Self> {
        let event_shape = check_event_shape(event_shape)?;
        let sampler = PySampler { draw, log_prob, conditional };
        Ok(PySource::new(Source::Sampler(Arc::new(sampler)), &event_shape))
    }

    /// The same rows with normal noise of standard deviation `noise`. Other sources accept only 0.
    fn with_noise(&self, noise: f64) -> PyResult<Self> {
        Ok(PySource::new(self.handle().with_noise(noise)?, &self.event_shape))
    }

    /// The standard deviation of the noise on rows; 0 for every other source.
    #[getter]
    fn noise(&self) -> f64 {
        self.source.fact(Source::noise)
    }

    /// The kind of source: `"normal"`, `"rows"`, `"flow"` or `"sampler"`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.source.fact(Source::name)
    }

    /// Draws `count` samples in float32. The same seed gives the same samples.
    #[pyo3(signature = (count, seed, *, condition=None, monitor=None))]
    fn draw<'py>(
        &self,
        py: Python<'py>,
        count: i64,
        seed: u64,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let condition = condition.map(|c| Array::import("condition", c)).transpose()?.map(|c| c.tensor);
        let (source, shape) = (self.handle(), self.event_shape.clone());
        let mut monitor = PyMonitor::new(monitor);
        let drawn = door::enter(py, move || {
            let options = (Kind::Float, Device::Cpu);
            ode::starts(&source, count, &shape, seed, options, condition.as_ref(), &mut monitor)
        })?;
        ArrayKind::Numpy.export(py, drawn)
    }
}

/// A sampler made of two functions of the user. The interpreter lock is held only while they run.
struct PySampler {
    draw: Py<PyAny>,
    log_prob: Option<Py<PyAny>>,
    conditional: bool,
}

impl Sampler for PySampler {
    fn draw(&self, count: i64, seed: u64, condition: Option<&Tensor>) -> Result<Tensor> {
        Python::attach(|py| {
            let answer = || -> PyResult<Tensor> {
                let given = condition.map(|c| ArrayKind::Numpy.export(py, c.copy())).transpose()?;
                let drawn = match self.conditional {
                    true => self.draw.bind(py).call1((count, seed, given))?,
                    false => self.draw.bind(py).call1((count, seed))?,
                };
                Ok(Array::import_float("source", &drawn)?.tensor)
            };
            answer().map_err(|raised| from_callback(py, raised))
        })
    }

    fn log_density(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(log_prob) = &self.log_prob else { return Ok(None) };
        Python::attach(|py| {
            let answer = || -> PyResult<Tensor> {
                let given = ArrayKind::Numpy.export(py, x.f_detach_copy().map_err(crate::Error::from)?)?;
                let found = log_prob.bind(py).call1((given,))?;
                Ok(Array::import_float("source", &found)?.tensor)
            };
            Ok(Some(answer().map_err(|raised| from_callback(py, raised))?))
        })
    }
}
