//! Distances between samples, errors of paired samples and the straightness of paths, for Python.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use tch::Tensor;

use super::array::{Array, ArrayKind};
use super::door;
use crate::error::Result;
use crate::metrics;
use crate::metrics::Statistic;
use crate::python::door::PyMonitor;

type Object<'a, 'py> = &'a Bound<'py, PyAny>;

/// Evaluates a metric on two sets of samples, each passed with the name of its argument.
fn compare<T: Send>(
    (first, a): (&str, Object<'_, '_>),
    (second, b): (&str, Object<'_, '_>),
    metric: impl FnOnce(&Tensor, &Tensor) -> Result<T> + Send,
) -> PyResult<T> {
    let py = a.py();
    let (a, b) = (Array::import_float(first, a)?.tensor, Array::import_float(second, b)?.tensor);
    door::enter(py, move || metric(&a, &b))
}

#[pyfunction]
#[pyo3(signature = (a, b, *, projections=256, seed=0))]
pub fn sliced_wasserstein(
    a: Object<'_, '_>,
    b: Object<'_, '_>,
    projections: i64,
    seed: u64,
) -> PyResult<f64> {
    compare(("a", a), ("b", b), move |a, b| metrics::sliced_wasserstein(a, b, projections, seed))
}

#[pyfunction]
pub fn energy_distance(a: Object<'_, '_>, b: Object<'_, '_>) -> PyResult<f64> {
    let mut monitor = PyMonitor::new(None);
    compare(("a", a), ("b", b), move |a, b| metrics::energy_distance_watched(a, b, &mut monitor))
}

#[pyfunction]
pub fn wasserstein2(a: Object<'_, '_>, b: Object<'_, '_>) -> PyResult<f64> {
    let mut monitor = PyMonitor::new(None);
    compare(("a", a), ("b", b), move |a, b| metrics::wasserstein2_watched(a, b, &mut monitor))
}

#[pyfunction]
pub fn frechet_distance(a: Object<'_, '_>, b: Object<'_, '_>) -> PyResult<f64> {
    let mut monitor = PyMonitor::new(None);
    compare(("a", a), ("b", b), move |a, b| metrics::frechet_distance_watched(a, b, &mut monitor))
}

#[pyfunction]
#[pyo3(signature = (samples, data, *, bandwidths=None))]
pub fn mmd(samples: Object<'_, '_>, data: Object<'_, '_>, bandwidths: Option<Vec<f64>>) -> PyResult<f64> {
    let mut monitor = PyMonitor::new(None);
    compare(("samples", samples), ("data", data), move |samples, data| {
        metrics::mmd_watched(samples, data, bandwidths.as_deref(), &mut monitor)
    })
}

#[pyfunction]
pub fn median_bandwidths(data: Object<'_, '_>) -> PyResult<Vec<f64>> {
    let py = data.py();
    let data = Array::import_float("data", data)?.tensor;
    door::enter(py, move || metrics::median_bandwidths(&data))
}

/// Precision and recall.
#[pyfunction]
#[pyo3(signature = (samples, data, *, k=3))]
pub fn precision_recall(samples: Object<'_, '_>, data: Object<'_, '_>, k: i64) -> PyResult<(f64, f64)> {
    let mut monitor = PyMonitor::new(None);
    let found = compare(("samples", samples), ("data", data), move |samples, data| {
        metrics::precision_recall_watched(samples, data, k, &mut monitor)
    })?;
    Ok((found.precision, found.recall))
}

/// A statistic of independent samples, which can also be computed on a resample of them.
#[pyclass(name = "Statistic", module = "koopflow._core", frozen)]
pub struct PyStatistic(Mutex<Box<dyn Statistic + Send>>);

impl PyStatistic {
    fn new(statistic: impl Statistic + Send + 'static) -> Self {
        PyStatistic(Mutex::new(Box::new(statistic)))
    }

    fn held(&self) -> MutexGuard<'_, Box<dyn Statistic + Send>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyStatistic {
    #[getter]
    fn value(&self, py: Python<'_>) -> PyResult<f64> {
        door::enter(py, || Ok(self.held().value()))
    }

    #[getter]
    fn samples(&self) -> i64 {
        self.held().samples()
    }

    /// The statistic of the samples at the indices `rows`.
    fn value_of(&self, rows: Object<'_, '_>) -> PyResult<f64> {
        let places = Array::import("rows", rows)?.tensor;
        door::enter(rows.py(), move || self.held().value_of(&places))
    }
}

#[pyfunction]
pub fn endpoint_error(samples: Object<'_, '_>, ends: Object<'_, '_>, scale: f64) -> PyResult<PyStatistic> {
    compare(("samples", samples), ("ends", ends), move |samples, ends| {
        metrics::endpoint_error(samples, ends, scale)
    })
    .map(PyStatistic::new)
}

#[pyfunction]
pub fn path_error(path: Object<'_, '_>, exact: Object<'_, '_>, scale: f64) -> PyResult<PyStatistic> {
    compare(("path", path), ("exact", exact), move |path, exact| metrics::path_error(path, exact, scale))
        .map(PyStatistic::new)
}

#[pyfunction]
pub fn inversion_error(recovered: Object<'_, '_>, noise: Object<'_, '_>) -> PyResult<PyStatistic> {
    compare(("recovered", recovered), ("noise", noise), metrics::inversion_error).map(PyStatistic::new)
}

#[pyfunction]
pub fn round_trip_error(again: Object<'_, '_>, data: Object<'_, '_>, scale: f64) -> PyResult<PyStatistic> {
    compare(("again", again), ("data", data), move |again, data| {
        metrics::round_trip_error(again, data, scale)
    })
    .map(PyStatistic::new)
}

#[pyfunction]
pub fn total_std(data: Object<'_, '_>) -> PyResult<f64> {
    let py = data.py();
    let data = Array::import_float("data", data)?.tensor;
    door::enter(py, move || metrics::total_std(&data))
}

#[pyfunction]
pub fn straightness(path: Object<'_, '_>, times: Vec<f64>) -> PyResult<PyStatistic> {
    let py = path.py();
    let path = Array::import_float("path", path)?.tensor;
    door::enter(py, move || metrics::straightness(&path, &times)).map(PyStatistic::new)
}

/// Chord, length, deviation, curvature and torsion, `[B]`, and energies, `[B, 3]`, as NumPy arrays.
#[pyfunction]
pub fn path_geometry<'py>(paths: Object<'_, 'py>) -> PyResult<[Bound<'py, PyAny>; 6]> {
    let py = paths.py();
    let paths = Array::import_float("paths", paths)?.tensor;
    let found = door::enter(py, move || metrics::path_geometry(&paths))?;
    let facts = [found.chord, found.length, found.deviation, found.curvature, found.torsion, found.energy];
    let [a, b, c, d, e, f] = facts.map(|fact| ArrayKind::Numpy.export(py, fact));
    Ok([a?, b?, c?, d?, e?, f?])
}
