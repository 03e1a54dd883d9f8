//! What a student costs: one-step sampling, paths, and a training step, for both generators.
//! `cargo bench` (through `python build_backend/koopflow_build.py cargo bench` where torch lives in a
//! virtual environment). Compare rows of one run; absolute times are the machine's.

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use koopflow::condition::Conditioning;
use koopflow::data::{BatchRows, PairDraw, Regime, Trajectories, TrajectoryPlan};
use koopflow::distill::{DistillConfig, Fidelity, Objective, Scaling, Weights};
use koopflow::koopman::{GeneratorKind, Student};
use koopflow::monitor::Silent;
use koopflow::nets::InputCoordinates;
use koopflow::sampling;
use koopflow::tensor::RandomSource;
use koopflow::training::{Adam, Optimizer, RowWeights};
use koopflow::velocity::GaussianField;
use tch::{Device, Kind, Tensor};

const GENERATORS: [(&str, GeneratorKind); 2] =
    [("spectral", GeneratorKind::Spectral), ("dense", GeneratorKind::Dense)];
/// Dimension and learned observables: the defaults' two regimes.
const SIZES: [(i64, i64); 2] = [(2, 32), (64, 128)];

fn setup(
    dimension: i64,
    observables: i64,
    generator: GeneratorKind,
) -> (GaussianField, Trajectories, Student) {
    let options = (Kind::Float, Device::Cpu);
    let covariance = Tensor::eye(dimension, options) * 0.5;
    let mean = Tensor::ones([dimension], options);
    let field = GaussianField::new(&mean, &covariance, &[dimension], Device::Cpu, Kind::Float)
        .expect("a valid covariance");
    let config = DistillConfig { observables: Some(observables), generator, ..DistillConfig::default() };
    let recipe = config.resolve(&[dimension], Conditioning::None).expect("valid options");
    let plan = TrajectoryPlan {
        count: 2048,
        path_steps: config.path_steps.unwrap_or(32),
        fixed: None,
        seed: 0,
        kind: Kind::Float,
        device: Device::Cpu,
        max_seconds: None,
    };
    let trajectories = Trajectories::generate(&field, &plan, None, &mut Silent).expect("trajectories");
    let mut student = Student::new(recipe.student, 0, Device::Cpu).expect("a student");
    let coordinates = InputCoordinates::from_trajectories(trajectories.states(), Kind::Float, Device::Cpu);
    student.set_coordinates(coordinates.expect("statistics"));
    (field, trajectories, student)
}

fn sampling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sample 10000");
    group.sample_size(20);
    for (name, generator) in GENERATORS {
        for (dimension, observables) in SIZES {
            let (_, _, student) = setup(dimension, observables, generator);
            let noise =
                RandomSource::new(1).normal(&[10_000, dimension], Kind::Float, Device::Cpu).expect("noise");
            group.bench_function(BenchmarkId::new(name, dimension), |bencher| {
                bencher.iter(|| black_box(sampling::sample(&student, &noise, None, 1, &mut Silent)));
            });
            let times: Vec<f64> = (0..9).map(|eighth| f64::from(eighth) / 8.0).collect();
            group.bench_function(BenchmarkId::new(format!("{name}, 9 times"), dimension), |bencher| {
                bencher
                    .iter(|| black_box(sampling::sample_path(&student, &noise, &times, None, &mut Silent)));
            });
        }
    }
    group.finish();
}

fn training(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("training step");
    group.sample_size(20);
    for (name, generator) in GENERATORS {
        for (dimension, observables) in SIZES {
            let (field, trajectories, student) = setup(dimension, observables, generator);
            let regime = if dimension <= 8 { Regime::Few } else { Regime::Several };
            let rows = BatchRows::of(128, regime);
            let weights = Weights::preset(Fidelity::Balanced, true, regime);
            let objective = Objective {
                weights,
                scaling: Scaling::Relative,
                row_weights: RowWeights::OFF,
                teacher: &field,
                feature_distance: None,
            };
            let random = RandomSource::new(2);
            let mut optimiser = Adam::new(student.parameters(), Optimizer::Adam, 0.0).expect("an optimiser");
            let mut step = 0;
            group.bench_function(BenchmarkId::new(name, dimension), |bencher| {
                bencher.iter(|| {
                    step += 1;
                    let batch = trajectories.batch(&random, step, rows, PairDraw::default());
                    let terms = objective.terms(&student, &batch).expect("terms");
                    let loss = terms.iter().map(|term| &term.value * term.weight).sum::<Tensor>();
                    let gradient = student.parameters().gradient(&loss).expect("a gradient");
                    optimiser.step(student.parameters(), &gradient, 1e-4).expect("a step");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, sampling, training);
criterion_main!(benches);
