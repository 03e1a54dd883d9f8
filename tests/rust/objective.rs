//! Each term of the objective against the student's public algebra.

#[path = "common/distillation.rs"]
mod distillation;

use distillation::{config, teacher, trajectories};
use koopflow::condition::Conditioning;
use koopflow::data::{Batch, BatchRows, PairDraw, Pairs, Points, Regime, Trajectories};
use koopflow::distill::{FeatureDistance, Objective, Scaling, Weights};
use koopflow::error::Result;
use koopflow::koopman::{Direction, GeneratorKind, Student};
use koopflow::nets::InputCoordinates;
use koopflow::tensor::RandomSource;
use koopflow::training::RowWeights;
use koopflow::velocity::VelocityField;
use tch::{Device, Kind, Tensor};

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
fn batch(paths: &Trajectories, rows: BatchRows) -> Batch {
    let random = RandomSource::new(7);
    let points = Some(paths.points(&random, 1, 32));
    Batch { points, ..paths.batch(&random, 1, rows, PairDraw::default()) }
}

fn mean_square(error: &Tensor, scale: &Tensor) -> f64 {
    (error.square().sum_dim_intlist(1, false, Kind::Double) * scale).mean(Kind::Double).double_value(&[])
}

/// One of the objective's terms, every one of them of weight 1.
fn values(student: &Student, batch: &Batch, scaling: Scaling) -> Vec<(&'static str, f64)> {
    let weights = Weights::NONE.with(&Weights::NONE.to_map().into_keys().map(|name| (name, 1.0)).collect());
    let field = teacher();
    let (weights, row_weights) = (weights.unwrap(), RowWeights::OFF);
    let objective = Objective { weights, scaling, row_weights, teacher: &field, feature_distance: None };
    let terms = objective.terms(student, batch).unwrap();
    terms.iter().map(|term| (term.name, term.value.double_value(&[]))).collect()
}

#[test]
fn every_term_is_what_it_says() {
    let paths = trajectories();
    let field = teacher();
    for (generator, scaling, rows) in [
        (GeneratorKind::Spectral, Scaling::Relative, BatchRows::from(32)),
        (GeneratorKind::Dense, Scaling::Relative, BatchRows::from(32)),
        (GeneratorKind::Spectral, Scaling::Absolute, BatchRows::from(32)),
        (GeneratorKind::Spectral, Scaling::Relative, BatchRows::of(64, Regime::Several)),
    ] {
        let student = student(generator, &paths);
        let batch = batch(&paths, rows);
        let terms = values(&student, &batch, scaling);
        let close = |name: &str, expected: f64| {
            let got = terms.iter().find(|(own, _)| *own == name).unwrap().1;
            assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{name}: {got} {expected}");
        };
        let states = paths.states().to_kind(Kind::Double);
        let variance = states.var_dim(0, false, false).sum_dim_intlist(1, false, Kind::Double);
        let sampler_steps = batch.sampler_steps;
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
        close("path", target(&first_rows(&path, rows.path), Direction::Forward));
        close("target", target(&pairs, Direction::Forward));
        close("inverse", target(&inverse, Direction::Backward));

        let Pairs { s, x_s, .. } = &inverse;
        let (zeros, ones) = (s.zeros_like(), s.ones_like());
        let noise = carry(s, x_s, &-&ones, Direction::Backward);
        let again = carry(&zeros, &noise, &ones, Direction::Forward);
        let some = |x: &Tensor| x.narrow(0, 0, rows.round_trip);
        close("round_trip", mean_square(&some(&(again - x_s)), &some(&unit(&ones, 2.0))));

        let own = re_encoded(&student, &endpoint, sampler_steps);
        let decoded = carry(&own.s, &own.x_s, &own.tau(), Direction::Forward);
        close("re_encoding", mean_square(&(decoded - &own.x_t), &unit(&own.t, 2.0)));

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
        let half = |x: &Tensor| x.narrow(0, 0, rows.ends);
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

/// The first of these pairs, in the given number.
fn first_rows(pairs: &Pairs, count: i64) -> Pairs {
    let some = |tensor: &Tensor| tensor.narrow(0, 0, count);
    Pairs {
        s: some(&pairs.s),
        t: some(&pairs.t),
        x_s: some(&pairs.x_s),
        x_t: some(&pairs.x_t),
        precision: some(&pairs.precision),
        source_precision: some(&pairs.source_precision),
        condition: None,
        teacher_condition: None,
    }
}

/// Where a sampler of `steps` steps encodes anew, with the endpoints of the same noise: the encoding of the noise
/// has 3 `steps` votes in the estimate that is carried on, each later one has one.
fn re_encoded(student: &Student, endpoint: &Pairs, steps: i64) -> Pairs {
    // Step 1 of training has a sampler of four steps, and half of the batch for its three encodings.
    assert_eq!(steps, 4);
    let first = |tensor: &Tensor| tensor.narrow(0, 0, endpoint.count() / 6);
    let (zeros, noise) = (first(&endpoint.s), first(&endpoint.x_s));
    let quarter = Tensor::from(0.25);
    let mut g = student.encode(&zeros, &noise, Direction::Forward, None).unwrap();
    let (mut times, mut states) = (Vec::new(), Vec::new());
    for step in 1..4 {
        g = student.propagate(&g, &quarter).unwrap();
        let (s, x) = (&zeros + 0.25 * f64::from(step), student.readout(&g).unwrap());
        let fresh = student.encode(&s, &x, Direction::Forward, None).unwrap();
        g = &g + (fresh - &g) / (12.0 + f64::from(step));
        times.push(s);
        states.push(x);
    }
    let thrice = |tensor: &Tensor| Tensor::cat(&[first(tensor), first(tensor), first(tensor)], 0);
    Pairs {
        s: Tensor::cat(&times, 0),
        t: thrice(&endpoint.t),
        x_s: Tensor::cat(&states, 0),
        x_t: thrice(&endpoint.x_t),
        precision: thrice(&endpoint.precision),
        source_precision: thrice(&endpoint.source_precision),
        condition: None,
        teacher_condition: None,
    }
}

#[test]
fn re_encoded_states_are_taken_as_given() {
    let paths = trajectories();
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        let (student, field) = (student(generator, &paths), teacher());
        let gradient = |name: &str, batch: &Batch| {
            let weights = Weights::NONE.with(&[(name.to_string(), 1.0)].into()).unwrap();
            let objective = Objective {
                weights,
                scaling: Scaling::Relative,
                row_weights: RowWeights::OFF,
                teacher: &field,
                feature_distance: None,
            };
            let terms = objective.terms(&student, batch).unwrap();
            student.parameters().gradient(&terms[0].value).unwrap()
        };
        let batch = batch(&paths, BatchRows::from(32));
        let own = re_encoded(&student, batch.endpoint.as_ref().unwrap(), batch.sampler_steps);
        let same = Batch { pairs: Some(own), ..self::batch(&paths, BatchRows::from(32)) };
        let (term, target) = (gradient("re_encoding", &batch), gradient("target", &same));
        let gap = (&term - &target).norm().double_value(&[]) / target.norm().double_value(&[]);
        assert!(gap < 1e-12, "{gap:e}");
    }
}

#[test]
fn rows_are_weighted_by_their_own_errors_taken_as_given() {
    let paths = trajectories();
    let (student, field) = (student(GeneratorKind::Spectral, &paths), teacher());
    let whole = paths.batch(&RandomSource::new(7), 1, BatchRows::from(4), PairDraw::default());
    let (power, offset) = (0.75, 0.1);
    let of = |name: &str, scaling: Scaling, row_weights: RowWeights, batch: &Batch| {
        let weights = Weights::NONE.with(&[(name.to_string(), 1.0)].into()).unwrap();
        let objective = Objective { weights, scaling, row_weights, teacher: &field, feature_distance: None };
        let value = objective.terms(&student, batch).unwrap().remove(0).value;
        (value.double_value(&[]), student.parameters().gradient(&value).unwrap())
    };
    // `endpoint` is formed with what is encoded forwards, `inverse` beside it.
    for (name, scaling) in [
        ("endpoint", Scaling::Relative),
        ("endpoint", Scaling::Absolute),
        ("inverse", Scaling::Relative),
        ("inverse", Scaling::Absolute),
    ] {
        let weighted = of(name, scaling, RowWeights::of(power, Some(offset)).unwrap(), &whole);
        let (mut value, mut gradient) = (0.0, student.parameters().flat().unwrap().zeros_like());
        for row in 0..4 {
            let (error, slope) = of(name, scaling, RowWeights::OFF, &one_row(&whole, row));
            let weight = (error + offset).powf(-power) / 4.0;
            value += error * weight;
            gradient += slope * weight;
        }
        assert!((weighted.0 - value).abs() < 1e-12 * value, "{name}: {} {value}", weighted.0);
        let gap = (&weighted.1 - &gradient).norm().double_value(&[]) / gradient.norm().double_value(&[]);
        assert!(gap < 1e-12, "{name}: {gap:e}");
        let plain = of(name, scaling, RowWeights::of(0.0, None).unwrap(), &whole).1;
        assert!(plain.equal(&of(name, scaling, RowWeights::OFF, &whole).1));
        let turned = (plain.dot(&gradient) / (plain.norm() * gradient.norm())).double_value(&[]);
        assert!(turned < 0.999, "{name}: weights that change nothing");
    }
}

/// A batch of one row of noise and one of data.
fn one_row(batch: &Batch, row: i64) -> Batch {
    let one = |pairs: &Pairs| {
        let some = |tensor: &Tensor| tensor.narrow(0, row, 1);
        Pairs {
            s: some(&pairs.s),
            t: some(&pairs.t),
            x_s: some(&pairs.x_s),
            x_t: some(&pairs.x_t),
            precision: some(&pairs.precision),
            source_precision: some(&pairs.source_precision),
            condition: None,
            teacher_condition: None,
        }
    };
    Batch {
        endpoint: batch.endpoint.as_ref().map(one),
        path: None,
        pairs: None,
        inverse: batch.inverse.as_ref().map(one),
        points: None,
        fresh: None,
        ..*batch
    }
}

/// Coordinates as features, with the gradient by hand.
struct Coordinates;

impl FeatureDistance for Coordinates {
    fn value_and_gradient(&self, x: &Tensor, target: &Tensor) -> Result<(Tensor, Tensor)> {
        let gap = x - target;
        let count = gap.numel() as f64;
        Ok((gap.square().mean(gap.kind()), gap * (2.0 / count)))
    }
}

#[test]
fn weight_zero_is_off() {
    let paths = trajectories();
    let student = student(GeneratorKind::Spectral, &paths);
    let field = teacher();
    let batch = batch(&paths, BatchRows::from(32));
    // A slice needs no reconstruction, only a hierarchy has levels (tests/python/students/test_levels.py), and
    // a correction needs a network for a teacher (tests/rust/correction.rs).
    let applies = |name: &String| !["reconstruction", "levels", "correction"].contains(&name.as_str());
    for only in Weights::NONE.to_map().into_keys().filter(applies) {
        let weights = Weights::NONE.with(&[(only.clone(), 2.5)].into()).unwrap();
        let before = field.evaluations();
        let objective = Objective {
            weights,
            scaling: Scaling::Relative,
            row_weights: RowWeights::OFF,
            teacher: &field,
            feature_distance: Some(&Coordinates),
        };
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
        let left_out = ["reconstruction", "re_encoding", "levels", "correction"];
        let differentiated = |name: &String| !left_out.contains(&name.as_str());
        for only in Weights::NONE.to_map().into_keys().filter(differentiated) {
            let student = student(generator, &paths);
            let field = teacher();
            let weights = Weights::NONE.with(&[(only.clone(), 1.0)].into()).unwrap();
            let objective = Objective {
                weights,
                scaling: Scaling::Absolute,
                row_weights: RowWeights::OFF,
                teacher: &field,
                feature_distance: Some(&Coordinates),
            };
            let batch = batch(&paths, BatchRows::from(32));
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
