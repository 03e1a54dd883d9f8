//! Files: written whole or not at all, described by their header alone, and readable however old.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use koopflow::baselines::Baseline;
use koopflow::error::Error;
use koopflow::koopman::Student;
use koopflow::store::{self, write_atomically, Stored};
use koopflow::velocity::VelocityField;
use tch::Device;

/// A folder of its own, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("store-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn many_threads_write_one_file_and_it_is_always_whole() {
    let folder = Folder::new("threads");
    let path = folder.0.join("shared.txt");
    let contents: Vec<Vec<u8>> = (0..8u8).map(|i| vec![b'a' + i; 10_000 + i as usize]).collect();
    thread::scope(|scope| {
        for content in &contents {
            let path = &path;
            scope.spawn(move || (0..20).for_each(|_| write_atomically(path, content).unwrap()));
        }
    });
    assert!(contents.contains(&fs::read(&path).unwrap()));
    assert_eq!(folder.names(), ["shared.txt"]);
}

#[test]
fn the_longest_name_can_be_written() {
    let folder = Folder::new("long");
    let name = "n".repeat(255);
    write_atomically(&folder.0.join(&name), b"content").unwrap();
    assert_eq!(folder.names(), [name]);
}

#[test]
fn what_a_dead_process_of_this_number_left_behind_is_passed_over() {
    let folder = Folder::new("left");
    let stale = |call: u64| folder.0.join(format!(".koopflow-{}-{call}.partial", std::process::id()));
    // Calls of the other tests count too: enough of them for the next call of this process.
    (0..5000).for_each(|call| fs::write(stale(call), "stale").unwrap());
    write_atomically(&folder.0.join("file"), b"content").unwrap();
    assert_eq!(fs::read(folder.0.join("file")).unwrap(), b"content");
    assert!((0..5000).all(|call| fs::read(stale(call)).unwrap() == b"stale"));
}

#[test]
fn a_symbolic_link_stays_and_its_target_is_replaced() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new("link");
    fs::create_dir(folder.0.join("there")).unwrap();
    let target = folder.0.join("there/target");
    fs::write(&target, "old").unwrap();
    symlink("there/target", folder.0.join("second")).unwrap();
    symlink("second", folder.0.join("first")).unwrap();
    write_atomically(&folder.0.join("first"), b"new").unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"new");
    for link in ["first", "second"] {
        assert!(fs::symlink_metadata(folder.0.join(link)).unwrap().is_symlink());
    }
    // A link to a file that is not there yet makes it.
    symlink("there/later", folder.0.join("early")).unwrap();
    write_atomically(&folder.0.join("early"), b"made").unwrap();
    assert_eq!(fs::read(folder.0.join("there/later")).unwrap(), b"made");
    symlink("round", folder.0.join("round")).unwrap();
    assert!(matches!(write_atomically(&folder.0.join("round"), b"never"), Err(Error::Io { .. })));
}

#[test]
fn a_write_that_fails_leaves_the_folder_as_it_was() {
    let folder = Folder::new("fails");
    fs::create_dir(folder.0.join("taken")).unwrap();
    assert!(matches!(write_atomically(&folder.0.join("taken"), b"content"), Err(Error::Io { .. })));
    assert_eq!(folder.names(), ["taken"]);
    let error = write_atomically(&folder.0.join("no/such/folder"), b"content").unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}

/// A file whose header describes 64 GiB of tensors, which are not on the disk either: it is sparse.
fn enormous(path: &Path, kind: &str) {
    let bytes = 1u64 << 36;
    let own = format!(r#"{{\"version\":1,\"model\":{{\"kind\":\"{kind}\"}},\"facts\":{{\"a\":1}}}}"#);
    let header = format!(
        r#"{{"__metadata__":{{"koopflow":"{own}"}},"x":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{bytes}]}}}}"#,
        bytes / 4
    );
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

#[test]
fn a_file_is_described_and_refused_by_its_header_alone() {
    let folder = Folder::new("header");
    let path = folder.0.join("enormous");
    enormous(&path, "baseline");
    let (kind, facts) = store::describe(&path).unwrap();
    assert_eq!((kind.as_str(), &facts["a"]), ("baseline", &serde_json::json!(1)));
    let error = store::load::<Student>(&path, Device::Cpu).err().unwrap().to_string();
    assert!(error.ends_with("holds a baseline, expected a student"), "{error}");
    enormous(&path, "trajectories");
    let error = store::load::<Student>(&path, Device::Cpu).err().unwrap().to_string();
    assert!(error.ends_with("holds trajectories, expected a student"), "{error}");
    // The header tells how long the file has to be.
    let size = fs::metadata(&path).unwrap().len();
    for other in [size - 1, size + 1] {
        File::options().write(true).open(&path).unwrap().set_len(other).unwrap();
        assert!(store::describe(&path).unwrap_err().to_string().contains("whole"));
    }
}

fn before_redesign() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/before_redesign");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect()
}

/// The tensors of a file, by another reader.
fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file
        .iter()
        .map(|(name, view)| (name.to_string(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    tensors.retain(|(name, ..)| !name.starts_with(store::BESIDE));
    tensors.sort();
    tensors
}

/// Writes the model of a file to another, whose bytes are also had without a file, and make the same model.
fn write_again<T: Stored>(path: &Path, again: &Path) {
    let (model, facts) = store::load::<T>(path, Device::Cpu).unwrap();
    store::save(again, &model, facts.clone()).unwrap();
    let bytes = store::to_bytes(&model, facts).unwrap();
    assert_eq!(bytes, fs::read(again).unwrap());
    let (other, facts) = store::from_bytes::<T>(&bytes, Device::Cpu).unwrap();
    assert_eq!(store::to_bytes(&other, facts).unwrap(), bytes);
    let cut = store::from_bytes::<T>(&bytes[..bytes.len() - 1], Device::Cpu);
    assert!(matches!(cut, Err(Error::Checkpoint { .. })));
}

#[test]
fn files_of_every_kind_from_before_load_and_are_written_again_as_they_were() {
    let folder = Folder::new("before");
    let again = folder.0.join("again");
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for path in before_redesign() {
        let (kind, facts) = store::describe(&path).unwrap();
        *kinds.entry(kind.clone()).or_default() += 1;
        match kind.as_str() {
            "student" => write_again::<Student>(&path, &again),
            "baseline" => write_again::<Baseline>(&path, &again),
            "teacher" => write_again::<Box<dyn VelocityField>>(&path, &again),
            _ => continue,
        }
        assert_eq!(tensors(&path), tensors(&again), "{}", path.display());
        assert_eq!(store::describe(&again).unwrap(), (kind, facts));
    }
    assert!(kinds["student"] >= 9 && kinds["teacher"] >= 6 && kinds["baseline"] >= 2, "{kinds:?}");
    assert_eq!(kinds["trajectories"], 1);
}
