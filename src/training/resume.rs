//! A model in training: its own file, with what training needs to go on under `training.`.

use std::path::Path;

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::koopman::{Student, StudentConfig};
use crate::store::file::{write, Contents};
use crate::store::Model;
use crate::velocity::{FieldState, NetworkField, VelocityField};

/// Tensors of this prefix are no part of the student itself.
pub(crate) const PREFIX: &str = "training.";

/// Writes `student` as [`crate::store::save_student`] does, and `training` beside it.
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

/// Writes a teacher's `field` as [`crate::store::save_field`] does, and `training` beside it.
///
/// # Errors
/// [`Error::Io`] where the file cannot be written.
pub fn save_field_training(
    path: &Path,
    field: &NetworkField,
    facts: Value,
    training: Vec<(&str, Tensor)>,
) -> Result<()> {
    let Some(FieldState { description, mut tensors }) = field.state() else {
        return Err(Error::Internal(anyhow::anyhow!("a network field has weights")));
    };
    tensors.extend(training.into_iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)));
    write(path, Model::Teacher { description }, facts, tensors)
}

/// What [`save_field_training`] wrote, to be taken apart.
pub struct FieldTrainingFile {
    contents: Contents,
}

impl FieldTrainingFile {
    /// # Errors
    /// As [`crate::store::load_field`]; [`Error::Checkpoint`] for a teacher without its training.
    pub fn read(path: &Path) -> Result<Self> {
        let contents = Contents::read(path)?;
        if !matches!(contents.header.model, Model::Teacher { .. }) {
            return Err(contents.wrong_kind("teacher"));
        }
        contents.check_in_training("teacher")?;
        Ok(FieldTrainingFile { contents })
    }

    /// As [`TrainingFile::fact`].
    pub fn fact<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.contents.fact(key)
    }

    /// As [`TrainingFile::take`].
    pub fn take(&mut self, name: &str, kind: Kind) -> Result<Tensor> {
        self.contents.take(&format!("{PREFIX}{name}"), kind)
    }

    /// An error about this file.
    pub fn refuse(&self, error: Error) -> Error {
        self.contents.refuse(error)
    }

    /// Compares what the file and a field know of the data that they were made for: their shape, mean and
    /// scale.
    ///
    /// # Errors
    /// [`Error::Argument`] where they differ.
    pub fn check_data(&self, field: &NetworkField) -> Result<()> {
        let expected = format!("the data, conditions and network of {}", self.contents.path);
        let differ = |name: &str| Error::argument("resume", expected.clone(), format!("another {name}"));
        for (name, own) in field.state().map(|state| state.tensors).unwrap_or_default() {
            let Some(stored) = self.contents.tensors.get(&name) else { return Err(differ(&name)) };
            if stored.size() != own.size() {
                return Err(differ(&name));
            }
            let own = own.to_device(Device::Cpu).to_kind(stored.kind());
            if !name.starts_with("network.") && !stored.f_allclose(&own, 1e-4, 1e-6, false)? {
                return Err(differ(&name));
            }
        }
        Ok(())
    }
}

/// What [`save_training`] wrote, to be taken apart.
pub struct TrainingFile {
    contents: Contents,
    config: StudentConfig,
}

impl TrainingFile {
    /// # Errors
    /// As [`crate::store::load_student`]; [`Error::Checkpoint`] for a student without its training.
    pub fn read(path: &Path) -> Result<Self> {
        let contents = Contents::read(path)?;
        let Model::Student { config } = contents.header.model.clone() else {
            return Err(contents.wrong_kind("student"));
        };
        contents.check_in_training("student")?;
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
        self.contents.fact(key)
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

impl Contents {
    fn fact<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.header.facts.get(key).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value)
            .map_err(|error| Error::checkpoint(&self.path, format!("its {key} is damaged ({error})")))
    }

    fn check_in_training(&self, model: &str) -> Result<()> {
        if self.tensors.keys().any(|name| name.starts_with(PREFIX)) {
            return Ok(());
        }
        let message = format!("holds a finished {model}, not one in training: nothing to resume");
        Err(Error::checkpoint(&self.path, message))
    }
}
