//! Private functions for the tests of the boundary: errors, panics and conversions that no call of the public
//! interface can cause. Compiled with the feature `probe` only, which wheels do not have.

use std::io;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use tch::{Device, Kind, Tensor};

use super::array::Array;
use super::door;
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::nets::{Dual, Parameters, UNet, UNetConfig};
use crate::python::door::PyMonitor;
use crate::tensor::threads;
use crate::tensor::RandomSource;

pub fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_roundtrip, module)?)?;
    module.add_function(wrap_pyfunction!(_fail, module)?)?;
    module.add_function(wrap_pyfunction!(_watch, module)?)?;
    module.add_function(wrap_pyfunction!(_unet, module)?)
}

/// Imports an array and exports it again.
#[pyfunction]
fn _roundtrip<'py>(py: Python<'py>, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let Array { tensor, kind } = Array::import("array", array)?;
    kind.export(py, tensor)
}

/// Fails inside [`door::enter`] in the way that `what` names.
#[pyfunction]
fn _fail(py: Python<'_>, what: String) -> PyResult<()> {
    door::enter(py, move || fail(&what))
}

fn fail(what: &str) -> Result<()> {
    let argument = || "argument".to_string();
    let message = || "message".to_string();
    let io = |source: io::Error| Error::Io { path: "some/path".into(), source };
    match what {
        "panic" => panic!("a deliberate panic"),
        "panic in a worker" => threads::pool()?.install(|| {
            rayon::join(|| (), || panic!("a deliberate panic in a worker"));
        }),
        "panic in torch" => {
            let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            drop(zeros(&[2, 3]).matmul(&zeros(&[2, 3])));
        }
        "panic during another" => {
            // Unwinding drops this value, so another thread panics while the first panic unwinds.
            struct Second;
            impl Drop for Second {
                fn drop(&mut self) {
                    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
                    let second = std::thread::spawn(move || drop(zeros(&[2, 3]).matmul(&zeros(&[2, 3]))));
                    let _ = second.join();
                }
            }
            let _second = Second;
            panic!("a deliberate panic");
        }
        "out of memory" => drop(Tensor::f_empty([1 << 50], (Kind::Float, Device::Cpu))?),
        "panic out of memory" => drop(Tensor::empty([1 << 50], (Kind::Float, Device::Cpu))),
        "torch" => drop(Tensor::zeros([2], (Kind::Float, Device::Cpu)).f_view([3])?),
        "shape" => return Err(Error::shape("argument", "(2,)", "(3,)")),
        "dtype" => return Err(Error::dtype("argument", "floats", "int64")),
        "device" => return Err(Error::Device { argument: argument(), message: message() }),
        "non-finite" => return Err(Error::NonFinite { argument: argument(), message: message() }),
        "argument" => return Err(Error::argument("argument", "1", "2")),
        "teacher" => return Err(Error::teacher(message())),
        "checkpoint" => return Err(Error::checkpoint("some/path", message())),
        "not fitted" => return Err(Error::NotFitted(message())),
        "divergence" => return Err(Error::Divergence(message())),
        "internal" => return Err(Error::Internal(anyhow::anyhow!("inner").context("outer"))),
        "no file" => return Err(io(io::Error::from_raw_os_error(2))),
        "no permission" => return Err(io(io::Error::from_raw_os_error(13))),
        "missing" => return Err(io(io::Error::new(io::ErrorKind::NotFound, "nothing there"))),
        _ => {}
    }
    Ok(())
}

/// Runs for `seconds` and calls Python only through `monitor`.
#[pyfunction]
#[pyo3(signature = (seconds, monitor=None))]
fn _watch(py: Python<'_>, seconds: f64, monitor: Option<Bound<'_, PyAny>>) -> PyResult<u64> {
    let mut monitor = PyMonitor::new(monitor);
    door::enter(py, move || {
        let start = Instant::now();
        let mut step = 0;
        while start.elapsed().as_secs_f64() < seconds {
            std::thread::sleep(Duration::from_millis(1));
            monitor.tick()?;
            step += 1;
            if step % 10 == 0 {
                let values = vec![("loss".to_string(), 0.5)];
                let seconds = start.elapsed().as_secs_f64();
                monitor.report(&Progress { stage: "student", step, total: 1000, seconds, values })?;
            }
        }
        Ok(step)
    })
}

/// A U-Net with the given configuration (JSON) and weights (names and tensors) at `(t, x)`, and its derivative along
/// `(t_rate, x_rate)`. No other function evaluates these layers alone.
#[pyfunction]
#[pyo3(signature = (config, names, tensors, t, x, t_rate, x_rate, condition=None))]
#[allow(clippy::too_many_arguments)]
fn _unet<'py>(
    py: Python<'py>,
    config: &str,
    names: Vec<String>,
    tensors: Vec<Bound<'py, PyAny>>,
    t: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    t_rate: &Bound<'py, PyAny>,
    x_rate: &Bound<'py, PyAny>,
    condition: Option<&Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let config: UNetConfig = serde_json::from_str(config)
        .map_err(|error| Error::argument("config", "the JSON of a U-Net", error))?;
    let take = |name: &str, object: &Bound<'py, PyAny>| Array::import_float(name, object);
    let Array { tensor: x, kind } = take("x", x)?;
    let [t, t_rate, x_rate] = [take("t", t)?, take("t_rate", t_rate)?, take("x_rate", x_rate)?];
    let condition = condition.map(|c| take("condition", c)).transpose()?.map(|c| c.tensor);
    let tensors = tensors.iter().zip(&names).map(|(tensor, name)| Ok(take(name, tensor)?.tensor));
    let tensors = tensors.collect::<PyResult<Vec<_>>>()?;
    let (t, t_rate, x_rate) = (t.tensor, t_rate.tensor, x_rate.tensor);
    let (alone, value, tangent) = door::enter(py, move || {
        let channels = x.size()[1];
        let vector =
            condition.as_ref().map_or(Conditioning::None, |c| Conditioning::Vector { dim: c.size()[1] });
        let mut parameters = Parameters::new(x.kind(), x.device());
        let mut random = RandomSource::new(0);
        let outputs =
            names.iter().position(|name| name == "out.2.weight").map_or(0, |i| tensors[i].size()[0]);
        let network = UNet::new("", &config, (channels, outputs), vector, &mut parameters, &mut random)?;
        parameters.pack();
        parameters.restore(|name| match names.iter().position(|own| own == name) {
            Some(index) => Ok(tensors[index].shallow_clone()),
            None => Err(Error::argument("names", name, "no tensor of that name")),
        })?;
        let _guard = tch::no_grad_guard();
        let alone = network.apply(&t, &x, condition.as_ref());
        let both = network.apply(&Dual::new(t, t_rate), &Dual::new(x, x_rate), condition.as_ref());
        Ok((alone, both.primal, both.tangent))
    })?;
    Ok((kind.export(py, alone)?, kind.export(py, value)?, kind.export(py, tangent)?))
}
