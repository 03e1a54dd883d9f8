//! Files of trajectories. A safetensors file grows as `<file>.partial`, is renamed when it is complete, and
//! is memory-mapped rather than read.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::ode::FixedSteps;
use crate::store::{beside, final_target, fresh_file, read_metadata, sync_folder, tensor_bytes, Header};
use crate::tensor::{dtype_name, event_size, shape_text};

/// Name of this kind of file in its header.
const KIND: &str = "trajectories";

/// The description of the trajectories in a file's header.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Description {
    plan: StoredPlan,
}

/// The plan of stored trajectories. A later fit can reuse them only with the same plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredPlan {
    /// Number of trajectories of the whole file.
    pub count: i64,
    /// Number of uniform intervals of time at whose ends the states are stored.
    pub path_steps: i64,
    /// Random seed of the noise. The noise of chunk i depends only on the seed and on i.
    pub seed: u64,
    /// Number of trajectories in a chunk.
    pub chunk_rows: i64,
    /// Relative and absolute tolerance of an adaptive solver.
    pub tolerance: f64,
    /// Fixed steps of the solver; `None` for an adaptive one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<FixedSteps>,
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    /// The teacher's velocities at a few fixed points, by which it is recognised.
    pub fingerprint: Vec<f64>,
}

impl StoredPlan {
    /// Rejects impossible sizes, before they are used in any computation.
    fn check(&self) -> std::result::Result<(), String> {
        // Size of one condition in values of four bytes, as for states.
        let condition = match self.conditioning {
            Conditioning::None => 0,
            Conditioning::Labels { .. } => 2,
            Conditioning::Vector { dim } if (1..1 << 40).contains(&dim) => dim,
            Conditioning::Vector { .. } => return Err("its header describes impossible conditions".into()),
        };
        let sizes = [self.count, self.path_steps, self.chunk_rows];
        let positive = sizes.iter().chain(&self.event_shape).all(|size| (1..1 << 40).contains(size));
        let values = self
            .event_shape
            .iter()
            .try_fold(self.count, |total, size| total.checked_mul(*size))
            .and_then(|total| total.checked_mul(self.path_steps.checked_add(1)?))
            .and_then(|total| total.checked_add(self.count.checked_mul(condition)?))
            .filter(|total| *total < 1 << 60);
        match positive && !self.event_shape.is_empty() && values.is_some() {
            true => Ok(()),
            false => Err("its header describes impossible sizes".into()),
        }
    }

    fn states_shape(&self) -> Vec<usize> {
        let dimension = event_size(&self.event_shape);
        [self.count, self.path_steps + 1, dimension].map(|size| size as usize).into()
    }

    /// Bytes of one trajectory.
    fn row_bytes(&self) -> u64 {
        4 * (self.path_steps as u64 + 1) * event_size(&self.event_shape) as u64
    }

    fn condition_layout(&self) -> Option<(Dtype, Vec<usize>)> {
        let count = self.count as usize;
        match self.conditioning {
            Conditioning::None => None,
            Conditioning::Labels { .. } => Some((Dtype::I64, vec![count])),
            Conditioning::Vector { dim } => Some((Dtype::F32, vec![count, dim.max(0) as usize])),
        }
    }
}

/// A file of trajectories, complete or still growing. It contains a header, conditions (if any), and then
/// `states`, float32 `[N, T, d]`. A growing file is therefore a complete one without its last rows.
#[derive(Debug)]
pub struct TrajectoryFile {
    /// Path of the complete file, even while it is still growing.
    path: PathBuf,
    plan: StoredPlan,
    header_bytes: u64,
    condition_bytes: u64,
    /// Number of trajectories in it.
    rows: i64,
    /// The open file while it is growing; `None` for a complete file.
    growing: Option<File>,
}

fn partial_path(path: &Path) -> PathBuf {
    beside(path, ".partial")
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.display().to_string(), source }
}

impl TrajectoryFile {
    /// Opens the complete file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// As [`TrajectoryFile::open`].
    pub fn open_whole(path: &Path) -> Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Self::read(path, path, file, false).map(Some),
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed(path)(source)),
        }
    }

    /// Opens the complete file at `path` or else the growing file beside it, which is continued after its
    /// last whole chunk. `None` if there is neither. A growing file has one writer at a time: see
    /// [`crate::store::WriterLock`].
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read; [`Error::Checkpoint`] for a file that is truncated,
    /// foreign, of a newer version, or of another kind.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        if let Some(whole) = Self::open_whole(path)? {
            return Ok(Some(whole));
        }
        let path = &final_target(path).map_err(failed(path))?;
        let partial = partial_path(path);
        match OpenOptions::new().read(true).write(true).open(&partial) {
            Ok(file) => Self::read(path, &partial, file, true).map(Some),
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed(&partial)(source)),
        }
    }

    fn read(path: &Path, current: &Path, mut file: File, growing: bool) -> Result<Self> {
        let name = current.display().to_string();
        let fail = failed(current);
        let refuse = |message: String| Error::checkpoint(&name, message);
        let size = file.metadata().map_err(&fail)?.len();
        let (metadata, header_bytes) = read_metadata(&name, &mut file, size)?;
        let header = Header::read(&name, &metadata)?;
        header.require(&name, KIND)?;
        let Description { plan } = header.description(&name)?;
        plan.check().map_err(&refuse)?;
        let expected = layout(&plan)?;
        let mut stored = expected.tensors().into_iter();
        let same = |name: &str, info: &TensorInfo| {
            metadata.info(name).is_some_and(|own| {
                (own.dtype, &own.shape, own.data_offsets) == (info.dtype, &info.shape, info.data_offsets)
            })
        };
        if !stored.all(|(name, info)| same(&name, info)) {
            return Err(refuse("its tensors do not match its header".into()));
        }
        let condition_bytes = condition_bytes(&plan);
        let body = size.saturating_sub(header_bytes + condition_bytes);
        let whole = plan.count as u64 * plan.row_bytes();
        let exact = header_bytes + condition_bytes + whole;
        if header_bytes % 8 != 0 || size > exact || (size < exact && !growing) {
            return Err(refuse(format!("has {size} bytes, expected {exact}: truncated or damaged")));
        }
        if size < header_bytes + condition_bytes {
            return Err(refuse("not a whole safetensors file (its header is cut short)".into()));
        }
        let rows = (body / plan.row_bytes()) as i64;
        // An incomplete chunk is solved again.
        let rows = if rows < plan.count { rows / plan.chunk_rows * plan.chunk_rows } else { rows };
        let mut opened = TrajectoryFile {
            path: path.into(),
            plan,
            header_bytes,
            condition_bytes,
            rows,
            growing: growing.then_some(file),
        };
        opened.rename_if_whole()?;
        Ok(opened)
    }

    /// Begins a growing file for `path` and replaces any other growing file. A complete file at `path` stays
    /// until this one is complete. `condition` holds the conditions of all trajectories, as the plan's
    /// conditioning describes them.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn create(path: &Path, plan: StoredPlan, condition: Option<&Tensor>) -> Result<Self> {
        plan.check().map_err(|message| Error::Internal(anyhow::anyhow!(message)))?;
        let path = &final_target(path).map_err(failed(path))?;
        let partial = partial_path(path);
        let fail = failed(&partial);
        let header = serde_json::to_vec(&layout(&plan)?).map_err(|error| Error::Internal(error.into()))?;
        // The format pads the header, so that data begin at a multiple of eight.
        let length = header.len().next_multiple_of(8);
        let condition = condition.map(|condition| stored_condition(condition, &plan)).transpose()?;
        let mut bytes = (length as u64).to_le_bytes().to_vec();
        bytes.extend(&header);
        bytes.resize(8 + length, b' ');
        bytes.extend(condition.iter().flatten());
        // The file is renamed into place, so that a partial file never has an incomplete header.
        let (fresh, mut file) = fresh_file(&partial).map_err(&fail)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        written.and_then(|()| fs::rename(&fresh, &partial)).map_err(|source| {
            let _ = fs::remove_file(&fresh);
            fail(source)
        })?;
        let (header_bytes, condition_bytes) = (8 + length as u64, condition_bytes(&plan));
        let growing = Some(file);
        Ok(TrajectoryFile { path: path.into(), plan, header_bytes, condition_bytes, rows: 0, growing })
    }

    pub fn plan(&self) -> &StoredPlan {
        &self.plan
    }

    /// Number of trajectories in it so far.
    pub fn rows(&self) -> i64 {
        self.rows
    }

    pub fn is_whole(&self) -> bool {
        self.rows == self.plan.count
    }

    fn current(&self) -> PathBuf {
        if self.growing.is_some() {
            partial_path(&self.path)
        } else {
            self.path.clone()
        }
    }

    /// An [`Error::Checkpoint`] about this file.
    pub fn refuse(&self, message: impl Into<String>) -> Error {
        Error::checkpoint(self.current().display(), message)
    }

    /// Appends trajectories `[rows, T, d]` and syncs the file to disk. After the last ones the file gets its
    /// final name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, states: &Tensor) -> Result<()> {
        let (_, shape, bytes) = tensor_bytes(&states.to_kind(Kind::Float))?;
        let rows = shape.first().copied().unwrap_or(0) as i64;
        if shape.get(1..) != self.plan.states_shape().get(1..) || self.rows + rows > self.plan.count {
            return Err(Error::Internal(anyhow::anyhow!("trajectories of a wrong shape: {shape:?}")));
        }
        let place = self.header_bytes + self.condition_bytes + self.rows as u64 * self.plan.row_bytes();
        let partial = partial_path(&self.path);
        let Some(file) = self.growing.as_mut() else {
            return Err(Error::Internal(anyhow::anyhow!("a complete file of trajectories cannot grow")));
        };
        file.seek(SeekFrom::Start(place))
            .and_then(|_| file.write_all(&bytes))
            .and_then(|()| file.sync_all())
            .map_err(failed(&partial))?;
        self.rows += rows;
        self.rename_if_whole()
    }

    fn rename_if_whole(&mut self) -> Result<()> {
        if self.is_whole() && self.growing.is_some() {
            fs::rename(partial_path(&self.path), &self.path).map_err(failed(&self.path))?;
            sync_folder(&self.path);
            self.growing = None;
        }
        Ok(())
    }

    /// The conditions of all trajectories of the plan, solved or not.
    ///
    /// # Errors
    /// As [`TrajectoryFile::states`].
    pub fn condition(&self) -> Result<Option<Tensor>> {
        let Some((dtype, shape)) = self.plan.condition_layout() else { return Ok(None) };
        let kind = if dtype == Dtype::I64 { Kind::Int64 } else { Kind::Float };
        let size = kind.elt_size_in_bytes() as u64;
        let count = (self.condition_bytes / size) as i64;
        let all = self.map(kind, (self.header_bytes / size) as i64 + count)?;
        let shape: Vec<i64> = shape.into_iter().map(|size| size as i64).collect();
        Ok(Some(all.narrow(0, (self.header_bytes / size) as i64, count).f_view(shape.as_slice())?.copy()))
    }

    /// The trajectories so far, float32 `[rows, T, d]` on the CPU. They are a view of the mapped file; only
    /// pages that are read are loaded into memory.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file cannot be mapped.
    pub fn states(&self) -> Result<Tensor> {
        let first = ((self.header_bytes + self.condition_bytes) / 4) as i64;
        let count = self.rows * (self.plan.row_bytes() / 4) as i64;
        let mut shape: Vec<i64> = self.plan.states_shape().into_iter().map(|size| size as i64).collect();
        shape[0] = self.rows;
        Ok(self.map(Kind::Float, first + count)?.narrow(0, first, count).f_view(shape.as_slice())?)
    }

    /// The first `count` values of the file, header included, read as values of one kind. The mapping is
    /// private, so that changes of the tensor do not change the file.
    fn map(&self, kind: Kind, count: i64) -> Result<Tensor> {
        let current = self.current();
        let Some(name) = current.to_str() else {
            return Err(self.refuse("its name is not valid Unicode, and libtorch cannot map it"));
        };
        Tensor::f_from_file(name, false, count, (kind, Device::Cpu))
            .map_err(|error| self.refuse(format!("cannot be mapped: {}", Error::from(error))))
    }
}

fn condition_bytes(plan: &StoredPlan) -> u64 {
    plan.condition_layout().map_or(0, |(dtype, shape)| {
        let size = if dtype == Dtype::I64 { 8 } else { 4 };
        shape.iter().map(|size| *size as u64).product::<u64>() * size
    })
}

fn stored_condition(condition: &Tensor, plan: &StoredPlan) -> Result<Vec<u8>> {
    let wrong = |got: String| Error::Internal(anyhow::anyhow!("conditions that do not fit the plan: {got}"));
    let Some((expected, shape)) = plan.condition_layout() else { return Err(wrong("some".into())) };
    let kind = if expected == Dtype::I64 { Kind::Int64 } else { Kind::Float };
    let (dtype, got, bytes) = tensor_bytes(&condition.to_kind(kind))?;
    match (dtype, got == shape) == (expected, true) {
        true => Ok(bytes),
        false => Err(wrong(format!("{} {}", dtype_name(condition.kind()), shape_text(&condition.size())))),
    }
}

/// The safetensors header of a complete file.
fn layout(plan: &StoredPlan) -> Result<Metadata> {
    let description = Description { plan: plan.clone() };
    let header = Header::new(KIND, &description, serde_json::Value::Null)?;
    let mut tensors = Vec::new();
    let mut place = 0;
    if let Some((dtype, shape)) = plan.condition_layout() {
        let end = condition_bytes(plan) as usize;
        tensors.push(("condition".to_string(), TensorInfo { dtype, shape, data_offsets: (0, end) }));
        place = end;
    }
    let end = place + plan.count as usize * plan.row_bytes() as usize;
    let states = TensorInfo { dtype: Dtype::F32, shape: plan.states_shape(), data_offsets: (place, end) };
    tensors.push(("states".to_string(), states));
    Metadata::new(Some(header.metadata()?), tensors).map_err(|error| Error::Internal(error.into()))
}
