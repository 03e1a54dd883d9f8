//! `_core.Displacements` and `_core.FlowSpectrum`: paths of a flow, and the spectrum of the flow, for Python.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use serde_json::{Map, Value};
use tch::{Device, Tensor};

use super::array::{Array, ArrayKind};
use super::door::{self, PyMonitor};
use super::handle::{self, Shared};
use super::json;
use crate::error::{Error, Result};
use crate::spectrum::flow::{measure, Displacements, FlowSpectrum, Parts, Reading};
use crate::store;

/// Groups as JSON, the shares of motion that each flow's own rates leave unexplained, cosines, correlations.
type Common<'py> = (String, [f64; 2], Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

/// Paths that are added in chunks.
#[pyclass(name = "Displacements", module = "koopflow._core", frozen)]
pub struct PyDisplacements(Mutex<Option<Displacements>>);

#[pymethods]
impl PyDisplacements {
    #[new]
    fn new(event_shape: Vec<i64>, times: Vec<f64>) -> PyResult<Self> {
        Ok(PyDisplacements(Mutex::new(Some(Displacements::new(&event_shape, &times)?))))
    }

    /// Adds states `[T, B, *event]`.
    fn add(&self, paths: &Bound<'_, PyAny>) -> PyResult<()> {
        let states = Array::import_float("paths", paths)?.tensor;
        let mut held = self.take()?;
        let (held, outcome) = door::enter(paths.py(), move || {
            let outcome = held.add(&states);
            Ok((held, outcome))
        })?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok(outcome?)
    }

    /// The spectrum of all paths that were added. No path can be added afterwards.
    #[pyo3(signature = (reading, header="{}", monitor=None))]
    fn spectrum(
        &self,
        py: Python<'_>,
        reading: &str,
        header: &str,
        monitor: Option<Bound<'_, PyAny>>,
    ) -> PyResult<PyFlowSpectrum> {
        let reading: Reading = json::parse_config(reading)?;
        let header = Value::from(handle::object("header", header)?);
        let (held, mut monitor) = (self.take()?, PyMonitor::new(monitor));
        let spectrum = door::enter(py, move || measure(held, &reading, &mut monitor))?;
        Ok(PyFlowSpectrum { spectrum: Shared::new(spectrum), header })
    }
}

impl PyDisplacements {
    fn take(&self) -> Result<Displacements> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        held.ok_or_else(|| {
            Error::Internal(anyhow!(
                "these paths were consumed by spectrum(), or another thread is using them"
            ))
        })
    }
}

#[pyclass(name = "FlowSpectrum", module = "koopflow._core", frozen)]
pub struct PyFlowSpectrum {
    spectrum: Shared<FlowSpectrum>,
    /// JSON of the Python package, stored in the file and returned by `load`.
    header: Value,
}

impl PyFlowSpectrum {
    /// An array of the given kind, computed without the interpreter lock.
    fn made<'py>(
        &self,
        py: Python<'py>,
        kind: ArrayKind,
        make: impl FnOnce(FlowSpectrum) -> Result<Tensor> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let own = self.spectrum.handle();
        kind.export(py, door::enter(py, move || Ok(make(own)?.copy()))?)
    }

    fn facts_for_file(&self) -> Value {
        Map::from_iter([("header".to_string(), self.header.clone())]).into()
    }

    fn restored(name: &str, (spectrum, facts): (FlowSpectrum, Value)) -> Result<Self> {
        let header = handle::part(name, &facts, "header")?;
        Ok(PyFlowSpectrum { spectrum: Shared::new(spectrum), header })
    }
}

#[pymethods]
impl PyFlowSpectrum {
    #[getter]
    fn facts(&self) -> PyResult<String> {
        let facts = self.spectrum.fact(|own| serde_json::to_string(own.facts()));
        Ok(facts.map_err(|error| Error::Internal(error.into()))?)
    }

    #[getter]
    fn header(&self) -> String {
        self.header.to_string()
    }

    /// A copy of one of the arrays.
    fn array<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let array = self.spectrum.fact(|own| own.array(name).map(Tensor::copy))?;
        ArrayKind::Numpy.export(py, array)
    }

    /// The orthonormal functions of time at `times`, `[T, r]`.
    fn functions<'py>(&self, py: Python<'py>, times: Vec<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.made(py, ArrayKind::Numpy, move |own| own.functions(&times))
    }

    /// Amplitudes `[B, K]` of the components for paths `[T, B, *event]`.
    fn amplitudes<'py>(&self, paths: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let states = Array::import_float("paths", paths)?.tensor;
        self.made(paths.py(), ArrayKind::Numpy, move |own| own.amplitudes(&states))
    }

    /// Amplitudes `[B, A]` of the affine axes for noise `[B, *event]`.
    fn axis_amplitudes<'py>(&self, x0: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let noise = Array::import_float("x0", x0)?.tensor;
        self.made(x0.py(), ArrayKind::Numpy, move |own| own.axis_amplitudes(&noise))
    }

    /// States `[B, *event]` at `t`: the sum of the noise, the requested parts, and the components times their
    /// amplitudes `[B, K]`.
    #[pyo3(signature = (x0, amplitudes, t, drift=true, affine=true))]
    fn states<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        amplitudes: &Bound<'py, PyAny>,
        t: f64,
        drift: bool,
        affine: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Array { tensor: noise, kind } = Array::import_float("x0", x0)?;
        let amplitudes = Array::import_float("amplitudes", amplitudes)?.tensor;
        let parts = Parts { drift, affine };
        self.made(x0.py(), kind, move |own| own.states(&noise, &amplitudes, t, parts))
    }

    /// States `[B, *event]` at `t` of paths `[T, B, *event]`: noise, drift, and the kept functions of the rates.
    fn with_rates<'py>(
        &self,
        paths: &Bound<'py, PyAny>,
        keep: Vec<bool>,
        t: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Array { tensor: states, kind } = Array::import_float("paths", paths)?;
        self.made(paths.py(), kind, move |own| own.with_rates(&states, &keep, t))
    }

    /// A comparison of this flow and another: matching groups as JSON, the shares of motion that each flow's own
    /// rates leave unexplained, cosines `[K, K']`, and correlations or None.
    #[pyo3(signature = (other, permutations, seed, monitor=None))]
    fn agreement<'py>(
        &self,
        py: Python<'py>,
        other: &PyFlowSpectrum,
        permutations: u64,
        seed: u64,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Common<'py>> {
        let (own, other) = (self.spectrum.handle(), other.spectrum.handle());
        let mut monitor = PyMonitor::new(monitor);
        let agreement = door::enter(py, move || own.agreement(&other, permutations, seed, &mut monitor))?;
        let found = serde_json::to_string(&agreement.found).map_err(|error| Error::Internal(error.into()))?;
        let export = |tensor: Tensor| ArrayKind::Numpy.export(py, tensor);
        let correlations = agreement.correlations.map(export).transpose()?;
        Ok((found, agreement.unexplained, export(agreement.cosines)?, correlations))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let (own, facts) = (self.spectrum.handle(), self.facts_for_file());
        door::enter(py, move || store::save(&path, &own, facts))
    }

    #[classmethod]
    fn load(_cls: &Bound<'_, PyType>, py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let name = path.display().to_string();
        let loaded = door::enter(py, move || store::load::<FlowSpectrum>(&path, Device::Cpu))?;
        Ok(PyFlowSpectrum::restored(&name, loaded)?)
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let (own, facts) = (self.spectrum.handle(), self.facts_for_file());
        Ok(PyBytes::new(py, &door::enter(py, move || store::to_bytes(&own, facts))?))
    }

    #[classmethod]
    fn from_bytes(_cls: &Bound<'_, PyType>, py: Python<'_>, bytes: &[u8]) -> PyResult<Self> {
        let loaded = door::enter(py, move || store::from_bytes::<FlowSpectrum>(bytes, Device::Cpu))?;
        Ok(PyFlowSpectrum::restored("the bytes of a model", loaded)?)
    }

    /// Support for pickle and deep copies, through the bytes of a file.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.get_type().getattr("from_bytes")?, (slf.get().to_bytes(slf.py())?,)))
    }
}
