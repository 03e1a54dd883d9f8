//! `_core.VelocityField`: any velocity field, for Python.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use serde_json::Value;
use tch::{Device, Tensor};

use super::array::{check_event_shape, rows, Array, ArrayKind};
use super::callable_field::{CallableField, CallableFieldConfig};
use super::door;
use super::handle::{Reduced, Shared};
use super::json;
use super::solving::{solve_options, GridArgument};
use super::source::PySource;
use crate::error::Error;
use crate::ode::{self, Chunks, DensityOptions};
use crate::python::door::PyMonitor;
use crate::store;
use crate::tensor::{device_name, dtype_name, parse_device, parse_dtype, shape_text};
use crate::velocity::{
    ChainField, Conditioning, Convention, DiffusionField, EmpiricalField, GaussianField, GuidedField,
    NetworkField, ReversedField, Source, SourcedField, TorchScriptConfig, TorchScriptField, VelocityField,
    WindowField,
};

#[pyclass(name = "VelocityField", module = "koopflow._core", frozen)]
pub struct PyVelocityField(Shared<Box<dyn VelocityField>>);

impl PyVelocityField {
    pub fn new(field: Box<dyn VelocityField>) -> Self {
        PyVelocityField(Shared::new(field))
    }

    /// A handle on the same field, which can be moved into [`door::enter`].
    pub fn handle(&self) -> Box<dyn VelocityField> {
        self.0.handle()
    }

    pub fn conditioning_of(&self) -> Conditioning {
        self.0.fact(|field| field.conditioning())
    }
}

#[pymethods]
impl PyVelocityField {
    /// The analytic field from the standard normal to N(mean, cov).
    #[staticmethod]
    #[pyo3(signature = (mean, cov, *, event_shape, device="cpu", dtype="float32"))]
    fn gaussian(
        py: Python<'_>,
        mean: &Bound<'_, PyAny>,
        cov: &Bound<'_, PyAny>,
        event_shape: Vec<i64>,
        device: &str,
        dtype: &str,
    ) -> PyResult<Self> {
        let mean = Array::import_float("mean", mean)?.tensor;
        let cov = Array::import_float("cov", cov)?.tensor;
        let event_shape = check_event_shape(event_shape)?;
        let (device, dtype) = (parse_device(device)?, parse_dtype(dtype)?);
        let field = door::enter(py, move || GaussianField::new(&mean, &cov, &event_shape, device, dtype))?;
        Ok(PyVelocityField::new(Box::new(field)))
    }

    /// The exact field of a finite data set `[N, *event]` under the linear path.
    #[staticmethod]
    #[pyo3(signature = (data, *, device="cpu", dtype="float32"))]
    fn empirical(py: Python<'_>, data: &Bound<'_, PyAny>, device: &str, dtype: &str) -> PyResult<Self> {
        let data = Array::import_float("data", data)?.tensor;
        let (device, dtype) = (parse_device(device)?, parse_dtype(dtype)?);
        let field = door::enter(py, move || EmpiricalField::new(&data, device, dtype))?;
        Ok(PyVelocityField::new(Box::new(field)))
    }

    /// A field that is evaluated in Python; see [`CallableField`].
    #[staticmethod]
    #[pyo3(signature = (function, vjp, *, event_shape, conditioning="\"none\"", device="cpu", dtype="float32", label="callable"))]
    fn callable(
        function: Py<PyAny>,
        vjp: Py<PyAny>,
        event_shape: Vec<i64>,
        conditioning: &str,
        device: &str,
        dtype: &str,
        label: &str,
    ) -> PyResult<Self> {
        let config = CallableFieldConfig {
            event_shape: check_event_shape(event_shape)?,
            conditioning: parse_conditioning(conditioning)?,
            device: parse_device(device)?,
            dtype: parse_dtype(dtype)?,
            label: label.to_string(),
        };
        Ok(PyVelocityField::new(Box::new(CallableField::new(function, vjp, config))))
    }

    /// The module of a TorchScript file; see [`TorchScriptField`].
    #[staticmethod]
    #[pyo3(signature = (path, *, event_shape, convention="torchcfm", timestep_scale=1000.0, conditioning="\"none\"", device="cpu", dtype=None))]
    #[allow(clippy::too_many_arguments)]
    fn torchscript(
        py: Python<'_>,
        path: PathBuf,
        event_shape: Vec<i64>,
        convention: &str,
        timestep_scale: f64,
        conditioning: &str,
        device: &str,
        dtype: Option<&str>,
    ) -> PyResult<Self> {
        let convention = match convention.parse()? {
            Convention::Diffusers { .. } => Convention::Diffusers { timestep_scale },
            other => other,
        };
        let config = TorchScriptConfig {
            event_shape: check_event_shape(event_shape)?,
            conditioning: parse_conditioning(conditioning)?,
            convention,
            device: parse_device(device)?,
            dtype: dtype.map(parse_dtype).transpose()?,
        };
        let field = door::enter(py, move || TorchScriptField::load(&path, config))?;
        Ok(PyVelocityField::new(Box::new(field)))
    }

    /// The probability-flow ODE of a diffusion model, whose prediction `model` returns.
    #[staticmethod]
    #[pyo3(signature = (model, config="{}"))]
    fn diffusion(model: &Self, config: &str) -> PyResult<Self> {
        let field = DiffusionField::new(model.handle(), json::parse_config(config)?)?;
        Ok(PyVelocityField::new(Box::new(field)))
    }

    /// The flow of this field between two times in [0, 1], rescaled to run from 0 to 1.
    fn window(&self, start: f64, end: f64) -> PyResult<PyVelocityField> {
        Ok(PyVelocityField::new(Box::new(WindowField::new(self.handle(), start, end)?)))
    }

    /// The distribution at the end of this field's flow, as the source of another flow.
    fn as_source(&self, event_shape: Vec<i64>) -> PyResult<PySource> {
        let event_shape = check_event_shape(event_shape)?;
        Ok(PySource::new(Source::flow(self.handle(), &event_shape)?, &event_shape))
    }

    /// The same field with another source.
    fn starting_from(&self, source: &PySource) -> PyVelocityField {
        PyVelocityField::new(Box::new(SourcedField::new(self.handle(), source.handle())))
    }

    /// A sequence of fields, each on one interval of time. The intervals are equal unless `breaks` are given.
    #[staticmethod]
    #[pyo3(signature = (fields, *, breaks=None))]
    fn chain(fields: Vec<PyRef<'_, Self>>, breaks: Option<Vec<f64>>) -> PyResult<Self> {
        let fields = fields.iter().map(|field| field.handle()).collect();
        Ok(PyVelocityField::new(Box::new(ChainField::new(fields, breaks.as_deref())?)))
    }

    /// The reversed flow v(t, x) = -u(1 - t, x) of this field u.
    fn reversed(&self) -> Self {
        PyVelocityField::new(Box::new(ReversedField::new(self.handle())))
    }

    /// Times in (0, 1) at which the velocity is discontinuous.
    #[getter]
    fn breaks(&self) -> Vec<f64> {
        self.0.fact(|field| field.breaks())
    }

    /// The distribution that the flow starts from.
    #[getter]
    fn source(&self) -> PySource {
        self.0.fact(|field| PySource::new(field.source(), field.event_shape()))
    }

    /// Classifier-free guidance of this field.
    #[pyo3(signature = (scale, null_condition))]
    fn guided(&self, py: Python<'_>, scale: f64, null_condition: &Bound<'_, PyAny>) -> PyResult<Self> {
        let null = Array::import("null_condition", null_condition)?.tensor;
        let model = self.handle();
        let field = door::enter(py, move || GuidedField::new(model, scale, &null))?;
        Ok(PyVelocityField::new(Box::new(field)))
    }

    /// A torchcfm `UNetModel` with the names and tensors of its state dict.
    #[staticmethod]
    #[pyo3(signature = (names, tensors, *, event_shape, heads=1, head_channels=None, qkv_first=false, device="cpu", dtype="float32"))]
    #[allow(clippy::too_many_arguments)]
    fn torchcfm(
        py: Python<'_>,
        names: Vec<String>,
        tensors: Vec<Bound<'_, PyAny>>,
        event_shape: Vec<i64>,
        heads: i64,
        head_channels: Option<i64>,
        qkv_first: bool,
        device: &str,
        dtype: &str,
    ) -> PyResult<Self> {
        let pairs = names.into_iter().zip(&tensors);
        let tensors: Vec<(String, Tensor)> = pairs
            .map(|(name, tensor)| {
                let tensor = Array::import_float(&name, tensor)?.tensor;
                Ok((name, tensor))
            })
            .collect::<PyResult<_>>()?;
        let event_shape = check_event_shape(event_shape)?;
        let (device, dtype) = (parse_device(device)?, dtype.to_string());
        let attention = (heads, head_channels, qkv_first);
        let field = door::enter(py, move || {
            NetworkField::from_torchcfm(&tensors, &event_shape, attention, &dtype, device)
        })?;
        Ok(PyVelocityField::new(Box::new(field)))
    }

    /// The names and tensors of the field, copied to the CPU; empty for a field without tensors.
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
        let tensors = self.handle().state().map(|state| state.tensors).unwrap_or_default();
        let kind = ArrayKind::Torch(Device::Cpu);
        tensors.into_iter().map(|(name, tensor)| Ok((name, kind.export(py, tensor)?))).collect()
    }

    #[getter]
    fn event_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.0.fact(|field| PyTuple::new(py, field.event_shape()))
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.0.fact(|field| field.kind_name())
    }

    #[getter]
    fn device(&self) -> String {
        self.0.fact(|field| device_name(field.device()))
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.0.fact(|field| dtype_name(field.dtype()))
    }

    #[getter]
    fn evaluations(&self) -> u64 {
        self.0.fact(|field| field.evaluations())
    }

    #[getter]
    fn conditioning(&self) -> PyResult<String> {
        let json = serde_json::to_string(&self.0.fact(|field| field.conditioning()));
        Ok(json.map_err(|error| Error::Internal(error.into()))?)
    }

    #[pyo3(signature = (t, x, condition=None))]
    fn velocity<'py>(
        &self,
        py: Python<'py>,
        t: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let t = Array::import_float("t", t)?.tensor;
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let field = self.handle();
        let v = door::enter(py, move || field.checked_velocity(&t, &x, condition.as_ref()))?;
        kind.export(py, v)
    }

    /// The growth rate of mass at t and x, `[B]`; None for a field that conserves mass.
    fn growth<'py>(
        &self,
        py: Python<'py>,
        t: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let t = Array::import_float("t", t)?.tensor;
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let field = self.handle();
        let rates = door::enter(py, move || field.checked_growth(&t, &x))?;
        rates.map(|rates| kind.export(py, rates)).transpose()
    }

    /// Log-masses `[T, B]` in float64 along states `[T, B, *event]` at `times`.
    fn log_masses<'py>(
        &self,
        py: Python<'py>,
        times: Vec<f64>,
        states: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Array { tensor: states, kind } = Array::import_float("states", states)?;
        let field = self.handle();
        kind.export(py, door::enter(py, move || ode::log_masses(&*field, &times, &states))?)
    }

    /// The mixture of noise and data that states are, as JSON; None if no single mixture holds at every time.
    #[getter]
    fn mixing(&self) -> PyResult<Option<String>> {
        let mixing = self.0.fact(|field| field.mixing());
        let json = mixing.map(|mixing| serde_json::to_string(&mixing)).transpose();
        Ok(json.map_err(|error| Error::Internal(error.into()))?)
    }

    /// E[x1 | x_t = x], or E[x0 | x_t = x] with `of="noise"`.
    #[pyo3(signature = (t, x, *, of="data", condition=None))]
    fn denoise<'py>(
        &self,
        py: Python<'py>,
        t: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        of: &str,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let t = Array::import_float("t", t)?.tensor;
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let of = of.parse()?;
        let field = self.handle();
        let expected = door::enter(py, move || field.denoise(&t, &x, of, condition.as_ref()))?;
        kind.export(py, expected)
    }

    /// Integrates dx/dt = v from `x` at `times[0]` through `times`: `[T, B, *event]`.
    #[pyo3(signature = (x, times, *, solver="dopri5", steps=100, rtol=1e-5, atol=1e-5, grid=None, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)]
    fn solve<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        times: Vec<f64>,
        solver: &str,
        steps: u64,
        rtol: f64,
        atol: f64,
        grid: Option<GridArgument>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let options = solve_options(solver, steps, rtol, atol, grid)?;
        let mut monitor = PyMonitor::new(monitor);
        let field = self.handle();
        let trajectory = door::enter(py, move || {
            let chunks = Chunks::new("sample");
            ode::solve_chunked(&*field, &x, &times, &options, condition.as_ref(), chunks, &mut monitor)
                .map(|solution| solution.trajectory)
        })?;
        kind.export(py, trajectory)
    }

    /// The ends of the fixed steps from time 0 to 1, including both.
    #[pyo3(signature = (*, solver, steps=100, grid=None))]
    fn step_times(
        &self,
        py: Python<'_>,
        solver: &str,
        steps: u64,
        grid: Option<GridArgument>,
    ) -> PyResult<Vec<f64>> {
        let options = solve_options(solver, steps, 1e-5, 1e-5, grid)?;
        let field = self.handle();
        door::enter(py, move || ode::step_times(&*field, &[0.0, 1.0], &options))
    }

    /// The product of covectors `[B, K, *event]` at the data and the Jacobian of the flow map, by the adjoint
    /// equation.
    #[pyo3(signature = (x, covectors, *, solver="dopri5", steps=100, rtol=1e-5, atol=1e-5, grid=None, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn pull_back<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        covectors: &Bound<'py, PyAny>,
        solver: &str,
        steps: u64,
        rtol: f64,
        atol: f64,
        grid: Option<GridArgument>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let covectors = Array::import_float("covectors", covectors)?.tensor;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let solve = solve_options(solver, steps, rtol, atol, grid)?;
        let mut monitor = PyMonitor::new(monitor);
        let field = self.handle();
        let pulled = door::enter(py, move || {
            ode::pull_back(&*field, &x, &covectors, &solve, condition.as_ref(), &mut monitor)
        })?;
        kind.export(py, pulled)
    }

    /// Log-density in nats, `[B]`, by the instantaneous change of variables.
    #[pyo3(signature = (x, *, divergence="auto", probes=1, seed=0, solver="dopri5", steps=100, rtol=1e-5, atol=1e-5, grid=None, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)]
    fn log_prob<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        divergence: &str,
        probes: i64,
        seed: u64,
        solver: &str,
        steps: u64,
        rtol: f64,
        atol: f64,
        grid: Option<GridArgument>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let condition = Array::import_condition(self.conditioning_of(), condition, rows(&x))?;
        let solve = solve_options(solver, steps, rtol, atol, grid)?;
        let options = DensityOptions { divergence: divergence.parse()?, probes, seed, solve };
        let mut monitor = PyMonitor::new(monitor);
        let field = self.handle();
        let density =
            door::enter(py, move || ode::log_prob(&*field, &x, &options, condition.as_ref(), &mut monitor))?;
        kind.export(py, density)
    }

    /// Writes one safetensors file, atomically; `header` is JSON that `load` gives back.
    #[pyo3(signature = (path, header="{}"))]
    fn save(&self, py: Python<'_>, path: PathBuf, header: &str) -> PyResult<()> {
        let header = json::parse("header", header)?;
        let field = self.handle();
        door::enter(py, move || store::save(&path, &field, header))
    }

    /// The field and the header that `save` wrote.
    #[staticmethod]
    #[pyo3(signature = (path, *, device="cpu"))]
    fn load(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<(Self, String)> {
        let device = parse_device(device)?;
        let (field, header) = door::enter(py, move || store::load::<Box<dyn VelocityField>>(&path, device))?;
        Ok((PyVelocityField::new(field), header.to_string()))
    }

    /// The field as the bytes of a file, which `from_bytes` reads.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let field = self.handle();
        Ok(PyBytes::new(py, &door::enter(py, move || store::to_bytes(&field, Value::Null))?))
    }

    #[classmethod]
    #[pyo3(signature = (bytes, device="cpu"))]
    fn from_bytes(_cls: &Bound<'_, PyType>, py: Python<'_>, bytes: &[u8], device: &str) -> PyResult<Self> {
        let device = parse_device(device)?;
        let (field, _) = door::enter(py, move || store::from_bytes::<Box<dyn VelocityField>>(bytes, device))?;
        Ok(PyVelocityField::new(field))
    }

    /// Support for pickle and deep copies, through the bytes of a file.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let own = slf.get();
        Ok((slf.get_type().getattr("from_bytes")?, (own.to_bytes(slf.py())?, own.device())))
    }

    fn __repr__(&self) -> String {
        self.0.fact(|field| {
            format!(
                "VelocityField(kind={:?}, event_shape={}, device={:?}, dtype={:?})",
                field.kind_name(),
                shape_text(field.event_shape()),
                device_name(field.device()),
                dtype_name(field.dtype()),
            )
        })
    }
}

fn parse_conditioning(json: &str) -> PyResult<Conditioning> {
    let parsed = serde_json::from_str(json);
    Ok(parsed.map_err(|error| Error::argument("conditioning", "the JSON of a conditioning", error))?)
}
