//! Readouts, and dense generators of bounded growth.

mod common;

use common::{base, gap, normal, student, DOUBLE};
use koopflow::error::Error;
use koopflow::koopman::{Direction, GeneratorKind, ReadoutKind, Stability, StudentConfig};
use koopflow::monitor::Silent;
use koopflow::sampling;
use tch::{Device, Kind, Tensor};

const READOUTS: [ReadoutKind; 3] = [ReadoutKind::Slice, ReadoutKind::Linear, ReadoutKind::Network];
const GENERATORS: [GeneratorKind; 2] = [GeneratorKind::Spectral, GeneratorKind::Dense];

fn config(generator: GeneratorKind, readout: ReadoutKind) -> StudentConfig {
    StudentConfig { generator, readout, ..base() }
}

/// The readout written out from the named parameters, another way than the crate's.
fn by_hand(student: &koopflow::koopman::Student, g: &Tensor) -> Tensor {
    let named: std::collections::HashMap<String, Tensor> = student.named().into_iter().collect();
    match student.config().readout {
        ReadoutKind::Slice => g.narrow(1, 2, 3),
        ReadoutKind::Linear => g.matmul(&named["readout.matrix"]),
        ReadoutKind::Network => {
            let mut hidden = g.narrow(1, 1, g.size()[1] - 1);
            for layer in 0..3 {
                if layer > 0 {
                    hidden = &hidden / (hidden.neg().exp() + 1.0);
                }
                let (weight, bias) =
                    (&named[&format!("readout.{layer}.weight")], &named[&format!("readout.{layer}.bias")]);
                hidden = hidden.matmul(&weight.tr()) + bias;
            }
            g.narrow(1, 2, 3) + hidden
        }
        ReadoutKind::Decoder => unreachable!("no such student here"),
    }
}

#[test]
fn the_sampler_is_the_matrix_exponential_and_the_readout() {
    for generator in GENERATORS {
        for readout in READOUTS {
            let student = student(config(generator, readout), 0.3);
            let x = normal(9, &[6, 3]);
            let through = |t: f64, x: &Tensor, tau: f64, direction: Direction| {
                let g = student.encode(&Tensor::from(t), x, direction, None).unwrap();
                by_hand(&student, &g.matmul(&(student.generator().matrix() * tau).linalg_matrix_exp()))
            };
            let close = |a: &Tensor, b: &Tensor| {
                assert!(gap(a, b) < 1e-10, "{generator:?} {readout:?}: {:e}", gap(a, b))
            };
            let one = sampling::sample(&student, &x, None, 1, &mut Silent).unwrap();
            close(&one, &through(0.0, &x, 1.0, Direction::Forward));
            let two = sampling::sample(&student, &x, None, 2, &mut Silent).unwrap();
            // The encoding half-way has one vote, that of the noise has six.
            let motion = (student.generator().matrix() * 0.5).linalg_matrix_exp();
            let encode =
                |t: f64, x: &Tensor| student.encode(&Tensor::from(t), x, Direction::Forward, None).unwrap();
            let carried = encode(0.0, &x).matmul(&motion);
            let fresh = encode(0.5, &by_hand(&student, &carried));
            close(&two, &by_hand(&student, &((carried * 6.0 + fresh) / 7.0).matmul(&motion)));
            let back = sampling::invert(&student, &x, None, &mut Silent).unwrap();
            close(&back, &through(1.0, &x, -1.0, Direction::Backward));
            let path = sampling::sample_path(&student, &x, &[0.3, 0.0, 1.0], None, &mut Silent).unwrap();
            for (index, time) in [0.3, 0.0, 1.0].into_iter().enumerate() {
                close(&path.select(0, index as i64), &through(0.0, &x, time, Direction::Forward));
            }
            let g = student.encode(&Tensor::from(0.2), &x, Direction::Forward, None).unwrap();
            close(&student.readout(&g).unwrap(), &by_hand(&student, &g));
        }
    }
}

#[test]
fn each_sample_decodes_after_its_own_time() {
    for generator in GENERATORS {
        for readout in READOUTS {
            let student = student(config(generator, readout), 0.3);
            let (t, x) = (Tensor::full([3], 0.4, DOUBLE), normal(9, &[3, 3]));
            let g = student.lift_flat(&t, &x, Direction::Forward, None);
            let together = student.decode_after(&g, &Tensor::from_slice(&[0.2, -0.4, 1.1])).unwrap();
            for (row, tau) in [0.2, -0.4, 1.1].into_iter().enumerate() {
                let alone = student.advance(&g.rows(row as i64, 1), tau).unwrap();
                assert!(gap(&together.narrow(0, row as i64, 1), &alone) < 1e-11, "{generator:?} {readout:?}");
            }
            let gradient = student.parameters().gradient(&together.square().sum(Kind::Double)).unwrap();
            assert_eq!(gradient.isfinite().all().int64_value(&[]), 1);
        }
    }
}

#[test]
fn readouts_begin_at_the_slice_and_learn() {
    for (readout, tolerance) in [(ReadoutKind::Linear, 1e-14), (ReadoutKind::Network, 2e-2)] {
        let student =
            koopflow::koopman::Student::new(config(GeneratorKind::Spectral, readout), 1, Device::Cpu)
                .unwrap();
        let (t, x) = (Tensor::full([8], 0.4, DOUBLE), normal(9, &[8, 3]));
        let g = student.lift_flat(&t, &x, Direction::Forward, None);
        assert!(gap(&student.decode(&g), &x) < tolerance);
        let loss = (student.decode(&g) - &x * 2.0).square().sum(Kind::Double);
        let gradient = student.parameters().gradient(&loss).unwrap();
        let mut offset = 0;
        for (name, tensor) in student.named().iter().take(student.parameters().tensors().len()) {
            let part = gradient.narrow(0, offset, tensor.numel() as i64);
            offset += tensor.numel() as i64;
            if name.starts_with("readout") {
                assert!(part.norm().double_value(&[]) > 0.0, "{name}");
            }
        }
    }
}

#[test]
fn horizons_follow_the_parameters() {
    let original = student(config(GeneratorKind::Dense, ReadoutKind::Linear), 0.3);
    // A second handle shares the parameters, and what is known of them. Nobody has to be told of a write.
    let student = original.shallow_clone();
    let x = normal(9, &[2, 3]);
    let before = sampling::sample(&student, &x, None, 1, &mut Silent).unwrap();
    let _ = tch::no_grad(|| student.parameters().flat().unwrap().f_mul_scalar_(0.5).unwrap());
    let after = sampling::sample(&student, &x, None, 1, &mut Silent).unwrap();
    assert_eq!(gap(&sampling::sample(&original, &x, None, 1, &mut Silent).unwrap(), &after), 0.0);
    let g = student.encode(&Tensor::from(0.0), &x, Direction::Forward, None).unwrap();
    let expected = student.readout(&student.propagate(&g, &Tensor::from(1.0)).unwrap()).unwrap();
    assert!(gap(&after, &expected) < 1e-12 && gap(&after, &before) > 1e-3);
    // Through one parameter's own tensor.
    let version = student.parameters().version();
    let _ = tch::no_grad(|| student.parameters().tensors()[0].shallow_clone().f_mul_scalar_(0.5).unwrap());
    assert_ne!(student.parameters().version(), version);
}

#[test]
fn exponentials_that_are_recorded_take_a_hundred_substeps_at_most() {
    let student = student(config(GeneratorKind::Dense, ReadoutKind::Slice), 0.3);
    let start = student.lift_flat(&Tensor::zeros([4], DOUBLE), &normal(9, &[4, 3]), Direction::Forward, None);
    let matrix = student.generator().matrix();
    let norm = matrix.abs().sum_dim_intlist(0, false, Kind::Double).max().double_value(&[]);
    // A substep covers a norm of 2.
    for (substeps, recorded) in [(99.0, true), (103.0, false)] {
        let tau = Tensor::full([4], -2.0 * substeps / norm, DOUBLE);
        match student.decode_after(&start, &tau) {
            Ok(_) => assert!(recorded, "{substeps} substeps were recorded"),
            Err(error) => assert!(!recorded && matches!(error, Error::Divergence(_)), "{error}"),
        }
        assert!(tch::no_grad(|| student.decode_after(&start, &tau)).is_ok());
    }
}

fn stable(stability: Stability, spread: f64) -> koopflow::koopman::Student {
    student(StudentConfig { stability, ..config(GeneratorKind::Dense, ReadoutKind::Slice) }, spread)
}

fn real_parts(student: &koopflow::koopman::Student) -> Tensor {
    student.generator().matrix().linalg_eigvals().view_as_real().select(1, 0)
}

#[test]
fn stable_generators_keep_their_eigenvalues_in_bounds() {
    for spread in [0.01, 0.3, 2.0, 10.0] {
        let dissipative = real_parts(&stable(Stability::Dissipative, spread)).max().double_value(&[]);
        assert!(dissipative <= 1e-9 * spread * spread, "{spread}: {dissipative}");
        let bounded = real_parts(&stable(Stability::Bounded, spread)).abs().max().double_value(&[]);
        assert!(bounded <= 8.0 + 1e-9, "{spread}: {bounded}");
    }
    // The bound is of use: the free generator breaks it, and a bounded one does grow.
    assert!(real_parts(&stable(Stability::Free, 10.0)).abs().max().double_value(&[]) > 8.0);
    assert!(real_parts(&stable(Stability::Bounded, 2.0)).max().double_value(&[]) > 0.5);
    assert!(real_parts(&stable(Stability::Dissipative, 0.3)).min().double_value(&[]) < -1e-2);
}

#[test]
fn stable_generators_propagate_by_their_matrix() {
    for stability in [Stability::Dissipative, Stability::Bounded] {
        let student = stable(stability, 0.5);
        let matrix = student.generator().matrix();
        assert_eq!(matrix.select(1, 0).abs().sum(Kind::Double).double_value(&[]), 0.0);
        assert_eq!(matrix.select(1, 1).abs().sum(Kind::Double).double_value(&[]), 1.0);
        let g = student.encode(&Tensor::from(0.3), &normal(9, &[5, 3]), Direction::Forward, None).unwrap();
        for tau in [-1.0, 0.0, 0.7, 2.0] {
            let moved = student.propagate(&g, &Tensor::from(tau)).unwrap();
            assert!(gap(&moved, &g.matmul(&(&matrix * tau).linalg_matrix_exp())) < 1e-9);
        }
        let state =
            student.lift_flat(&Tensor::full([5], 0.3, DOUBLE), &normal(9, &[5, 3]), Direction::Forward, None);
        let loss =
            student.decode_after(&state, &Tensor::ones([5], DOUBLE)).unwrap().square().sum(Kind::Double);
        let gradient = student.parameters().gradient(&loss).unwrap();
        let count = student.parameters().count();
        let own = gradient.narrow(0, count - 2 * 10 - 2 * 100, 2 * 10 + 2 * 100);
        assert_eq!(own.isfinite().all().int64_value(&[]), 1);
        for (start, length) in [(0, 20), (20, 100), (120, 100)] {
            assert!(own.narrow(0, start, length).norm().double_value(&[]) > 1e-6, "{stability:?} {start}");
        }
    }
}

#[test]
fn columns_can_be_set_to_the_nearest_of_their_structure() {
    let columns = normal(4, &[12, 10]) * 0.4;
    let free = stable(Stability::Free, 0.1);
    free.set_generator_columns(&columns).unwrap();
    assert!(gap(&free.generator().matrix().narrow(1, 2, 10), &columns) < 1e-15);
    // ||M|| is below the bound, so nothing is lost.
    let bounded = stable(Stability::Bounded, 0.1);
    bounded.set_generator_columns(&columns).unwrap();
    assert!(gap(&bounded.generator().matrix().narrow(1, 2, 10), &columns) < 1e-12);
    // The nearest dissipative block keeps the skew part and the negative part of the symmetric one.
    let dissipative = stable(Stability::Dissipative, 0.1);
    dissipative.set_generator_columns(&columns).unwrap();
    let own = dissipative.generator().matrix().narrow(1, 2, 10);
    assert!(gap(&own.narrow(0, 0, 2), &columns.narrow(0, 0, 2)) < 1e-14);
    let (own, block) = (own.narrow(0, 2, 10), columns.narrow(0, 2, 10));
    assert!(gap(&(&own - own.tr()), &(&block - block.tr())) < 1e-12);
    let (values, _) = (&block + block.tr()).linalg_eigh("L");
    let (kept, _) = (&own + own.tr()).linalg_eigh("L");
    assert!(gap(&kept, &values.clamp_max(0.0)) < 1e-9);

    let wrong = free.set_generator_columns(&columns.narrow(0, 0, 3)).unwrap_err();
    assert!(matches!(wrong, Error::Shape { .. }) && wrong.to_string().contains("columns"));
    assert!(free.set_spectral_readout(&columns, &columns).is_err());
    let spectral = student(base(), 0.3);
    assert!(spectral.set_generator_columns(&columns).is_err());
    let (readout, drift) = (normal(2, &[7, 3]), normal(3, &[2, 3]));
    spectral.set_spectral_readout(&readout, &drift).unwrap();
    let matrix = spectral.generator().matrix();
    assert_eq!(gap(&matrix.narrow(1, 2, 3).narrow(0, 5, 7), &readout), 0.0);
    assert_eq!(gap(&matrix.narrow(1, 2, 3).narrow(0, 0, 2), &drift), 0.0);
}

#[test]
fn a_spectral_generator_refuses_another_stability() {
    let config = StudentConfig { stability: Stability::Dissipative, ..base() };
    let refused = config.validate().unwrap_err().to_string();
    assert!(refused.starts_with("stability:") && refused.contains("'dissipative'"), "{refused}");
}
