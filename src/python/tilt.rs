//! `_core.Population` and `_core.Laplace`: particles in noise space and Gaussians around modes, for Python. Python
//! evaluates the student and the target at the proposed noise.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use tch::{Kind, Tensor};

use super::array::{Array, ArrayKind};
use super::door;
use crate::error::Result;
use crate::sampling::tilt::{
    effective_size, effective_size_interval, gauss_newton_step, log_mean, systematic, Evaluated, Laplace,
    Population,
};
use crate::tensor::RandomSource;

#[pyclass(name = "Population", module = "koopflow._core", frozen)]
pub struct PyPopulation(Mutex<Population>);

fn evaluated(
    samples: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
    slopes: Option<&Bound<'_, PyAny>>,
) -> PyResult<Evaluated> {
    Ok(Evaluated {
        samples: Array::import_float("samples", samples)?.tensor,
        values: numbers("values", values)?,
        slopes: slopes.map(|slopes| matrix("slopes", slopes)).transpose()?,
    })
}

fn numbers(argument: &str, array: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    let tensor = Array::import_float(argument, array)?.tensor.to_kind(Kind::Double).reshape([-1]);
    Ok(Vec::<f64>::try_from(tensor).map_err(crate::error::Error::from)?)
}

fn matrix(argument: &str, array: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    Ok(Array::import_float(argument, array)?.tensor.to_kind(Kind::Double))
}

fn export<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    ArrayKind::Numpy.export(py, tensor.copy())
}

impl PyPopulation {
    fn own(&self) -> MutexGuard<'_, Population> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the particles without the interpreter lock.
    fn work<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Population) -> Result<T> + Send,
    ) -> PyResult<T> {
        door::enter(py, move || work(&mut self.own()))
    }
}

#[pymethods]
impl PyPopulation {
    #[new]
    #[pyo3(signature = (noise, samples, values, slopes=None, *, islands=1, temperature=0.0, kind="pcn", seed=0))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn new(
        noise: &Bound<'_, PyAny>,
        samples: &Bound<'_, PyAny>,
        values: &Bound<'_, PyAny>,
        slopes: Option<&Bound<'_, PyAny>>,
        islands: usize,
        temperature: f64,
        kind: &str,
        seed: u64,
    ) -> PyResult<Self> {
        let (py, noise, kind) = (noise.py(), matrix("noise", noise)?, kind.parse()?);
        let at = evaluated(samples, values, slopes)?;
        let made = door::enter(py, move || Population::new(&noise, at, islands, temperature, kind, seed))?;
        Ok(PyPopulation(Mutex::new(made)))
    }

    #[getter]
    fn noise<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let noise = self.own().noise().shallow_clone();
        export(py, &noise)
    }

    #[getter]
    fn samples<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let samples = self.own().samples().shallow_clone();
        export(py, &samples)
    }

    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let values = Tensor::from_slice(self.own().values());
        export(py, &values)
    }

    #[getter]
    fn log_weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let weights = Tensor::from_slice(&self.own().log_weights());
        export(py, &weights)
    }

    #[getter]
    fn temperature(&self) -> f64 {
        self.own().temperature()
    }

    #[getter]
    fn step(&self) -> f64 {
        self.own().step()
    }

    /// Makes proposals relative to the Gaussian fitted to particles `[M, d]`.
    fn refer(&self, noise: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, noise) = (noise.py(), matrix("noise", noise)?);
        self.work(py, move |own| own.refer(&noise))
    }

    /// Raises the temperature so that `share` of the effective size is kept, and returns it.
    fn warm(&self, py: Python<'_>, share: f64) -> PyResult<f64> {
        self.work(py, move |own| Ok(own.warm(share)))
    }

    fn resample(&self, py: Python<'_>) -> PyResult<()> {
        self.work(py, Population::resample)
    }

    /// Proposals for the noise of all particles, `[N, d]`.
    fn propose<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let proposed = self.work(py, Population::propose)?;
        export(py, &proposed)
    }

    /// Accepts or rejects the proposals, and returns the share that was accepted.
    #[pyo3(signature = (samples, values, slopes=None, *, adapt=true))]
    fn decide(
        &self,
        samples: &Bound<'_, PyAny>,
        values: &Bound<'_, PyAny>,
        slopes: Option<&Bound<'_, PyAny>>,
        adapt: bool,
    ) -> PyResult<f64> {
        let (py, at) = (samples.py(), evaluated(samples, values, slopes)?);
        self.work(py, move |own| own.decide(at, adapt))
    }
}

#[pyclass(name = "Laplace", module = "koopflow._core", frozen)]
pub struct PyLaplace(Mutex<Laplace>);

impl PyLaplace {
    fn work<'py>(
        &self,
        py: Python<'py>,
        work: impl FnOnce(&Laplace) -> Result<Tensor> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let own = &self.0;
        let made = door::enter(py, move || work(&own.lock().unwrap_or_else(PoisonError::into_inner)))?;
        ArrayKind::Numpy.export(py, made)
    }
}

#[pymethods]
impl PyLaplace {
    #[new]
    fn new(
        means: &Bound<'_, PyAny>,
        jacobians: &Bound<'_, PyAny>,
        objectives: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (py, means) = (means.py(), matrix("means", means)?);
        let (jacobians, objectives) = (matrix("jacobians", jacobians)?, numbers("objectives", objectives)?);
        let made = door::enter(py, move || Laplace::new(&means, &jacobians, &objectives))?;
        Ok(PyLaplace(Mutex::new(made)))
    }

    #[getter]
    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count()
    }

    /// The means `[K, d]` and weights of the mixture.
    fn means<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Vec<f64>)> {
        let (means, shares) = self.0.lock().unwrap_or_else(PoisonError::into_inner).means()?;
        Ok((export(py, &means)?, shares))
    }

    fn draw<'py>(&self, py: Python<'py>, count: i64, seed: u64) -> PyResult<Bound<'py, PyAny>> {
        self.work(py, move |own| own.draw(count, seed))
    }

    fn log_density<'py>(&self, noise: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let given = matrix("noise", noise)?;
        self.work(noise.py(), move |own| own.log_density(&given))
    }
}

/// One Gauss-Newton step of each row towards its mode.
#[pyfunction]
#[pyo3(name = "gauss_newton_step")]
pub fn step<'py>(
    noise: &Bound<'py, PyAny>,
    residuals: &Bound<'py, PyAny>,
    jacobians: &Bound<'py, PyAny>,
    damping: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = noise.py();
    let (noise, residuals) = (matrix("noise", noise)?, matrix("residuals", residuals)?);
    let (jacobians, damping) = (matrix("jacobians", jacobians)?, matrix("damping", damping)?);
    let moved = door::enter(py, move || gauss_newton_step(&noise, &residuals, &jacobians, &damping))?;
    ArrayKind::Numpy.export(py, moved)
}

/// The effective sample size of log-weights, its 5% and 95% quantiles over resamples, and the log of the mean weight.
#[pyfunction]
#[pyo3(signature = (log_weights, resamples=200, seed=0))]
pub fn weighed(
    log_weights: &Bound<'_, PyAny>,
    resamples: u64,
    seed: u64,
) -> PyResult<(f64, (f64, f64), f64)> {
    let (py, values) = (log_weights.py(), numbers("log_weights", log_weights)?);
    if values.is_empty() || values.iter().any(|value| value.is_nan()) {
        let message = "expected at least one log-weight, none of them NaN".into();
        return Err(crate::error::Error::NonFinite { argument: "log_weights".into(), message }.into());
    }
    door::enter(py, move || {
        let random = RandomSource::new(seed).fork("effective size");
        let interval = effective_size_interval(&values, resamples.max(1), &random);
        Ok((effective_size(&values), interval, log_mean(&values)))
    })
}

/// Indices of `count` draws in proportion to the weights, by systematic resampling.
#[pyfunction]
pub fn systematic_resample(log_weights: &Bound<'_, PyAny>, count: usize, seed: u64) -> PyResult<Vec<i64>> {
    use rand::Rng;
    let values = numbers("log_weights", log_weights)?;
    if values.is_empty() {
        return Err(crate::error::Error::shape("log_weights", "of at least one number", "none").into());
    }
    let uniform = RandomSource::new(seed).fork("systematic").at(0).random();
    Ok(systematic(&values, count, uniform))
}
