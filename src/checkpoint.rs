//! Files: one safetensors file a model, with a versioned JSON header, written atomically. The only room
//! that knows files. Nothing is ever unpickled.

mod training;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{serialize, Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::koopman::{Student, StudentConfig, AVERAGED_WEIGHTS, RAW_WEIGHTS};
use crate::tensor::{check_finite, dtype_name, parse_dtype, shape_text};
use crate::velocity::{EmpiricalField, FieldDescription, GaussianField, NetworkField, VelocityField};

pub use training::{save_training, TrainingFile};

/// The key of the JSON header among the safetensors metadata.
const HEADER_KEY: &str = "koopflow";
/// Written into every file; a reader refuses newer ones.
const FORMAT_VERSION: u64 = 1;

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
    Teacher { description: FieldDescription },
}

impl Model {
    fn name(&self) -> &'static str {
        match self {
            Model::Student { .. } => "student",
            Model::Teacher { .. } => "teacher",
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

/// Writes a velocity field with `facts` beside it.
///
/// # Errors
/// [`Error::Teacher`] for a field without weights of its own; [`Error::Io`].
pub fn save_field(path: &Path, field: &dyn VelocityField, facts: serde_json::Value) -> Result<()> {
    let Some(state) = field.state() else {
        let kind = field.kind_name();
        return Err(Error::teacher(format!(
            "a teacher of kind '{kind}' wraps code that koopflow does not own and cannot be saved; \
             save the wrapped module itself and attach it again"
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
    file.check_budget(config.size().saturating_mul(config.observables), &config)?;
    let mut student = Student::new(config, 0, device).map_err(|error| file.refuse(error))?;
    student.restore(|name| file.take(name, kind)).map_err(|error| file.refuse(error))?;
    if file.tensors.contains_key(RAW_WEIGHTS) {
        let (averaged, raw) = (file.take(AVERAGED_WEIGHTS, kind)?, file.take(RAW_WEIGHTS, kind)?);
        student.keep_both(&averaged, &raw).map_err(|error| file.refuse(error))?;
    }
    file.tensors.retain(|name, _| !name.starts_with(training::PREFIX));
    file.finish()?;
    Ok((student, file.header.facts))
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
    let tensors: Vec<(String, Tensor)> =
        file.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    let field: Result<Box<dyn VelocityField>> = match &description {
        FieldDescription::Gaussian { event_shape } => {
            GaussianField::from_state(event_shape, &tensors, device)
                .map(|field| Box::new(field) as Box<dyn VelocityField>)
        }
        FieldDescription::Empirical { event_shape } => {
            EmpiricalField::from_state(event_shape, &tensors, device).map(|field| Box::new(field) as _)
        }
        FieldDescription::Network(config) => {
            NetworkField::from_state(config, &tensors, device).map(|field| Box::new(field) as _)
        }
    };
    Ok((field.map_err(|error| file.refuse(error))?, file.header.facts))
}

/// A file's header and tensors, checked for being whole and finite.
struct Contents {
    path: String,
    header: Header,
    tensors: HashMap<String, Tensor>,
}

impl Contents {
    fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = fs::read(path).map_err(|source| Error::Io { path: name.clone(), source })?;
        let refuse = |message: String| Error::checkpoint(&name, message);
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| refuse(format!("not a whole safetensors file ({error})")))?;
        let text = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(HEADER_KEY))
            .ok_or_else(|| refuse("a safetensors file, but not one that koopflow wrote".into()))?;
        // The version first: a newer header may have fields that this reader does not know.
        let value: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| refuse(format!("its header is not JSON ({error})")))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version <= FORMAT_VERSION => {}
            Some(version) => {
                return Err(refuse(format!(
                    "written in format {version} by a newer koopflow; this one reads up to {FORMAT_VERSION}"
                )))
            }
            None => return Err(refuse("its header names no format version".into())),
        }
        let header: Header = serde_json::from_value(value)
            .map_err(|error| refuse(format!("its header is damaged ({error})")))?;
        let views = SafeTensors::deserialize(&bytes)
            .map_err(|error| refuse(format!("not a whole safetensors file ({error})")))?;
        let mut tensors = HashMap::new();
        for (tensor_name, view) in views.iter() {
            let tensor = to_tensor(&view).map_err(|error| refuse(format!("{tensor_name}: {error}")))?;
            if tensor.is_floating_point() {
                check_finite(tensor_name, &tensor).map_err(|error| refuse(error.to_string()))?;
            }
            tensors.insert(tensor_name.to_string(), tensor);
        }
        Ok(Contents { path: name, header, tensors })
    }

    fn refuse(&self, error: Error) -> Error {
        match error {
            Error::Checkpoint { message, .. } => Error::checkpoint(&self.path, message),
            other => Error::checkpoint(&self.path, format!("inconsistent: {other}")),
        }
    }

    fn wrong_kind(&self, expected: &str) -> Error {
        let got = self.header.model.name();
        Error::checkpoint(&self.path, format!("holds a {got}, expected a {expected}"))
    }

    /// Refuses a header whose sizes the tensors cannot match, before anything is allocated by them.
    fn check_budget(&self, largest: i64, config: &StudentConfig) -> Result<()> {
        config.validate().map_err(|error| self.refuse(error))?;
        let held: usize = self.tensors.values().map(Tensor::numel).sum();
        let dimension = config.dimension();
        let network = config.width.saturating_mul(config.width.saturating_mul((config.depth - 1).max(0)));
        let needed =
            [dimension.saturating_mul(dimension), network, config.observables.saturating_mul(dimension)];
        let dense = match config.generator {
            crate::koopman::GeneratorKind::Dense => largest,
            crate::koopman::GeneratorKind::Spectral => 0,
        };
        if needed.into_iter().chain([dense]).any(|count| count < 0 || count as usize > held) {
            let message = format!("its header describes a larger model than its {held} values can fill");
            return Err(Error::checkpoint(&self.path, message));
        }
        Ok(())
    }

    fn take(&mut self, name: &str, kind: Kind) -> Result<Tensor> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(Error::checkpoint(&self.path, format!("has no tensor {name:?}")));
        };
        if tensor.kind() != kind {
            let (expected, got) = (dtype_name(kind), dtype_name(tensor.kind()));
            return Err(Error::checkpoint(&self.path, format!("{name}: expected {expected}, got {got}")));
        }
        Ok(tensor)
    }

    fn finish(&self) -> Result<()> {
        match self.tensors.iter().next() {
            None => Ok(()),
            Some((name, tensor)) => {
                let shape = shape_text(&tensor.size());
                Err(Error::checkpoint(&self.path, format!("has an unexpected tensor {name:?} {shape}")))
            }
        }
    }
}

fn to_tensor(view: &TensorView) -> std::result::Result<Tensor, String> {
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        other => return Err(format!("dtype {other:?} is not one that koopflow writes")),
    };
    let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
    Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|error| Error::from(error).to_string())
}

fn to_bytes(tensor: &Tensor) -> Result<(Dtype, Vec<usize>, Vec<u8>)> {
    let dtype = match tensor.kind() {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Int64 => Dtype::I64,
        other => return Err(Error::dtype("tensor", "float32, float64 or int64", dtype_name(other))),
    };
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0u8; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok((dtype, tensor.size().iter().map(|size| *size as usize).collect(), bytes))
}

fn write(path: &Path, model: Model, facts: serde_json::Value, tensors: Vec<(String, Tensor)>) -> Result<()> {
    let header = Header { version: FORMAT_VERSION, model, facts };
    let text = serde_json::to_string(&header).map_err(|error| Error::Internal(error.into()))?;
    let stored = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), to_bytes(tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    let views = stored
        .iter()
        .map(|(name, (dtype, shape, bytes))| {
            TensorView::new(*dtype, shape.clone(), bytes)
                .map(|view| (*name, view))
                .map_err(|error| Error::Internal(error.into()))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([(HEADER_KEY.to_string(), text)]);
    let bytes = serialize(views, Some(metadata)).map_err(|error| Error::Internal(error.into()))?;
    write_atomically(path, &bytes)
}

/// Writes beside the target, flushes to the disk, then renames: a crash leaves the old file or the new.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |source| Error::Io { path: path.display().to_string(), source };
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = Path::new(&partial);
    let outcome = File::create(partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(partial, path));
    if let Err(source) = outcome {
        let _ = fs::remove_file(partial);
        return Err(fail(source));
    }
    // The rename itself is durable once the folder is; not every file system can be asked.
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}
