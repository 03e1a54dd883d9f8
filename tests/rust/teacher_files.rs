//! A teacher's training in a file: cut anywhere it goes on bit for bit, with its own options and data only.

use std::fs;
use std::path::{Path, PathBuf};

use koopflow::flow::{train, train_with_files, Given, TeacherConfig, TeacherHistory, TrainingFiles};
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::store;
use koopflow::tensor::RandomSource;
use koopflow::training::{Checkpointing, Stopped, TrainingOptions};
use koopflow::velocity::{Conditioning, NetworkField, VelocityField};
use koopflow::{Error, Result};
use tch::{Device, Kind, Tensor};

fn data() -> Tensor {
    RandomSource::new(1).normal(&[300, 2], Kind::Double, Device::Cpu).unwrap() * 2.0 + 1.0
}

fn config() -> TeacherConfig {
    TeacherConfig {
        width: Some(16),
        depth: Some(2),
        log_every: 7,
        training: TrainingOptions {
            steps: Some(40),
            batch_size: Some(32),
            ema_decay: 0.95,
            weight_decay: 0.01,
            ..TeacherConfig::default().training
        },
        ..TeacherConfig::default()
    }
}

fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("teacher-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn writing(file: &Path) -> TrainingFiles {
    let checkpoint = Checkpointing { file: file.into(), every_steps: Some(5), ..Checkpointing::default() };
    TrainingFiles { checkpoint: Some(checkpoint), resume: None }
}

fn resuming(file: &Path) -> TrainingFiles {
    TrainingFiles { checkpoint: None, resume: Some(file.into()) }
}

fn assert_equal(a: &dyn VelocityField, b: &dyn VelocityField) {
    let sorted = |field: &dyn VelocityField| {
        let mut tensors = field.state().unwrap().tensors;
        tensors.sort_by(|x, y| x.0.cmp(&y.0));
        tensors
    };
    for ((name, x), (other, y)) in sorted(a).iter().zip(&sorted(b)) {
        assert_eq!(name, other);
        assert!(x.equal(y), "{name} differs");
    }
}

/// Interrupts, or fails, after a number of steps.
struct After(u64, fn() -> Error);

impl Monitor for After {
    fn tick(&mut self) -> Result<()> {
        self.0 -= 1;
        if self.0 == 0 {
            return Err((self.1)());
        }
        Ok(())
    }

    fn report(&mut self, _: &Progress) -> Result<()> {
        Ok(())
    }
}

fn interrupted() -> Error {
    Error::Interrupted("by the test".into())
}

fn broken() -> Error {
    Error::Internal(anyhow::anyhow!("a power cut"))
}

fn refused(config: &TeacherConfig, data: &Tensor, condition: Option<&Tensor>, file: &Path) -> Error {
    train_with_files(config, Given::new(data, condition), &resuming(file), &mut Silent).err().unwrap()
}

fn whole() -> (NetworkField, TeacherHistory) {
    train(&config(), &data(), None, &mut Silent).unwrap()
}

#[test]
fn a_training_that_was_cut_goes_on_bit_for_bit() {
    let file = folder("resume").join("run.safetensors");
    let (field, history) = whole();
    for cut in [1, 13, 35] {
        let mut monitor = After(cut, interrupted);
        let (part, early) =
            train_with_files(&config(), Given::new(&data(), None), &writing(&file), &mut monitor).unwrap();
        assert_eq!((early.stopped, early.steps), (Stopped::Interrupted, cut));
        let (loaded, facts) = store::load::<Box<dyn VelocityField>>(&file, Device::Cpu).unwrap();
        assert_equal(&*loaded, &part);
        assert_eq!(facts["history"]["steps"], cut);
        assert_eq!(facts["history"]["loss"], serde_json::to_value(&early.loss).unwrap());
        let (resumed, again) =
            train_with_files(&config(), Given::new(&data(), None), &resuming(&file), &mut Silent).unwrap();
        assert_equal(&resumed, &field);
        assert_eq!((again.loss, again.steps, again.stopped), (history.loss.clone(), 40, Stopped::Completed));
    }
}

#[test]
fn a_training_that_failed_goes_on_from_where_it_failed() {
    let file = folder("failed").join("run.safetensors");
    let mut monitor = After(12, broken);
    let outcome = train_with_files(&config(), Given::new(&data(), None), &writing(&file), &mut monitor);
    assert!(matches!(outcome.err().unwrap(), Error::Internal(_)));
    let (_, facts) = store::load::<Box<dyn VelocityField>>(&file, Device::Cpu).unwrap();
    assert_eq!(
        (&facts["history"]["steps"], &facts["history"]["stopped"]),
        (&12.into(), &"interrupted".into())
    );
    let (resumed, _) =
        train_with_files(&config(), Given::new(&data(), None), &resuming(&file), &mut Silent).unwrap();
    assert_equal(&resumed, &whole().0);
}

#[test]
fn a_training_is_resumed_with_its_own_options_and_data_only() {
    let folder = folder("refuse");
    let file = folder.join("run.safetensors");
    let (field, _) =
        train_with_files(&config(), Given::new(&data(), None), &writing(&file), &mut Silent).unwrap();
    let named = |error: Error, name: &str| {
        assert!(matches!(&error, Error::Argument { argument, .. } if argument == name), "{name}: {error}");
    };
    named(
        refused(
            &TeacherConfig { training: TrainingOptions { seed: 3, ..config().training }, ..config() },
            &data(),
            None,
            &file,
        ),
        "seed",
    );
    named(
        refused(
            &TeacherConfig {
                training: TrainingOptions { batch_size: Some(16), ..config().training },
                ..config()
            },
            &data(),
            None,
            &file,
        ),
        "batch_size",
    );
    named(refused(&config(), &(data() + 1.0), None, &file), "resume");
    named(refused(&config(), &data().repeat([1, 2]), None, &file), "resume");
    let labels = Tensor::zeros([300], (Kind::Int64, Device::Cpu));
    let conditional = TeacherConfig { conditioning: Conditioning::Labels { classes: 2 }, ..config() };
    named(refused(&conditional, &data(), Some(&labels), &file), "conditioning");

    let finished = folder.join("finished.safetensors");
    store::save(&finished, &field.shallow_clone(), serde_json::json!({})).unwrap();
    let error = refused(&config(), &data(), None, &finished);
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    assert!(matches!(refused(&config(), &data(), None, &folder.join("nowhere")), Error::Io { .. }));
}
