//! The single entry point for long computations. It releases the interpreter lock, converts panics to
//! `KoopflowError`, and provides a monitor that checks for signals and reports progress.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors::from_callback;
use super::torch_state::Neutral;
use crate::error::{says_out_of_memory, Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::world::World;

/// A panic that has not been reported yet.
struct Panic {
    thread: ThreadId,
    message: String,
    /// File, line and column.
    place: String,
}

/// Panics that have not been reported yet. They are reported as exceptions, never on stderr. Several threads may
/// panic at once, and a panic of a rayon worker is reported by the thread that waits for it.
static PANICS: Mutex<Vec<Panic>> = Mutex::new(Vec::new());

/// Maximum number of panics kept; beyond it, the oldest one is dropped.
const MOST_PANICS: usize = 64;

fn panics() -> MutexGuard<'static, Vec<Panic>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the panic hook. Called once, when the module is imported.
pub fn install() {
    // The extension links its own copy of the Rust runtime, so the panics of other extensions are not affected.
    panic::set_hook(Box::new(|info| {
        let Some(place) = info.location() else { return };
        let (message, place) = (text_of(info.payload()).to_string(), place.to_string());
        let mut panics = panics();
        if panics.len() >= MOST_PANICS {
            panics.remove(0);
        }
        panics.push(Panic { thread: thread::current().id(), message, place });
    }));
}

/// Runs `work` without the interpreter lock, with gradients enabled and without the caller's torch modes
/// (inference mode, autocast). `work` must own what it uses: make shallow clones of tensors and fields first.
pub fn enter<T, F>(py: Python<'_>, work: F) -> PyResult<T>
where
    F: FnOnce() -> Result<T> + Send,
    T: Send,
{
    let _neutral = Neutral::enter(py)?;
    let outcome = py.detach(|| guard(work));
    Ok(outcome?)
}

/// Matrix size above which an eigendecomposition takes seconds or minutes.
const LARGE: i64 = 1024;

/// [`enter`] for work on a matrix of `size` rows whose operations cannot be interrupted. For a large matrix the
/// work runs on a separate thread, so that Ctrl-C can return at once and abandon that thread.
pub fn enter_decomposition<T, F>(py: Python<'_>, size: i64, work: F) -> PyResult<T>
where
    F: FnOnce() -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    if size <= LARGE {
        return enter(py, work);
    }
    let _neutral = Neutral::enter(py)?;
    let (sender, mut answers) = mpsc::channel();
    thread::spawn(move || drop(sender.send(guard(work))));
    loop {
        let (receiver, outcome) = py.detach(move || {
            let outcome = answers.recv_timeout(LOOK_EVERY);
            (answers, outcome)
        });
        answers = receiver;
        match outcome {
            Ok(outcome) => return Ok(outcome?),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Internal(anyhow!("a thread ended without a result")).into());
            }
        }
    }
}

/// Runs `work` on this thread and converts a panic to [`Error::Internal`].
pub fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(from_panic(payload.as_ref())))
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// The place of the latest panic with this message, on this thread if there is one, otherwise on any thread.
fn place_of(message: &str) -> Option<String> {
    let (own, mut panics) = (thread::current().id(), panics());
    let same = |panic: &&Panic| panic.message == message;
    let found = panics.iter().rposition(|panic| same(&panic) && panic.thread == own);
    let found = found.or_else(|| panics.iter().rposition(|panic| same(&panic)));
    found.map(|index| panics.remove(index).place)
}

fn from_panic(payload: &(dyn Any + Send)) -> Error {
    let text = text_of(payload);
    // Panics of tch's infallible operators contain libtorch's whole C++ backtrace with escaped newlines.
    let line = text.split('\n').next().unwrap_or_default();
    let line = line.split("\\n").next().unwrap_or_default();
    if says_out_of_memory(line) {
        return Error::out_of_memory(line);
    }
    match place_of(text) {
        Some(place) => Error::Internal(anyhow!("{line} (at {place})")),
        None => Error::Internal(anyhow!("{line}")),
    }
}

/// The monitor of a computation that Python started. It checks for signals at most every tenth of a second and
/// calls the caller's progress function. Ctrl-C becomes [`Error::Interrupted`]; any other exception becomes
/// [`Error::Callback`].
pub struct PyMonitor {
    callable: Option<Py<PyAny>>,
    looked: Instant,
    world: World,
}

const LOOK_EVERY: Duration = Duration::from_millis(100);

impl PyMonitor {
    pub fn new(callable: Option<Bound<'_, PyAny>>) -> Self {
        PyMonitor { callable: callable.map(Bound::unbind), looked: Instant::now(), world: World::default() }
    }
}

impl PyMonitor {
    /// The same monitor for a computation that is shared by the ranks of `world`.
    pub fn shared(self, world: World) -> Self {
        PyMonitor { world, ..self }
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

    fn world(&self) -> &World {
        &self.world
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
