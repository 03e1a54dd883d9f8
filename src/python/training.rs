//! Training a teacher, and noise, for Python.

use pyo3::prelude::*;
use tch::{Device, Kind};

use super::array::{Array, ArrayKind};
use super::door::{self, PyMonitor};
use super::json;
use super::velocity_field::{check_event_shape, PyVelocityField};
use crate::flow::{self, TeacherConfig};
use crate::tensor::RandomSource;

/// Conditional flow matching on `[N, *event]`: the field and its history as JSON.
#[pyfunction]
#[pyo3(signature = (data, config, *, condition=None, monitor=None))]
pub fn train_teacher(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    config: &str,
    condition: Option<&Bound<'_, PyAny>>,
    monitor: Option<Bound<'_, PyAny>>,
) -> PyResult<(PyVelocityField, String)> {
    let config: TeacherConfig = json::parse_config(config)?;
    let data = Array::import_float("data", data)?.tensor;
    let condition = Array::import_optional("condition", condition)?.map(|array| array.tensor);
    let mut monitor = PyMonitor::new(monitor);
    let (field, history) =
        door::enter(py, move || flow::train(&config, &data, condition.as_ref(), &mut monitor))?;
    Ok((PyVelocityField::new(Box::new(field)), json::to_value(&history)?.to_string()))
}

/// The default options of [`train_teacher`], as JSON.
#[pyfunction]
pub fn teacher_defaults() -> PyResult<String> {
    Ok(json::to_value(&TeacherConfig::default())?.to_string())
}

/// Standard normal noise, float32, from koopflow's own seeded source.
#[pyfunction]
pub fn normal<'py>(py: Python<'py>, shape: Vec<i64>, seed: u64) -> PyResult<Bound<'py, PyAny>> {
    let shape = check_event_shape(shape)?;
    let noise = door::enter(py, move || RandomSource::noise(seed).normal(&shape, Kind::Float, Device::Cpu))?;
    ArrayKind::Numpy.export(py, noise)
}
