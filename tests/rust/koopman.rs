//! The Koopman room: both generators against the matrix exponential of the assembled L, tangents
//! against finite differences, and the sampler against its parts.

use koopflow::condition::Conditioning;
use koopflow::error::Error;
use koopflow::koopman::{
    exponential_integral, Direction, Eigenvectors, GeneratorKind, Student, StudentConfig,
};
use koopflow::monitor::Silent;
use koopflow::nets::InputCoordinates;
use koopflow::sampling;
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn config(generator: GeneratorKind, observables: i64) -> StudentConfig {
    StudentConfig {
        event_shape: vec![3],
        conditioning: Conditioning::None,
        observables,
        generator,
        lifts: 2,
        width: 16,
        depth: 2,
        table_times: 9,
        dtype: "float64".into(),
        ..StudentConfig::default()
    }
}

/// A student with generic weights and generic input statistics.
fn student(generator: GeneratorKind, observables: i64) -> Student {
    let mut student = Student::new(config(generator, observables), 1, Device::Cpu).unwrap();
    let mut random = RandomSource::new(5);
    let mut flat = student.parameters().flat().unwrap();
    let noise = random.normal(&flat.size(), Kind::Double, Device::Cpu).unwrap();
    let _ = tch::no_grad(|| flat.f_add_(&(noise * 0.3)).unwrap());
    let states = random.normal(&[200, 9, 3], Kind::Double, Device::Cpu).unwrap()
        * Tensor::linspace(1.0, 0.3, 9, DOUBLE).view([1, 9, 1])
        + Tensor::linspace(0.0, 2.0, 9, DOUBLE).view([1, 9, 1]);
    student.set_coordinates(InputCoordinates::from_trajectories(&states, Kind::Double, Device::Cpu).unwrap());
    student
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    let scale = b.abs().max().double_value(&[]).max(1.0);
    (a - b).abs().max().double_value(&[]) / scale
}

fn samples(batch: i64) -> Tensor {
    RandomSource::new(9).normal(&[batch, 3], Kind::Double, Device::Cpu).unwrap()
}

#[test]
fn propagation_is_the_matrix_exponential() {
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        for observables in [1, 2, 3, 7, 12] {
            let student = student(generator, observables);
            let g = student.encode(&Tensor::from(0.3), &samples(5), Direction::Forward, None).unwrap();
            let matrix = student.generator().matrix();
            for tau in [-2.0, -1e-6, 0.0, 1e-6, 1e-3, 0.7, 1.0, 3.0] {
                let expected = g.matmul(&(&matrix * tau).linalg_matrix_exp());
                let moved = student.propagate(&g, &Tensor::from(tau)).unwrap();
                assert!(
                    gap(&moved, &expected) < 1e-9,
                    "{generator:?} k = {observables}, tau = {tau}: {:e}",
                    gap(&moved, &expected)
                );
            }
        }
    }
}

#[test]
fn each_sample_may_have_its_own_time() {
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        let student = student(generator, 6);
        let g = student.encode(&Tensor::from(0.0), &samples(3), Direction::Forward, None).unwrap();
        let together = student.propagate(&g, &Tensor::from_slice(&[0.2, -0.5, 1.5])).unwrap();
        for (row, tau) in [0.2, -0.5, 1.5].into_iter().enumerate() {
            let alone = student.propagate(&g.narrow(0, row as i64, 1), &Tensor::from(tau)).unwrap();
            assert!(gap(&together.narrow(0, row as i64, 1), &alone) < 1e-12);
        }
    }
}

/// The quotient (e^{λ tau} - 1)/λ is 0/0 at λ = 0 and cancels near it.
#[test]
fn eigenvalues_may_vanish() {
    let student = student(GeneratorKind::Spectral, 8);
    let names: Vec<String> = student.named().into_iter().map(|(name, _)| name).collect();
    let place = |name: &str| names.iter().position(|own| own == name).unwrap();
    let (growth, frequency) = (place("generator.growth"), place("generator.frequency"));
    let g = student.encode(&Tensor::from(0.0), &samples(4), Direction::Forward, None).unwrap();
    for size in [0.0, 1e-12, 1e-6, 0.99e-3, 1.01e-3, 1e-2] {
        tch::no_grad(|| {
            let _ = student.parameters().tensors()[growth].shallow_clone().fill_(size);
            let _ = student.parameters().tensors()[frequency].shallow_clone().fill_(size);
        });
        let matrix = student.generator().matrix();
        for tau in [-1.0, 1e-6, 1.0, 10.0] {
            let expected = g.matmul(&(&matrix * tau).linalg_matrix_exp());
            let moved = student.propagate(&g, &Tensor::from(tau)).unwrap();
            assert!(gap(&moved, &expected) < 1e-11, "λ = {size:e}, tau = {tau}");
        }
    }
}

#[test]
fn gradients_stay_finite_at_vanishing_eigenvalues() {
    let student = student(GeneratorKind::Spectral, 8);
    let names: Vec<String> = student.named().into_iter().map(|(name, _)| name).collect();
    for (name, tensor) in names.iter().zip(student.parameters().tensors()) {
        if name.starts_with("generator.growth") || name.starts_with("generator.frequency") {
            let _ = tch::no_grad(|| tensor.shallow_clone().zero_());
        }
    }
    let (t, x) = (Tensor::zeros([4], DOUBLE), samples(4));
    let g = student.lift_flat(&t, &x, Direction::Forward, None);
    let moved = student.generator().propagate_state(&g, &Tensor::ones([4], DOUBLE)).unwrap();
    let gradient = student.parameters().gradient(&moved.square().sum(Kind::Double)).unwrap();
    assert_eq!(gradient.isfinite().all().int64_value(&[]), 1);
    assert!(gradient.norm().double_value(&[]) > 0.0);
}

#[test]
fn constant_and_time_are_exact() {
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        let matrix = student(generator, 5).generator().matrix();
        assert_eq!(matrix.select(1, 0).abs().sum(Kind::Double).double_value(&[]), 0.0);
        let time = matrix.select(1, 1);
        assert_eq!(time.double_value(&[0]), 1.0);
        assert_eq!(time.abs().sum(Kind::Double).double_value(&[]), 1.0);
    }
}

#[test]
fn the_rate_is_g_times_l() {
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        let student = student(generator, 7);
        let t = Tensor::full([5], 0.4, DOUBLE);
        let g = student.lift_flat(&t, &samples(5), Direction::Forward, None);
        let (state, features) = student.generator().rate(&g);
        let expected = g.assemble().matmul(&student.generator().matrix());
        assert!(gap(&state, &expected.narrow(1, 2, 3)) < 1e-12);
        assert!(gap(&features, &expected.narrow(1, 5, 7)) < 1e-12);
    }
}

#[test]
fn eigenvalues_are_those_of_the_matrix() {
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        let student = student(generator, 7);
        let own = student.generator().eigenvalues().unwrap();
        let matrix = student.generator().matrix();
        // Power sums identify a multiset of eigenvalues: compare traces of L, L², L³.
        let (re, im) = (own.select(1, 0), own.select(1, 1));
        let (mut pr, mut pi, mut power) = (re.copy(), im.copy(), matrix.copy());
        for _ in 0..3 {
            let expected = power.trace().double_value(&[]);
            assert!(
                (pr.sum(Kind::Double).double_value(&[]) - expected).abs() < 1e-8 * expected.abs().max(1.0)
            );
            assert!(pi.sum(Kind::Double).double_value(&[]).abs() < 1e-8);
            let next = &pr * &re - &pi * &im;
            pi = &pr * &im + &pi * &re;
            pr = next;
            power = power.matmul(&matrix);
        }
    }
}

#[test]
fn tangents_match_finite_differences() {
    let student = student(GeneratorKind::Spectral, 7);
    let x = samples(6);
    let velocity = x.flip([0]) * 1.3 + 0.2;
    // Inside an interval of the table of running statistics, where it is smooth.
    for (t, direction) in [(0.31, Direction::Forward), (0.83, Direction::Backward)] {
        let time = Tensor::full([6], t, DOUBLE);
        let (g, tangent) = student.encode_with_tangent(&time, &x, &velocity, direction, None).unwrap();
        assert!(gap(&g, &student.encode(&time, &x, direction, None).unwrap()) < 1e-13);
        let step = 1e-5;
        let at = |sign: f64| {
            let moved = &x + &velocity * (sign * step);
            student.encode(&(&time + sign * step), &moved, direction, None).unwrap()
        };
        let difference = (at(1.0) - at(-1.0)) / (2.0 * step);
        assert!(gap(&tangent, &difference) < 1e-8, "{:e}", gap(&tangent, &difference));
    }
}

#[test]
fn sampling_is_encode_propagate_readout() {
    for generator in [GeneratorKind::Spectral, GeneratorKind::Dense] {
        let student = student(generator, 7);
        let x0 = samples(6);
        let through = |t: f64, x: &Tensor, tau: f64, direction: Direction| {
            let g = student.encode(&Tensor::from(t), x, direction, None).unwrap();
            student.readout(&student.propagate(&g, &Tensor::from(tau)).unwrap()).unwrap()
        };
        let monitor = &mut Silent;
        let one = sampling::sample(&student, &x0, None, 1, monitor).unwrap();
        assert!(gap(&one, &through(0.0, &x0, 1.0, Direction::Forward)) < 1e-11);
        // Two steps: the encoding half-way has one vote, that of the noise has six.
        let two = sampling::sample(&student, &x0, None, 2, monitor).unwrap();
        let half = through(0.0, &x0, 0.5, Direction::Forward);
        let again = through(0.5, &half, 0.5, Direction::Forward);
        assert!(gap(&two, &((&one * 6.0 + again) / 7.0)) < 1e-11);
        let back = sampling::invert(&student, &x0, None, monitor).unwrap();
        assert!(gap(&back, &through(1.0, &x0, -1.0, Direction::Backward)) < 1e-11);
        let times = [0.0, 0.25, 1.0, 0.25];
        let path = sampling::sample_path(&student, &x0, &times, None, monitor).unwrap();
        assert_eq!(path.size(), [4, 6, 3]);
        for (index, time) in times.into_iter().enumerate() {
            let expected = through(0.0, &x0, time, Direction::Forward);
            assert!(gap(&path.select(0, index as i64), &expected) < 1e-11, "t = {time}");
        }
        // At time 0 the path is the noise itself, exactly.
        assert_eq!(gap(&path.select(0, 0), &x0), 0.0);
    }
}

#[test]
fn the_propagator_follows_the_parameters() {
    let mut student = student(GeneratorKind::Spectral, 7);
    let x0 = samples(2);
    let before = sampling::sample(&student, &x0, None, 1, &mut Silent).unwrap();
    let changed = student.parameters().flat().unwrap().copy() * 0.5;
    student.set_parameters(&changed).unwrap();
    let after = sampling::sample(&student, &x0, None, 1, &mut Silent).unwrap();
    let g = student.encode(&Tensor::from(0.0), &x0, Direction::Forward, None).unwrap();
    let expected = student.readout(&student.propagate(&g, &Tensor::from(1.0)).unwrap()).unwrap();
    assert!(gap(&after, &expected) < 1e-12);
    assert!(gap(&after, &before) > 1e-3);
}

#[test]
fn fresh_samples_do_not_depend_on_earlier_calls() {
    let student = student(GeneratorKind::Spectral, 7);
    let draw = |seed| sampling::sample_count(&student, 50, seed, None, 1, &mut Silent).unwrap();
    let first = draw(3);
    assert_eq!(gap(&draw(3), &first), 0.0);
    assert!(gap(&draw(4), &first) > 1e-3);
}

#[test]
fn an_unstable_operator_is_an_error() {
    let student = student(GeneratorKind::Dense, 7);
    let mut flat = student.parameters().flat().unwrap();
    let _ = tch::no_grad(|| flat.f_mul_scalar_(1e5).unwrap());
    let x = samples(2);
    let refused = sampling::sample(&student, &x, None, 1, &mut Silent);
    assert!(matches!(refused, Err(Error::Divergence(_))), "{refused:?}");
    let g = student.encode(&Tensor::from(0.0), &x, Direction::Forward, None).unwrap();
    assert!(matches!(student.propagate(&g, &Tensor::from(1.0)), Err(Error::Divergence(_))));
}

#[test]
fn wrong_arguments_are_named() {
    let student = student(GeneratorKind::Spectral, 7);
    let zero = Tensor::from(0.0);
    let said = |outcome: koopflow::Result<Tensor>| outcome.unwrap_err().to_string();
    let wide = Tensor::zeros([2, 4], DOUBLE);
    assert!(said(student.encode(&zero, &wide, Direction::Forward, None)).contains("x: expected shape (B, 3)"));
    assert!(said(student.readout(&wide)).contains("g: expected shape (B, 12)"));
    let odd = Tensor::zeros([2, 12], DOUBLE);
    assert!(said(student.readout(&odd)).contains("constant 1"));
    let labels = Tensor::zeros([2], (Kind::Int64, Device::Cpu));
    let x = samples(2);
    assert!(said(student.encode(&zero, &x, Direction::Forward, Some(&labels))).contains("condition"));
    let nan = &x * f64::NAN;
    assert!(said(sampling::sample(&student, &nan, None, 1, &mut Silent)).contains("NaN"));
    assert!(said(sampling::sample(&student, &x, None, 0, &mut Silent)).contains("steps"));
    let empty = Tensor::zeros([0, 3], DOUBLE);
    assert!(said(sampling::invert(&student, &empty, None, &mut Silent)).contains("empty"));
}

#[test]
fn the_integral_of_an_exponential_is_accurate_at_every_eigenvalue() {
    let values: [(f64, f64); 8] = [
        (0.0, 0.0),
        (1e-9, -1e-12),
        (2e-4, 9e-4),
        (2e-4, -9e-4),
        (-1.2e-3, 3e-4),
        (1.01e-3, 0.0),
        (-2.0, 3.0),
        (1.5, -0.3),
    ];
    let part =
        |pick: fn(&(f64, f64)) -> f64| Tensor::from_slice(&values.iter().map(pick).collect::<Vec<_>>());
    let eigenvalues = Tensor::complex(&part(|v| v.0), &part(|v| v.1));
    for tau in [1.0, -0.7, 0.25] {
        let got = exponential_integral(&eigenvalues, tau).unwrap().view_as_real();
        for (row, (a, b)) in values.iter().enumerate() {
            // tau times the sum of z^k / (k + 1)!, z = lambda tau, in complex arithmetic.
            let (za, zb) = (a * tau, b * tau);
            let (mut term, mut sum) = ((tau, 0.0), (tau, 0.0));
            for k in 2..60 {
                let factor = 1.0 / f64::from(k);
                term = ((term.0 * za - term.1 * zb) * factor, (term.0 * zb + term.1 * za) * factor);
                sum = (sum.0 + term.0, sum.1 + term.1);
            }
            let real = got.double_value(&[row as i64, 0]) - sum.0;
            let imaginary = got.double_value(&[row as i64, 1]) - sum.1;
            let gap = real.hypot(imaginary) / sum.0.hypot(sum.1);
            assert!(gap < 1e-14, "lambda {a} + {b}i, tau {tau}: off by {gap:e}");
        }
    }
}

#[test]
fn eigenvectors_diagonalise_and_a_defective_matrix_has_no_rows() {
    let matrix = RandomSource::new(3).normal(&[6, 6], Kind::Double, Device::Cpu).unwrap();
    let eigen = Eigenvectors::new(&matrix).unwrap();
    let again = (&eigen.columns * eigen.values.unsqueeze(0)).matmul(&eigen.rows().unwrap());
    let gap = (again.real() - matrix).abs().max().double_value(&[]);
    assert!(gap < 1e-12, "{gap:e}");
    assert!(again.imag().abs().max().double_value(&[]) < 1e-12);
    let jordan = Tensor::from_slice(&[0.0, 1.0, 0.0, 0.0]).view([2, 2]);
    assert!(matches!(Eigenvectors::new(&jordan).unwrap().rows(), Err(Error::Divergence(_))));
    let broken = Tensor::from_slice(&[f64::NAN, 1.0, 0.0, 0.0]).view([2, 2]);
    assert!(matches!(Eigenvectors::new(&broken), Err(Error::Divergence(_))));
}
