//! The one mapping from [`Error`] to the exceptions of `koopflow.exceptions`.

use std::io;

use pyo3::exceptions::{
    PyFileNotFoundError, PyKeyboardInterrupt, PyOSError, PyPermissionError, PyRuntimeError,
};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::error::{Error, Source};

/// Declares the classes of `koopflow.exceptions` as Rust types. Each class is looked up once.
macro_rules! exceptions {
    ($($name:ident),* $(,)?) => {
        mod classes {
            $(pyo3::import_exception!(koopflow.exceptions, $name);)*
        }

        /// Checks that every class exists. Called when the module is imported, so that a missing class is
        /// reported then and not at the first error.
        pub fn install(py: Python<'_>) -> PyResult<()> {
            let module = py.import("koopflow.exceptions")?;
            $(module.getattr(stringify!($name))?.cast_into::<PyType>()?;)*
            Ok(())
        }
    };
}

exceptions!(
    ArgumentError,
    CheckpointError,
    DeviceError,
    DistributedError,
    DivergenceError,
    DtypeError,
    KoopflowError,
    NonFiniteError,
    NotFittedError,
    OutOfMemoryError,
    ShapeError,
    TeacherError,
);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Interrupted(source) | Error::Callback(source) => from_source(source),
            Error::Io { path, source } => from_io(path, source),
            Error::Teacher { source, .. } => {
                let raised = classes::TeacherError::new_err(text);
                Python::attach(|py| raised.set_cause(py, source.map(from_source)));
                raised
            }
            Error::NotFiniteAnswer(_) => classes::TeacherError::new_err(text),
            Error::Shape { .. } => classes::ShapeError::new_err(text),
            Error::Dtype { .. } => classes::DtypeError::new_err(text),
            Error::Device { .. } => classes::DeviceError::new_err(text),
            Error::NonFinite { .. } => classes::NonFiniteError::new_err(text),
            Error::Argument { .. } => classes::ArgumentError::new_err(text),
            Error::Checkpoint { .. } => classes::CheckpointError::new_err(text),
            Error::NotFitted(_) => classes::NotFittedError::new_err(text),
            Error::Divergence(_) => classes::DivergenceError::new_err(text),
            Error::Distributed(_) => classes::DistributedError::new_err(text),
            Error::OutOfMemory(_) => classes::OutOfMemoryError::new_err(text),
            Error::OutOfTime | Error::Torch(_) | Error::Internal(_) => classes::KoopflowError::new_err(text),
        }
    }
}

/// Returns a Python exception that passed through Rust as the same object.
fn from_source(source: Source) -> PyErr {
    match source.downcast::<PyErr>() {
        Ok(raised) => *raised,
        Err(other) => PyRuntimeError::new_err(other.to_string()),
    }
}

fn from_io(path: String, source: io::Error) -> PyErr {
    // OSError selects its subclass by the error number: FileNotFoundError, PermissionError and so on.
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

/// Converts an exception that was raised in a Python callback or by the signal check. Ctrl-C is a request to stop;
/// any other exception is a failure.
pub fn from_callback(py: Python<'_>, raised: PyErr) -> Error {
    match raised.is_instance_of::<PyKeyboardInterrupt>(py) {
        true => Error::Interrupted(Box::new(raised)),
        false => Error::Callback(Box::new(raised)),
    }
}
