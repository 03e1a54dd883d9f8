//! Files: one safetensors file a model or a set of trajectories, with a versioned JSON header, written
//! atomically. The only room that knows files. Nothing is ever unpickled.

pub(crate) mod file;

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::baselines::{Baseline, BaselineModel};
use crate::error::{Error, Result};
use crate::koopman::{Student, StudentConfig, AVERAGED_WEIGHTS, RAW_WEIGHTS};
use crate::tensor::parse_dtype;
use crate::velocity::{
    EmpiricalField, FieldDescription, GaussianField, GuidedField, NetworkField, VelocityField,
};

use crate::data::StoredPlan;
use file::{write, Contents};

/// What a file holds besides tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    pub version: u64,
    pub model: Model,
    /// Whatever the caller wants back: configuration, teacher facts, training history.
    pub facts: serde_json::Value,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Model {
    Student { config: StudentConfig },
    Baseline { model: BaselineModel },
    Teacher { description: FieldDescription },
    Trajectories { plan: StoredPlan },
}

impl Model {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Model::Student { .. } => "student",
            Model::Baseline { .. } => "baseline",
            Model::Teacher { .. } => "teacher",
            Model::Trajectories { .. } => "set of trajectories",
        }
    }
}

/// Writes a student with `facts` beside it.
///
/// # Errors
/// [`Error::Io`] where the file cannot be written.
pub fn save_student(path: &Path, student: &Student, facts: serde_json::Value) -> Result<()> {
    write(path, Model::Student { config: student.config().clone() }, facts, student.named())
}

/// Writes a baseline with `facts` beside it.
///
/// # Errors
/// [`Error::Io`] where the file cannot be written.
pub fn save_baseline(path: &Path, student: &Baseline, facts: serde_json::Value) -> Result<()> {
    write(path, Model::Baseline { model: student.model().clone() }, facts, student.named())
}

/// Writes a velocity field with `facts` beside it.
///
/// # Errors
/// [`Error::Teacher`] for a field without weights of its own; [`Error::Io`].
pub fn save_field(path: &Path, field: &dyn VelocityField, facts: serde_json::Value) -> Result<()> {
    let Some(state) = field.state() else {
        let kind = field.kind_name();
        let advice = match kind {
            "torchscript" => "its TorchScript file is what to keep: load it again",
            _ => "save the wrapped module itself and attach it again",
        };
        return Err(Error::teacher(format!(
            "a teacher of kind '{kind}' wraps code that koopflow does not own and cannot be saved; {advice}"
        )));
    };
    write(path, Model::Teacher { description: state.description }, facts, state.tensors)
}

/// Rebuilds a student from its file alone.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read; [`Error::Checkpoint`] for one that is truncated, foreign,
/// of a newer version, of another kind, inconsistent or not finite.
pub fn load_student(path: &Path, device: Device) -> Result<(Student, serde_json::Value)> {
    let mut file = Contents::read(path)?;
    let Model::Student { config } = file.header.model.clone() else {
        return Err(file.wrong_kind("student"));
    };
    let kind = parse_dtype(&config.dtype).map_err(|error| file.refuse(error))?;
    // Sizes come from the file: check them against the tensors before allocating by them.
    config.validate().map_err(|error| file.refuse(error))?;
    file.check_budget(&config.tensor_sizes())?;
    let mut student = Student::new(config, 0, device).map_err(|error| file.refuse(error))?;
    student.restore(|name| file.take(name, kind)).map_err(|error| file.refuse(error))?;
    if file.tensors.contains_key(RAW_WEIGHTS) {
        let (averaged, raw) = (file.take(AVERAGED_WEIGHTS, kind)?, file.take(RAW_WEIGHTS, kind)?);
        student.keep_both(&averaged, &raw).map_err(|error| file.refuse(error))?;
    }
    file.tensors.retain(|name, _| !name.starts_with(crate::training::PREFIX));
    file.finish()?;
    Ok((student, file.header.facts))
}

/// Rebuilds a baseline from its file alone.
///
/// # Errors
/// As [`load_student`].
pub fn load_baseline(path: &Path, device: Device) -> Result<(Baseline, serde_json::Value)> {
    let mut file = Contents::read(path)?;
    let Model::Baseline { model } = file.header.model.clone() else {
        return Err(file.wrong_kind("baseline"));
    };
    let kind = parse_dtype(&model.dtype).map_err(|error| file.refuse(error))?;
    model.validate().map_err(|error| file.refuse(error))?;
    file.check_budget(&model.tensor_sizes())?;
    let mut student = Baseline::new(model, 0, device).map_err(|error| file.refuse(error))?;
    student.restore(|name| file.take(name, kind)).map_err(|error| file.refuse(error))?;
    file.finish()?;
    Ok((student, file.header.facts))
}

/// What kind of thing a file holds, by its name, and the facts beside it.
///
/// # Errors
/// [`Error::Io`], [`Error::Checkpoint`] for a file that is not koopflow's, or not whole.
pub fn describe(path: &Path) -> Result<(&'static str, serde_json::Value)> {
    let file = Contents::read(path)?;
    Ok((file.header.model.name(), file.header.facts))
}

/// Rebuilds a velocity field from its file alone.
///
/// # Errors
/// As [`load_student`].
pub fn load_field(path: &Path, device: Device) -> Result<(Box<dyn VelocityField>, serde_json::Value)> {
    let file = Contents::read(path)?;
    let Model::Teacher { description } = file.header.model.clone() else {
        return Err(file.wrong_kind("teacher"));
    };
    let own = file.tensors.iter().filter(|(name, _)| !name.starts_with(crate::training::PREFIX));
    let tensors: Vec<(String, Tensor)> =
        own.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    let field = build_field(&description, &tensors, device);
    Ok((field.map_err(|error| file.refuse(error))?, file.header.facts))
}

fn build_field(
    description: &FieldDescription,
    tensors: &[(String, Tensor)],
    device: Device,
) -> Result<Box<dyn VelocityField>> {
    Ok(match description {
        FieldDescription::Gaussian { event_shape } => {
            Box::new(GaussianField::from_state(event_shape, tensors, device)?)
        }
        FieldDescription::Empirical { event_shape } => {
            Box::new(EmpiricalField::from_state(event_shape, tensors, device)?)
        }
        FieldDescription::Network(config) => Box::new(NetworkField::from_state(config, tensors, device)?),
        FieldDescription::Guided { scale, model } => {
            let (model_tensors, null) = GuidedField::split_state(tensors)?;
            Box::new(GuidedField::new(build_field(model, &model_tensors, device)?, *scale, &null)?)
        }
    })
}

impl Contents {
    /// Refuses a header whose sizes the tensors cannot match, before anything is allocated by them.
    fn check_budget(&self, sizes: &[i64]) -> Result<()> {
        let held: usize = self.tensors.values().map(Tensor::numel).sum();
        let largest = sizes.iter().copied().max().unwrap_or(0);
        if largest < 0 || largest as usize > held {
            let message = format!("its header describes a larger model than its {held} values can fill");
            return Err(Error::checkpoint(&self.path, message));
        }
        Ok(())
    }
}
