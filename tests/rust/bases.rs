//! Random Fourier features and polynomials against formulas written out, and their tangents against
//! finite differences.

mod common;

use common::{base, gap, normal, student, through_a_file, DOUBLE};
use koopflow::condition::Conditioning;
use koopflow::koopman::{polynomial_size, Basis, Direction, GeneratorKind, StudentConfig};
use koopflow::monitor::Silent;
use koopflow::nets::{monomial_count, Dual, FourierFeatures, Network, Parameters, Polynomial};
use koopflow::sampling;
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

fn check_tangent(network: &dyn Network, inputs: i64) {
    let (x, direction) = (normal(1, &[5, inputs]), normal(2, &[5, inputs]));
    let dual = network.forward_with_tangent(&Dual::new(x.copy(), direction.copy()));
    assert!(gap(&dual.primal, &network.forward(&x)) < 1e-14);
    let step = 1e-5;
    let difference = (network.forward(&(&x + &direction * step))
        - network.forward(&(&x - &direction * step)))
        / (2.0 * step);
    assert!(gap(&dual.tangent, &difference) < 1e-8, "{:e}", gap(&dual.tangent, &difference));
}

#[test]
fn fourier_features_are_cosines() {
    let mut parameters = Parameters::new(Kind::Double, Device::Cpu);
    let network = FourierFeatures::new("f", 5, 40, &mut parameters, &mut RandomSource::new(3)).unwrap();
    check_tangent(&network, 5);
    let x = normal(1, &[2, 5]);
    let out = network.forward(&x);
    let (w, b) = (&parameters.tensors()[0], &parameters.tensors()[1]);
    for (row, feature) in [(0, 0), (1, 17), (0, 39)] {
        let angle: f64 =
            (0..5).map(|i| w.double_value(&[feature, i]) * x.double_value(&[row, i])).sum::<f64>()
                + b.double_value(&[feature]);
        assert!((out.double_value(&[row, feature]) - angle.cos()).abs() < 1e-14);
    }
    // Not all alike: slow and fast ones.
    let lengths = w.norm_scalaropt_dim(2.0, [1], false);
    assert!(lengths.max().double_value(&[]) > 4.0 * lengths.min().double_value(&[]));
}

#[test]
fn polynomials_are_all_monomials_once() {
    let network = Polynomial::new(&[0, 2, 3], 1, 4, Device::Cpu);
    check_tangent(&network, 5);
    let x = normal(1, &[3, 5]);
    let out = network.forward(&x);
    // Exponents (a, b, c) of columns 0, 2, 3 with 2 <= a + b + c <= 4, and column 3 itself.
    let mut expected = vec![x.select(1, 3)];
    for a in 0..=4 {
        for b in 0..=4 - a {
            for c in 0..=4 - a - b {
                if a + b + c >= 2 {
                    expected.push(
                        x.select(1, 0).pow_tensor_scalar(a)
                            * x.select(1, 2).pow_tensor_scalar(b)
                            * x.select(1, 3).pow_tensor_scalar(c),
                    );
                }
            }
        }
    }
    let expected = Tensor::stack(&expected, 1);
    assert_eq!(out.size(), expected.size());
    assert_eq!(monomial_count(3, 1, 4), Some(out.size()[1]));
    // As sets: every row sorted.
    assert!(gap(&out.sort(1, false).0, &expected.sort(1, false).0) < 1e-12);
}

fn configs() -> Vec<StudentConfig> {
    let count = polynomial_size(3, Conditioning::None, 3).unwrap();
    vec![
        StudentConfig { basis: Basis::Fourier, ..base() },
        StudentConfig { basis: Basis::Polynomial, observables: count, ..base() },
        StudentConfig {
            basis: Basis::Polynomial,
            observables: count,
            generator: GeneratorKind::Dense,
            lifts: 1,
            ..base()
        },
    ]
}

#[test]
fn students_of_every_basis_have_exact_tangents_and_come_back_from_files() {
    for config in configs() {
        let student = student(config.clone(), 0.02);
        let (x, velocity) = (normal(7, &[4, 3]), normal(8, &[4, 3]));
        let time = Tensor::full([4], 0.31, DOUBLE);
        let (g, tangent) =
            student.encode_with_tangent(&time, &x, &velocity, Direction::Forward, None).unwrap();
        // Third derivatives of the fastest cosines are large.
        let step = 1e-6;
        let at = |sign: f64| {
            let moved = &x + &velocity * (sign * step);
            student.encode(&(&time + sign * step), &moved, Direction::Forward, None).unwrap()
        };
        assert!(gap(&g, &at(0.0)) < 1e-13);
        assert!(gap(&tangent, &((at(1.0) - at(-1.0)) / (2.0 * step))) < 1e-7);
        let again = through_a_file(&student, "bases");
        assert_eq!(again.config(), &config);
        let sample = |s| sampling::sample(s, &x, None, 1, &mut Silent).unwrap();
        assert_eq!(gap(&sample(&again), &sample(&student)), 0.0);
    }
}

/// Monomials in the data's axes are the polynomials in x: x² and t x are combinations of them.
#[test]
fn polynomial_observables_span_the_polynomials_of_time_and_state() {
    let count = polynomial_size(3, Conditioning::None, 2).unwrap();
    let config = StudentConfig { basis: Basis::Polynomial, degree: 2, observables: count, ..base() };
    let student = student(config, 0.0);
    let (t, x) = (normal(1, &[200]), normal(2, &[200, 3]));
    let g = student.encode(&t, &x, Direction::Forward, None).unwrap();
    let target = Tensor::stack(
        &[x.select(1, 0).square(), x.select(1, 1) * x.select(1, 2), &t * x.select(1, 2), t.square()],
        1,
    );
    let gram = g.tr().matmul(&g);
    let solved = Tensor::linalg_solve(&gram, &g.tr().matmul(&target), true);
    assert!(gap(&g.matmul(&solved), &target) < 1e-9);
}

#[test]
fn conditions_are_variables_too() {
    let conditioning = Conditioning::Vector { dim: 2 };
    let count = polynomial_size(3, conditioning, 2).unwrap();
    // 6 variables: 21 of degree 2, and the 2 conditions.
    assert_eq!(count, 23);
    let config =
        StudentConfig { basis: Basis::Polynomial, degree: 2, conditioning, observables: count, ..base() };
    let student = student(config, 0.02);
    let (x, condition) = (normal(1, &[4, 3]), normal(2, &[4, 2]));
    let g = student.encode(&Tensor::from(0.5), &x, Direction::Forward, Some(&condition)).unwrap();
    assert!(gap(&g.narrow(1, 5, 2), &condition) < 1e-15);
}

#[test]
fn impossible_bases_are_refused_by_name() {
    let refused = |config: StudentConfig| config.validate().unwrap_err().to_string();
    let polynomial = StudentConfig { basis: Basis::Polynomial, ..base() };
    assert!(refused(polynomial.clone()).starts_with("observables: expected 30"));
    let many = refused(StudentConfig { event_shape: vec![64], degree: 12, ..polynomial.clone() });
    assert!(many.starts_with("degree:") && many.contains("4096"), "{many}");
    assert!(refused(StudentConfig { degree: 1, ..polynomial }).starts_with("degree:"));
}

/// Headers written before there were bases, readouts and stabilities.
#[test]
fn older_configurations_are_still_read() {
    let text = r#"{"event_shape": [2], "conditioning": "none", "observables": 8, "generator": "dense",
        "lifts": 1, "width": 16, "depth": 2, "table_times": 9, "dtype": "float32"}"#;
    let read: StudentConfig = serde_json::from_str(text).unwrap();
    let expected = StudentConfig {
        observables: 8,
        generator: GeneratorKind::Dense,
        lifts: 1,
        width: 16,
        depth: 2,
        table_times: 9,
        ..StudentConfig::default()
    };
    assert_eq!(read, expected);
}
