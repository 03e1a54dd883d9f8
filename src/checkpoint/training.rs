//! A student in training: a student's file, with what training needs to go on under `training.`.

use std::path::Path;

use serde_json::Value;
use tch::{Kind, Tensor};

use super::{write, Contents, Model};
use crate::error::{Error, Result};
use crate::koopman::{Student, StudentConfig};

/// Tensors of this prefix are no part of the student itself.
pub(super) const PREFIX: &str = "training.";

/// Writes `student` as [`super::save_student`] does, and `training` beside it.
///
/// # Errors
/// [`Error::Io`] where the file cannot be written.
pub fn save_training(
    path: &Path,
    student: &Student,
    facts: Value,
    training: Vec<(&str, Tensor)>,
) -> Result<()> {
    let mut tensors = student.named();
    tensors.extend(training.into_iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)));
    write(path, Model::Student { config: student.config().clone() }, facts, tensors)
}

/// What [`save_training`] wrote, to be taken apart.
pub struct TrainingFile {
    contents: Contents,
    config: StudentConfig,
}

impl TrainingFile {
    /// # Errors
    /// As [`super::load_student`]; [`Error::Checkpoint`] for a student without its training.
    pub fn read(path: &Path) -> Result<Self> {
        let contents = Contents::read(path)?;
        let Model::Student { config } = contents.header.model.clone() else {
            return Err(contents.wrong_kind("student"));
        };
        if !contents.tensors.keys().any(|name| name.starts_with(PREFIX)) {
            let message = "holds a finished student, not one in training: nothing to resume";
            return Err(Error::checkpoint(&contents.path, message));
        }
        Ok(TrainingFile { contents, config })
    }

    pub fn config(&self) -> &StudentConfig {
        &self.config
    }

    /// The part of the facts under `key`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it is missing or of another form.
    pub fn fact<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.contents.header.facts.get(key).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| {
            Error::checkpoint(&self.contents.path, format!("its {key} is damaged ({error})"))
        })
    }

    /// Overwrites a student of the same architecture.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for missing tensors or other shapes.
    pub fn restore(&mut self, student: &mut Student) -> Result<()> {
        let kind = student.kind();
        let contents = &mut self.contents;
        student.restore(|name| contents.take(name, kind)).map_err(|error| self.contents.refuse(error))
    }

    /// The tensor that was written as `name`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it is missing or of another dtype.
    pub fn take(&mut self, name: &str, kind: Kind) -> Result<Tensor> {
        self.contents.take(&format!("{PREFIX}{name}"), kind)
    }

    /// An error about this file.
    pub fn refuse(&self, error: Error) -> Error {
        self.contents.refuse(error)
    }
}
