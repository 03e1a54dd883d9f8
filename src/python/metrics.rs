//! Distances between samples, errors of paired samples and the straightness of paths, for Python.

use pyo3::prelude::*;
use tch::Tensor;

use super::array::{Array, ArrayKind};
use super::door;
use crate::error::Result;
use crate::metrics;
use crate::python::door::PyMonitor;

type Object<'a, 'py> = &'a Bound<'py, PyAny>;

/// What a metric answers for two sets of samples, each given with its argument's name.
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

#[pyfunction]
pub fn squared_errors<'py>(a: Object<'_, 'py>, b: Object<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let squares = compare(("a", a), ("b", b), metrics::squared_errors)?;
    ArrayKind::Numpy.export(a.py(), squares)
}

/// Bends and squared displacements, each `[B]`.
#[pyfunction]
pub fn straightness<'py>(
    path: Object<'_, 'py>,
    times: Vec<f64>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let py = path.py();
    let path = Array::import_float("path", path)?.tensor;
    let found = door::enter(py, move || metrics::straightness(&path, &times))?;
    let export = |tensor| ArrayKind::Numpy.export(py, tensor);
    Ok((export(found.bend)?, export(found.displacement)?))
}
