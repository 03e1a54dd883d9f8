//! Atomic writes: a file is written completely or not at all.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Number of symbolic links that are followed before they count as a cycle; Linux has the same limit.
const MOST_LINKS: usize = 40;

/// Greatest length of a file name in bytes: the smallest limit among common file systems.
const LONGEST_NAME: usize = 255;

/// Writes a new file in the target's folder, flushes it to the disk and renames it. A crash leaves the old
/// file or the new one. If several processes write at once, the last one wins with a complete file. A
/// symbolic link stays a link, and the file that it points to is replaced.
///
/// # Errors
/// [`Error::Io`]; the target is then unchanged.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |source| Error::Io { path: path.display().to_string(), source };
    let target = final_target(path).map_err(fail)?;
    let (partial, mut file) = fresh_file(&target).map_err(fail)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    if let Err(source) = written.and_then(|()| fs::rename(&partial, &target)) {
        let _ = fs::remove_file(&partial);
        return Err(fail(source));
    }
    sync_folder(&target);
    Ok(())
}

/// Creates an empty file in the folder of `target`. Its name is unique to this call: it contains the process
/// id and a running number. If an earlier process left a file of that name behind, the next number is tried.
/// The name does not contain the target's, which may be as long as the file system allows.
pub(crate) fn fresh_file(target: &Path) -> io::Result<(PathBuf, File)> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    loop {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let path = target.with_file_name(format!(".koopflow-{}-{call}.partial", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            outcome => return outcome.map(|file| (path, file)),
        }
    }
}

/// Path of a file in the folder of `target` whose name is the target's followed by `suffix`. If that is too
/// long for common file systems, the name contains a hash of the target's name instead.
pub(crate) fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    if name.len() > LONGEST_NAME {
        let mut hasher = DefaultHasher::new();
        target.file_name().hash(&mut hasher);
        name = format!(".koopflow-{:016x}{suffix}", hasher.finish()).into();
    }
    target.with_file_name(name)
}

/// Path that a file of this name is written to: the target of a symbolic link, or else the path itself.
pub(crate) fn final_target(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&target) {
            // A relative link is relative to the folder that holds it.
            Ok(link) => target = target.parent().map_or_else(|| link.clone(), |folder| folder.join(&link)),
            Err(_) => return not_special(target),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

/// Refuses a device, a pipe or a socket, which a rename would replace by a file.
fn not_special(target: PathBuf) -> io::Result<PathBuf> {
    match fs::symlink_metadata(&target) {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            let text = "expected a regular file or an unused name, got a device, a pipe or a socket";
            Err(io::Error::new(ErrorKind::InvalidInput, text))
        }
        _ => Ok(target),
    }
}

/// Flushes the folder of `path` to the disk, which makes a rename durable. Not every file system supports
/// this, so failures are ignored.
pub(crate) fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}
