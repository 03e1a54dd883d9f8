//! Flows from other laws than noise: what pairs begin with, parts of a flow, and students one after another.

use koopflow::condition::Conditioning;
use koopflow::data::{Coupling, PairSource};
use koopflow::koopman::{Segments, Student, StudentConfig};
use koopflow::monitor::Silent;
use koopflow::ode;
use koopflow::sampling::{
    invert_segments, invert_segments_polished, path_of_segments, sample, sample_segments, Polish,
};
use koopflow::tensor::{RandomSource, Share as _};
use koopflow::velocity::{
    GaussianField, Source, SourceDescription, SourcedField, VelocityField, WindowField,
};
use koopflow::Error;
use tch::{Device, Kind, Tensor};

const REAL: (Kind, Device) = (Kind::Double, Device::Cpu);

fn rows(values: &[[f64; 2]]) -> Tensor {
    Tensor::from_slice(&values.concat()).view([values.len() as i64, 2])
}

fn gaussian() -> Box<dyn VelocityField> {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.5, 0.5, 1.0]).view([2, 2]);
    Box::new(GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap())
}

fn far(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn pairs_begin_with_rows_of_the_pool_and_are_coupled_to_the_nearest() {
    let pool = rows(&[[10.0, 0.0], [-10.0, 0.0]]);
    let data = rows(&[[9.0, 1.0], [-9.0, 1.0], [9.0, -1.0], [-9.0, -1.0]]);
    let random = RandomSource::new(3);
    let source = PairSource::new(&data, None, Coupling::Ot, 64, 64, random).unwrap();
    let source = source.starting_from(&pool).unwrap();
    let batch = source.batch(0).unwrap();
    assert_eq!(batch, source.batch(0).unwrap());
    let start = Tensor::from_slice(&batch.noise).view([64, 2]);
    let end = batch.rows(&data).unwrap();
    let left = start.select(1, 0).lt(0.0);
    assert_eq!(far(&start.select(1, 0).abs(), &Tensor::full([64], 10.0, (Kind::Float, Device::Cpu))), 0.0);
    // Numbers of both kinds differ by chance: no more cross over than have to.
    let crossing = left.not_equal_tensor(&end.select(1, 0).lt(0.0)).sum(Kind::Int64).int64_value(&[]);
    let lefts = left.sum(Kind::Int64).int64_value(&[]);
    let goals = end.select(1, 0).lt(0.0).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(crossing, (lefts - goals).abs());
    let wrong = PairSource::new(&data, None, Coupling::Ot, 4, 4, RandomSource::new(0)).unwrap();
    let error = wrong.starting_from(&Tensor::zeros([3, 3], REAL)).err().unwrap();
    assert!(matches!(error, Error::Shape { argument, .. } if argument == "source"));
}

#[test]
fn windows_of_a_flow_make_up_the_whole() {
    let whole = gaussian();
    let mut random = RandomSource::new(1);
    let x = random.normal(&[20, 2], Kind::Double, Device::Cpu).unwrap();
    let options = ode::SolveOptions::adaptive(1e-9);
    let carried = |field: &dyn VelocityField, x: &Tensor| {
        ode::solve(field, x, &[0.0, 1.0], &options, None, &mut Silent).unwrap().endpoint()
    };
    let parts = [(0.0, 0.25), (0.25, 0.7), (0.7, 1.0)];
    let by_parts = parts.iter().fold(x.shallow_clone(), |x, (from, to)| {
        carried(&WindowField::new(whole.shallow_clone(), *from, *to).unwrap(), &x)
    });
    assert!(far(&by_parts, &carried(&*whole, &x)) < 1e-6);
    // A later part starts where those before end, and has the density of the whole.
    let last = WindowField::new(whole.shallow_clone(), 0.7, 1.0).unwrap();
    let density = ode::DensityOptions { solve: options.clone(), ..ode::DensityOptions::default() };
    let found = ode::log_prob(&last, &x, &density, None, &mut Silent).unwrap();
    let expected = ode::log_prob(&*whole, &x, &density, None, &mut Silent).unwrap();
    // As exactly as was asked, though its source is a flow that has to be solved as well.
    assert!(far(&found, &expected) < 1e-6);
    assert!(WindowField::new(whole, 0.7, 0.3).is_err());
}

#[test]
fn rows_are_drawn_alike_for_a_seed_and_have_no_density() {
    let points = rows(&[[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]);
    let field = SourcedField::new(gaussian(), Source::rows(&points, &[2]).unwrap());
    let draw = |seed| ode::starts(&field.source(), 300, &[2], seed, REAL, None, &mut Silent).unwrap();
    assert_eq!(far(&draw(4), &draw(4)), 0.0);
    assert!(far(&draw(4), &draw(5)) > 0.0);
    for value in [0.0, 1.0, 2.0] {
        let share = draw(4).select(1, 0).eq(value).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((share - 1.0 / 3.0).abs() < 0.1, "{share} of the draws are {value}");
    }
    let error = ode::log_prob(&field, &points, &ode::DensityOptions::default(), None, &mut Silent);
    assert!(matches!(error.err().unwrap(), Error::Argument { argument, .. } if argument == "source"));
    assert!(Source::rows(&Tensor::zeros([2, 3], REAL), &[2]).is_err());
}

#[test]
fn noise_makes_a_law_with_a_density_of_rows() {
    let points = rows(&[[0.0, 0.0], [40.0, 0.0]]);
    let source = Source::rows(&points, &[2]).unwrap().with_noise(0.5).unwrap();
    // Halfway up a kernel of the first, whose share is one half; the other is out of reach.
    let x = rows(&[[0.3, -0.4], [0.0, 0.0]]);
    let options = ode::DensityOptions::default();
    let found = ode::log_density(&source, &x, &options, None, &mut Silent).unwrap();
    let top = -(2.0_f64.ln() + std::f64::consts::TAU.ln() + 2.0 * 0.5_f64.ln());
    assert!(far(&found, &Tensor::from_slice(&[top - 0.5, top])) < 1e-12);
    // All rows stand for themselves equally often in a pool, and no two of it are alike.
    let pool = ode::pool(&source, &[2], &mut RandomSource::new(1), &mut Silent).unwrap();
    assert_eq!(pool.size(), [ode::POOL, 2]);
    let first = pool.select(1, 0).lt(20.0).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(first, ode::POOL / 2);
    let spread = pool.select(1, 1).std(false).double_value(&[]);
    assert!((spread - 0.5).abs() < 0.02, "{spread}");
    let (description, tensors) = source.state().unwrap();
    let again = Source::from_state(&description, &tensors, &[2], Device::Cpu).unwrap();
    assert_eq!(again.noise(), 0.5);
    // A file of before says nothing of noise, and neither does one without any.
    let before: SourceDescription = serde_json::from_str(r#"{"source":"rows"}"#).unwrap();
    assert_eq!(before, SourceDescription::Rows { noise: 0.0 });
    assert_eq!(serde_json::to_string(&before).unwrap(), r#"{"source":"rows"}"#);
    for wrong in [Source::Normal.with_noise(0.1), source.with_noise(-1.0)] {
        assert!(
            matches!(wrong.err().unwrap(), Error::Argument { argument, .. } if argument == "source_noise")
        );
    }
}

#[test]
fn segments_are_read_one_after_another() {
    let config = StudentConfig {
        observables: 8,
        width: 8,
        depth: 1,
        dtype: "float64".into(),
        ..StudentConfig::default()
    };
    let students: Vec<Student> =
        (0..3).map(|seed| Student::new(config.clone(), seed, Device::Cpu).unwrap()).collect();
    let handles = students.shallow_clone();
    let segments = Segments::new(students, vec![0.0, 0.25, 0.5, 1.0]).unwrap();
    assert_eq!(segments.place(0.25), (0, 1.0));
    assert_eq!(segments.place(0.375), (1, 0.5));
    assert_eq!(segments.place(1.0), (2, 1.0));
    assert_eq!(segments.place(-0.1).0, 0);
    let mut random = RandomSource::new(2);
    let x0 = random.normal(&[5, 2], Kind::Double, Device::Cpu).unwrap();
    let one_by_one = handles
        .iter()
        .fold(x0.shallow_clone(), |x, student| sample(student, &x, None, 1, &mut Silent).unwrap());
    let x1 = sample_segments(&segments, &x0, None, &mut Silent).unwrap();
    assert!(far(&x1, &one_by_one) < 1e-12);
    let path = path_of_segments(&segments, &x0, &[1.0, 0.5, 0.0], None, &mut Silent).unwrap();
    assert!(far(&path.get(0), &x1) < 1e-10);
    assert!(far(&path.get(2), &x0) < 1e-10);
    let back = invert_segments(&segments, &x1, None, &mut Silent).unwrap();
    assert_eq!(back.size(), [5, 2]);
    let polished = |steps| {
        let method = Polish::Newton;
        invert_segments_polished(&segments, &x1, None, method, steps, 1e-9, &mut Silent).unwrap()
    };
    assert!(far(&polished(0).noise, &back) < 1e-12);
    // Untrained students are near the identity: each has an inverse, which its own lift does not know.
    assert!(far(&polished(20).noise, &x0) < 1e-6);
    assert!(far(&polished(20).residuals, &Tensor::zeros([5], REAL)) < 1e-6);
    assert!(polished(0).residuals.min().double_value(&[]) > 1e-4);
    let error = invert_segments_polished(&segments, &x1, None, Polish::Newton, -1, 0.0, &mut Silent);
    assert!(matches!(error.err().unwrap(), Error::Argument { argument, .. } if argument == "polish"));
    let labelled = StudentConfig { conditioning: Conditioning::Labels { classes: 2 }, ..config.clone() };
    let mixed = vec![handles[0].shallow_clone(), Student::new(labelled, 0, Device::Cpu).unwrap()];
    assert!(Segments::new(mixed, vec![0.0, 0.5, 1.0]).is_err());
    assert!(Segments::new(handles, vec![0.0, 0.5, 0.4, 1.0]).is_err());
}
