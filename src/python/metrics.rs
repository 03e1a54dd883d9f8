//! Distances between samples, for Python.

use pyo3::prelude::*;
use tch::Tensor;

use super::array::Array;
use super::door::{self, PyMonitor};
use crate::error::Result;
use crate::metrics;

fn compare(
    a: &Bound<'_, PyAny>,
    b: &Bound<'_, PyAny>,
    distance: impl FnOnce(&Tensor, &Tensor) -> Result<f64> + Send,
) -> PyResult<f64> {
    let (first, second) = (Array::import_float("a", a)?.tensor, Array::import_float("b", b)?.tensor);
    door::enter(a.py(), move || distance(&first, &second))
}

#[pyfunction]
#[pyo3(signature = (a, b, *, projections=256, seed=0))]
pub fn sliced_wasserstein(
    a: &Bound<'_, PyAny>,
    b: &Bound<'_, PyAny>,
    projections: i64,
    seed: u64,
) -> PyResult<f64> {
    compare(a, b, move |a, b| metrics::sliced_wasserstein(a, b, projections, seed))
}

#[pyfunction]
pub fn energy_distance(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<f64> {
    let mut monitor = PyMonitor::new(None);
    compare(a, b, move |a, b| metrics::energy_distance_watched(a, b, &mut monitor))
}

#[pyfunction]
pub fn wasserstein2(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<f64> {
    let mut monitor = PyMonitor::new(None);
    compare(a, b, move |a, b| metrics::wasserstein2_watched(a, b, &mut monitor))
}
