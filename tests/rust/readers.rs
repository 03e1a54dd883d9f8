//! Damaged and hostile files of every kind, made of good ones by seeded changes: whatever they say, a reader refuses
//! them or reads them, and never panics, aborts, or takes memory because a header says so. The same entry as that
//! of the fuzz targets in `fuzz/`, whose corpus is read here too.

#[path = "../../fuzz/src/readers.rs"]
mod readers;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use readers::{read, recipe_of, Reader};
use serde_json::{json, Value};

/// Changed files for each reader; `KOOPFLOW_READER_TRIES` asks for more.
fn tries() -> u64 {
    std::env::var("KOOPFLOW_READER_TRIES").map_or(600, |tries| tries.parse().unwrap())
}

/// More address space than this for one small file is an allocation by a header's say-so. Threads of other tests that
/// begin meanwhile reserve some too, up to 128 MiB each.
const MOST_KIB: u64 = 2 << 20;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/before_redesign")
}

fn reader_of(file: &[u8]) -> Reader {
    let header = readers::header_of(file);
    // A run that can go on keeps its ledger among the facts.
    match header["model"]["kind"].as_str().unwrap() {
        _ if !header["facts"]["training"].is_null() => Reader::Training,
        "student" => Reader::Student,
        "teacher" => Reader::Teacher,
        "baseline" => Reader::Baseline,
        "trajectories" => Reader::Trajectories,
        other => panic!("no reader of {other}"),
    }
}

/// Recipes of good files.
fn seeds(reader: Reader) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<_> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "safetensors"))
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(_, bytes)| reader_of(bytes) == reader)
        .map(|(name, bytes)| (name, recipe_of(&bytes)))
        .collect();
    seeds.sort();
    seeds
}

/// Values that readers get wrong.
fn nasty(random: &mut ChaCha8Rng) -> Value {
    let numbers =
        [0i64, 1, 2, 3, 5, 17, -1, 255, 4097, 1 << 20, 1 << 31, 1 << 40, 1 << 62, i64::MAX, i64::MIN];
    match random.random_range(0..10) {
        0 => Value::Null,
        1 => json!(random.random::<bool>()),
        2 => json!([1e308, -1e308, 1e-300, 0.5, -0.0, 1e16].choose(random)),
        3 => json!(["", "dense", "spectral", "levels", "hierarchy", "unet", "network", "float64", "linear"]
            .choose(random)),
        4 => json!([numbers.choose(random), numbers.choose(random)]),
        5 => json!(u64::MAX),
        _ => json!(numbers.choose(random)),
    }
}

/// Changes one node somewhere in `value`.
fn change(value: &mut Value, random: &mut ChaCha8Rng) {
    let stop = random.random_range(0..4) == 0;
    match value {
        Value::Object(entries) if !entries.is_empty() && !stop => {
            let keys: Vec<String> = entries.keys().cloned().collect();
            let key = keys.choose(random).unwrap();
            match random.random_range(0..12) {
                0 => drop(entries.remove(key)),
                1 => {
                    let other = entries[keys.choose(random).unwrap()].clone();
                    entries.insert(key.clone(), other);
                }
                _ => change(entries.get_mut(key).unwrap(), random),
            }
        }
        Value::Array(items) if !items.is_empty() && !stop => {
            let index = random.random_range(0..items.len());
            match random.random_range(0..8) {
                0 => drop(items.remove(index)),
                1 => items.push(items[index].clone()),
                _ => change(&mut items[index], random),
            }
        }
        Value::Number(number) if number.is_i64() && random.random::<bool>() => {
            let step = [-2i64, -1, 1, 2].choose(random).unwrap();
            *value = json!(number.as_i64().unwrap().saturating_add(*step));
        }
        _ => *value = nasty(random),
    }
}

/// A recipe like `seed`, changed in a few places.
fn changed(seed: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut parts = seed.splitn(3, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap();
    let (header, tensors, data) = (next(), next(), next());
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let mut tensors: Value = serde_json::from_slice(tensors).unwrap();
    let mut data = data.to_vec();
    for _ in 0..random.random_range(1..4) {
        match random.random_range(0..8) {
            0..4 => {
                // What the reader allocates by lies in the model's description and the training's ledger.
                let ledger = header.pointer("/facts/training").is_some() && random.random::<bool>();
                let part = match (ledger, random.random_range(0..4)) {
                    (true, _) => "/facts/training",
                    (false, 0) => "/facts",
                    _ => "/model",
                };
                header.pointer_mut(part).into_iter().for_each(|part| change(part, random));
            }
            4 => change(&mut header, random),
            5 => change(&mut tensors, random),
            6 if !data.is_empty() => {
                let index = random.random_range(0..data.len());
                data[index] = random.random();
            }
            _ => data.iter_mut().for_each(|byte| *byte = 0),
        }
    }
    [header.to_string().as_bytes(), tensors.to_string().as_bytes(), &data].join(&b'\n')
}

/// A file like that of `recipe`, with damaged bytes.
fn damaged(recipe: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut file = readers::file_of(recipe).unwrap();
    for _ in 0..random.random_range(1..4) {
        let index = match random.random_range(0..3) {
            0 => random.random_range(0..8),
            1 => random.random_range(0..file.len().min(4000)),
            _ => random.random_range(0..file.len()),
        };
        file[index] = random.random();
    }
    if random.random_range(0..3) == 0 {
        file.truncate(random.random_range(0..=file.len()));
    }
    file.splice(0..0, [b'!']);
    file
}

/// The most address space that this process has ever had.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Reads `input`, and tells how to see a fault again.
fn survives(reader: Reader, input: &[u8], what: &str) -> bool {
    let before = peak_kib();
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| read(reader, input)));
    let taken = peak_kib() - before;
    let keep = || {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fault-{}", what.replace(' ', "-")));
        fs::write(&place, input).unwrap();
        place
    };
    assert!(taken <= MOST_KIB, "{what}: took {taken} KiB for {}", keep().display());
    match outcome {
        Ok(taken) => taken,
        Err(_) => panic!("{what}: the reader panicked at {}", keep().display()),
    }
}

fn check(reader: Reader) {
    let seeds = seeds(reader);
    assert!(!seeds.is_empty());
    for (name, recipe) in &seeds {
        assert!(survives(reader, recipe, name), "{name} is a good file");
    }
    let mut random = ChaCha8Rng::seed_from_u64(reader as u64);
    let mut taken = 0;
    let tries = tries();
    for number in 0..tries {
        let (name, recipe) = seeds.choose(&mut random).unwrap();
        let input = match number % 4 {
            0 => damaged(recipe, &mut random),
            _ => changed(recipe, &mut random),
        };
        taken += usize::from(survives(reader, &input, &format!("{name} try {number}")));
    }
    // Some changes do no harm, most do: otherwise nothing was tried.
    assert!(taken > 0 && taken < tries as usize / 2, "{taken} of {tries} were taken");
    for entry in fs::read_dir(corpus(reader)).unwrap() {
        let path = entry.unwrap().path();
        survives(reader, &fs::read(&path).unwrap(), path.file_name().unwrap().to_str().unwrap());
    }
}

fn corpus(reader: Reader) -> PathBuf {
    let name = format!("{reader:?}").to_lowercase();
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

#[test]
fn students_from_anywhere() {
    check(Reader::Student);
}

#[test]
fn teachers_from_anywhere() {
    check(Reader::Teacher);
}

#[test]
fn baselines_from_anywhere() {
    check(Reader::Baseline);
}

#[test]
fn training_from_anywhere() {
    check(Reader::Training);
}

#[test]
fn trajectories_from_anywhere() {
    check(Reader::Trajectories);
}
