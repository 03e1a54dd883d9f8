//! Distillation: each term of the objective against the student's public algebra, the pairs against the
//! trajectories they come from, and the loop's promises.

#[path = "common/distillation.rs"]
mod distillation;

use distillation::{config, teacher, trajectories};
use koopflow::data::{Batch, Inputs, PairDraw, Pairs};
use koopflow::distill::{distill, DistillConfig, Weights};
use koopflow::error::Error;
use koopflow::koopman::{Basis, GeneratorKind, ReadoutKind, Stability};
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::tensor::RandomSource;
use koopflow::training::{Stopped, TrainingOptions};
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

#[test]
fn trajectories_are_the_teachers_flow() {
    let paths = trajectories();
    let states = paths.states();
    let x0 = states.select(1, 0);
    for index in [3, 8] {
        let exact = teacher().flow(&x0, 0.0, index as f64 / 8.0).unwrap();
        let gap = (exact - states.select(1, index)).abs().max().double_value(&[]);
        assert!(gap < 2e-3, "time index {index}: {gap:e}");
    }
}

#[test]
fn pairs_lie_on_training_trajectories_at_their_times() {
    let paths = trajectories();
    let (held_out, _) = paths.held_out();
    let training = paths.states().narrow(0, 0, 128 - held_out.size()[0]);
    let batch = paths.batch(&RandomSource::new(7), 11, 32, PairDraw::default());
    let check = |pairs: &Pairs| {
        for row in 0..pairs.count() {
            let index = |t: &Tensor| (t.double_value(&[row]) * 8.0).round() as i64;
            let (from, to) = (index(&pairs.s), index(&pairs.t));
            // The one trajectory that passes through x_s also passes through x_t.
            let gaps = (training.select(1, from) - pairs.x_s.select(0, row)).abs().sum_dim_intlist(
                1,
                false,
                Kind::Double,
            );
            let own = gaps.argmin(0, false).int64_value(&[]);
            assert_eq!(gaps.double_value(&[own]), 0.0);
            let gap = training.select(0, own).select(0, to) - pairs.x_t.select(0, row);
            assert_eq!(gap.abs().max().double_value(&[]), 0.0);
        }
    };
    let Batch { endpoint, path, pairs, inverse, .. } = batch;
    let [endpoint, path, pairs, inverse] = [endpoint, path, pairs, inverse].map(Option::unwrap);
    [&endpoint, &path, &pairs, &inverse].into_iter().for_each(check);
    assert!(endpoint.tau().eq_tensor(&Tensor::ones([32], DOUBLE)).all().int64_value(&[]) == 1);
    assert!(inverse.tau().eq_tensor(&(Tensor::ones([32], DOUBLE) * -1.0)).all().int64_value(&[]) == 1);
    assert!(pairs.tau().gt(0.0).all().int64_value(&[]) == 1);
    assert!(pairs.t.eq(1.0).sum(Kind::Int64).int64_value(&[]) >= 8);
    assert!(path.x_s.equal(&endpoint.x_s));
}

#[test]
fn a_batch_is_a_function_of_seed_and_step() {
    let paths = trajectories();
    let draw = |seed, step| {
        paths.batch(&RandomSource::new(seed), step, 16, PairDraw::default()).endpoint.unwrap().x_s
    };
    assert!(draw(1, 5).equal(&draw(1, 5)));
    assert!(!draw(1, 5).equal(&draw(1, 6)));
    assert!(!draw(1, 5).equal(&draw(2, 5)));
}

#[test]
fn consistency_alone_ties_the_generator_to_the_flow() {
    let weights = Weights { consistency: 1.0, ..Weights::NONE }.to_map();
    let config = DistillConfig {
        weights,
        training: TrainingOptions { steps: Some(300), ..config(GeneratorKind::Dense).training },
        ..config(GeneratorKind::Dense)
    };
    let (_, history) = distill(&teacher(), &config, &Inputs::default(), &mut Silent).unwrap();
    let loss = |index: usize| history.log[index].values[0].1;
    assert!(loss(history.log.len() - 1) < 0.2 * loss(0), "{} to {}", loss(0), loss(history.log.len() - 1));
}

#[test]
fn the_same_seed_gives_the_same_student() {
    let fit = |seed| {
        let config = DistillConfig {
            training: TrainingOptions { seed, ..config(GeneratorKind::Spectral).training },
            ..config(GeneratorKind::Spectral)
        };
        distill(&teacher(), &config, &Inputs::default(), &mut Silent).unwrap().0.parameters().flat().unwrap()
    };
    assert!(fit(4).equal(&fit(4)));
    assert!(!fit(4).equal(&fit(5)));
}

/// Stops when a stage has gone so far.
struct StopAt(&'static str, u64);

impl Monitor for StopAt {
    fn tick(&mut self) -> koopflow::Result<()> {
        Ok(())
    }

    fn report(&mut self, progress: &Progress) -> koopflow::Result<()> {
        match progress.stage == self.0 && progress.step >= self.1 {
            true => Err(Error::Interrupted("enough".into())),
            false => Ok(()),
        }
    }
}

#[test]
fn an_interrupt_keeps_the_best_student() {
    let config = DistillConfig {
        training: TrainingOptions { steps: Some(1_000_000), ..config(GeneratorKind::Spectral).training },
        ..config(GeneratorKind::Spectral)
    };
    let (student, history) =
        distill(&teacher(), &config, &Inputs::default(), &mut StopAt("student", 1)).unwrap();
    assert_eq!((history.stopped, history.steps), (Stopped::Interrupted, 1));
    assert!(student.parameters().flat().unwrap().isfinite().all().int64_value(&[]) == 1);
    // Before training there is nothing to keep.
    let early = distill(&teacher(), &config, &Inputs::default(), &mut StopAt("trajectories", 1));
    assert!(matches!(early, Err(Error::Interrupted(_))));
}

#[test]
fn the_best_state_is_the_one_that_is_kept() {
    let config = DistillConfig {
        training: TrainingOptions { steps: Some(200), ..config(GeneratorKind::Spectral).training },
        ..config(GeneratorKind::Spectral)
    };
    let (_, history) = distill(&teacher(), &config, &Inputs::default(), &mut Silent).unwrap();
    let score = |entry: &koopflow::distill::LogEntry| -> f64 {
        let of = |name: &str| entry.values.iter().find(|(own, _)| own == name).unwrap().1;
        of("endpoint_error") + of("path_error") + of("inversion_error")
    };
    let best = history.log.iter().min_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
    assert_eq!(history.best_step, best.step);
}

#[test]
fn options_out_of_range_are_named() {
    let base = config(GeneratorKind::Spectral);
    let cases: Vec<(&str, DistillConfig)> = vec![
        ("observables", DistillConfig { observables: Some(0), ..base.clone() }),
        ("lifts", DistillConfig { lifts: 3, ..base.clone() }),
        ("degree", DistillConfig { degree: Some(1), ..base.clone() }),
        ("stability", DistillConfig { stability: Stability::Bounded, ..base.clone() }),
        ("observables", DistillConfig { basis: Basis::Polynomial, ..base.clone() }),
        (
            "steps",
            DistillConfig {
                training: TrainingOptions { steps: Some(0), ..base.clone().training },
                ..base.clone()
            },
        ),
        (
            "learning_rate",
            DistillConfig {
                training: TrainingOptions { learning_rate: Some(-1.0), ..base.clone().training },
                ..base.clone()
            },
        ),
        ("trajectories", DistillConfig { trajectories: Some(1), ..base.clone() }),
        (
            "batch_size",
            DistillConfig {
                training: TrainingOptions { batch_size: Some(0), ..base.clone().training },
                ..base.clone()
            },
        ),
        (
            "max_seconds",
            DistillConfig {
                training: TrainingOptions { max_seconds: Some(0.0), ..base.clone().training },
                ..base.clone()
            },
        ),
        (
            "dtype",
            DistillConfig {
                training: TrainingOptions { dtype: "float16".into(), ..base.clone().training },
                ..base.clone()
            },
        ),
        (
            "device",
            DistillConfig {
                training: TrainingOptions { device: "cuda:99".into(), ..base.clone().training },
                ..base.clone()
            },
        ),
        ("phase", DistillConfig { weights: [("phase".to_string(), -1.0)].into(), ..base.clone() }),
        ("surprise", DistillConfig { weights: [("surprise".to_string(), 1.0)].into(), ..base.clone() }),
        ("weights", DistillConfig { weights: Weights::NONE.to_map(), ..base }),
    ];
    for (name, config) in cases {
        let error = distill(&teacher(), &config, &Inputs::default(), &mut Silent).err().unwrap();
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
}

/// Every basis and readout trains: the loss falls, and what is left open is decided.
#[test]
fn every_basis_and_readout_is_distilled() {
    for (basis, readout, generator, stability) in [
        (Basis::Polynomial, ReadoutKind::Linear, GeneratorKind::Dense, Stability::Bounded),
        (Basis::Fourier, ReadoutKind::Network, GeneratorKind::Spectral, Stability::Free),
    ] {
        let config = DistillConfig {
            observables: None,
            basis,
            readout,
            stability,
            training: TrainingOptions {
                learning_rate: Some(1e-2),
                steps: Some(60),
                ..config(generator).training
            },
            ..config(generator)
        };
        let (student, history) = distill(&teacher(), &config, &Inputs::default(), &mut Silent).unwrap();
        // Degree 4 in (t, x, y): C(7, 4) - 1 - 3.
        let expected = if basis == Basis::Polynomial { 31 } else { 64 };
        assert_eq!(student.config().observables, expected);
        let error = |entry: &koopflow::distill::LogEntry| {
            entry.values.iter().find(|(name, _)| name == "endpoint_error").unwrap().1
        };
        let best = history.log.iter().map(error).fold(f64::INFINITY, f64::min);
        assert!(best < 0.6 * error(&history.log[0]), "{basis:?} {best} {}", error(&history.log[0]));
    }
}
