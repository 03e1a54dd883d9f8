//! The one mapping from [`Error`] to the exceptions of `koopflow.exceptions`.

use std::io;

use pyo3::exceptions::{
    PyFileNotFoundError, PyKeyboardInterrupt, PyOSError, PyPermissionError, PyRuntimeError,
};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::error::{Error, Source};

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        Python::attach(|py| to_python(py, error))
    }
}

fn to_python(py: Python<'_>, error: Error) -> PyErr {
    let name = match error {
        Error::Interrupted(source) | Error::Callback(source) => return from_source(source),
        Error::Io { path, source } => return from_io(path, source),
        Error::Teacher { message, source } => {
            let raised = named(py, "TeacherError", message);
            raised.set_cause(py, source.map(from_source));
            return raised;
        }
        Error::Shape { .. } => "ShapeError",
        Error::Dtype { .. } => "DtypeError",
        Error::Device { .. } => "DeviceError",
        Error::NonFinite { .. } => "NonFiniteError",
        Error::Argument { .. } => "ArgumentError",
        Error::Checkpoint { .. } => "CheckpointError",
        Error::NotFitted(_) => "NotFittedError",
        Error::Divergence(_) => "DivergenceError",
        Error::Torch(_) | Error::Internal(_) => "KoopflowError",
    };
    named(py, name, error.to_string())
}

/// An exception of `koopflow.exceptions`; failing that, the reason why there is none.
fn named(py: Python<'_>, name: &str, message: String) -> PyErr {
    let class = py
        .import("koopflow.exceptions")
        .and_then(|module| module.getattr(name))
        .and_then(|class| Ok(class.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, message),
        Err(missing) => missing,
    }
}

/// A Python exception that travelled through Rust comes back as the same object.
fn from_source(source: Source) -> PyErr {
    match source.downcast::<PyErr>() {
        Ok(raised) => *raised,
        Err(other) => PyRuntimeError::new_err(other.to_string()),
    }
}

fn from_io(path: String, source: io::Error) -> PyErr {
    // OSError picks the subclass by the number: FileNotFoundError, PermissionError and so on.
    if let Some(number) = source.raw_os_error() {
        let text = source.to_string();
        let reason = text.split(" (os error").next().unwrap_or(&text).to_string();
        return PyOSError::new_err((number, reason, path));
    }
    let message = format!("{path}: {source}");
    match source.kind() {
        io::ErrorKind::NotFound => PyFileNotFoundError::new_err(message),
        io::ErrorKind::PermissionDenied => PyPermissionError::new_err(message),
        _ => PyOSError::new_err(message),
    }
}

/// What was raised while koopflow watched or asked Python: Ctrl-C is a wish to stop, all else a failure.
pub fn from_callback(py: Python<'_>, raised: PyErr) -> Error {
    match raised.is_instance_of::<PyKeyboardInterrupt>(py) {
        true => Error::Interrupted(Box::new(raised)),
        false => Error::Callback(Box::new(raised)),
    }
}
