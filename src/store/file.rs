//! What every kind of file shares: reading whole ones with care, writing new ones atomically.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{serialize, Dtype, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor};

use super::{Header, Model};
use crate::error::{Error, Result};
use crate::tensor::{check_finite, dtype_name, shape_text};

/// The key of the JSON header among the safetensors metadata.
const HEADER_KEY: &str = "koopflow";
/// Written into every file; a reader refuses newer ones.
pub(crate) const FORMAT_VERSION: u64 = 1;

/// A file's header and tensors, checked for being whole and finite.
pub(crate) struct Contents {
    pub path: String,
    pub header: Header,
    pub tensors: HashMap<String, Tensor>,
}

impl Contents {
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = fs::read(path).map_err(|source| Error::Io { path: name.clone(), source })?;
        let refuse = |message: String| Error::checkpoint(&name, message);
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| refuse(format!("not a whole safetensors file ({error})")))?;
        let header = read_header(&name, &metadata)?;
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

    pub fn refuse(&self, error: Error) -> Error {
        match error {
            Error::Checkpoint { message, .. } => Error::checkpoint(&self.path, message),
            other => Error::checkpoint(&self.path, format!("inconsistent: {other}")),
        }
    }

    pub fn wrong_kind(&self, expected: &str) -> Error {
        let got = self.header.model.name();
        Error::checkpoint(&self.path, format!("holds a {got}, expected a {expected}"))
    }

    pub fn take(&mut self, name: &str, kind: Kind) -> Result<Tensor> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(Error::checkpoint(&self.path, format!("has no tensor {name:?}")));
        };
        if tensor.kind() != kind {
            let (expected, got) = (dtype_name(kind), dtype_name(tensor.kind()));
            return Err(Error::checkpoint(&self.path, format!("{name}: expected {expected}, got {got}")));
        }
        Ok(tensor)
    }

    pub fn finish(&self) -> Result<()> {
        match self.tensors.iter().next() {
            None => Ok(()),
            Some((name, tensor)) => {
                let shape = shape_text(&tensor.size());
                Err(Error::checkpoint(&self.path, format!("has an unexpected tensor {name:?} {shape}")))
            }
        }
    }
}

/// The koopflow header of a safetensors file.
pub(crate) fn read_header(name: &str, metadata: &safetensors::tensor::Metadata) -> Result<Header> {
    let refuse = |message: String| Error::checkpoint(name, message);
    let text = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(HEADER_KEY))
        .ok_or_else(|| refuse("a safetensors file, but not one that koopflow wrote".into()))?;
    // The version first: a newer header may have fields that this reader does not know.
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| refuse(format!("its header is not JSON ({error})")))?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version <= FORMAT_VERSION => {}
        Some(version) => {
            return Err(refuse(format!(
                "written in format {version} by a newer koopflow; this one reads up to {FORMAT_VERSION}"
            )))
        }
        None => return Err(refuse("its header names no format version".into())),
    }
    serde_json::from_value(value).map_err(|error| refuse(format!("its header is damaged ({error})")))
}

/// The safetensors metadata that carry a header.
pub(crate) fn metadata(header: &Header) -> Result<HashMap<String, String>> {
    let text = serde_json::to_string(header).map_err(|error| Error::Internal(error.into()))?;
    Ok(HashMap::from([(HEADER_KEY.to_string(), text)]))
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

/// Dtype, shape and row-major bytes of a tensor.
pub(crate) fn to_bytes(tensor: &Tensor) -> Result<(Dtype, Vec<usize>, Vec<u8>)> {
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

/// Writes a whole file: header and tensors.
pub(crate) fn write(
    path: &Path,
    model: Model,
    facts: serde_json::Value,
    tensors: Vec<(String, Tensor)>,
) -> Result<()> {
    let metadata = metadata(&Header { version: FORMAT_VERSION, model, facts })?;
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
    sync_folder(path);
    Ok(())
}

/// A rename is durable once the folder is; not every file system can be asked.
pub(crate) fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}
