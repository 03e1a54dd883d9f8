//! Chains of Gaussian flows, whose maps are affine and known, and flows that run backwards: paths, orders of solvers
//! over kinks, densities, adjoints, files and refusals.

use koopflow::data::{Trajectories, TrajectoryPlan};
use koopflow::monitor::Silent;
use koopflow::ode::{draw, log_prob, pull_back, solve, DensityOptions, SolveOptions, Solver};
use koopflow::store;
use koopflow::tensor::RandomSource;
use koopflow::velocity::{
    ChainField, Conditioning, FieldDescription, GaussianField, GuidedField, NetworkField, NetworkFieldConfig,
    ReversedField, Source, SourcedField, VelocityField,
};
use koopflow::Error;
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);
/// Means and deviations of where each block leads noise.
const LAWS: [([f64; 2], f64); 2] = [([1.0, -2.0], 0.5), ([0.5, 3.0], 2.0)];

fn gaussian(mean: [f64; 2], deviation: f64, kind: Kind) -> Box<dyn VelocityField> {
    let covariance = Tensor::eye(2, DOUBLE) * deviation * deviation;
    let field = GaussianField::new(&Tensor::from_slice(&mean), &covariance, &[2], Device::Cpu, kind);
    Box::new(field.unwrap())
}

fn chain(kind: Kind, breaks: Option<&[f64]>) -> ChainField {
    ChainField::new(LAWS.map(|(mean, deviation)| gaussian(mean, deviation, kind)).into(), breaks).unwrap()
}

/// x_t = t m + sqrt(t^2 d^2 + (1 - t)^2) x0 in each block.
fn exact(x0: &Tensor, t: f64, middle: f64) -> Tensor {
    let along = |x: &Tensor, t: f64, (mean, d): ([f64; 2], f64)| {
        x * (t * t * d * d + (1.0 - t) * (1.0 - t)).sqrt() + Tensor::from_slice(&mean) * t
    };
    match t < middle {
        true => along(x0, t / middle, LAWS[0]),
        false => along(&along(x0, 1.0, LAWS[0]), (t - middle) / (1.0 - middle), LAWS[1]),
    }
}

fn noise(rows: i64) -> Tensor {
    RandomSource::new(3).normal(&[rows, 2], Kind::Double, Device::Cpu).unwrap()
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn paths_are_the_blocks_one_after_the_other() {
    let (tight, x0) = (SolveOptions::adaptive(1e-10), noise(7));
    for (breaks, middle) in [(None, 0.5), (Some([0.0, 0.3, 1.0].as_slice()), 0.3)] {
        let field = chain(Kind::Double, breaks);
        assert_eq!(field.breaks(), [middle]);
        let times = [0.0, 0.1, middle, 0.75, 1.0];
        let solved = solve(&field, &x0, &times, &tight, None, &mut Silent).unwrap();
        for (place, t) in times.iter().enumerate() {
            assert!(worst(&solved.trajectory.get(place as i64), &exact(&x0, *t, middle)) < 1e-8, "t = {t}");
        }
        // Backwards, over a break that nobody asks for, and from it.
        let x1 = exact(&x0, 1.0, middle);
        let back = solve(&field, &x1, &[1.0, 0.2, 0.0], &tight, None, &mut Silent).unwrap();
        assert_eq!(back.trajectory.size(), [3, 7, 2]);
        assert!(worst(&back.trajectory.get(1), &exact(&x0, 0.2, middle)) < 1e-8);
        assert!(worst(&back.endpoint(), &x0) < 1e-8);
        let half = exact(&x0, middle, middle);
        let on = solve(&field, &half, &[middle, 0.9], &tight, None, &mut Silent).unwrap();
        assert!(worst(&on.endpoint(), &exact(&x0, 0.9, middle)) < 1e-8);
    }
}

#[test]
fn solvers_keep_their_orders_over_kinks() {
    let x0 = noise(5);
    let one_step = [(Solver::Euler, 1), (Solver::Midpoint, 2), (Solver::Heun, 2), (Solver::Rk4, 4)];
    for (solver, order) in one_step.into_iter().chain([(Solver::Ab2, 2), (Solver::Ab3, 3)]) {
        // The break is no multiple of the step.
        let field = chain(Kind::Double, Some(&[0.0, 0.37, 1.0]));
        let error = |steps: u64| {
            let options = SolveOptions::fixed(solver, steps);
            let solved = solve(&field, &x0, &[0.0, 1.0], &options, None, &mut Silent).unwrap();
            assert_eq!(solved.accepted, steps);
            worst(&solved.endpoint(), &exact(&x0, 1.0, 0.37))
        };
        let rate = (error(100) / error(200)).log2();
        assert!(rate > f64::from(order) - 0.35, "{solver:?}: order {rate}");
    }
}

#[test]
fn single_precision_stays_on_its_side_of_a_break() {
    // 1/3 is no float, and times just before it round to it.
    let blocks = [0.4, 3.0, 0.7].map(|d| gaussian([0.0; 2], d, Kind::Float));
    let field = ChainField::new(blocks.into(), None).unwrap();
    let x0 = noise(6).to_kind(Kind::Float);
    let run = |options: &SolveOptions| {
        solve(&field, &x0, &[0.0, 1.0], options, None, &mut Silent).unwrap().endpoint()
    };
    let expected = &x0 * (0.4 * 3.0 * 0.7);
    assert!(worst(&run(&SolveOptions::adaptive(1e-6)), &expected) < 2e-5);
    assert!(worst(&run(&SolveOptions::fixed(Solver::Rk4, 60)), &expected) < 2e-5);
}

#[test]
fn rows_of_one_batch_are_answered_by_their_own_blocks() {
    let field = chain(Kind::Double, None);
    let x = noise(6);
    let t = Tensor::from_slice(&[0.9, 0.1, 0.5, 0.3, 1.0, 0.0]);
    let together = field.velocity(&t, &x, None).unwrap();
    // Two blocks answered.
    assert_eq!(field.evaluations(), 2);
    let cotangent = noise(6) * 2.0;
    let (v, product) = field.velocity_and_vjp(&t, &x, &cotangent, None).unwrap();
    assert!(worst(&v, &together) < 1e-12);
    for row in 0..6 {
        let own = t.double_value(&[row]);
        let (law, at) = if own < 0.5 { (LAWS[0], 2.0 * own) } else { (LAWS[1], 2.0 * own - 1.0) };
        let block = gaussian(law.0, law.1, Kind::Double);
        let (x, time) = (x.narrow(0, row, 1), Tensor::from_slice(&[at]));
        let expected = block.velocity(&time, &x, None).unwrap() * 2.0;
        assert!(worst(&together.narrow(0, row, 1), &expected) < 1e-12);
        // Isotropic: the Jacobian is a number, by differences here.
        let step = Tensor::from_slice(&[1e-6, 0.0]).view([1, 2]);
        let moved = block.velocity(&time, &(&x + &step), None).unwrap() * 2.0;
        let slope = (moved - expected).double_value(&[0, 0]) / 1e-6;
        let pulled = cotangent.narrow(0, row, 1) * slope;
        assert!(worst(&product.narrow(0, row, 1), &pulled) < 1e-6);
    }
}

#[test]
fn log_densities_add_up_and_adjoints_multiply() {
    let field = chain(Kind::Double, None);
    let options = DensityOptions { solve: SolveOptions::adaptive(1e-9), ..DensityOptions::default() };
    let x = noise(9) * 1.5 + 1.0;
    let density =
        |field: &dyn VelocityField, x: &Tensor| log_prob(field, x, &options, None, &mut Silent).unwrap();
    // The chain's law is N(m2 + d2 m1, (d1 d2)^2).
    let ([(m1, d1), (m2, d2)], size) = (LAWS, 2.0);
    let mean = Tensor::from_slice(&m2) + Tensor::from_slice(&m1) * d2;
    let square = ((&x - mean) / (d1 * d2)).square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
    let expected: Tensor = square * -0.5 - size * ((2.0 * std::f64::consts::PI).ln() * 0.5 + (d1 * d2).ln());
    assert!(worst(&density(&field, &x), &expected) < 1e-6);
    // Block by block: log p(x) = log p1(y) + (log p2(x) - log p0(y)), with y the state in between.
    let y = (&x - Tensor::from_slice(&m2)) / d2;
    let normal = y.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double) * -0.5
        - (2.0 * std::f64::consts::PI).ln();
    let blocks = LAWS.map(|(mean, d)| gaussian(mean, d, Kind::Double));
    let sum = density(&*blocks[0], &y) + density(&*blocks[1], &x) - normal;
    assert!(worst(&density(&field, &x), &sum) < 1e-6);
    let covectors = noise(18).view([9, 2, 2]);
    let pulled = pull_back(&field, &x, &covectors, &options.solve, None, &mut Silent).unwrap();
    assert!(worst(&pulled, &(covectors * (d1 * d2))) < 1e-6);
}

#[test]
fn a_reversed_flow_leads_back() {
    let model = chain(Kind::Double, Some(&[0.0, 0.3, 1.0]));
    let field = ReversedField::new(model.shallow_clone());
    assert!((field.breaks()[0] - 0.7).abs() < 1e-12);
    let (x0, tight) = (noise(8), SolveOptions::adaptive(1e-10));
    let x1 = exact(&x0, 1.0, 0.3);
    let solved = solve(&field, &x1, &[0.0, 0.7, 1.0], &tight, None, &mut Silent).unwrap();
    assert!(worst(&solved.trajectory.get(1), &exact(&x0, 0.3, 0.3)) < 1e-8);
    assert!(worst(&solved.endpoint(), &x0) < 1e-8);
    // Its density at noise is that of noise again, and its samples are data.
    let options = DensityOptions { solve: SolveOptions::adaptive(1e-8), ..DensityOptions::default() };
    let density = log_prob(&field, &x0, &options, None, &mut Silent).unwrap();
    let normal = x0.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double) * -0.5
        - (2.0 * std::f64::consts::PI).ln();
    // That of its source, where the model ends, is solved to the default tolerance.
    assert!(worst(&density, &normal) < 1e-3);
    let mut random = RandomSource::noise(4);
    let drawn = draw(&field.source(), 8, &[2], &mut random, DOUBLE, None, &mut Silent).unwrap();
    let start = RandomSource::noise(4).normal(&[8, 2], Kind::Double, Device::Cpu).unwrap();
    assert!(worst(&drawn, &exact(&start, 1.0, 0.3)) < 1e-3);
    let twice = ReversedField::new(Box::new(field));
    let (t, x) = (Tensor::from_slice(&[0.25]), noise(1));
    let [a, b] = [&twice as &dyn VelocityField, &model].map(|field| field.velocity(&t, &x, None).unwrap());
    assert!(worst(&a, &b) < 1e-12);
}

fn network(classes: Option<i64>) -> NetworkField {
    let conditioning = classes.map_or(Conditioning::None, |classes| Conditioning::Labels { classes });
    let config = NetworkFieldConfig { width: 4, depth: 1, conditioning, ..NetworkFieldConfig::default() };
    let labels = classes.map(|_| Tensor::zeros([20], (Kind::Int64, Device::Cpu)));
    let (data, mut random) = (noise(20), RandomSource::new(1));
    NetworkField::new(config, &data, labels.as_ref(), Device::Cpu, &mut random).unwrap()
}

#[test]
fn files_hold_all_blocks_and_the_source_of_the_first() {
    let rows = noise(20) * 3.0;
    let source = || Source::rows(&rows, &[2]).unwrap();
    let started = || network(None).starting_from(source(), &rows).unwrap();
    let blocks: Vec<Box<dyn VelocityField>> = vec![
        Box::new(started()),
        Box::new(started()),
        gaussian([1.0, 0.0], 2.0, Kind::Float),
        Box::new(ReversedField::new(Box::new(started()))),
        Box::new(SourcedField::new(gaussian([0.0; 2], 1.0, Kind::Float), source())),
    ];
    let inner: Box<dyn VelocityField> = Box::new(ChainField::new(blocks, None).unwrap());
    let field = ChainField::new(vec![inner, gaussian([0.0; 2], 1.0, Kind::Float)], Some(&[0.0, 0.9, 1.0]));
    let field: Box<dyn VelocityField> = Box::new(field.unwrap());
    let held = field.state().unwrap().tensors;
    let rows_held: Vec<_> = held.iter().filter(|(name, _)| name.ends_with("source.rows")).collect();
    assert_eq!(rows_held.len(), 1);
    let bytes = store::to_bytes(&field, serde_json::Value::Null).unwrap();
    let again: Box<dyn VelocityField> = store::from_bytes(&bytes, Device::Cpu).unwrap().0;
    assert_eq!(again.kind_name(), "chain");
    let breaks = |expected: &[f64]| again.breaks().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(breaks(&[0.18, 0.36, 0.54, 0.72, 0.9]));
    let (t, x) = (Tensor::linspace(0.0, 1.0, 40, (Kind::Float, Device::Cpu)), noise(40).to_kind(Kind::Float));
    let [a, b] = [&field, &again].map(|field| field.velocity(&t, &x, None).unwrap());
    assert!(a.equal(&b));
    match again.source() {
        Source::Rows { rows: kept, .. } => {
            assert!(kept.to_kind(Kind::Double).equal(&rows.to_kind(kept.kind()).to_kind(Kind::Double)))
        }
        other => panic!("{}", other.name()),
    }
    let description = again.state().unwrap().description;
    assert!(matches!(description, FieldDescription::Chain { models, .. } if models.len() == 2));
}

#[test]
fn guidance_sees_the_breaks_and_counts_twice() {
    let blocks: Vec<Box<dyn VelocityField>> = vec![Box::new(network(Some(3))), Box::new(network(Some(3)))];
    let chain = Box::new(ChainField::new(blocks, None).unwrap());
    let guided = GuidedField::new(chain, 1.5, &Tensor::from(3_i64)).unwrap();
    assert_eq!(guided.breaks(), [0.5]);
    let (t, x) = (Tensor::from_slice(&[0.1_f32, 0.2]), noise(2).to_kind(Kind::Float));
    let _ = guided.velocity(&t, &x, Some(&Tensor::from_slice(&[0_i64, 2]))).unwrap();
    assert_eq!(guided.evaluations(), 2);
}

#[test]
fn stored_paths_say_where_kinks_are_off_the_grid() {
    let plan = |path_steps: i64| TrajectoryPlan {
        count: 16,
        path_steps,
        fixed: None,
        seed: 0,
        kind: Kind::Float,
        device: Device::Cpu,
        max_seconds: None,
    };
    let field = chain(Kind::Double, Some(&[0.0, 0.375, 1.0]));
    let notes = |path_steps: i64| {
        let stored = Trajectories::generate(&field, &plan(path_steps), None, &mut Silent).unwrap();
        stored.notes().to_vec()
    };
    assert!(notes(16).is_empty());
    let told = notes(10);
    assert!(
        told[0].contains("path_steps=10") && told[0].contains("0.3750") && told[0].contains("multiple of 8")
    );
}

#[test]
fn what_does_not_go_together_is_told_by_name() {
    let two = || gaussian([0.0; 2], 1.0, Kind::Float);
    let refused = |fields: Vec<Box<dyn VelocityField>>, breaks: Option<&[f64]>| {
        ChainField::new(fields, breaks).err().expect("refused")
    };
    let named = |error: &Error, name: &str| error.to_string().starts_with(name);
    assert!(named(&refused(vec![], None), "teachers"));
    let wide =
        GaussianField::new(&noise(1).view([2]), &Tensor::eye(2, DOUBLE), &[2, 1], Device::Cpu, Kind::Float);
    let error = refused(vec![two(), Box::new(wide.unwrap())], None);
    assert!(matches!(error, Error::Shape { .. }) && named(&error, "teachers[1]"));
    let error = refused(vec![two(), gaussian([0.0; 2], 1.0, Kind::Double)], None);
    assert!(matches!(error, Error::Dtype { .. }) && named(&error, "teachers[1]"));
    let error = refused(vec![two(), Box::new(network(Some(3)))], None);
    assert!(named(&error, "teachers[1]") && error.to_string().contains("labels of 3 classes"));
    for breaks in [&[0.0, 1.0][..], &[0.0, 0.5, 0.9], &[0.0, 1.0, 1.0], &[0.0, f64::NAN, 1.0]] {
        assert!(named(&refused(vec![two(), two()], Some(breaks)), "breaks"));
    }
}
