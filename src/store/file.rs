//! Safetensors files: checked while they are read, and serialised to bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use safetensors::tensor::{serialize, Dtype, Metadata, TensorInfo, TensorView};
use tch::{Device, Kind, Tensor};

use super::header::Header;
use super::BESIDE;
use crate::error::{Error, Result};
use crate::tensor::{check_finite, dtype_name, shape_text};

/// The tensors of a file, which a model takes out one by one.
pub struct Tensors {
    path: String,
    tensors: HashMap<String, Tensor>,
}

impl Tensors {
    /// The file's path, for messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Turns `error` into an error about this file.
    pub fn refuse(&self, error: Error) -> Error {
        match error {
            Error::Checkpoint { message, .. } => Error::checkpoint(&self.path, message),
            Error::OutOfMemory(message) => Error::OutOfMemory(format!("{}: {message}", self.path)),
            other => Error::checkpoint(&self.path, format!("inconsistent: {other}")),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor called `name`, which must be of `kind`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is missing or has another dtype.
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

    /// Takes the tensors whose names begin with `prefix`, and removes the prefix from their names.
    pub fn under(&mut self, prefix: &str) -> Tensors {
        let own = self.take_where(|name| name.starts_with(prefix));
        let named = own.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor));
        Tensors { path: self.path.clone(), tensors: named.collect() }
    }

    /// Takes the tensors whose names satisfy `wanted`.
    pub fn take_where(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<(String, Tensor)> {
        let names: Vec<String> = self.tensors.keys().filter(|name| wanted(name)).cloned().collect();
        names.into_iter().filter_map(|name| self.tensors.remove_entry(&name)).collect()
    }

    /// Takes all remaining tensors.
    pub fn take_all(&mut self) -> Vec<(String, Tensor)> {
        self.tensors.drain().collect()
    }

    /// Whether the file holds the state of a training run.
    pub fn has_beside(&self) -> bool {
        self.tensors.keys().any(|name| name.starts_with(BESIDE))
    }

    pub(super) fn drop_beside(&mut self) {
        self.tensors.retain(|name, _| !name.starts_with(BESIDE));
    }

    /// Refuses a description whose `sizes` add up to more values than the tensors hold, before memory is
    /// allocated for them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub fn check_budget(&self, sizes: &[i64]) -> Result<()> {
        let held: usize = self.tensors.values().map(Tensor::numel).sum();
        let described =
            sizes.iter().try_fold(0i64, |sum, size| sum.checked_add((*size >= 0).then_some(*size)?));
        match described {
            Some(described) if described as usize <= held => Ok(()),
            _ => {
                let message =
                    format!("its header describes a model with more than the {held} values in the file");
                Err(Error::checkpoint(&self.path, message))
            }
        }
    }

    /// Refuses a file with tensors that were not taken.
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

/// A file, or its bytes, whose header has been read and agrees with its size. The tensors have not been read
/// yet.
pub(super) struct Opened<R> {
    file: R,
    name: String,
    metadata: Metadata,
    pub header: Header,
}

impl Opened<File> {
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let fail = |source| Error::Io { path: name.clone(), source };
        let file = File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        Opened::begin(name, file, size)
    }
}

impl<R: Read> Opened<R> {
    fn begin(name: String, mut file: R, size: u64) -> Result<Self> {
        let (metadata, begin) = read_metadata(&name, &mut file, size)?;
        let header = Header::read(&name, &metadata)?;
        let end = begin.checked_add(metadata.data_len() as u64);
        if end != Some(size) {
            let message = format!(
                "not a whole safetensors file (it has {size} bytes, its header describes another size)"
            );
            return Err(Error::checkpoint(&name, message));
        }
        Ok(Opened { file, name, metadata, header })
    }

    fn of_kind(self, expected: &str) -> Result<(Header, Tensors)> {
        self.header.require(&self.name, expected)?;
        self.tensors()
    }

    fn tensors(mut self) -> Result<(Header, Tensors)> {
        let refuse = |message: String| Error::checkpoint(&self.name, message);
        let mut tensors = HashMap::new();
        // In the order of the file. `Metadata` has checked that there are no gaps.
        for name in self.metadata.offset_keys() {
            let Some(info) = self.metadata.info(&name) else { continue };
            let bytes = read_bytes(&self.name, &mut self.file, info.data_offsets.1 - info.data_offsets.0)?;
            let tensor = to_tensor(info, &bytes).map_err(|error| refuse(format!("{name}: {error}")))?;
            if tensor.is_floating_point() {
                check_finite(&name, &tensor).map_err(|error| refuse(error.to_string()))?;
            }
            tensors.insert(name, tensor);
        }
        Ok((self.header, Tensors { path: self.name, tensors }))
    }
}

/// Reads a file of kind `expected`. A file of another kind is refused once its header is read.
pub(super) fn read(path: &Path, expected: &str) -> Result<(Header, Tensors)> {
    Opened::open(path)?.of_kind(expected)
}

/// As [`read`], from the bytes of a file.
pub(super) fn read_bytes_of(bytes: &[u8], expected: &str) -> Result<(Header, Tensors)> {
    Opened::begin("the bytes of a model".into(), bytes, bytes.len() as u64)?.of_kind(expected)
}

/// The safetensors metadata at the start of a file of `size` bytes, and where the tensors begin.
pub(crate) fn read_metadata(name: &str, file: &mut impl Read, size: u64) -> Result<(Metadata, u64)> {
    let refuse = |why: &dyn std::fmt::Display| {
        Error::checkpoint(name, format!("not a whole safetensors file ({why})"))
    };
    let mut length = [0u8; 8];
    file.read_exact(&mut length).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => refuse(&"its header is cut short"),
        // The path is a folder, for example.
        _ => Error::Io { path: name.into(), source: error },
    })?;
    let length = u64::from_le_bytes(length);
    if length > size.saturating_sub(8) {
        return Err(refuse(&"its header is cut short"));
    }
    let text = read_bytes(name, file, length as usize)?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| refuse(&error))?;
    Ok((metadata, 8 + length))
}

/// The next `count` bytes. The caller has checked that `count` is less than the file's size.
fn read_bytes(name: &str, file: &mut impl Read, count: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(count)
        .map_err(|_| Error::OutOfMemory(format!("{name}: out of memory for {count} bytes")))?;
    let read = file.take(count as u64).read_to_end(&mut bytes);
    match read {
        Ok(read) if read == count => Ok(bytes),
        Ok(_) => Err(Error::checkpoint(name, "not a whole safetensors file (it ends too early)")),
        Err(source) => Err(Error::Io { path: name.into(), source }),
    }
}

fn to_tensor(info: &TensorInfo, bytes: &[u8]) -> std::result::Result<Tensor, String> {
    let kind = match info.dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        other => return Err(format!("dtype {other:?} is not one that koopflow writes")),
    };
    let shape: Option<Vec<i64>> = info.shape.iter().map(|size| i64::try_from(*size).ok()).collect();
    let shape = shape.ok_or_else(|| "its shape is too large".to_string())?;
    Tensor::f_from_data_size(bytes, &shape, kind).map_err(|error| Error::from(error).to_string())
}

/// Dtype, shape and row-major bytes of a tensor.
pub(crate) fn tensor_bytes(tensor: &Tensor) -> Result<(Dtype, Vec<usize>, Vec<u8>)> {
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

/// The bytes of a complete file.
pub(super) fn serialise(header: &Header, tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let internal = |error: safetensors::SafeTensorError| Error::Internal(error.into());
    let stored = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), tensor_bytes(tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    let views = stored
        .iter()
        .map(|(name, (dtype, shape, bytes))| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(internal)?))
        })
        .collect::<Result<Vec<_>>>()?;
    serialize(views, Some(header.metadata()?)).map_err(internal)
}
