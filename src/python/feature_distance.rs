//! A feature distance that is computed in Python.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tch::Tensor;

use super::array::{Array, ArrayKind};
use super::errors::from_callback;
use crate::distill::FeatureDistance;
use crate::error::{Error, Result};
use crate::tensor::shape_text;

/// A Python function of two batches `[B, *event]` that returns their distance and its gradient with respect to the
/// first batch.
pub struct PyFeatureDistance {
    function: Py<PyAny>,
    event_shape: Vec<i64>,
}

impl PyFeatureDistance {
    pub fn new(function: Py<PyAny>, event_shape: Vec<i64>) -> Self {
        PyFeatureDistance { function, event_shape }
    }

    fn images<'py>(&self, py: Python<'py>, x: &Tensor) -> PyResult<Bound<'py, PyAny>> {
        let mut shape = vec![x.size()[0]];
        shape.extend(&self.event_shape);
        let images = x.f_reshape(shape.as_slice()).map_err(Error::from)?.copy();
        ArrayKind::Torch(x.device()).export(py, images)
    }

    fn ask(&self, py: Python<'_>, x: &Tensor, target: &Tensor) -> PyResult<(Tensor, Tensor)> {
        let answer = self.function.bind(py).call1((self.images(py, x)?, self.images(py, target)?))?;
        let (value, gradient): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
            answer.cast_into::<PyTuple>()?.extract()?;
        let value = Array::import_float("feature distance", &value)?.tensor;
        let gradient = Array::import_float("gradient of the feature distance", &gradient)?.tensor;
        Ok((value, gradient))
    }
}

/// An exception of the user's network is returned unchanged, and Ctrl-C is a request to stop. Non-finite values
/// are accepted: the training loop skips such a step.
impl FeatureDistance for PyFeatureDistance {
    fn value_and_gradient(&self, x: &Tensor, target: &Tensor) -> Result<(Tensor, Tensor)> {
        let (value, gradient) =
            Python::attach(|py| self.ask(py, x, target).map_err(|raised| from_callback(py, raised)))?;
        let gradient = gradient.f_reshape([x.size()[0], -1])?;
        if gradient.size() != x.size() || value.numel() != 1 {
            let got = shape_text(&gradient.size());
            return Err(Error::shape("gradient of the feature distance", shape_text(&x.size()), got));
        }
        let to = |tensor: Tensor| tensor.to_kind(x.kind()).to_device(x.device());
        Ok((to(value).reshape([] as [i64; 0]), to(gradient)))
    }
}
