//! The one error type of the crate. A message names the argument, what was expected and what was got.
//! The `python` module maps each variant to one Python exception.

use std::error::Error as StdError;

/// A boxed error of foreign code, kept whole so that the Python bindings can raise it again unchanged.
pub type Source = Box<dyn StdError + Send + Sync + 'static>;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{argument}: expected shape {expected}, got {got}")]
    Shape { argument: String, expected: String, got: String },
    #[error("{argument}: expected {expected}, got {got}")]
    Dtype { argument: String, expected: String, got: String },
    #[error("{argument}: {message}")]
    Device { argument: String, message: String },
    #[error("{argument}: {message}")]
    NonFinite { argument: String, message: String },
    /// An argument outside its range.
    #[error("{argument}: expected {expected}, got {got}")]
    Argument { argument: String, expected: String, got: String },
    /// The user's velocity field failed. `source` is the exception that it raised, if it raised one.
    #[error("{message}")]
    Teacher { message: String, source: Option<Source> },
    /// A velocity that foreign code computed has values that are not finite. A training step with this error
    /// is skipped. Elsewhere the error is treated as [`Error::Teacher`].
    #[error("{0}")]
    NotFiniteAnswer(String),
    #[error("{path}: {message}")]
    Checkpoint { path: String, message: String },
    /// The operating system refused a file. Its error is kept whole, so that Python raises the right
    /// `OSError`.
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{0}")]
    NotFitted(String),
    #[error("{0}")]
    Divergence(String),
    /// The user asked to stop (Ctrl-C). Training keeps its best state; elsewhere the error is re-raised.
    #[error("interrupted")]
    Interrupted(Source),
    /// The time limit of a fit has passed: see [`crate::monitor::Until`]. The caller that set it keeps what
    /// is finished.
    #[error("the time limit has passed")]
    OutOfTime,
    /// The user's own callback failed; its exception is re-raised unchanged.
    #[error("the callback failed: {0}")]
    Callback(Source),
    /// Another process that shares the computation has exited, has failed, or runs a different computation.
    #[error("{0}")]
    Distributed(String),
    /// The computer or the GPU has run out of memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// libtorch refused an operation that koopflow's own checks let through.
    #[error("libtorch: {0}")]
    Torch(String),
    #[error("internal error: {0:#}")]
    Internal(#[from] anyhow::Error),
}

impl Error {
    pub fn shape(argument: &str, expected: impl ToString, got: impl ToString) -> Self {
        Error::Shape { argument: argument.into(), expected: expected.to_string(), got: got.to_string() }
    }

    pub fn argument(argument: &str, expected: impl ToString, got: impl ToString) -> Self {
        Error::Argument { argument: argument.into(), expected: expected.to_string(), got: got.to_string() }
    }

    pub fn dtype(argument: &str, expected: impl ToString, got: impl ToString) -> Self {
        Error::Dtype { argument: argument.into(), expected: expected.to_string(), got: got.to_string() }
    }

    /// The error for libtorch's message `line` about memory, without the source location that precedes it.
    pub fn out_of_memory(line: &str) -> Self {
        let begins = ["DefaultCPUAllocator", "CUDA out of memory"].iter().find_map(|words| line.find(words));
        Error::OutOfMemory(format!("out of memory: {}", &line[begins.unwrap_or(0)..]))
    }

    /// Whether the same work may succeed on fewer rows.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Error::OutOfMemory(_) => true,
            Error::Torch(message) | Error::Teacher { message, .. } => says_out_of_memory(message),
            _ => false,
        }
    }

    pub fn teacher(message: impl Into<String>) -> Self {
        Error::Teacher { message: message.into(), source: None }
    }

    pub fn checkpoint(path: impl ToString, message: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.to_string(), message: message.into() }
    }
}

/// Keeps the first line of a libtorch message: the rest is a C++ backtrace.
impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or("unknown failure").trim();
        match says_out_of_memory(line) {
            true => Error::out_of_memory(line),
            false => Error::Torch(line.to_string()),
        }
    }
}

/// Whether a message is about a failed allocation. libtorch says "CUDA out of memory" on a GPU, and
/// "DefaultCPUAllocator: not enough memory" or "can't allocate memory" on a CPU. For sizes beyond any memory
/// it says "Storage size calculation overflowed". Python's exceptions are MemoryError and OutOfMemoryError.
pub fn says_out_of_memory(message: &str) -> bool {
    let message = message.to_lowercase();
    let known = [
        "out of memory",
        "not enough memory",
        "can't allocate memory",
        "memoryerror",
        "size calculation overflowed",
    ];
    known.iter().any(|text| message.contains(text))
}
