//! Thread-local torch state: the caller's modes, which are suspended while koopflow computes on its thread, and
//! the number of libtorch threads in a forked child.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// A guard that enables gradients and turns inference mode and autocast off. Dropping it restores the caller's modes.
pub struct Neutral<'py> {
    contexts: Vec<Bound<'py, PyAny>>,
    gradients: bool,
}

struct Probes {
    inference: Py<PyAny>,
    autocast: Py<PyAny>,
}

static PROBES: PyOnceLock<Probes> = PyOnceLock::new();

impl<'py> Neutral<'py> {
    pub fn enter(py: Python<'py>) -> PyResult<Self> {
        let probes = PROBES.get_or_try_init(py, || -> PyResult<Probes> {
            let torch = py.import("torch")?;
            Ok(Probes {
                inference: torch.getattr("is_inference_mode_enabled")?.unbind(),
                autocast: torch.getattr("is_autocast_enabled")?.unbind(),
            })
        })?;
        let mut neutral = Neutral { contexts: Vec::new(), gradients: gradients() };
        if probes.inference.call0(py)?.is_truthy(py)? {
            let context = py.import("torch")?.getattr("inference_mode")?.call1((false,))?;
            neutral.push(context)?;
        }
        for device in ["cpu", "cuda"] {
            if probes.autocast.call1(py, (device,))?.is_truthy(py)? {
                // autocast(device_type, dtype, enabled)
                let context = py.import("torch")?.getattr("autocast")?.call1((device, py.None(), false))?;
                neutral.push(context)?;
            }
        }
        set_gradients(true);
        settle_in_child();
        Ok(neutral)
    }

    fn push(&mut self, context: Bound<'py, PyAny>) -> PyResult<()> {
        context.call_method0("__enter__")?;
        self.contexts.push(context);
        Ok(())
    }
}

impl Drop for Neutral<'_> {
    fn drop(&mut self) {
        for context in self.contexts.drain(..).rev() {
            let py = context.py();
            if let Err(raised) = context.call_method1("__exit__", (py.None(), py.None(), py.None())) {
                raised.write_unraisable(py, Some(&context));
            }
        }
        set_gradients(self.gradients);
    }
}

/// The id of the process that used libtorch last.
static USED_IN: AtomicU32 = AtomicU32::new(0);

/// Records the process that imports the module. Called once.
pub fn install() {
    USED_IN.store(process::id(), Ordering::Relaxed);
}

/// Makes libtorch compute on the calling thread alone in a forked child, before the first operation. A child inherits
/// libtorch's thread pools without their threads and would wait for them forever.
fn settle_in_child() {
    let process = process::id();
    if USED_IN.swap(process, Ordering::Relaxed) != process {
        tch::set_num_threads(1);
    }
}

fn gradients() -> bool {
    let before = set_gradients(true);
    set_gradients(before);
    before
}

/// Sets whether libtorch records gradients on this thread, and returns the previous setting.
fn set_gradients(enabled: bool) -> bool {
    // SAFETY: a plain setter of a thread-local flag.
    unsafe { torch_sys::at_grad_set_enabled(i32::from(enabled)) != 0 }
}
