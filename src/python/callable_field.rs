//! A velocity field evaluated in Python: any PyTorch model, wrapped into one calling convention.

use std::sync::Arc;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};
use tch::{Device, Kind, Tensor};

use super::array::{describe, first_line, Array, ArrayKind};
use super::errors::from_callback;
use crate::error::{Error, Result};
use crate::velocity::{answer, Conditioning, EvaluationCounter, FieldState, VelocityField};

/// The properties of a [`CallableField`] apart from its two functions.
#[derive(Debug, Clone)]
pub struct CallableFieldConfig {
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    pub device: Device,
    pub dtype: Kind,
    /// The name of the field in messages; it names the calling convention.
    pub label: String,
}

/// A field that calls two Python functions: `function(t, x, condition) -> v` for the velocity v(t, x), and
/// `vjp(t, x, cotangent, condition) -> (v, J^T cotangent)` for its vector-Jacobian product. Both take and return
/// torch tensors on the field's device: `t` is `[B]`, `x` and the others are `[B, *event]`, and the condition is
/// a tensor or `None`. The arguments are copies, so the functions may write to them.
pub struct CallableField {
    functions: Arc<Functions>,
    config: CallableFieldConfig,
    counter: EvaluationCounter,
}

struct Functions {
    velocity: Py<PyAny>,
    vjp: Py<PyAny>,
}

impl CallableField {
    pub fn new(velocity: Py<PyAny>, vjp: Py<PyAny>, config: CallableFieldConfig) -> Self {
        let functions = Arc::new(Functions { velocity, vjp });
        CallableField { functions, config, counter: EvaluationCounter::default() }
    }

    /// The positional arguments of a call: copies of `tensors`, then the condition or `None`.
    fn arguments<'py>(
        &self,
        py: Python<'py>,
        tensors: &[&Tensor],
        condition: Option<&Tensor>,
    ) -> Result<Bound<'py, PyTuple>> {
        let kind = ArrayKind::Torch(self.config.device);
        let hand_over = |tensor: &Tensor| kind.export(py, tensor.f_detach_copy().map_err(Error::from)?);
        let mut arguments = Vec::with_capacity(tensors.len() + 1);
        for tensor in tensors.iter().copied().chain(condition) {
            arguments
                .push(hand_over(tensor).map_err(|raised| self.raised(py, "handing tensors over", raised))?);
        }
        if condition.is_none() {
            arguments.push(py.None().into_bound(py));
        }
        PyTuple::new(py, arguments).map_err(|raised| self.raised(py, "handing tensors over", raised))
    }

    /// Converts an exception of the user's code to an error. A request to stop (Ctrl-C, `sys.exit`) passes
    /// through unchanged.
    fn raised(&self, py: Python<'_>, what: &str, raised: PyErr) -> Error {
        if !raised.is_instance_of::<PyException>(py) {
            return from_callback(py, raised);
        }
        let message = format!("teacher '{}': {what} raised {}", self.config.label, first_line(&raised));
        Error::Teacher { message, source: Some(Box::new(raised)) }
    }

    fn wrong(&self, what: &str, got: String, x: &Tensor) -> Error {
        answer::refuse(&self.config.label, what, got, x)
    }

    /// Checks a returned value and copies it into the field's dtype.
    fn accept(&self, what: &str, returned: &Bound<'_, PyAny>, t: &Tensor, x: &Tensor) -> Result<Tensor> {
        let torch_tensor = returned.py().import("torch").and_then(|torch| torch.getattr("Tensor"));
        let is_tensor = torch_tensor.and_then(|class| returned.is_instance(&class));
        if !is_tensor.map_err(|raised| self.raised(returned.py(), what, raised))? {
            return Err(self.wrong(what, describe(returned), x));
        }
        let array = Array::import(what, returned).map_err(|raised| {
            let got = format!("a tensor that cannot be used ({})", first_line(&raised));
            self.wrong(what, got, x)
        })?;
        answer::accept(&self.config.label, what, array.tensor, (t, x), self.config.dtype)
    }
}

/// The number of floating-point operations of a call, counted by torch's `FlopCounterMode` over its own operators.
fn count_operations(function: &Bound<'_, PyAny>, arguments: Bound<'_, PyTuple>) -> PyResult<f64> {
    let py = function.py();
    let class = py.import("torch.utils.flop_counter")?.getattr("FlopCounterMode")?;
    let counter = class.call((), Some(&[("display", false)].into_py_dict(py)?))?;
    counter.call_method0("__enter__")?;
    let outcome = function.call1(arguments);
    counter.call_method1("__exit__", (py.None(), py.None(), py.None()))?;
    outcome?;
    counter.call_method0("get_total_flops")?.extract()
}

impl VelocityField for CallableField {
    fn event_shape(&self) -> &[i64] {
        &self.config.event_shape
    }

    fn conditioning(&self) -> Conditioning {
        self.config.conditioning
    }

    fn device(&self) -> Device {
        self.config.device
    }

    fn dtype(&self) -> Kind {
        self.config.dtype
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.counter.add(1);
        // Otherwise torch would record a graph for the module's parameters, which is never used.
        let _no_grad = tch::no_grad_guard();
        Python::attach(|py| {
            let arguments = self.arguments(py, &[t, x], condition)?;
            let answer = self.functions.velocity.bind(py).call1(arguments);
            let answer = answer.map_err(|raised| self.raised(py, "velocity", raised))?;
            self.accept("velocity", &answer, t, x)
        })
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        self.counter.add(1);
        Python::attach(|py| {
            let arguments = self.arguments(py, &[t, x, cotangent], condition)?;
            let answer = self.functions.vjp.bind(py).call1(arguments);
            let answer = answer.map_err(|raised| self.raised(py, "vjp", raised))?;
            let pair = answer.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
            let pair = pair.ok_or_else(|| self.wrong("vjp", describe(&answer), x))?;
            let item = |index| pair.get_item(index).map_err(|raised| self.raised(py, "vjp", raised));
            let velocity = self.accept("vjp's velocity", &item(0)?, t, x)?;
            let product = self.accept("vjp's product", &item(1)?, t, x)?;
            Ok((velocity, product))
        })
    }

    /// Counted by torch in one evaluation of a few samples; `None` if torch cannot count them.
    fn work(&self) -> Result<Option<f64>> {
        const SAMPLES: i64 = 2;
        let options = (self.config.dtype, self.config.device);
        let mut shape = vec![SAMPLES];
        shape.extend(&self.config.event_shape);
        let (t, x) = (Tensor::f_full([SAMPLES], 0.5, options)?, Tensor::f_zeros(shape, options)?);
        let condition = match self.config.conditioning {
            Conditioning::None => None,
            Conditioning::Labels { .. } => Some(Tensor::f_zeros([SAMPLES], (Kind::Int64, options.1))?),
            Conditioning::Vector { dim } => Some(Tensor::f_zeros([SAMPLES, dim], options)?),
        };
        let _no_grad = tch::no_grad_guard();
        Python::attach(|py| {
            let arguments = self.arguments(py, &[&t, &x], condition.as_ref())?;
            match count_operations(self.functions.velocity.bind(py), arguments) {
                // torch counts a multiplication and its addition as two operations.
                Ok(operations) => Ok(Some(operations / 2.0 / SAMPLES as f64)),
                Err(raised) if raised.is_instance_of::<PyException>(py) => Ok(None),
                Err(raised) => Err(from_callback(py, raised)),
            }
        })
    }

    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        let functions = Arc::clone(&self.functions);
        Box::new(CallableField { functions, config: self.config.clone(), counter: self.counter.clone() })
    }

    fn kind_name(&self) -> &'static str {
        "torch"
    }

    fn state(&self) -> Option<FieldState> {
        None
    }
}
