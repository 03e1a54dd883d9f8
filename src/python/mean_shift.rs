//! Mean shift, for Python.

use pyo3::prelude::*;

use super::array::Array;
use super::door;
use crate::python::door::PyMonitor;
use crate::velocity;

/// Modes `[K, *event]`, the mode of each row `[N]`, the log-densities of the modes `[K]`, the number of steps, and
/// whether all rows converged.
type Found<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, u64, bool);

#[pyfunction]
#[pyo3(signature = (data, bandwidth, *, max_steps=1000, monitor=None))]
pub fn mean_shift<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    bandwidth: f64,
    max_steps: u64,
    monitor: Option<Bound<'py, PyAny>>,
) -> PyResult<Found<'py>> {
    let Array { tensor: data, kind } = Array::import_float("data", data)?;
    let mut monitor = PyMonitor::new(monitor);
    let found = door::enter(py, move || velocity::mean_shift(&data, bandwidth, max_steps, &mut monitor))?;
    let export = |tensor| kind.export(py, tensor);
    Ok((
        export(found.modes)?,
        export(found.assignment)?,
        export(found.log_density)?,
        found.steps,
        found.converged,
    ))
}
