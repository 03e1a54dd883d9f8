//! The training loop: its options, and what happens when it is cut, runs out of memory or blows up.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

use koopflow::data::Inputs;
use koopflow::distill::{
    distill, distill_with, Checkpointing, DistillConfig, DistillHistory, Extras, Fidelity, Metric,
};
use koopflow::error::Error;
use koopflow::koopman::{Student, WeightsChoice};
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::nets::precision::Precision;
use koopflow::store;
use koopflow::training::{Optimizer, ScheduleKind, Stopped, TrainingOptions};
use koopflow::velocity::{EvaluationCounter, FieldState, GaussianField, VelocityField};
use safetensors::SafeTensors;
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn gaussian() -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap()
}

fn config() -> DistillConfig {
    DistillConfig {
        observables: Some(6),
        width: Some(12),
        depth: Some(1),
        trajectories: Some(128),
        path_steps: Some(8),
        training: TrainingOptions {
            steps: Some(40),
            batch_size: Some(32),
            dtype: "float64".into(),
            ..DistillConfig::default().training
        },
        ..DistillConfig::default()
    }
}

/// Every option of the loop that carries state, away from its default.
fn stateful() -> DistillConfig {
    DistillConfig {
        generator_learning_rate: Some(1e-3),
        schedule: ScheduleKind::Plateau,
        accumulate: 2,
        evaluate_every: Some(3),
        metric: Metric::EndpointError,
        training: TrainingOptions {
            optimizer: Optimizer::AdamW,
            weight_decay: 1e-3,
            ema_decay: 0.9,
            warmup_steps: 10,
            ..config().training
        },
        ..config()
    }
}

fn fit(config: &DistillConfig) -> (Student, DistillHistory) {
    distill(&gaussian(), config, &Inputs::default(), &mut Silent).unwrap()
}

fn flat(student: &Student) -> Tensor {
    student.parameters().flat().unwrap()
}

/// A folder of its own, emptied.
fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("trainer-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn writing(file: &Path, every: u64) -> Extras {
    Extras {
        checkpoint: Some(Checkpointing {
            file: file.into(),
            every_steps: Some(every),
            ..Checkpointing::default()
        }),
        ..Extras::default()
    }
}

fn resuming(file: &Path) -> Extras {
    Extras { resume: Some(file.into()), ..Extras::default() }
}

fn values(history: &DistillHistory) -> Vec<(u64, Vec<(String, f64)>)> {
    history.log.iter().map(|entry| (entry.step, entry.values.clone())).collect()
}

fn of(entry: &koopflow::distill::LogEntry, name: &str) -> f64 {
    entry.values.iter().find(|(own, _)| own == name).unwrap().1
}

/// Does something at every report of the student's training.
struct At<F: FnMut(u64) -> koopflow::Result<()>>(F, Vec<String>);

impl<F: FnMut(u64) -> koopflow::Result<()>> Monitor for At<F> {
    fn tick(&mut self) -> koopflow::Result<()> {
        Ok(())
    }

    fn report(&mut self, progress: &Progress) -> koopflow::Result<()> {
        if progress.stage == "student" {
            (self.0)(progress.step)?;
        }
        Ok(())
    }

    fn note(&mut self, _: &Progress, text: &str) -> koopflow::Result<()> {
        self.1.push(text.to_string());
        Ok(())
    }
}

fn stop_at(step: u64) -> impl Monitor {
    let stop = move |own| if own >= step { Err(Error::Interrupted("enough".into())) } else { Ok(()) };
    At(stop, Vec::new())
}

const FINE: u8 = 0;
const OUT_OF_MEMORY: u8 = 1;
const ENORMOUS: u8 = 2;

/// A Gaussian whose next velocity goes wrong once it is told how.
struct Flaky {
    field: GaussianField,
    next: Arc<AtomicU8>,
}

impl VelocityField for Flaky {
    fn event_shape(&self) -> &[i64] {
        self.field.event_shape()
    }

    fn device(&self) -> Device {
        self.field.device()
    }

    fn dtype(&self) -> Kind {
        self.field.dtype()
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> koopflow::Result<Tensor> {
        match self.next.swap(FINE, Ordering::SeqCst) {
            OUT_OF_MEMORY => Err(Error::Torch("CUDA out of memory. Tried to allocate 2.00 GiB".into())),
            ENORMOUS => Ok(self.field.velocity(t, x, condition)? * 1e200),
            _ => self.field.velocity(t, x, condition),
        }
    }

    fn counter(&self) -> &EvaluationCounter {
        self.field.counter()
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        self.field.shallow_clone()
    }

    fn kind_name(&self) -> &'static str {
        "flaky"
    }

    fn state(&self) -> Option<FieldState> {
        None
    }
}

#[test]
fn a_plateau_halves_the_rate_and_patience_ends_training() {
    // So small a rate changes nothing: no evaluation is an improvement.
    let still = DistillConfig {
        evaluate_every: Some(1),
        schedule: ScheduleKind::Plateau,
        training: TrainingOptions {
            learning_rate: Some(1e-300),
            warmup_steps: 0,
            steps: Some(14),
            ..config().training
        },
        ..config()
    };
    let (_, history) = fit(&still);
    let rates: Vec<f64> =
        history.log.iter().map(|entry| (of(entry, "learning_rate") / 1e-300 * 8.0).round() / 8.0).collect();
    assert_eq!(rates, [[1.0; 5].as_slice(), &[0.5; 5], &[0.25; 4]].concat());
    assert_eq!((history.stopped, history.best_step), (Stopped::Completed, 0));
    let (_, history) = fit(&DistillConfig { patience: Some(3), ..still });
    assert_eq!((history.stopped, history.steps), (Stopped::Patience, 3));
}

#[test]
fn the_generator_has_its_own_rate() {
    let frozen = DistillConfig { generator_learning_rate: Some(1e-300), ..config() };
    let (student, _) = fit(&frozen);
    let recipe = frozen.resolve(&[2], koopflow::condition::Conditioning::None).unwrap();
    let fresh = Student::new(recipe.student, frozen.training.seed, Device::Cpu).unwrap();
    for ((name, trained), (_, initial)) in student.parameters().named().iter().zip(fresh.parameters().named())
    {
        let moved = (trained - initial).abs().max().double_value(&[]);
        assert_eq!(moved < 1e-200, name.starts_with("generator."), "{name}: {moved:e}");
    }
}

#[test]
fn the_best_state_is_the_metrics() {
    for (metric, name) in [
        (Metric::Score, "score"),
        (Metric::EndpointError, "endpoint_error"),
        (Metric::PathError, "path_error"),
        (Metric::InversionError, "inversion_error"),
        (Metric::PhaseError, "phase_error"),
        (Metric::ConsistencyResidual, "consistency_residual"),
    ] {
        let (_, history) = fit(&DistillConfig { metric, evaluate_every: Some(4), ..config() });
        let best = history.log.iter().min_by(|a, b| of(a, name).total_cmp(&of(b, name))).unwrap();
        // 0 is the untrained student, which is in no log.
        assert!([best.step, 0].contains(&history.best_step), "{name}: {} {}", history.best_step, best.step);
    }
}

#[test]
fn averaged_weights_are_kept_and_raw_ones_on_request() {
    let averaged = DistillConfig {
        evaluate_every: Some(40),
        training: TrainingOptions { ema_decay: 0.95, ..config().training },
        ..config()
    };
    let (student, history) = fit(&averaged);
    let (plain, _) = fit(&DistillConfig { evaluate_every: Some(40), ..config() });
    assert_eq!(history.best_step, 40);
    // Averaging watches training without touching it.
    assert!(student.raw().unwrap().equal(&flat(&plain)));
    assert!(student.averaged().unwrap().equal(&flat(&student)));
    assert!(!flat(&student).equal(&flat(&plain)));
    assert!(plain.raw().is_none());

    let file = folder("average").join("student.safetensors");
    let raw = student.with_weights(WeightsChoice::Raw).unwrap();
    assert!(flat(&raw).equal(&flat(&plain)));
    for own in [&student, &raw] {
        store::save(&file, own, serde_json::json!({})).unwrap();
        let (loaded, _) = store::load::<Student>(&file, Device::Cpu).unwrap();
        assert!(flat(&loaded).equal(&flat(own)));
        assert!(flat(&loaded.with_weights(WeightsChoice::Raw).unwrap()).equal(&flat(&plain)));
        assert!(flat(&loaded.with_weights(WeightsChoice::Averaged).unwrap()).equal(&flat(&student)));
    }
}

#[test]
fn bfloat16_trains_and_float16_needs_cuda() {
    let low = DistillConfig {
        precision: Precision::Bf16,
        training: TrainingOptions { dtype: "float32".into(), steps: Some(300), ..config().training },
        ..config()
    };
    let (student, history) = fit(&low);
    assert_eq!(student.kind(), Kind::Float);
    let (first, last) = (&history.log[0], &history.log[history.log.len() - 1]);
    assert!(of(last, "endpoint_error") < 0.3 * of(first, "endpoint_error"));
    assert!(of(last, "endpoint_error") < 0.15, "{}", of(last, "endpoint_error"));
    assert_eq!(history.skipped_steps, 0);
    let half = DistillConfig { precision: Precision::Fp16, ..config() };
    let error = distill(&gaussian(), &half, &Inputs::default(), &mut Silent).err().unwrap();
    assert!(matches!(&error, Error::Argument { argument, .. } if argument == "precision"), "{error}");
}

#[test]
fn micro_batches_change_nothing_but_rounding() {
    // Terms in observable space are relative to the spread within a part, which is not that of the whole.
    let config = || DistillConfig { fidelity: Fidelity::Endpoint, ..config() };
    let (whole, _) = fit(&config());
    let (parts, _) = fit(&DistillConfig { accumulate: 4, ..config() });
    let gap = (flat(&parts) - flat(&whole)).abs().max().double_value(&[]);
    assert!(gap < 1e-6, "{gap:e}");
}

#[test]
fn want_of_memory_cuts_the_step_and_says_so() {
    let next = Arc::new(AtomicU8::new(FINE));
    let field = Flaky { field: gaussian(), next: Arc::clone(&next) };
    let config = DistillConfig {
        weights: [("consistency".to_string(), 0.1)].into(),
        evaluate_every: Some(10),
        ..config()
    };
    let mut told = At(
        |step| {
            if step == 10 {
                next.store(OUT_OF_MEMORY, Ordering::SeqCst);
            }
            Ok(())
        },
        Vec::new(),
    );
    let (_, history) = distill(&field, &config, &Inputs::default(), &mut told).unwrap();
    assert_eq!((history.stopped, history.steps, history.skipped_steps), (Stopped::Completed, 40, 0));
    assert_eq!(history.notes.len(), 1);
    assert_eq!(history.notes[0].step, 10);
    assert!(history.notes[0].text.contains("2 micro-batches"), "{}", history.notes[0].text);
    assert_eq!(told.1, [history.notes[0].text.clone()]);
}

#[test]
fn a_step_that_is_not_finite_leaves_weights_and_moments_alone() {
    let folder = folder("skip");
    let file = folder.join("run.safetensors");
    let next = Arc::new(AtomicU8::new(FINE));
    let field = Flaky { field: gaussian(), next: Arc::clone(&next) };
    let config = DistillConfig {
        weights: [("consistency".to_string(), 0.1)].into(),
        evaluate_every: Some(1),
        training: TrainingOptions { steps: Some(12), ..config().training },
        ..config()
    };
    // A report comes before the file of its step: the file there is the one of the step before.
    let mut watch = At(
        |step| {
            if step > 1 {
                fs::copy(&file, folder.join(format!("{}", step - 1))).unwrap();
            }
            if step == 5 {
                next.store(ENORMOUS, Ordering::SeqCst);
            }
            Ok(())
        },
        Vec::new(),
    );
    let (_, history) =
        distill_with(&field, &config, &Inputs::default(), &writing(&file, 1), &mut watch).unwrap();
    assert_eq!((history.skipped_steps, history.restarts, history.steps), (1, 0, 12));
    let state = |step: u64| -> Vec<Vec<u8>> {
        let bytes = fs::read(folder.join(step.to_string())).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let data = |name: &&str| tensors.tensor(name).unwrap().data().to_vec();
        ["training.raw", "training.first", "training.second"].iter().map(data).collect()
    };
    assert_eq!(state(5), state(6), "the skipped step");
    assert_ne!(state(4), state(5));
    assert_ne!(state(6), state(7));
}

#[test]
fn persistent_divergence_ends_with_the_best_student() {
    let wild = DistillConfig {
        evaluate_every: Some(1000),
        training: TrainingOptions {
            learning_rate: Some(1e150),
            warmup_steps: 0,
            steps: Some(500),
            ..config().training
        },
        ..config()
    };
    let (student, history) = fit(&wild);
    assert_eq!((history.stopped, history.restarts), (Stopped::Diverged, 3));
    assert!(history.steps < 500);
    assert!(history.skipped_steps >= 10, "{}", history.skipped_steps);
    assert!(history.notes.iter().any(|note| note.text.contains("10 steps in a row")), "{:?}", history.notes);
    assert_eq!(history.notes.len(), 4);
    assert!(flat(&student).isfinite().all().int64_value(&[]) == 1);
    let (_, history) = fit(&DistillConfig {
        training: TrainingOptions { max_restarts: 0, ..wild.clone().training },
        ..wild
    });
    assert_eq!((history.stopped, history.restarts), (Stopped::Diverged, 0));
}

#[test]
fn a_blow_up_of_the_held_out_error_halves_the_rate() {
    // Far too fast, but finite: the state runs away from the data.
    let fast = DistillConfig {
        schedule: ScheduleKind::Constant,
        evaluate_every: Some(1),
        training: TrainingOptions {
            learning_rate: Some(1e6),
            warmup_steps: 0,
            max_restarts: 2,
            steps: Some(50),
            ..config().training
        },
        ..config()
    };
    let (_, history) = fit(&fast);
    assert_eq!((history.stopped, history.restarts, history.best_step), (Stopped::Diverged, 2, 0));
    let rates: Vec<f64> = history.log.iter().map(|entry| of(entry, "learning_rate")).collect();
    assert_eq!(rates, [1e6, 5e5, 2.5e5]);
}

#[test]
fn a_run_that_was_cut_goes_on_bit_for_bit() {
    let folder = folder("resume");
    let file = folder.join("run.safetensors");
    for (label, config) in [("default", config()), ("stateful", stateful())] {
        let config = DistillConfig { evaluate_every: Some(3), ..config };
        let (whole, history) = fit(&config);
        for cut in [1, 15, 33] {
            let (part, early) =
                distill_with(&gaussian(), &config, &Inputs::default(), &writing(&file, 5), &mut stop_at(cut))
                    .unwrap();
            assert_eq!((early.stopped, early.steps), (Stopped::Interrupted, cut));
            let (loaded, facts) = store::load::<Student>(&file, Device::Cpu).unwrap();
            assert!(flat(&loaded).equal(&flat(&part)), "{label}: the file holds the best student");
            assert_eq!(facts["history"]["steps"], cut);
            let (resumed, again) =
                distill_with(&gaussian(), &config, &Inputs::default(), &resuming(&file), &mut Silent)
                    .unwrap();
            assert!(flat(&resumed).equal(&flat(&whole)), "{label}, cut at {cut}");
            assert_eq!(resumed.raw().is_some(), config.training.ema_decay > 0.0);
            if let (Some(own), Some(raw)) = (resumed.raw(), whole.raw()) {
                assert!(own.equal(&raw));
            }
            assert_eq!(values(&again), values(&history), "{label}, cut at {cut}");
            assert_eq!((again.best_step, again.steps), (history.best_step, history.steps));
        }
    }
}

#[test]
fn a_finished_run_can_be_made_longer() {
    let file = folder("longer").join("run.safetensors");
    let long = DistillConfig { schedule: ScheduleKind::Constant, evaluate_every: Some(4), ..stateful() };
    let short = DistillConfig {
        training: TrainingOptions { steps: Some(20), ..long.clone().training },
        ..long.clone()
    };
    let (whole, history) = fit(&long);
    let _ =
        distill_with(&gaussian(), &short, &Inputs::default(), &writing(&file, 1000), &mut Silent).unwrap();
    let (resumed, again) =
        distill_with(&gaussian(), &long, &Inputs::default(), &resuming(&file), &mut Silent).unwrap();
    assert!(flat(&resumed).equal(&flat(&whole)));
    assert_eq!(values(&again), values(&history));
}

#[test]
fn a_run_is_resumed_with_its_own_options_only() {
    let folder = folder("refuse");
    let file = folder.join("run.safetensors");
    let (student, _) =
        distill_with(&gaussian(), &config(), &Inputs::default(), &writing(&file, 5), &mut stop_at(1))
            .unwrap();
    let refused = |config: DistillConfig, field: &dyn VelocityField, file: &Path| {
        distill_with(field, &config, &Inputs::default(), &resuming(file), &mut Silent).err().unwrap()
    };
    let named = |error: Error, name: &str| {
        assert!(matches!(&error, Error::Argument { argument, .. } if argument == name), "{name}: {error}");
    };
    named(
        refused(
            DistillConfig {
                training: TrainingOptions { learning_rate: Some(0.25), ..config().training },
                ..config()
            },
            &gaussian(),
            &file,
        ),
        "learning_rate",
    );
    named(
        refused(
            DistillConfig { training: TrainingOptions { seed: 9, ..config().training }, ..config() },
            &gaussian(),
            &file,
        ),
        "seed",
    );
    named(
        refused(
            DistillConfig { training: TrainingOptions { ema_decay: 0.5, ..config().training }, ..config() },
            &gaussian(),
            &file,
        ),
        "ema_decay",
    );
    let other = GaussianField::new(
        &Tensor::zeros([3], DOUBLE),
        &Tensor::eye(3, DOUBLE),
        &[3],
        Device::Cpu,
        Kind::Double,
    )
    .unwrap();
    named(refused(config(), &other, &file), "resume");
    let finished = folder.join("finished.safetensors");
    store::save(&finished, &student, serde_json::json!({})).unwrap();
    let error = refused(config(), &gaussian(), &finished);
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    assert!(matches!(refused(config(), &gaussian(), &folder.join("nowhere")), Error::Io { .. }));
}

#[test]
fn options_of_the_loop_are_checked() {
    let base = config();
    let cases = [
        (
            "weight_decay",
            DistillConfig {
                training: TrainingOptions { weight_decay: -1.0, ..base.clone().training },
                ..base.clone()
            },
        ),
        (
            "ema_decay",
            DistillConfig {
                training: TrainingOptions { ema_decay: 1.0, ..base.clone().training },
                ..base.clone()
            },
        ),
        ("generator_learning_rate", DistillConfig { generator_learning_rate: Some(0.0), ..base.clone() }),
        ("accumulate", DistillConfig { accumulate: 9, ..base.clone() }),
        ("evaluate_every", DistillConfig { evaluate_every: Some(0), ..base.clone() }),
        ("patience", DistillConfig { patience: Some(0), ..base }),
    ];
    for (name, config) in cases {
        let error = distill(&gaussian(), &config, &Inputs::default(), &mut Silent).err().unwrap();
        assert!(matches!(&error, Error::Argument { argument, .. } if argument == name), "{name}: {error}");
    }
}
