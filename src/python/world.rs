//! The ranks of a fit, for Python: `torch.distributed` adds up what the core hands it.

use std::sync::Arc;

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use tch::Tensor;

use super::array::ArrayKind;
use super::errors::from_callback;
use crate::error::Result;
use crate::world::{Collective, World};

/// Rank, number of ranks, and a function that adds a torch tensor up over all of them, in place, and answers whether
/// Ctrl-C was pressed meanwhile.
#[derive(FromPyObject)]
pub struct PyWorld(i64, i64, Py<PyAny>);

impl PyWorld {
    /// The world of a fit that may have none.
    pub fn of(world: Option<Self>) -> Result<World> {
        match world {
            Some(PyWorld(rank, size, function)) => World::new(rank, size, Arc::new(Function(function))),
            None => Ok(World::default()),
        }
    }
}

struct Function(Py<PyAny>);

impl Collective for Function {
    /// The interpreter is held while torch is called, which lets it go while it waits.
    fn sum(&self, x: &Tensor) -> Result<()> {
        Python::attach(|py| {
            // Ctrl-C is kept for the next look at signals: the others wait in the sum.
            let pressed =
                py.check_signals().is_err_and(|raised| raised.is_instance_of::<PyKeyboardInterrupt>(py));
            // Of the same memory.
            let shared = ArrayKind::Torch(x.device()).export(py, x.shallow_clone());
            let outcome = shared.and_then(|tensor| self.0.bind(py).call1((tensor,))?.extract());
            if outcome.map_err(|raised| from_callback(py, raised))? || pressed {
                // SAFETY: the interpreter is held.
                unsafe { pyo3::ffi::PyErr_SetInterrupt() };
            }
            Ok(())
        })
    }
}
