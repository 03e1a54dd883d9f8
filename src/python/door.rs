//! The one door for long work: the interpreter is let go, panics become `KoopflowError`, and a
//! monitor comes back for signals and progress.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors::from_callback;
use super::torch_state::Neutral;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};

/// Where the last panic happened. Panics are reported as exceptions, never on stderr.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Called once, when the module is imported.
pub fn install() {
    // The extension links its own copy of Rust's runtime, so this silences nobody else's panics.
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        *LAST_PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = place;
    }));
}

/// Runs `work` away from the interpreter, with gradients enabled and none of the caller's torch
/// modes (inference, autocast). `work` owns what it uses: clone tensors and fields shallowly first.
pub fn enter<T, F>(py: Python<'_>, work: F) -> PyResult<T>
where
    F: FnOnce() -> Result<T> + Send,
    T: Send,
{
    let _neutral = Neutral::enter(py)?;
    let outcome = py.detach(|| guard(work));
    Ok(outcome?)
}

/// Runs `work` where it stands; a panic becomes [`Error::Internal`].
pub fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(from_panic(payload.as_ref())))
}

fn from_panic(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text =
        text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
    // tch's infallible operators quote libtorch's whole C++ backtrace, newlines escaped.
    let line = text.split('\n').next().unwrap_or_default();
    let line = line.split("\\n").next().unwrap_or_default();
    let place = LAST_PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    match place {
        Some(place) => Error::Internal(anyhow!("{line} (at {place})")),
        None => Error::Internal(anyhow!("{line}")),
    }
}

/// Watches a computation for Python: signals at most every tenth of a second, and the caller's
/// progress callable. Ctrl-C becomes
/// [`Error::Interrupted`], anything else that is raised [`Error::Callback`].
pub struct PyMonitor {
    callable: Option<Py<PyAny>>,
    looked: Instant,
}

const LOOK_EVERY: Duration = Duration::from_millis(100);

impl PyMonitor {
    pub fn new(callable: Option<Bound<'_, PyAny>>) -> Self {
        PyMonitor { callable: callable.map(Bound::unbind), looked: Instant::now() }
    }
}

impl Monitor for PyMonitor {
    fn tick(&mut self) -> Result<()> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        Python::attach(|py| py.check_signals().map_err(|raised| from_callback(py, raised)))
    }

    fn report(&mut self, progress: &Progress) -> Result<()> {
        let Some(callable) = &self.callable else {
            return self.tick();
        };
        self.looked = Instant::now();
        Python::attach(|py| watch(py, callable, progress, None).map_err(|raised| from_callback(py, raised)))
    }

    fn note(&mut self, progress: &Progress, text: &str) -> Result<()> {
        let Some(callable) = &self.callable else {
            return Ok(());
        };
        Python::attach(|py| {
            watch(py, callable, progress, Some(text)).map_err(|raised| from_callback(py, raised))
        })
    }
}

fn watch(py: Python<'_>, callable: &Py<PyAny>, progress: &Progress, note: Option<&str>) -> PyResult<()> {
    py.check_signals()?;
    let values = PyDict::new(py);
    for (name, value) in &progress.values {
        values.set_item(name, value)?;
    }
    let event = PyDict::new(py);
    event.set_item("stage", progress.stage)?;
    event.set_item("step", progress.step)?;
    event.set_item("total", progress.total)?;
    event.set_item("seconds", progress.seconds)?;
    event.set_item("values", values)?;
    if let Some(note) = note {
        event.set_item("note", note)?;
    }
    callable.call1(py, (event,)).map(drop)
}
