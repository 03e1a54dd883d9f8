//! `_core.Student`: a distilled student, for Python.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use serde_json::{Map, Value};
use tch::Tensor;

use super::array::{rows, Array, ArrayKind};
use super::door;
use super::feature_distance::PyFeatureDistance;
use super::handle::{self, Fitted, Reduced};
use super::json;
use super::source::PySource;
use super::velocity_field::PyVelocityField;
use super::world::PyWorld;
use crate::condition::Conditioning;
use crate::data::Inputs;
use crate::distill;
use crate::distill::{Checkpointing, DistillConfig, Extras, FeatureDistance};
use crate::error::{Error, Result};
use crate::koopman::{Direction, Generator, Student, WeightsChoice};
use crate::python::door::PyMonitor;

use crate::sampling;
use crate::sampling::{student_density, StudentDensity, StudentDensityOptions};
use crate::sampling::{Inversion, Polish};
use crate::tensor::{device_name, dtype_name, parse_device, Share};
use crate::velocity::Mixing;

#[pyclass(name = "Student", module = "koopflow._core", frozen)]
pub struct PyStudent(Fitted<Student>);

impl PyStudent {
    pub(super) fn from_fitted(fitted: Fitted<Student>) -> Self {
        PyStudent(fitted)
    }

    pub(super) fn handle(&self) -> Student {
        self.0.model.handle()
    }

    pub(super) fn conditioning_of(&self) -> Conditioning {
        self.0.model.fact(|student| student.config().conditioning)
    }

    /// A student with the same history, whose configuration names its new generator.
    fn converted(&self, student: Student, generator: &str) -> Self {
        let mut config = self.0.config.clone();
        config["generator"] = generator.into();
        config["observables"] = student.config().observables.into();
        config["stability"] = "free".into();
        PyStudent(Fitted::new(student, self.0.history.clone(), config))
    }

    /// The steps shared by all methods that map one batch to another.
    fn map<'py>(
        &self,
        argument: &str,
        x: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
        work: impl FnOnce(&Student, &Tensor, Option<&Tensor>) -> Result<Tensor> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x.py();
        let Array { tensor: x, kind } = Array::import_float(argument, x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let student = self.handle();
        let y = door::enter(py, move || work(&student, &x, condition.as_ref()))?;
        kind.export(py, y)
    }
}

#[pymethods]
impl PyStudent {
    #[staticmethod]
    #[pyo3(signature = (teacher, config, *, condition=None, data=None, data_noise=None, data_condition=None,
                        trajectory_file=None, refresh=false, monitor=None, checkpoint=None, checkpoint_every=None,
                        checkpoint_seconds=None, header="{}", resume=None, features=None, world=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn distill(
        py: Python<'_>,
        teacher: &PyVelocityField,
        config: &str,
        condition: Option<&Bound<'_, PyAny>>,
        data: Option<&Bound<'_, PyAny>>,
        data_noise: Option<&Bound<'_, PyAny>>,
        data_condition: Option<&Bound<'_, PyAny>>,
        trajectory_file: Option<PathBuf>,
        refresh: bool,
        monitor: Option<Bound<'_, PyAny>>,
        checkpoint: Option<PathBuf>,
        checkpoint_every: Option<u64>,
        checkpoint_seconds: Option<f64>,
        header: &str,
        resume: Option<PathBuf>,
        features: Option<Py<PyAny>>,
        world: Option<PyWorld>,
    ) -> PyResult<Self> {
        let config: DistillConfig = json::parse_options(config)?;
        let header = json::parse("header", header)?;
        let checkpoint = checkpoint.map(|file| Checkpointing {
            file,
            every_steps: checkpoint_every,
            every_seconds: checkpoint_seconds,
            header,
        });
        let tensor = |array: Array| array.tensor;
        let inputs = Inputs {
            pool: Array::import_condition(teacher.conditioning_of(), condition, None)?,
            data: data.map(|data| Array::import_float("data", data)).transpose()?.map(tensor),
            noise: data_noise.map(|noise| Array::import_float("noise", noise)).transpose()?.map(tensor),
            data_condition: Array::import_condition(teacher.conditioning_of(), data_condition, None)?,
            trajectory_file,
            refresh,
        };
        let extras = Extras {
            checkpoint,
            resume,
            feature_distance: features.map(|function| {
                let shape = teacher.handle().event_shape().to_vec();
                Box::new(PyFeatureDistance::new(function, shape)) as Box<dyn FeatureDistance>
            }),
        };
        let field = teacher.handle();
        let mut monitor = PyMonitor::new(monitor).shared(PyWorld::of(world)?);
        let (student, history, resolved) = door::enter(py, move || {
            let resolved = config.with_defaults(field.event_shape(), field.conditioning())?;
            let (student, history) = distill::distill_with(&*field, &config, &inputs, &extras, &mut monitor)?;
            Ok((student, json::to_value(&history)?, json::to_value(&resolved)?))
        })?;
        Ok(PyStudent(Fitted::new(student, history, resolved)))
    }

    #[staticmethod]
    #[pyo3(signature = (path, *, device="cpu"))]
    fn load(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<(Self, String)> {
        let name = path.display().to_string();
        let (fitted, facts) = Fitted::load(py, path, parse_device(device)?)?;
        let header = handle::part(&name, &facts, "header")?;
        Ok((PyStudent(fitted), header.to_string()))
    }

    /// The student as the bytes of a file, which `from_bytes` reads.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.to_bytes(py)
    }

    #[classmethod]
    #[pyo3(signature = (bytes, device="cpu"))]
    fn from_bytes(_cls: &Bound<'_, PyType>, py: Python<'_>, bytes: &[u8], device: &str) -> PyResult<Self> {
        Ok(PyStudent(Fitted::from_bytes(py, bytes, parse_device(device)?)?))
    }

    /// Support for pickle and deep copies, through the bytes of a file.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let own = slf.get();
        Ok((slf.get_type().getattr("from_bytes")?, (own.to_bytes(slf.py())?, own.device())))
    }

    #[pyo3(signature = (path, header="{}"))]
    fn save(&self, py: Python<'_>, path: PathBuf, header: &str) -> PyResult<()> {
        let header: Value = json::parse("header", header)?;
        self.0.save(py, path, Map::from_iter([("header".to_string(), header)]))
    }

    /// The same student with its averaged (`"ema"`) or last (`"raw"`) weights.
    fn with_weights(&self, py: Python<'_>, weights: &str) -> PyResult<Self> {
        let choice: WeightsChoice = weights.parse()?;
        let student = self.handle();
        let student = door::enter(py, move || student.with_weights(choice))?;
        Ok(PyStudent(self.0.with_model(student)))
    }

    /// The same student with the average of its weights that has this decay.
    fn with_average(&self, py: Python<'_>, decay: f64) -> PyResult<Self> {
        let student = self.handle();
        let student = door::enter(py, move || student.with_weights(WeightsChoice::Average(decay)))?;
        Ok(PyStudent(self.0.with_model(student)))
    }

    /// The distribution that sampling starts from.
    #[getter]
    fn source(&self) -> PySource {
        self.0
            .model
            .fact(|student| PySource::new(student.source().shallow_clone(), &student.config().event_shape))
    }

    /// The conditioning of the student, as JSON.
    #[getter]
    fn conditioning(&self) -> PyResult<String> {
        let json = serde_json::to_string(&self.conditioning_of());
        Ok(json.map_err(|error| Error::Internal(error.into()))?)
    }

    #[getter]
    fn event_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.0.model.fact(|student| PyTuple::new(py, &student.config().event_shape))
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
    fn size(&self) -> i64 {
        self.0.model.fact(|student| student.config().size())
    }

    #[getter]
    fn evaluations(&self) -> u64 {
        self.0.model.fact(Student::evaluations)
    }

    #[getter]
    fn history(&self) -> String {
        self.0.history.to_string()
    }

    #[getter]
    fn config(&self) -> String {
        self.0.config.to_string()
    }

    #[pyo3(signature = (t, x, *, direction="forward", condition=None))]
    fn encode<'py>(
        &self,
        t: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        direction: &str,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let t = Array::import_float("t", t)?.tensor;
        let direction = parse_direction(direction)?;
        self.map("x", x, condition, move |student, x, condition| student.encode(&t, x, direction, condition))
    }

    #[pyo3(signature = (t, x, velocity, *, direction="forward", condition=None))]
    fn encode_with_tangent<'py>(
        &self,
        py: Python<'py>,
        t: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        velocity: &Bound<'py, PyAny>,
        direction: &str,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let t = Array::import_float("t", t)?.tensor;
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let velocity = Array::import_float("velocity", velocity)?.tensor;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let direction = parse_direction(direction)?;
        let student = self.handle();
        let (g, tangent) = door::enter(py, move || {
            student.encode_with_tangent(&t, &x, &velocity, direction, condition.as_ref())
        })?;
        Ok((kind.export(py, g)?, kind.export(py, tangent)?))
    }

    /// Converts a time of the data's path to the time of the observables.
    fn own_time(&self, t: f64) -> f64 {
        self.0.model.fact(|student| student.own_time(t))
    }

    fn propagate<'py>(&self, g: &Bound<'py, PyAny>, tau: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let tau = Array::import_float("tau", tau)?.tensor;
        self.map("g", g, None, move |student, g, _| student.propagate(g, &tau))
    }

    fn readout<'py>(&self, g: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.map("g", g, None, |student, g, _| student.readout(g))
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
        self.map("x0", x0, condition, move |student, x0, condition| {
            sampling::sample(student, x0, condition, steps, &mut monitor)
        })
    }

    #[pyo3(signature = (n, *, seed=0, steps=1, condition=None, monitor=None))]
    fn sample_count<'py>(
        &self,
        py: Python<'py>,
        n: i64,
        seed: u64,
        steps: i64,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let condition = Array::import_condition(self.conditioning_of(), condition, Some(n))?;
        let mut monitor = PyMonitor::new(monitor);
        let student = self.handle();
        let x = door::enter(py, move || {
            sampling::sample_count(&student, n, seed, condition.as_ref(), steps, &mut monitor)
        })?;
        ArrayKind::Numpy.export(py, x)
    }

    #[pyo3(signature = (x0, times, *, condition=None))]
    fn sample_path<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        times: Vec<f64>,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut monitor = PyMonitor::new(None);
        self.map("x0", x0, condition, move |student, x0, condition| {
            sampling::sample_path(student, x0, &times, condition, &mut monitor)
        })
    }

    /// E[x1 | x_t], or E[x0 | x_t] with `of="noise"`, along the student's paths.
    #[pyo3(signature = (t, x0, mixing, *, of="data", condition=None))]
    fn denoise<'py>(
        &self,
        t: &Bound<'py, PyAny>,
        x0: &Bound<'py, PyAny>,
        mixing: &str,
        of: &str,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let t = Array::import_float("t", t)?.tensor;
        let (mixing, of) = (json::parse_config::<Mixing>(mixing)?, of.parse()?);
        let mut monitor = PyMonitor::new(None);
        self.map("x0", x0, condition, move |student, x0, condition| {
            sampling::denoise(student, x0, &t, (mixing, of), condition, &mut monitor)
        })
    }

    #[pyo3(signature = (x, *, condition=None))]
    fn invert<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut monitor = PyMonitor::new(None);
        self.map("x", x, condition, move |student, x, condition| {
            sampling::invert(student, x, condition, &mut monitor)
        })
    }

    /// The noise of each sample, polished against the forward map, and its residual.
    #[pyo3(signature = (x, *, method="newton", polish=0, damping=0.0, start=None, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn invert_polished<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        method: &str,
        polish: i64,
        damping: f64,
        start: Option<&Bound<'py, PyAny>>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let start = start.map(|start| Array::import_float("start", start)).transpose()?;
        let method = method.parse::<Polish>()?;
        let mut monitor = PyMonitor::new(monitor);
        let student = self.handle();
        let Inversion { noise, residuals } = door::enter(py, move || {
            let (condition, monitor) = (condition.as_ref(), &mut monitor);
            match start {
                Some(Array { tensor: start, .. }) => {
                    sampling::invert_from(&student, &x, &start, condition, polish, damping, monitor)
                }
                None => sampling::invert_polished(&student, &x, condition, method, polish, damping, monitor),
            }
        })?;
        Ok((kind.export(py, noise)?, kind.export(py, residuals)?))
    }

    /// Samples from noise `x0`, and their log-densities, log |det| and its standard errors in float64.
    #[pyo3(signature = (x0, *, determinant="auto", probes=8, products=32, seed=0, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn sample_with_density<'py>(
        &self,
        py: Python<'py>,
        x0: &Bound<'py, PyAny>,
        determinant: &str,
        probes: i64,
        products: i64,
        seed: u64,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<[Bound<'py, PyAny>; 4]> {
        let Array { tensor: x0, kind } = Array::import_float("x0", x0)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x0))?;
        let determinant = determinant.parse()?;
        let options = StudentDensityOptions { determinant, polish: 0, probes, products, seed };
        let mut monitor = PyMonitor::new(monitor);
        let student = self.handle();
        let [x, log_prob, log_determinant, errors] = door::enter(py, move || {
            sampling::sample_with_density(&student, &x0, condition.as_ref(), &options, &mut monitor)
        })?;
        Ok([
            kind.export(py, x)?,
            kind.export(py, log_prob)?,
            kind.export(py, log_determinant)?,
            kind.export(py, errors)?,
        ])
    }

    /// The product of covectors `[B, K, *event]` at the samples and the Jacobian of the map at their noise.
    #[pyo3(signature = (x0, covectors, *, condition=None, monitor=None))]
    fn pull_back<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        covectors: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let covectors = Array::import_float("covectors", covectors)?.tensor;
        let mut monitor = PyMonitor::new(monitor);
        self.map("x0", x0, condition, move |student, x0, condition| {
            sampling::pull_back(student, x0, &covectors, condition, &mut monitor)
        })
    }

    /// (log p, noise, residuals, log |det| and its standard errors), and the total standard deviation of the data.
    #[pyo3(signature = (x, *, determinant="auto", polish=10, probes=8, products=32, seed=0, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn density<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        determinant: &str,
        polish: i64,
        probes: i64,
        products: i64,
        seed: u64,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<([Bound<'py, PyAny>; 5], f64)> {
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let determinant = determinant.parse()?;
        let options = StudentDensityOptions { determinant, polish, probes, products, seed };
        let mut monitor = PyMonitor::new(monitor);
        let student = self.handle();
        let StudentDensity { log_prob, noise, residuals, log_determinant, standard_errors, spread } =
            door::enter(py, move || {
                student_density(&student, &x, condition.as_ref(), &options, &mut monitor)
            })?;
        let arrays = [
            kind.export(py, log_prob)?,
            kind.export(py, noise)?,
            kind.export(py, residuals)?,
            kind.export(py, log_determinant)?,
            kind.export(py, standard_errors)?,
        ];
        Ok((arrays, spread))
    }

    /// The student with a spectral generator, and a report on the conditioning of the conversion as JSON.
    fn to_spectral(&self, py: Python<'_>) -> PyResult<(Self, String)> {
        let student = self.handle();
        let size = student.config().size();
        let (other, report) = door::enter_decomposition(py, size, move || student.to_spectral())?;
        Ok((self.converted(other, "spectral"), json::to_value(&report)?.to_string()))
    }

    /// The student with a dense generator, and an empty JSON report, since this conversion is exact.
    fn to_dense(&self, py: Python<'_>) -> PyResult<(Self, String)> {
        let student = self.handle();
        let other = door::enter(py, move || student.to_dense())?;
        Ok((self.converted(other, "dense"), "{}".into()))
    }

    fn generator_matrix<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let student = self.handle();
        let matrix = door::enter(py, move || Ok(student.generator().matrix()))?;
        ArrayKind::Numpy.export(py, matrix)
    }

    /// See [`sampling::phase_error`].
    #[pyo3(signature = (x0, x1, *, condition=None, monitor=None))]
    fn phase_error(
        &self,
        py: Python<'_>,
        x0: &Bound<'_, PyAny>,
        x1: &Bound<'_, PyAny>,
        condition: Option<&Bound<'_, PyAny>>,
        monitor: Option<Bound<'_, PyAny>>,
    ) -> PyResult<f64> {
        let (x0, x1) = (Array::import_float("x0", x0)?.tensor, Array::import_float("x1", x1)?.tensor);
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x0))?;
        let (student, mut monitor) = (self.handle(), PyMonitor::new(monitor));
        door::enter(py, move || sampling::phase_error(&student, &x0, &x1, condition.as_ref(), &mut monitor))
    }

    /// See [`sampling::consistency_residual`].
    #[pyo3(signature = (t, x, velocity, *, condition=None, monitor=None))]
    fn consistency_residual(
        &self,
        py: Python<'_>,
        t: &Bound<'_, PyAny>,
        x: &Bound<'_, PyAny>,
        velocity: &Bound<'_, PyAny>,
        condition: Option<&Bound<'_, PyAny>>,
        monitor: Option<Bound<'_, PyAny>>,
    ) -> PyResult<f64> {
        let t = Array::import_float("t", t)?.tensor;
        let x = Array::import_float("x", x)?.tensor;
        let velocity = Array::import_float("velocity", velocity)?.tensor;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let (student, mut monitor) = (self.handle(), PyMonitor::new(monitor));
        door::enter(py, move || {
            sampling::consistency_residual(&student, &t, &x, &velocity, condition.as_ref(), &mut monitor)
        })
    }

    /// (channels, height, width, pixels that share eigenvalues, complex pairs) of each feature map of a hierarchical
    /// student; empty for other students.
    #[getter]
    fn feature_maps(&self) -> Vec<(i64, i64, i64, i64, i64)> {
        self.0.model.fact(|student| {
            let Generator::Levels(generator) = student.generator() else { return Vec::new() };
            let maps = student.config().feature_maps();
            let rows = maps.iter().zip(generator.blocks().maps());
            rows.map(|(map, (blocks, shared))| (map.channels, map.height, map.width, shared, blocks.pairs()))
                .collect()
        })
    }

    fn eigenvalues<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let student = self.handle();
        let size = student.config().size();
        let parts = door::enter_decomposition(py, size, move || student.generator().eigenvalues())?;
        // Rows of (real, imaginary) have the memory layout of complex numbers.
        ArrayKind::Numpy.export(py, parts)?.call_method1("view", ("c16",))?.call_method1("reshape", (-1,))
    }

    fn __repr__(&self) -> String {
        self.0.model.fact(|student| {
            let config = student.config();
            format!(
                "Student(event_shape={:?}, observables={}, lifts={}, size={}, device={:?})",
                config.event_shape,
                config.observables,
                config.lifts,
                config.size(),
                device_name(student.device()),
            )
        })
    }
}

/// The default options for events of `event_size` numbers, as JSON.
#[pyfunction]
pub fn student_defaults(event_size: i64) -> PyResult<String> {
    let resolved = DistillConfig::default().with_defaults(&[event_size], Conditioning::None)?;
    Ok(json::to_value(&resolved)?.to_string())
}

fn parse_direction(name: &str) -> Result<Direction> {
    match name {
        "forward" => Ok(Direction::Forward),
        "backward" => Ok(Direction::Backward),
        _ => Err(Error::argument("direction", "'forward' or 'backward'", format!("{name:?}"))),
    }
}
