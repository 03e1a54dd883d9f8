//! Distillation: each term of the objective against the student's public algebra, the pairs against the
//! trajectories they come from, and the loop's promises.

use koopflow::condition::Conditioning;
use koopflow::distill::{
    distill, Batch, DistillConfig, Inputs, Objective, Pairs, Trajectories, TrajectoryPlan, Weights,
};
use koopflow::error::Error;
use koopflow::koopman::{Direction, GeneratorKind, InputCoordinates, Student};
use koopflow::tensor::RandomSource;
use koopflow::training::{Monitor, Progress, Silent, Stopped};
use koopflow::velocity::{GaussianField, VelocityField};
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn teacher() -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap()
}

fn config(generator: GeneratorKind) -> DistillConfig {
    DistillConfig {
        observables: Some(6),
        generator,
        width: Some(12),
        depth: Some(1),
        steps: Some(40),
        trajectories: Some(128),
        path_steps: 8,
        dtype: "float64".into(),
        ..DistillConfig::default()
    }
}

fn plan(count: i64) -> TrajectoryPlan {
    TrajectoryPlan {
        count,
        path_steps: 8,
        seed: 3,
        kind: Kind::Double,
        device: Device::Cpu,
        max_seconds: None,
    }
}

fn trajectories() -> Trajectories {
    Trajectories::generate(&teacher(), &plan(128), None, &mut Silent).unwrap()
}

fn student(generator: GeneratorKind, trajectories: &Trajectories) -> Student {
    let recipe = config(generator).resolve(&[2], Conditioning::None).unwrap();
    let mut student = Student::new(recipe.student, 1, Device::Cpu).unwrap();
    let mut flat = student.parameters().flat().unwrap();
    let noise = RandomSource::new(2).normal(&flat.size(), Kind::Double, Device::Cpu).unwrap();
    let _ = tch::no_grad(|| flat.f_add_(&(noise * 0.2)).unwrap());
    let coordinates = InputCoordinates::from_trajectories(trajectories.states(), Kind::Double, Device::Cpu);
    student.set_coordinates(coordinates.unwrap());
    student
}

fn mean_square(error: &Tensor, scale: &Tensor) -> f64 {
    (error.square().sum_dim_intlist(1, false, Kind::Double) * scale).mean(Kind::Double).double_value(&[])
}

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
    let batch = paths.batch(&RandomSource::new(7), 11, 32);
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
    let Batch { endpoint, path, pairs, inverse } = &batch;
    [endpoint, path, pairs, inverse].into_iter().for_each(check);
    assert!(endpoint.tau().eq_tensor(&Tensor::ones([32], DOUBLE)).all().int64_value(&[]) == 1);
    assert!(inverse.tau().eq_tensor(&(Tensor::ones([16], DOUBLE) * -1.0)).all().int64_value(&[]) == 1);
    assert!(pairs.tau().gt(0.0).all().int64_value(&[]) == 1);
    assert!(pairs.t.eq(1.0).sum(Kind::Int64).int64_value(&[]) >= 8);
    assert!(path.x_s.equal(&endpoint.x_s));
}

#[test]
fn a_batch_is_a_function_of_seed_and_step() {
    let paths = trajectories();
    let draw = |seed, step| paths.batch(&RandomSource::new(seed), step, 16).endpoint.x_s;
    assert!(draw(1, 5).equal(&draw(1, 5)));
    assert!(!draw(1, 5).equal(&draw(1, 6)));
    assert!(!draw(1, 5).equal(&draw(2, 5)));
}

#[test]
fn every_term_is_what_it_says() {
    let paths = trajectories();
    let field = teacher();
    let weights = Weights {
        endpoint: 1.0,
        path: 1.0,
        pairs: 1.0,
        inverse: 1.0,
        round_trip: 1.0,
        phase: 1.0,
        consistency: 1.0,
    };
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        let student = student(generator, &paths);
        let batch = paths.batch(&RandomSource::new(7), 1, 32);
        let terms = Objective { weights: weights.clone(), teacher: &field }.terms(&student, &batch).unwrap();
        let value = |name: &str| terms.iter().find(|term| term.name == name).unwrap().value.double_value(&[]);
        let variance = paths.states().var_dim(0, false, false).sum_dim_intlist(1, false, Kind::Double);
        let target = |pairs: &Pairs, direction: Direction| {
            let g = student.encode(&pairs.s, &pairs.x_s, direction, None).unwrap();
            let decoded = student.readout(&student.propagate(&g, &pairs.tau()).unwrap()).unwrap();
            let at = variance.index_select(0, &(&pairs.t * 8.0).round().to_kind(Kind::Int64));
            mean_square(&(decoded - &pairs.x_t), &at.reciprocal())
        };
        let close = |name: &str, expected: f64| {
            let got = value(name);
            assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{name}: {got} {expected}");
        };
        close("endpoint", target(&batch.endpoint, Direction::Forward));
        close("path", target(&batch.path, Direction::Forward));
        close("pairs", target(&batch.pairs, Direction::Forward));
        close("inverse", target(&batch.inverse, Direction::Backward));

        let through = |s: f64, x: &Tensor, t: f64, direction: Direction| {
            let g = student.encode(&Tensor::from(s), x, direction, None).unwrap();
            student.readout(&student.propagate(&g, &Tensor::from(t - s)).unwrap()).unwrap()
        };
        let noise = through(1.0, &batch.inverse.x_s, 0.0, Direction::Backward);
        let again = through(0.0, &noise, 1.0, Direction::Forward);
        let at_data = Tensor::ones([16], DOUBLE) / variance.double_value(&[8]);
        close("round_trip", mean_square(&(again - &batch.inverse.x_s), &at_data));

        let Pairs { s, t, x_s, x_t, .. } = &batch.pairs;
        let encode = |t: &Tensor, x: &Tensor| student.encode(t, x, Direction::Forward, None).unwrap();
        let moved = student.propagate(&encode(s, x_s), &(t - s)).unwrap().narrow(1, 4, 6);
        let features = encode(t, x_t).narrow(1, 4, 6);
        let total = |x: &Tensor| x.var_dim(0, false, false).sum(Kind::Double).reciprocal();
        close("phase", mean_square(&(moved - &features), &total(&features)));

        let velocity = field.velocity(s, x_s, None).unwrap();
        let (g, tangent) = student.encode_with_tangent(s, x_s, &velocity, Direction::Forward, None).unwrap();
        let residual = &tangent - g.matmul(&student.generator().matrix());
        let part = |start: i64, length: i64| {
            let own = tangent.narrow(1, start, length);
            mean_square(&residual.narrow(1, start, length), &total(&own))
        };
        close("consistency", part(2, 2) + part(4, 6));
    }
}

#[test]
fn weight_zero_is_off() {
    let paths = trajectories();
    let student = student(GeneratorKind::Spectral, &paths);
    let field = teacher();
    let batch = paths.batch(&RandomSource::new(7), 1, 32);
    for only in ["endpoint", "path", "pairs", "inverse", "round_trip", "phase", "consistency"] {
        let on = |name: &str| if name == only { 2.5 } else { 0.0 };
        let weights = Weights {
            endpoint: on("endpoint"),
            path: on("path"),
            pairs: on("pairs"),
            inverse: on("inverse"),
            round_trip: on("round_trip"),
            phase: on("phase"),
            consistency: on("consistency"),
        };
        let before = field.evaluations();
        let terms = Objective { weights, teacher: &field }.terms(&student, &batch).unwrap();
        let names: Vec<&str> = terms.iter().map(|term| term.name).collect();
        assert_eq!(names, [only]);
        assert_eq!(terms[0].weight, 2.5);
        // Only consistency asks the teacher anything during training.
        assert_eq!(field.evaluations() - before, u64::from(only == "consistency"));
    }
}

#[test]
fn consistency_alone_ties_the_generator_to_the_flow() {
    let weights = Weights {
        endpoint: 0.0,
        path: 0.0,
        pairs: 0.0,
        inverse: 0.0,
        round_trip: 0.0,
        phase: 0.0,
        consistency: 1.0,
    };
    let config = DistillConfig { weights, steps: Some(300), ..config(GeneratorKind::Dense) };
    let (_, history) = distill(&teacher(), &config, &Inputs::default(), &mut Silent).unwrap();
    let loss = |index: usize| history.log[index].values[0].1;
    assert!(loss(history.log.len() - 1) < 0.2 * loss(0), "{} to {}", loss(0), loss(history.log.len() - 1));
}

#[test]
fn the_same_seed_gives_the_same_student() {
    let fit = |seed| {
        let config = DistillConfig { seed, ..config(GeneratorKind::Spectral) };
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
    let config = DistillConfig { steps: Some(1_000_000), ..config(GeneratorKind::Spectral) };
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
    let config = DistillConfig { steps: Some(200), ..config(GeneratorKind::Spectral) };
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
        ("steps", DistillConfig { steps: Some(0), ..base.clone() }),
        ("learning_rate", DistillConfig { learning_rate: Some(-1.0), ..base.clone() }),
        ("trajectories", DistillConfig { trajectories: Some(1), ..base.clone() }),
        ("batch_size", DistillConfig { batch_size: 0, ..base.clone() }),
        ("max_seconds", DistillConfig { max_seconds: Some(0.0), ..base.clone() }),
        ("dtype", DistillConfig { dtype: "float16".into(), ..base.clone() }),
        ("device", DistillConfig { device: "cuda:99".into(), ..base.clone() }),
        ("phase", DistillConfig { weights: Weights { phase: -1.0, ..Weights::default() }, ..base }),
    ];
    for (name, config) in cases {
        let error = distill(&teacher(), &config, &Inputs::default(), &mut Silent).err().unwrap();
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
}
