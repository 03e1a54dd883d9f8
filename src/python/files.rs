//! Functions on files, for Python.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::door;
use crate::store;

/// Returns the kind of model that a file holds and the facts of the file as JSON.
#[pyfunction]
pub fn describe_file(py: Python<'_>, path: PathBuf) -> PyResult<(String, String)> {
    let (kind, facts) = door::enter(py, move || store::describe(&path))?;
    Ok((kind, facts.to_string()))
}

/// Writes a whole file atomically: after a failure the old file is unchanged.
#[pyfunction]
pub fn _write_atomically(py: Python<'_>, path: PathBuf, content: &[u8]) -> PyResult<()> {
    door::enter(py, move || store::write_atomically(&path, content))
}
