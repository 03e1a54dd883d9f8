//! Conversion of arrays between Python and Rust. An input array is copied once into a tensor that koopflow owns.
//! Its kind is remembered, so that results are returned as the same kind of array on the same device.

use ndarray::{ArrayView, IxDyn};
use numpy::{Element, PyArray, PyArray1, PyArrayDescrMethods, PyArrayMethods};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyType};
use tch::{Device, Kind, Tensor};

use super::dlpack;
use super::torch_state::Neutral;
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::tensor::dtype_name;

/// Kind of the caller's arrays, and so of the arrays that are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayKind {
    Numpy,
    /// A torch tensor on this device.
    Torch(Device),
}

/// An array argument: koopflow's own copy of it, on the same device, and the kind of array that was passed.
pub struct Array {
    pub tensor: Tensor,
    pub kind: ArrayKind,
}

impl Array {
    /// Copies an array of floats, integers or booleans: a torch tensor (with or without gradients), an object
    /// that supports DLPack, or anything that `numpy.asarray` accepts. Integers become int64; floats keep their dtype.
    ///
    /// # Errors
    /// Names `argument` if koopflow cannot use its dtype, layout or device.
    pub fn import(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        // A copy made under the caller's inference mode could not be trained on.
        let _neutral = Neutral::enter(py)?;
        if object.is_instance(torch_tensor(py)?)? {
            return import_torch(argument, object);
        }
        if object.cast::<PyUntypedArray>().is_err() && object.hasattr("__dlpack__")? {
            return import_foreign(argument, object);
        }
        import_numpy(argument, object)
    }

    /// [`Array::import`], with integers and booleans converted to float64.
    pub fn import_float(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Array { tensor, kind } = Array::import(argument, object)?;
        let tensor = match tensor.is_floating_point() {
            true => tensor,
            false => tensor.f_to_kind(Kind::Double).map_err(Error::from)?,
        };
        Ok(Array { tensor, kind })
    }

    /// The conditions of `batch` samples, arranged for a model of this conditioning: see [`Conditioning::arrange`].
    pub fn import_condition(
        conditioning: Conditioning,
        object: Option<&Bound<'_, PyAny>>,
        batch: Option<i64>,
    ) -> PyResult<Option<Tensor>> {
        let given = Array::import_optional("condition", object)?;
        Ok(given.map(|array| conditioning.arrange(array.tensor, batch)).transpose()?)
    }

    /// [`Array::import`] of an argument that may be `None`.
    pub fn import_optional(argument: &str, object: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Self>> {
        object.map(|object| Array::import(argument, object)).transpose()
    }
}

impl ArrayKind {
    /// Returns `tensor` as an array, which shares its memory where the device allows. Nothing else may write to
    /// the tensor afterwards.
    pub fn export(self, py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
        match self {
            ArrayKind::Numpy => export_numpy(py, tensor),
            ArrayKind::Torch(device) => export_torch(py, settle(tensor, device)?),
        }
    }
}

/// `tensor` detached, row-major and on `device`.
fn settle(tensor: Tensor, device: Device) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(device)?.f_contiguous()?)
}

fn torch_tensor(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static TENSOR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    TENSOR.import(py, "torch", "Tensor")
}

fn torch_dlpack<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || py.import("torch.utils.dlpack").map(Bound::unbind))?;
    module.bind(py).getattr(name)
}

fn import_torch(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Array> {
    let py = object.py();
    let refuse = |expected: &str, got: String| -> PyErr { Error::dtype(argument, expected, got).into() };
    if object.call_method0("is_complex")?.is_truthy()? {
        return Err(refuse("real values", object.getattr("dtype")?.to_string()));
    }
    let plain = object
        .call_method0("detach")
        .and_then(|plain| plain.call_method0("resolve_neg"))
        .and_then(|plain| torch_dlpack(py, "to_dlpack")?.call1((plain,)));
    // DLPack cannot describe sparse, quantised or data-less tensors.
    let capsule = plain.map_err(|raised| {
        let got = format!("{} ({})", describe(object), first_line(&raised));
        PyErr::from(Error::argument(argument, "a dense tensor", got))
    })?;
    let tensor = widen(dlpack::import(argument, &capsule)?)?;
    let kind = ArrayKind::Torch(tensor.device());
    Ok(Array { tensor, kind })
}

/// Arrays of CuPy, JAX and other libraries. torch negotiates streams and versions with them.
fn import_foreign(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Array> {
    let shared = torch_dlpack(object.py(), "from_dlpack")?.call1((object,)).map_err(|raised| {
        let got = format!("{} ({})", describe(object), first_line(&raised));
        PyErr::from(Error::argument(argument, "an array that can be exported with DLPack", got))
    })?;
    let Array { tensor, kind } = import_torch(argument, &shared)?;
    let kind = if kind == ArrayKind::Torch(Device::Cpu) { ArrayKind::Numpy } else { kind };
    Ok(Array { tensor, kind })
}

fn import_numpy(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Array> {
    let py = object.py();
    let numpy = numpy_module(py)?;
    let array = numpy.call_method1("asarray", (object,)).map_err(|raised| {
        let got = format!("{} ({})", describe(object), first_line(&raised));
        PyErr::from(Error::argument(argument, "an array", got))
    })?;
    let dtype = array.cast::<PyUntypedArray>()?.dtype();
    let (kind, target) = match (dtype.kind(), dtype.itemsize()) {
        (b'f', 2) => (Kind::Half, "=f2"),
        (b'f', 4) => (Kind::Float, "=f4"),
        (b'f', _) => (Kind::Double, "=f8"),
        (b'b', _) => (Kind::Bool, "?"),
        (b'u', 8) if above_int64(&array)? => {
            let got = "uint64 values above 2**63 - 1";
            return Err(Error::dtype(argument, "integers that fit into int64", got).into());
        }
        (b'i' | b'u', _) => (Kind::Int64, "=i8"),
        _ => {
            let got = format!("{} of dtype {dtype}", describe(object));
            return Err(Error::dtype(argument, "an array of floats, integers or booleans", got).into());
        }
    };
    let shape: Vec<i64> = array.cast::<PyUntypedArray>()?.shape().iter().map(|&size| size as i64).collect();
    // Row-major and in native byte order; copies only if the array is not so already.
    let flat = numpy.call_method1("ascontiguousarray", (array, target))?.call_method1("reshape", (-1,))?;
    let bytes = flat.call_method1("view", ("u1",))?.cast_into::<PyArray1<u8>>()?;
    let view = bytes.readonly();
    let tensor = Tensor::f_from_data_size(view.as_slice()?, &shape, kind).map_err(Error::from)?;
    Ok(Array { tensor, kind: ArrayKind::Numpy })
}

fn above_int64(array: &Bound<'_, PyAny>) -> PyResult<bool> {
    if array.getattr("size")?.extract::<usize>()? == 0 {
        return Ok(false);
    }
    Ok(array.call_method0("max")?.extract::<u64>()? > i64::MAX as u64)
}

fn numpy_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Ok(MODULE.get_or_try_init(py, || py.import("numpy").map(Bound::unbind))?.bind(py))
}

/// Converts integers of every width to int64, the dtype of labels.
fn widen(tensor: Tensor) -> Result<Tensor> {
    match tensor.kind() {
        Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int => Ok(tensor.f_to_kind(Kind::Int64)?),
        _ => Ok(tensor),
    }
}

fn export_torch(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    let capsule = dlpack::export(py, tensor)?;
    torch_dlpack(py, "from_dlpack")?.call1((capsule,))
}

fn export_numpy(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    let tensor = settle(tensor, Device::Cpu)?;
    match tensor.kind() {
        Kind::Float => borrow::<f32>(py, tensor),
        Kind::Double => borrow::<f64>(py, tensor),
        Kind::Int64 => borrow::<i64>(py, tensor),
        Kind::Bool => borrow::<bool>(py, tensor),
        Kind::Half => {
            // Passed as int16 and reinterpreted in NumPy: the two crates share no half-precision type.
            let bits = tensor.f_view_dtype(Kind::Int16).map_err(Error::from)?;
            borrow::<i16>(py, bits)?.call_method1("view", ("f2",))
        }
        Kind::BFloat16 => borrow::<f32>(py, tensor.f_to_kind(Kind::Float).map_err(Error::from)?),
        other => Err(Error::dtype("result", "a float, int64 or bool tensor", dtype_name(other)).into()),
    }
}

/// A NumPy array over the memory of a row-major CPU tensor of `T`. The array keeps the tensor alive as its base.
fn borrow<T: Element>(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    let shape: Vec<usize> = tensor.size().iter().map(|&size| size as usize).collect();
    if tensor.numel() == 0 {
        return Ok(PyArray::<T, _>::zeros(py, IxDyn(&shape), false).into_any());
    }
    let start = tensor.data_ptr().cast::<T>();
    let owner = PyCapsule::new_with_value(py, tensor, c"koopflow.tensor")?.into_any();
    // SAFETY: the memory is row-major and of dtype `T` (the caller checks), and `owner` keeps it alive.
    unsafe {
        let view = ArrayView::<T, _>::from_shape_ptr(IxDyn(&shape), start);
        Ok(PyArray::borrow_from_array(&view, owner).into_any())
    }
}

/// The qualified name of an object's type for messages, for example `torch.Tensor` or `list`.
pub fn describe(object: &Bound<'_, PyAny>) -> String {
    object.get_type().fully_qualified_name().map_or_else(|_| "an object".into(), |name| name.to_string())
}

pub fn first_line(raised: &PyErr) -> String {
    let text = raised.to_string();
    text.lines().next().unwrap_or_default().to_string()
}

/// The size of the first dimension; `None` for a scalar.
pub fn rows(tensor: &Tensor) -> Option<i64> {
    tensor.size().first().copied()
}

/// Checks the shape of one sample: at least one dimension, each of size at least 1.
pub fn check_event_shape(event_shape: Vec<i64>) -> PyResult<Vec<i64>> {
    if event_shape.is_empty() || event_shape.iter().any(|&size| size < 1) {
        let got = format!("{event_shape:?}");
        return Err(
            Error::argument("event_shape", "at least one dimension, each of size at least 1", got).into()
        );
    }
    Ok(event_shape)
}
