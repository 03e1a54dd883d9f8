//! The one error type of the crate. Every variant names the argument it is about, what was got and
//! what was expected; the `python` room maps each variant onto one Python exception.

use std::error::Error as StdError;

/// A boxed foreign error, kept whole so that the Python door can raise it again unchanged.
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
    /// The user's velocity field failed; `source` is its own exception where it raised one.
    #[error("{message}")]
    Teacher { message: String, source: Option<Source> },
    /// Code that koopflow does not own answered for a velocity with values that are not finite. A training step
    /// is skipped then; elsewhere it is as [`Error::Teacher`].
    #[error("{0}")]
    NotFiniteAnswer(String),
    #[error("{path}: {message}")]
    Checkpoint { path: String, message: String },
    /// The operating system refused a file; kept whole so that a missing file stays a missing file.
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{0}")]
    NotFitted(String),
    #[error("{0}")]
    Divergence(String),
    /// A stop asked for by the user (Ctrl-C). Training keeps its best state; elsewhere it is re-raised.
    #[error("interrupted")]
    Interrupted(Source),
    /// The time limit of a fit has passed: see [`crate::monitor::Until`]. Whoever set it keeps what is finished.
    #[error("the time limit has passed")]
    OutOfTime,
    /// The user's own callback failed; its exception is re-raised unchanged.
    #[error("the callback failed: {0}")]
    Callback(Source),
    /// Another of the processes that share a computation is gone, failed, or is about something else.
    #[error("{0}")]
    Distributed(String),
    /// Memory ran out, the computer's or the GPU's.
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

    /// What libtorch says when memory runs out, without the place in its source.
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

/// Whether a message of libtorch's is about memory that it could not get: on a GPU "CUDA out of memory", on a
/// CPU "DefaultCPUAllocator: not enough memory" or "can't allocate memory"; of sizes beyond any memory "Storage size
/// calculation overflowed". Python's are called MemoryError and OutOfMemoryError.
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
