//! `_core.Observed` and `_core.Forecaster`: observed sequences and models of them, for Python.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use tch::{Kind, Tensor};

use super::array::{Array, ArrayKind};
use super::door;
use super::handle::{self, Fitted, Reduced, Shared};
use super::json;
use super::spectrum::export_complex;
use super::world::PyWorld;
use crate::data::Observed;
use crate::error::{Error, Result};
use crate::forecast::{self, Forecaster, ForecasterConfig, Modes, Observations, Request};
use crate::python::door::PyMonitor;
use crate::tensor::{check_finite, device_name, parse_device, shape_text};

#[pyclass(name = "Observed", module = "koopflow._core", frozen)]
pub struct PyObserved(Shared<Observed>);

/// A flat array of numbers in float64.
fn numbers(argument: &str, array: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    let tensor = Array::import_float(argument, array)?.tensor.to_kind(Kind::Double).reshape([-1]);
    Ok(Vec::<f64>::try_from(tensor).map_err(Error::from)?)
}

fn floats(argument: &str, array: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Tensor>> {
    array.map(|array| Ok(Array::import_float(argument, array)?.tensor)).transpose()
}

#[pymethods]
impl PyObserved {
    #[new]
    #[pyo3(signature = (values, lengths, *, times=None, inputs=None, conditions=None))]
    fn new(
        values: &Bound<'_, PyAny>,
        lengths: Vec<usize>,
        times: Option<&Bound<'_, PyAny>>,
        inputs: Option<&Bound<'_, PyAny>>,
        conditions: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = values.py();
        let values = Array::import_float("paths", values)?.tensor;
        let times = times.map(|times| numbers("times", times)).transpose()?;
        let (inputs, conditions) = (floats("inputs", inputs)?, floats("condition", conditions)?);
        let made = door::enter(py, move || {
            Observed::new(&values, &lengths, times, inputs.as_ref(), conditions.as_ref())
        })?;
        Ok(PyObserved(Shared::new(made)))
    }

    /// The spacing of the time grid; None if the times are irregular.
    #[getter]
    fn spacing(&self) -> Option<f64> {
        self.0.fact(Observed::spacing)
    }

    fn __len__(&self) -> usize {
        self.0.fact(Observed::paths)
    }
}

#[pyclass(name = "Forecaster", module = "koopflow._core", frozen)]
pub struct PyForecaster(Fitted<Forecaster>);

impl PyForecaster {
    fn handle(&self) -> Forecaster {
        self.0.model.handle()
    }

    /// A copy of one of the model's matrices.
    fn table<'py>(
        &self,
        py: Python<'py>,
        read: impl FnOnce(&Forecaster) -> Option<Tensor> + Send,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let model = self.handle();
        let found = door::enter(py, move || Ok(read(&model).map(|table| table.detach().copy())))?;
        found.map(|table| ArrayKind::Numpy.export(py, table)).transpose()
    }
}

/// Reshapes states `[.., d]` to `[.., *event]`.
fn events(model: &Forecaster, states: &Tensor) -> Result<Tensor> {
    let size = states.size();
    let mut shape = size[..size.len() - 1].to_vec();
    shape.extend(&model.sizes().event_shape);
    Ok(states.f_reshape(shape)?)
}

/// The number of steps between two encodings; 0 from Python means never.
fn steps(re_encode: u64) -> Option<u64> {
    (re_encode > 0).then_some(re_encode)
}

/// Mean, deviation and log-likelihood.
type Posterior<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);
/// Rates, weights, modes and their condition numbers; power, residuals, energy, order and share explained.
type Spectrum<'py> = (
    (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>),
    Option<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Vec<i64>, Bound<'py, PyAny>)>,
);

#[pymethods]
impl PyForecaster {
    #[staticmethod]
    #[pyo3(signature = (paths, config, event_shape, *, monitor=None, world=None))]
    fn fit(
        py: Python<'_>,
        paths: &PyObserved,
        config: &str,
        event_shape: Vec<i64>,
        monitor: Option<Bound<'_, PyAny>>,
        world: Option<PyWorld>,
    ) -> PyResult<Self> {
        let config: ForecasterConfig = json::parse_options(config)?;
        let monitor = PyMonitor::new(monitor).shared(PyWorld::of(world)?);
        let (data, mut monitor) = (paths.0.handle(), monitor);
        let (model, history, resolved) = door::enter(py, move || {
            let (model, history) = forecast::fit(&config, &data, &event_shape, &mut monitor)?;
            let resolved = json::to_value(model.config())?;
            Ok((model, json::to_value(&history)?, resolved))
        })?;
        Ok(PyForecaster(Fitted::new(model, history, resolved)))
    }

    /// Returns the forecaster and the facts that were passed to `save`.
    #[staticmethod]
    #[pyo3(signature = (path, *, device="cpu"))]
    fn load(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<(Self, String)> {
        let (fitted, facts) = Fitted::load(py, path, parse_device(device)?)?;
        Ok((PyForecaster(fitted), facts.to_string()))
    }

    /// The forecaster as the bytes of a file, which `from_bytes` reads.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.0.to_bytes(py)
    }

    #[classmethod]
    #[pyo3(signature = (bytes, device="cpu"))]
    fn from_bytes(_cls: &Bound<'_, PyType>, py: Python<'_>, bytes: &[u8], device: &str) -> PyResult<Self> {
        Ok(PyForecaster(Fitted::from_bytes(py, bytes, parse_device(device)?)?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let own = slf.get();
        Ok((slf.get_type().getattr("from_bytes")?, (own.to_bytes(slf.py())?, own.device())))
    }

    #[pyo3(signature = (path, facts="{}"))]
    fn save(&self, py: Python<'_>, path: PathBuf, facts: &str) -> PyResult<()> {
        self.0.save(py, path, handle::object("facts", facts)?)
    }

    #[getter]
    fn event_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.0.model.fact(|model| PyTuple::new(py, &model.sizes().event_shape))
    }

    #[getter]
    fn device(&self) -> String {
        self.0.model.fact(|model| device_name(model.device()))
    }

    /// Number of observables, m.
    #[getter]
    fn size(&self) -> i64 {
        self.0.model.fact(|model| model.sizes().observables())
    }

    /// Sizes and facts as JSON.
    #[getter]
    fn facts(&self) -> PyResult<String> {
        let (sizes, facts) = self.0.model.fact(|model| (model.sizes().clone(), model.facts().clone()));
        let both = serde_json::json!({ "sizes": json::to_value(&sizes)?, "facts": json::to_value(&facts)? });
        Ok(both.to_string())
    }

    #[getter]
    fn history(&self) -> String {
        self.0.history.to_string()
    }

    #[getter]
    fn config(&self) -> String {
        self.0.config.to_string()
    }

    /// The transition matrix K of one step, `[m, m]`.
    fn transition<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.table(py, |model| Some(model.evolution().transition.shallow_clone()))
    }

    /// The generator L, `[m, m]`, or None.
    fn generator<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.table(py, |model| model.evolution().generator.as_ref().map(Tensor::shallow_clone))
    }

    /// The readout C, `[m, d]`, of states in the data's units with their mean subtracted.
    fn readout<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.table(py, |model| Some(model.differences(&model.evolution().readout)))
    }

    /// Mean and standard deviation of the rows of the data, `[2, D]`.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.table(py, |model| Some(model.statistics().shallow_clone()))
    }

    /// The noise covariance Q of one step, `[m, m]`.
    fn covariance<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.table(py, |model| Some(model.evolution().covariance.shallow_clone()))
    }

    /// Observables `[B, m]` of rows `[B, history, *event]`.
    #[pyo3(signature = (x, *, condition=None))]
    fn encode<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x.py();
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let (condition, model) = (floats("condition", condition)?, self.handle());
        let g = door::enter(py, move || {
            let _guard = tch::no_grad_guard();
            let stack = model.check_rows("x", &x)?;
            let condition = model.check_condition(condition.as_ref(), x.size()[0])?;
            model.encode(&stack, condition.as_ref())
        })?;
        kind.export(py, g)
    }

    /// Forecasts `[T, B, *event]`, or `[members, T, B, *event]`, at times counted from the last row of `x`.
    #[pyo3(signature = (x, times, *, re_encode=1, members=0, seed=0, inputs=None, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn forecast<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        times: &Bound<'py, PyAny>,
        re_encode: u64,
        members: i64,
        seed: u64,
        inputs: Option<&Bound<'py, PyAny>>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x.py();
        let Array { tensor: x, kind } = Array::import_float("x", x)?;
        let times = numbers("times", times)?;
        let (inputs, condition) = (floats("inputs", inputs)?, floats("condition", condition)?);
        let (model, mut monitor) = (self.handle(), PyMonitor::new(monitor));
        let states = door::enter(py, move || {
            let stack = model.check_rows("x", &x)?;
            let batch = x.size()[0];
            let condition = model.check_condition(condition.as_ref(), batch)?;
            let inputs = checked_inputs(&model, inputs, batch)?;
            if members < 0 {
                return Err(Error::argument("members", "an integer of at least 0", members));
            }
            if times.is_empty() {
                return Err(Error::argument("times", "at least one time", "none"));
            }
            let request = Request {
                stack: &stack,
                condition: condition.as_ref(),
                times: &times,
                re_encode: steps(re_encode),
                inputs: inputs.as_ref(),
                members,
                seed,
            };
            let found = forecast::forecast(&model, &request, &mut monitor)?;
            let found = events(&model, &model.original(&found))?.to_kind(x.kind());
            Ok(if members > 0 { found.transpose(0, 1).contiguous() } else { found })
        })?;
        kind.export(py, states)
    }

    /// Mean and standard deviation `[T, B, *event]` at the `wanted` times given rows `[B, T', *event]`, and the
    /// log-likelihoods `[B]` of the rows.
    #[pyo3(signature = (values, times, wanted, *, noise, re_encode=true, backwards=true, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn smooth<'py>(
        &self,
        values: &Bound<'py, PyAny>,
        times: &Bound<'py, PyAny>,
        wanted: &Bound<'py, PyAny>,
        noise: f64,
        re_encode: bool,
        backwards: bool,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Posterior<'py>> {
        let py = values.py();
        let Array { tensor: values, kind } = Array::import_float("observations", values)?;
        let (times, wanted) = (numbers("times", times)?, numbers("at", wanted)?);
        let condition = floats("condition", condition)?;
        let (model, mut monitor) = (self.handle(), PyMonitor::new(monitor));
        let found = door::enter(py, move || {
            let (size, event) = (values.size(), &model.sizes().event_shape);
            if size.get(2..) != Some(event.as_slice()) {
                let expected = format!("(B, T, then {})", shape_text(event));
                return Err(Error::shape("observations", expected, shape_text(&size)));
            }
            if !(noise.is_finite() && noise >= 0.0) {
                return Err(Error::argument("noise", "a finite number of at least 0", noise));
            }
            let infinite = wanted.iter().find(|time| !time.is_finite());
            if wanted.is_empty() || infinite.is_some() {
                let got = infinite.map_or("none".to_string(), f64::to_string);
                return Err(Error::argument("at", "at least one time, all finite", got));
            }
            let flat = values.f_reshape([size[0], size[1], -1])?;
            let seen = Observations {
                values: &flat,
                times: &times,
                condition: condition.as_ref(),
                noise,
                re_encode,
            };
            let found = forecast::smooth(&model, &seen, &wanted, backwards, &mut monitor)?;
            let out = |x: &Tensor| -> Result<Tensor> { Ok(events(&model, x)?.to_kind(values.kind())) };
            Ok((out(&found.mean)?, out(&found.deviation)?, found.log_likelihood))
        })?;
        Ok((kind.export(py, found.0)?, kind.export(py, found.1)?, kind.export(py, found.2)?))
    }

    /// The spectrum, and its statistics over `paths` if they are given.
    #[pyo3(signature = (paths=None, *, monitor=None))]
    fn spectrum<'py>(
        &self,
        py: Python<'py>,
        paths: Option<&PyObserved>,
        monitor: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Spectrum<'py>> {
        let (model, mut monitor) = (self.handle(), PyMonitor::new(monitor));
        let data = paths.map(|paths| paths.0.handle());
        let (modes, facts) = door::enter(py, move || {
            let modes = Modes::new(&model)?;
            let facts = data.map(|data| modes.facts(&model, &data, &mut monitor)).transpose()?;
            Ok((modes, facts))
        })?;
        let Modes { rates, weights, modes, conditions, .. } = modes;
        let numpy = |table: Tensor| ArrayKind::Numpy.export(py, table.contiguous());
        let own = (
            export_complex(py, &rates)?,
            export_complex(py, &weights)?,
            export_complex(py, &modes)?,
            numpy(conditions)?,
        );
        let facts = facts
            .map(|facts| -> PyResult<_> {
                let (power, residuals) = (numpy(facts.power)?, numpy(facts.residuals)?);
                Ok((power, residuals, numpy(facts.energy)?, facts.order, numpy(facts.explained)?))
            })
            .transpose()?;
        Ok((own, facts))
    }

    fn __repr__(&self) -> String {
        self.0.model.fact(|model| {
            let (sizes, device) = (model.sizes(), device_name(model.device()));
            format!(
                "Forecaster(event_shape={:?}, observables={}, device={device:?})",
                sizes.event_shape,
                sizes.observables()
            )
        })
    }
}

/// Checks inputs `[B, N, u]` from Python and returns them as `[N, B, u]`.
fn checked_inputs(model: &Forecaster, inputs: Option<Tensor>, batch: i64) -> Result<Option<Tensor>> {
    let expected = model.sizes().inputs;
    match inputs {
        None if expected == 0 => Ok(None),
        None => {
            Err(Error::argument("inputs", format!("an array of shape ({batch}, steps, {expected})"), "none"))
        }
        Some(given) => {
            let size = given.size();
            if expected == 0 || size.len() != 3 || size[0] != batch || size[2] != expected {
                let expected = match expected {
                    0 => "none, since the model was fitted without inputs".to_string(),
                    _ => format!("({batch}, steps, {expected})"),
                };
                return Err(Error::shape("inputs", expected, shape_text(&size)));
            }
            check_finite("inputs", &given)?;
            Ok(Some(given.to_device(model.device()).to_kind(Kind::Double).transpose(0, 1).contiguous()))
        }
    }
}

/// The default options of a forecaster, as JSON.
#[pyfunction]
pub fn forecaster_defaults() -> PyResult<String> {
    Ok(json::to_value(&ForecasterConfig::default())?.to_string())
}
