//! One writer at a time, across threads and processes.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fs4::{FileExt, TryLockError};

use super::atomic::beside;
use crate::error::{Error, Result};

/// Time between two attempts to take a lock that another writer holds.
const PATIENCE: Duration = Duration::from_millis(50);

/// The right to write the files of one target, held by a lock on `<target>.lock`. The operating system releases
/// it when its holder ends, however that happens.
#[derive(Debug)]
pub(crate) struct WriterLock {
    path: PathBuf,
    file: File,
}

impl WriterLock {
    /// Waits for the lock, and calls `waiting` before each wait. On a file system without locks it is granted
    /// at once.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be written; any error of `waiting`.
    pub fn acquire(target: &Path, mut waiting: impl FnMut() -> Result<()>) -> Result<Self> {
        let path = beside(target, ".lock");
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|source| Error::Io { path: target.display().to_string(), source })?;
            if let Err(TryLockError::WouldBlock) = FileExt::try_lock(&file) {
                waiting()?;
                thread::sleep(PATIENCE);
            } else if is_at(&file, &path) {
                return Ok(WriterLock { path, file });
            }
        }
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Removed while the lock is held. A waiting process then gets the lock, finds that the file is gone,
        // and tries again.
        let _ = fs::remove_file(&self.path);
        let _ = FileExt::unlock(&self.file);
    }
}

/// Whether `path` still leads to the open `file`, and not to one that was made after this one was removed.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(there)) => (own.dev(), own.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}
