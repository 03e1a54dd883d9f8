//! Training of a teacher, and generation of noise, for Python.

use std::path::PathBuf;

use pyo3::prelude::*;
use tch::{Device, Kind, Tensor};

use super::array::{check_event_shape, Array, ArrayKind};
use super::door;
use super::errors::from_callback;
use super::json;
use super::source::PySource;
use super::velocity_field::PyVelocityField;
use super::world::PyWorld;
use crate::condition::Conditioning;
use crate::data::Portions;
use crate::error::{Error, Result};
use crate::flow;
use crate::flow::{Given, TeacherConfig, TrainingFiles};
use crate::nets::precision;
use crate::nets::precision::Precision;
use crate::python::door::PyMonitor;
use crate::tensor::RandomSource;
use crate::training::Checkpointing;

/// Conditional flow matching on data `[N, *event]`. Returns the field and its history as JSON.
#[pyfunction]
#[pyo3(signature = (data, config, *, noise=None, condition=None, monitor=None, checkpoint=None,
                    checkpoint_every=None, checkpoint_seconds=None, header="{}", resume=None, portions=None, source=None, initial=None, world=None))]
#[allow(clippy::too_many_arguments)]
pub fn train_teacher(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    config: &str,
    noise: Option<&Bound<'_, PyAny>>,
    condition: Option<&Bound<'_, PyAny>>,
    monitor: Option<Bound<'_, PyAny>>,
    checkpoint: Option<PathBuf>,
    checkpoint_every: Option<u64>,
    checkpoint_seconds: Option<f64>,
    header: &str,
    resume: Option<PathBuf>,
    portions: Option<Py<PyAny>>,
    source: Option<PyRef<'_, PySource>>,
    initial: Option<PyRef<'_, PyVelocityField>>,
    world: Option<PyWorld>,
) -> PyResult<(PyVelocityField, String)> {
    let config: TeacherConfig = json::parse_options(config)?;
    let data = Array::import_float("data", data)?.tensor;
    let noise = noise.map(|noise| Array::import_float("noise", noise)).transpose()?.map(|array| array.tensor);
    let condition = Array::import_condition(config.conditioning, condition, None)?;
    let header = json::parse("header", header)?;
    let checkpoint = checkpoint.map(|file| Checkpointing {
        file,
        every_steps: checkpoint_every,
        every_seconds: checkpoint_seconds,
        header,
    });
    let files = TrainingFiles { checkpoint, resume };
    let mut monitor = PyMonitor::new(monitor).shared(PyWorld::of(world)?);
    let conditioning = config.conditioning;
    let portions =
        portions.map(|function| Box::new(PyPortions { function, conditioning }) as Box<dyn Portions>);
    let source = source.map(|source| source.handle()).unwrap_or_default();
    let initial = initial.map(|field| field.handle());
    let (field, history) = door::enter(py, move || {
        let (noise, condition) = (noise.as_ref(), condition.as_ref());
        let given = Given { data: &data, noise, condition, portions, source, initial };
        flow::train_with_files(&config, given, &files, &mut monitor)
    })?;
    Ok((PyVelocityField::new(Box::new(field)), json::to_value(&history)?.to_string()))
}

/// A Python function that returns the next portion of the data and its condition or None. The interpreter lock is held
/// only while it runs.
struct PyPortions {
    function: Py<PyAny>,
    conditioning: Conditioning,
}

impl Portions for PyPortions {
    fn portion(&mut self) -> Result<(Tensor, Option<Tensor>)> {
        Python::attach(|py| {
            let answer = || -> PyResult<_> {
                let (data, condition): (Bound<'_, PyAny>, Option<Bound<'_, PyAny>>) =
                    self.function.bind(py).call0()?.extract()?;
                let condition = Array::import_condition(self.conditioning, condition.as_ref(), None)?;
                Ok((Array::import_float("data", &data)?.tensor, condition))
            };
            answer().map_err(|raised| from_callback(py, raised))
        })
    }
}

/// The default options of [`train_teacher`], as JSON.
#[pyfunction]
pub fn teacher_defaults() -> PyResult<String> {
    Ok(json::to_value(&TeacherConfig::default())?.to_string())
}

/// Standard normal noise in float32 from koopflow's own seeded generator.
#[pyfunction]
pub fn normal<'py>(py: Python<'py>, shape: Vec<i64>, seed: u64) -> PyResult<Bound<'py, PyAny>> {
    let shape = check_event_shape(shape)?;
    let noise = door::enter(py, move || RandomSource::noise(seed).normal(&shape, Kind::Float, Device::Cpu))?;
    ArrayKind::Numpy.export(py, noise)
}

/// Sets the precision of this thread's matrix products in networks (`"float32"`, `"bf16"`, `"fp16"`) and returns the
/// previous one.
#[pyfunction]
pub fn lower_precision(name: &str) -> PyResult<&'static str> {
    let wanted = [("float32", Precision::Float32), ("bf16", Precision::Bf16), ("fp16", Precision::Fp16)];
    let Some((_, precision)) = wanted.iter().find(|(known, _)| *known == name) else {
        let got = format!("{name:?}");
        return Err(Error::argument("precision", "'float32', 'bf16' or 'fp16'", got).into());
    };
    let before = precision::lower(precision.kind());
    let was = wanted.iter().find(|(_, known)| known.kind() == before);
    Ok(was.map_or("float32", |(known, _)| known))
}
