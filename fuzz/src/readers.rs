//! Every reader of outside bytes, as a function of the bytes: what libFuzzer's targets and the seeded test of
//! `tests/rust/readers.rs` call. A reader may refuse a file with [`Error::Checkpoint`] (or another error that
//! belongs to the caller); everything else is a fault.
//!
//! Bytes come in one of two forms. What begins with `!` is a file, after that mark. Anything else is a *recipe*
//! for a file, which spares the fuzzer from keeping lengths, offsets and escaped JSON in step:
//!
//! ```text
//! the koopflow header, as JSON, on one line
//! the tensors, as JSON: [[name, dtype, [sizes ...]], ...], on one line
//! any bytes: repeated, they fill the tensors
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use koopflow::baselines::Baseline;
use koopflow::data::{Inputs, Trajectories, TrajectoryPlan};
use koopflow::distill::{self, DistillConfig, Extras};
use koopflow::error::Error;
use koopflow::flow::{self, TeacherConfig, TrainingFiles};
use koopflow::koopman::Student;
use koopflow::monitor::Silent;
use koopflow::store;
use koopflow::velocity::VelocityField;
use safetensors::SafeTensors;
use serde_json::{json, Map, Value};
use tch::{Device, Kind, Tensor};

/// What reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Student,
    Teacher,
    Baseline,
    /// A student or a teacher whose training goes on.
    Training,
    Trajectories,
}

/// Most bytes that the tensors of a recipe may take: enough for every seed, and quick to fill.
const MOST_BYTES: usize = 1 << 20;

/// The file that the bytes are or describe; `None` for a recipe without sense.
pub fn file_of(input: &[u8]) -> Option<Vec<u8>> {
    if let Some(raw) = input.strip_prefix(b"!") {
        return Some(raw.to_vec());
    }
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let header = std::str::from_utf8(parts.next()?).ok()?;
    let tensors: Vec<(String, String, Vec<usize>)> = serde_json::from_slice(parts.next()?).ok()?;
    let filling = parts.next().filter(|bytes| !bytes.is_empty()).unwrap_or(&[0]);
    let mut entries = Map::from_iter([("__metadata__".to_string(), json!({ "koopflow": header }))]);
    let mut place = 0usize;
    for (name, dtype, shape) in tensors {
        let width = if dtype == "F32" { 4usize } else { 8 };
        let size = shape.iter().try_fold(width, |size, next| size.checked_mul(*next))?;
        let end = place.checked_add(size).filter(|end| *end <= MOST_BYTES)?;
        entries.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [place, end] }));
        place = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    // As koopflow writes it: trajectory files are mapped, and their states begin at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes.extend(filling.iter().cycle().take(place));
    Some(bytes)
}

/// The recipe of a file.
pub fn recipe_of(file: &[u8]) -> Vec<u8> {
    let (_, metadata) = SafeTensors::read_metadata(file).expect("a whole file");
    let mut recipe = header_of(file).to_string().into_bytes();
    let tensors: Vec<_> = metadata
        .offset_keys()
        .into_iter()
        .map(|name| {
            let info = metadata.info(&name).expect("a tensor of that name");
            (name, format!("{:?}", info.dtype), info.shape.clone())
        })
        .collect();
    let data = &file[file.len() - metadata.data_len()..];
    recipe.push(b'\n');
    recipe.extend(json!(tensors).to_string().into_bytes());
    recipe.push(b'\n');
    recipe.extend(data);
    recipe
}

/// Reads the file that `input` is or describes; whether there was one that `reader` took.
///
/// # Panics
/// For a fault of the reader.
pub fn read(reader: Reader, input: &[u8]) -> bool {
    let Some(bytes) = file_of(input) else { return false };
    let scratch = Scratch::new();
    fs::write(&scratch.0, bytes).expect("a scratch file");
    let path = scratch.0.as_path();
    let cpu = Device::Cpu;
    let outcome = match reader {
        Reader::Student => store::load::<Student>(path, cpu).map(drop),
        Reader::Teacher => store::load::<Box<dyn VelocityField>>(path, cpu).map(drop),
        Reader::Baseline => store::load::<Baseline>(path, cpu).map(drop),
        Reader::Training => resume(path),
        Reader::Trajectories => trajectories(path),
    };
    match outcome {
        Ok(()) => true,
        Err(Error::Checkpoint { .. }) => false,
        // The file is one, but not of a run with these options or this data; or it is no longer a finite one.
        Err(Error::Argument { .. } | Error::Divergence(_)) if reader == Reader::Training => false,
        Err(error) => panic!("{reader:?}: {error:?}"),
    }
}

/// The koopflow header of a good file.
pub fn header_of(file: &[u8]) -> Value {
    let (_, metadata) = SafeTensors::read_metadata(file).expect("a whole file");
    let header = &metadata.metadata().as_ref().expect("metadata")["koopflow"];
    serde_json::from_str(header).expect("JSON")
}

/// The teacher of the student and the trajectories that are the seeds.
fn teacher() -> Box<dyn VelocityField> {
    let scratch = Scratch::new();
    fs::write(&scratch.0, TEACHER).expect("a scratch file");
    store::load(&scratch.0, Device::Cpu).expect("a good file").0
}

/// Data of the mean and the deviation that the teacher's fixture was trained on: all that a file tells of them.
fn training_data() -> Tensor {
    let file = SafeTensors::deserialize(TRAINING_TEACHER).expect("a whole file");
    let of = |name: &str| {
        let view = file.tensor(name).expect("a tensor of that name");
        Tensor::from_data_size(view.data(), &[1, 2], Kind::Float)
    };
    let (mean, scale) = (of("data.mean"), of("data.scale"));
    Tensor::cat(&[&mean - &scale, mean + scale], 0).repeat([32, 1])
}

/// The options of a fixture that was written by a run, and one step more.
fn options_of(file: &[u8]) -> Value {
    let mut options = header_of(file)["facts"]["config"].clone();
    options["steps"] = json!(options["steps"].as_u64().expect("a number of steps") + 1);
    options
}

const TEACHER: &[u8] = include_bytes!("../../tests/fixtures/before_redesign/teacher_network.safetensors");
const TRAINING_STUDENT: &[u8] =
    include_bytes!("../../tests/fixtures/before_redesign/training_student.safetensors");
const TRAINING_TEACHER: &[u8] =
    include_bytes!("../../tests/fixtures/before_redesign/training_teacher.safetensors");

/// Goes on with the run of a file, for a step.
fn resume(path: &Path) -> Result<(), Error> {
    match store::describe(path)?.0.as_str() {
        "teacher" => {
            let config: TeacherConfig =
                serde_json::from_value(options_of(TRAINING_TEACHER)).expect("the fixture's options");
            let data = training_data();
            let files = TrainingFiles { checkpoint: None, resume: Some(path.into()) };
            flow::train_with_files(&config, flow::Given::new(&data, None), &files, &mut Silent).map(drop)
        }
        _ => {
            let config: DistillConfig =
                serde_json::from_value(options_of(TRAINING_STUDENT)).expect("the fixture's options");
            let extras = Extras { resume: Some(path.into()), ..Extras::default() };
            distill::distill_with(&*teacher(), &config, &Inputs::default(), &extras, &mut Silent).map(drop)
        }
    }
}

/// Reuses the trajectories of a file, which has to be whole: a plan of other sizes is refused.
fn trajectories(path: &Path) -> Result<(), Error> {
    let plan = TrajectoryPlan {
        count: 256,
        path_steps: 8,
        fixed: None,
        seed: 0,
        kind: Kind::Float,
        device: Device::Cpu,
        max_seconds: None,
    };
    Trajectories::in_file(&*teacher(), &plan, None, path, false, &mut Silent).map(drop)?;
    // What is still growing is read by the same rules, but may end anywhere.
    let mut growing = path.as_os_str().to_owned();
    growing.push(".partial");
    fs::rename(path, &growing).expect("a scratch file");
    let outcome = Trajectories::in_file(&*teacher(), &plan, None, path, false, &mut Silent).map(drop);
    let _ = fs::remove_file(growing);
    outcome
}

/// A file of this call's own, in memory where the machine has a place for that.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        Scratch(folder.join(format!("koopflow-reader-{}-{call}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
