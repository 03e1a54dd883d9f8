//! Each term of the objective against the student's public algebra.

use std::collections::BTreeMap;

use koopflow::condition::Conditioning;
use koopflow::distill::{
    Batch, DistillConfig, Inputs, Objective, PairDraw, Pairs, Points, Scaling, TrainingData, Trajectories,
    TrajectoryPlan, Weights,
};
use koopflow::koopman::{Direction, GeneratorKind, InputCoordinates, Student};
use koopflow::tensor::RandomSource;
use koopflow::training::Silent;
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

/// The batch of step 1, with all groups.
fn batch(paths: &Trajectories) -> Batch {
    let random = RandomSource::new(7);
    let points = Some(paths.points(&random, 1, 32));
    Batch { points, ..paths.batch(&random, 1, 32, PairDraw::default()) }
}

fn mean_square(error: &Tensor, scale: &Tensor) -> f64 {
    (error.square().sum_dim_intlist(1, false, Kind::Double) * scale).mean(Kind::Double).double_value(&[])
}

/// One of the objective's terms, every one of them of weight 1.
fn values(student: &Student, paths: &Trajectories, scaling: Scaling) -> Vec<(&'static str, f64)> {
    let weights = Weights::NONE.with(&Weights::NONE.to_map().into_keys().map(|name| (name, 1.0)).collect());
    let field = teacher();
    let objective = Objective { weights: weights.unwrap(), scaling, teacher: &field };
    let batch = batch(paths);
    let terms = objective.terms(student, &batch).unwrap();
    terms.iter().map(|term| (term.name, term.value.double_value(&[]))).collect()
}

#[test]
fn every_term_is_what_it_says() {
    let paths = trajectories();
    let field = teacher();
    for (generator, scaling) in [
        (GeneratorKind::Spectral, Scaling::Relative),
        (GeneratorKind::Dense, Scaling::Relative),
        (GeneratorKind::Spectral, Scaling::Absolute),
    ] {
        let student = student(generator, &paths);
        let batch = batch(&paths);
        let terms = values(&student, &paths, scaling);
        let close = |name: &str, expected: f64| {
            let got = terms.iter().find(|(own, _)| *own == name).unwrap().1;
            assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{name}: {got} {expected}");
        };
        let states = paths.states().to_kind(Kind::Double);
        let variance = states.var_dim(0, false, false).sum_dim_intlist(1, false, Kind::Double);
        let re_encodings = batch.re_encodings;
        let Batch { endpoint, path, pairs, inverse, points, .. } = batch;
        let [endpoint, path, pairs, inverse] = [endpoint, path, pairs, inverse].map(Option::unwrap);
        // What an error at each of some times is measured in.
        let unit = |t: &Tensor, columns: f64| match scaling {
            Scaling::Relative => {
                variance.index_select(0, &(t * 8.0).round().to_kind(Kind::Int64)).reciprocal()
            }
            Scaling::Absolute => t.ones_like() / columns,
        };
        let encode = |t: &Tensor, x: &Tensor, direction| student.encode(t, x, direction, None).unwrap();
        let read = |g: &Tensor| student.readout(g).unwrap();
        let carry = |s: &Tensor, x: &Tensor, tau: &Tensor, direction| {
            read(&student.propagate(&encode(s, x, direction), tau).unwrap())
        };
        let target = |pairs: &Pairs, direction: Direction| {
            let decoded = carry(&pairs.s, &pairs.x_s, &pairs.tau(), direction);
            mean_square(&(decoded - &pairs.x_t), &unit(&pairs.t, 2.0))
        };
        close("endpoint", target(&endpoint, Direction::Forward));
        close("path", target(&path, Direction::Forward));
        close("target", target(&pairs, Direction::Forward));
        close("inverse", target(&inverse, Direction::Backward));

        let Pairs { s, x_s, .. } = &inverse;
        let (zeros, ones) = (s.zeros_like(), s.ones_like());
        let noise = carry(s, x_s, &-&ones, Direction::Backward);
        let again = carry(&zeros, &noise, &ones, Direction::Forward);
        close("round_trip", mean_square(&(again - x_s), &unit(&ones, 2.0)));

        // The first round re-encodes twice, a quarter of the batch.
        assert_eq!(re_encodings, 2);
        let mut x = endpoint.x_s.narrow(0, 0, 8);
        let half = x.new_full([8], 0.5, DOUBLE);
        for step in 0..2 {
            x = carry(&(&half * step as f64), &x, &half, Direction::Forward);
        }
        let error = x - endpoint.x_t.narrow(0, 0, 8);
        close("re_encoding", mean_square(&error, &unit(&endpoint.t.narrow(0, 0, 8), 2.0)));

        let Pairs { s, t, x_s, x_t, .. } = &pairs;
        let phi = |g: &Tensor| g.narrow(1, 4, 6);
        let total = |x: &Tensor, columns: f64| match scaling {
            Scaling::Relative => x.var_dim(0, false, false).sum(Kind::Double).reciprocal(),
            Scaling::Absolute => Tensor::from(1.0 / columns),
        };
        let start = encode(s, x_s, Direction::Forward);
        let moved = phi(&student.propagate(&start, &(t - s)).unwrap());
        let features = phi(&encode(t, x_t, Direction::Forward));
        let between = mean_square(&(moved - &features), &total(&features, 6.0));
        let half = |x: &Tensor| x.narrow(0, 0, 16);
        let start_of_all = encode(&half(&endpoint.s), &half(&endpoint.x_s), Direction::Forward);
        let moved = phi(&student.propagate(&start_of_all, &Tensor::from(1.0)).unwrap());
        let features = phi(&encode(&half(&endpoint.t), &half(&endpoint.x_t), Direction::Forward));
        close("phase", (between + mean_square(&(moved - &features), &total(&features, 6.0))) / 2.0);

        let Points { t, x, .. } = points.unwrap();
        let velocity = field.velocity(&t, &x, None).unwrap();
        let (g, tangent) = student.encode_with_tangent(&t, &x, &velocity, Direction::Forward, None).unwrap();
        let matrix = student.generator().matrix();
        let residual = &tangent - g.matmul(&matrix);
        let part = |start: i64, length: i64| {
            let own = tangent.narrow(1, start, length);
            mean_square(&residual.narrow(1, start, length), &total(&own, length as f64))
        };
        close("consistency", part(2, 2) + part(4, 6));

        let block = matrix.narrow(0, 4, 6).narrow(1, 4, 6);
        let growth = ((&block + block.tr()) * 0.5).linalg_eigvalsh("L");
        close("unitarity", growth.square().mean(Kind::Double).double_value(&[]));
        close("stability", growth.clamp_min(0.0).square().mean(Kind::Double).double_value(&[]));
        let modes = matrix.narrow(0, 4, 6).narrow(1, 2, 2);
        let mut overlap = 0.0;
        for (i, j) in (0..6).flat_map(|i| (0..6).map(move |j| (i, j))).filter(|(i, j)| i != j) {
            let (a, b) = (modes.select(0, i), modes.select(0, j));
            overlap += (a.dot(&b) / (a.norm() * b.norm())).double_value(&[]).powi(2) / 30.0;
        }
        close("orthogonality", overlap);
        let phi = phi(&start);
        let mean = phi.mean_dim(0, false, Kind::Double).square().mean(Kind::Double);
        let spread = (phi.std_dim(0, false, false) - 1.0).square().mean(Kind::Double);
        close("latent_moments", (mean + spread).double_value(&[]));
        // A slice reads x exactly: there is nothing to reconstruct.
        assert!(terms.iter().all(|(name, _)| *name != "reconstruction"));
    }
}

#[test]
fn weight_zero_is_off() {
    let paths = trajectories();
    let student = student(GeneratorKind::Spectral, &paths);
    let field = teacher();
    let batch = batch(&paths);
    for only in Weights::NONE.to_map().into_keys().filter(|name| name != "reconstruction") {
        let weights = Weights::NONE.with(&[(only.clone(), 2.5)].into()).unwrap();
        let before = field.evaluations();
        let objective = Objective { weights, scaling: Scaling::Relative, teacher: &field };
        let terms = objective.terms(&student, &batch).unwrap();
        let names: Vec<&str> = terms.iter().map(|term| term.name).collect();
        assert_eq!(names, [only.as_str()]);
        assert_eq!(terms[0].weight, 2.5);
        // Only consistency asks the teacher anything during training.
        assert_eq!(field.evaluations() - before, u64::from(only == "consistency"));
    }
}

#[test]
fn every_term_has_a_gradient_that_lowers_it() {
    let paths = trajectories();
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        for only in Weights::NONE.to_map().into_keys().filter(|name| name != "reconstruction") {
            let student = student(generator, &paths);
            let field = teacher();
            let weights = Weights::NONE.with(&[(only.clone(), 1.0)].into()).unwrap();
            let objective = Objective { weights, scaling: Scaling::Absolute, teacher: &field };
            let batch = batch(&paths);
            let value = || objective.terms(&student, &batch).unwrap().remove(0).value;
            let before = value();
            let gradient = student.parameters().gradient(&before).unwrap();
            let length = gradient.norm().double_value(&[]);
            let mut flat = student.parameters().flat().unwrap();
            let _ = tch::no_grad(|| flat.f_sub_(&(&gradient * (1e-5 / length))).unwrap());
            let fall = before.double_value(&[]) - value().double_value(&[]);
            // To first order it falls by the step times the gradient's length. (Relative terms take their
            // unit as given, so theirs is no gradient in this sense.)
            assert!((fall / (1e-5 * length) - 1.0).abs() < 0.02, "{only}: {fall:e} for {length:e}");
        }
    }
}

#[test]
fn interleaved_terms_take_turns_and_keep_their_share() {
    let field = teacher();
    let weights = [("phase".to_string(), 0.5), ("re_encoding".to_string(), 0.25)].into();
    let config = DistillConfig { weights, ..config(GeneratorKind::Spectral) };
    let recipe = config.resolve(&[2], Conditioning::None).unwrap();
    let count = |config: &DistillConfig| {
        let data = TrainingData::prepare(&field, config, &recipe, &Inputs::default(), &mut Silent).unwrap();
        let student = Student::new(recipe.student.clone(), 1, Device::Cpu).unwrap();
        let weights = recipe.weights.clone();
        let objective = Objective { weights, scaling: Scaling::Relative, teacher: &field };
        let mut sums = BTreeMap::new();
        let mut largest = 0;
        for step in 0..8 {
            let batch = data.batch(&RandomSource::new(7), step, 16, 0.0).unwrap();
            let terms = objective.terms(&student, &batch).unwrap();
            largest = largest.max(terms.len());
            for term in terms {
                *sums.entry(term.name.to_string()).or_insert(0.0) += term.weight / 8.0;
            }
        }
        (sums, largest)
    };
    let (interleaved, most) = count(&config);
    let (every, all) = count(&DistillConfig { interleave: false, ..config.clone() });
    for (name, weight) in recipe.weights.to_map().into_iter().filter(|(_, weight)| *weight > 0.0) {
        for mean in [interleaved[&name], every[&name]] {
            assert!((mean - weight).abs() < 1e-12, "{name}: {mean} {weight}");
        }
    }
    assert_eq!(interleaved.len(), every.len());
    assert!(most + 2 == all, "{most} of {all} at once");
}
