//! The noise behind data, polished: one bad row does not stop the good ones, and maps of a large condition number
//! are inverted as far as their dtype allows.

mod common;

use common::{gap, DOUBLE};
use koopflow::condition::Conditioning;
use koopflow::koopman::{polynomial_size, Basis, GeneratorKind, Student, StudentConfig};
use koopflow::monitor::Silent;
use koopflow::sampling::{self, Polish};
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

/// A float32 student in the plane whose samples are S(z) = z + c z² in each coordinate, and which inverts them by
/// B(x) = x - c x².
fn quadratic(c: f64) -> Student {
    let observables = polynomial_size(2, Conditioning::None, 2).unwrap();
    let config = StudentConfig {
        event_shape: vec![2],
        basis: Basis::Polynomial,
        degree: 2,
        lifts: 1,
        observables,
        pairs: Some(0),
        ..StudentConfig::default()
    };
    let mut student = Student::new(config, 1, Device::Cpu).unwrap();
    // No growth: (e^λ - 1)/λ is 1.
    student.set_parameters(&student.parameters().flat().unwrap().zeros_like()).unwrap();
    // The monomials of (t, x, y) are t², t x, t y, x², x y, y².
    let mut readout = vec![0.0; 12];
    (readout[3 * 2], readout[5 * 2 + 1]) = (c, c);
    let readout = Tensor::from_slice(&readout).view([6, 2]).to_kind(Kind::Float);
    student.set_spectral_readout(&readout, &Tensor::zeros([2, 2], (Kind::Float, Device::Cpu))).unwrap();
    student
}

#[test]
fn a_sample_out_of_range_does_not_stop_the_others() {
    let student = quadratic(0.05);
    let x = Tensor::from_slice(&[0.5f32, -0.4, 1e10, 0.1, 1.2, 0.7]).view([3, 2]);
    let invert = |steps| {
        let method = Polish::FixedPoint;
        sampling::invert_polished(&student, &x, None, method, steps, 0.0, &mut Silent).unwrap()
    };
    let (start, polished) = (invert(0), invert(20));
    for row in [0, 2] {
        for column in 0..2 {
            // The root of z + c z² = x near 0.
            let value = x.double_value(&[row, column]);
            let exact = ((1.0 + 0.2 * value).sqrt() - 1.0) * 10.0;
            let off = (polished.noise.double_value(&[row, column]) - exact).abs();
            assert!(off < 1e-6, "row {row}: off by {off:e}");
        }
        assert!(start.residuals.double_value(&[row]) > 1e-4);
    }
    // Its step led out of range and is not kept.
    assert_eq!(polished.noise.get(1), start.noise.get(1));
}

#[test]
fn newton_steps_follow_a_map_of_large_condition_number() {
    let config = StudentConfig {
        event_shape: vec![2],
        generator: GeneratorKind::Dense,
        lifts: 2,
        observables: 5,
        width: 8,
        depth: 1,
        ..StudentConfig::default()
    };
    let mut student = Student::new(config, 1, Device::Cpu).unwrap();
    // Only the lift for the way back sees features: S(z) = z e^M, and its own inverse is wrong.
    let mut named: std::collections::HashMap<_, _> = student.named().into_iter().collect();
    for (name, tensor) in &mut named {
        if name.starts_with("forward.") {
            *tensor = tensor.zeros_like();
        }
    }
    student.restore(|name| Ok(named.remove(name).unwrap())).unwrap();
    // Singular values 1 and 1e-4, in directions that lie along no axis.
    let turn = Tensor::from_slice(&[0.8, 0.6, -0.6, 0.8]).view([2, 2]);
    let rates = Tensor::from_slice(&[0.0, 0.0, 0.0, 1e-4f64.ln()]).view([2, 2]);
    let motion = turn.tr().matmul(&rates).matmul(&turn);
    let columns = Tensor::zeros([9, 7], DOUBLE);
    columns.narrow(0, 2, 2).narrow(1, 0, 2).copy_(&motion);
    let _ = columns.narrow(0, 4, 5).narrow(1, 0, 2).fill_(0.3);
    student.set_generator_columns(&columns.to_kind(Kind::Float)).unwrap();

    let noise = RandomSource::new(4).normal(&[5, 2], Kind::Float, Device::Cpu).unwrap();
    let x = sampling::sample(&student, &noise, None, 1, &mut Silent).unwrap();
    let found = |steps| {
        sampling::invert_polished(&student, &x, None, Polish::Newton, steps, 1e-9, &mut Silent).unwrap()
    };
    assert!(gap(&found(0).noise, &noise) > 0.1);
    let off = gap(&found(20).noise, &noise);
    // Rounding of a sample, 1e-7, over the smallest singular value.
    assert!(off < 5e-3, "{off:e}");
}
