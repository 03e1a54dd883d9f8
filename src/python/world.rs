//! The ranks of a distributed fit, for Python. `torch.distributed` sums the tensors that the core passes to it.

use std::sync::Arc;

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use tch::Tensor;

use super::array::ArrayKind;
use super::errors::from_callback;
use crate::error::Result;
use crate::world::{Collective, World};

/// The rank, the number of ranks, and a function that sums a torch tensor over all ranks in place and returns whether
/// Ctrl-C was pressed meanwhile.
#[derive(FromPyObject)]
pub struct PyWorld(i64, i64, Py<PyAny>);

impl PyWorld {
    /// The world of a fit; a single rank if there is none.
    pub fn of(world: Option<Self>) -> Result<World> {
        match world {
            Some(PyWorld(rank, size, function)) => World::new(rank, size, Arc::new(Function(function))),
            None => Ok(World::default()),
        }
    }
}

struct Function(Py<PyAny>);

impl Collective for Function {
    /// Sums over the ranks. The interpreter lock is held while torch is called; torch releases it while it waits.
    fn sum(&self, x: &Tensor) -> Result<()> {
        Python::attach(|py| {
            // Ctrl-C is postponed to the next check for signals, because the other ranks wait in the sum.
            let pressed =
                py.check_signals().is_err_and(|raised| raised.is_instance_of::<PyKeyboardInterrupt>(py));
            // Shares the memory of `x`.
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
