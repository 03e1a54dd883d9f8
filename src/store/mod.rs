//! Model files. Each model or set of trajectories is one safetensors file with a versioned JSON header,
//! written atomically. This module knows no model: a model implements [`Stored`] in its own `store.rs`.
//! Nothing is ever unpickled.

mod atomic;
mod file;
mod header;
mod lock;

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::Value;
use tch::{Device, Tensor};

use crate::error::Result;

pub use atomic::write_atomically;
pub(crate) use atomic::{beside, final_target, fresh_file, sync_folder};
pub use file::Tensors;
pub(crate) use file::{read_metadata, tensor_bytes};
pub(crate) use header::Header;
pub(crate) use lock::WriterLock;

/// Prefix of the names of tensors that are in a model's file but not part of the model: the state of its training.
pub const BESIDE: &str = "training.";

/// A model that can be kept in a file and rebuilt from that file alone.
pub trait Stored: Sized {
    /// Name of this kind of model in the header: `"student"`, `"teacher"`, ...
    const KIND: &'static str;

    /// Everything but its tensors, as plain data. In JSON it is an object.
    type Description: Serialize + DeserializeOwned;

    /// # Errors
    /// [`crate::Error::Teacher`] for a model that cannot be kept in a file.
    fn description(&self) -> Result<Self::Description>;

    /// Tensors of the model by name; no name begins with [`BESIDE`].
    ///
    /// # Errors
    /// As [`Stored::description`].
    fn tensors(&self) -> Result<Vec<(String, Tensor)>>;

    /// Rebuilds the model. The sizes in `description` come from outside, so an implementation checks them
    /// against `tensors` before it allocates memory for them. It takes every tensor that it knows.
    ///
    /// # Errors
    /// An error that names the wrong option or tensor; [`load`] turns it into [`crate::Error::Checkpoint`].
    fn rebuild(description: Self::Description, tensors: &mut Tensors, device: Device) -> Result<Self>;
}

/// Writes `model` and `facts`. The facts are any JSON that the caller wants to read back.
///
/// # Errors
/// [`crate::Error::Io`] if the file cannot be written; as [`Stored::description`].
pub fn save<T: Stored>(path: &Path, model: &T, facts: Value) -> Result<()> {
    save_with(path, model, facts, Vec::new())
}

/// As [`save`], with further tensors under [`BESIDE`] that [`load`] ignores.
///
/// # Errors
/// As [`save`].
pub fn save_with<T: Stored>(
    path: &Path,
    model: &T,
    facts: Value,
    beside: Vec<(String, Tensor)>,
) -> Result<()> {
    let header = Header::new(T::KIND, &model.description()?, facts)?;
    let mut tensors = model.tensors()?;
    tensors.extend(beside.into_iter().map(|(name, tensor)| (format!("{BESIDE}{name}"), tensor)));
    write_atomically(path, &file::serialise(&header, &tensors)?)
}

/// The bytes of the file that [`save`] writes, for sending a model to another process without a file.
///
/// # Errors
/// As [`Stored::description`].
pub fn to_bytes<T: Stored>(model: &T, facts: Value) -> Result<Vec<u8>> {
    file::serialise(&Header::new(T::KIND, &model.description()?, facts)?, &model.tensors()?)
}

/// As [`load`], from the bytes of a file.
///
/// # Errors
/// As [`load`].
pub fn from_bytes<T: Stored>(bytes: &[u8], device: Device) -> Result<(T, Value)> {
    rebuild(file::read_bytes_of(bytes, T::KIND)?, device)
}

/// Rebuilds a model from its file alone; returns it with the facts of that file.
///
/// # Errors
/// [`crate::Error::Io`] for a file that cannot be read; [`crate::Error::Checkpoint`] for one that is
/// truncated, foreign, of a newer version, of another kind, inconsistent or not finite.
pub fn load<T: Stored>(path: &Path, device: Device) -> Result<(T, Value)> {
    rebuild(file::read(path, T::KIND)?, device)
}

fn rebuild<T: Stored>((header, mut tensors): (Header, Tensors), device: Device) -> Result<(T, Value)> {
    let description = header.description(tensors.path())?;
    tensors.drop_beside();
    let model = T::rebuild(description, &mut tensors, device).map_err(|error| tensors.refuse(error))?;
    tensors.finish()?;
    Ok((model, header.facts))
}

/// The description, the facts and all tensors of a file of kind `T`.
///
/// # Errors
/// As [`load`].
pub fn open<T: Stored>(path: &Path) -> Result<(T::Description, Value, Tensors)> {
    let (header, tensors) = file::read(path, T::KIND)?;
    let description = header.description(tensors.path())?;
    Ok((description, header.facts, tensors))
}

/// Kind of model in a file, and the facts of that file. Reads the header only, and the size of the file.
///
/// # Errors
/// [`crate::Error::Io`]; [`crate::Error::Checkpoint`] for a file that is not koopflow's, or truncated.
pub fn describe(path: &Path) -> Result<(String, Value)> {
    let header = file::Opened::open(path)?.header;
    Ok((header.kind, header.facts))
}
