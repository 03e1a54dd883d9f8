//! Students in the other generator's form: the same paths, the same eigenvalues, or a refusal.

mod common;

use common::{base, gap, normal, student, through_a_file, DOUBLE};
use koopflow::error::Error;
use koopflow::koopman::{
    polynomial_size, Basis, Direction, GeneratorKind, ReadoutKind, Stability, Student, StudentConfig,
};
use koopflow::monitor::Silent;
use koopflow::sampling;
use tch::Tensor;

fn dense(config: StudentConfig) -> StudentConfig {
    StudentConfig { generator: GeneratorKind::Dense, ..config }
}

fn same_paths(a: &Student, b: &Student, tolerance: f64) {
    let x = normal(11, &[6, 3]).to_kind(a.kind());
    let path = |s| sampling::sample_path(s, &x, &[0.0, 0.3, 1.0, 1.7], None, &mut Silent).unwrap();
    assert!(gap(&path(b), &path(a)) < tolerance, "paths: {:e}", gap(&path(b), &path(a)));
    let sample = |s| sampling::sample(s, &x, None, 2, &mut Silent).unwrap();
    assert!(gap(&sample(b), &sample(a)) < tolerance, "samples: {:e}", gap(&sample(b), &sample(a)));
    let invert = |s| sampling::invert(s, &x, None, &mut Silent).unwrap();
    assert!(gap(&invert(b), &invert(a)) < tolerance, "inverses: {:e}", gap(&invert(b), &invert(a)));
}

/// (real, imaginary) rows of the nonzero eigenvalues, sorted.
fn spectrum(student: &Student) -> Vec<(f64, f64)> {
    let own = student.generator().eigenvalues().unwrap();
    let mut values: Vec<(f64, f64)> = (0..own.size()[0])
        .map(|i| (own.double_value(&[i, 0]), own.double_value(&[i, 1])))
        .filter(|(re, im)| re.hypot(*im) > 1e-9)
        .collect();
    values.sort_by(|a, b| (a.0, a.1).partial_cmp(&(b.0, b.1)).unwrap());
    values
}

fn same_spectrum(a: &Student, b: &Student) {
    let (a, b) = (spectrum(a), spectrum(b));
    assert_eq!(a.len(), b.len());
    // Sorting may swap the halves of a pair whose real parts differ by rounding: match by distance.
    for (re, im) in &a {
        let nearest = b.iter().map(|(r, i)| (r - re).hypot(i - im)).fold(f64::INFINITY, f64::min);
        assert!(nearest < 1e-8, "{re} + {im}i is missing by {nearest:e}");
    }
}

#[test]
fn dense_students_become_spectral_with_every_readout_and_basis() {
    let polynomial = polynomial_size(3, koopflow::condition::Conditioning::None, 2).unwrap();
    for readout in [ReadoutKind::Slice, ReadoutKind::Linear, ReadoutKind::Network] {
        for config in [
            dense(StudentConfig { readout, ..base() }),
            dense(StudentConfig { readout, basis: Basis::Fourier, lifts: 1, ..base() }),
            dense(StudentConfig {
                readout,
                basis: Basis::Polynomial,
                degree: 2,
                observables: polynomial,
                ..base()
            }),
        ] {
            let before = student(config, 0.3);
            let (after, report) = before.to_spectral().unwrap();
            assert_eq!(after.config().generator, GeneratorKind::Spectral);
            assert_eq!(after.config().observables, 3 + before.config().observables);
            assert!(report.condition_number >= 1.0 && report.residual < 1e-12, "{report:?}");
            assert!(report.affine_residual < 1e-9 && report.dropped == 0, "{report:?}");
            same_paths(&before, &after, 1e-9 * report.condition_number.max(1.0));
            same_spectrum(&before, &after);
            let again = through_a_file(&after, "convert");
            assert_eq!(again.config(), after.config());
            same_paths(&after, &again, 1e-15);
        }
    }
}

/// The conversion changes coordinates: every new feature obeys its own equation along the dense dynamics.
#[test]
fn the_new_features_evolve_by_their_own_blocks() {
    let before = student(dense(base()), 0.3);
    let (after, _) = before.to_spectral().unwrap();
    let (t, x) = (Tensor::full([5], 0.4, DOUBLE), normal(3, &[5, 3]));
    let old = before.lift_flat(&t, &x, Direction::Forward, None);
    let new = after.lift_flat(&t, &x, Direction::Forward, None);
    // y is linear in the old observables; its rate along them must be the spectral one.
    let mixing = after.named().into_iter().find(|(name, _)| name == "mixing").unwrap().1;
    assert!(gap(&new.features, &old.assemble().matmul(&mixing)) < 1e-12);
    let rate = old.assemble().matmul(&before.generator().matrix()).matmul(&mixing);
    let (state, features) = after.generator().rate(&new);
    assert!(gap(&features, &rate) < 1e-10, "{:e}", gap(&features, &rate));
    assert!(gap(&state, &before.generator().rate(&old).0) < 1e-10);
    // And its tangent is exact too.
    let velocity = normal(4, &[5, 3]);
    let (_, tangent) = after.lift_flat_with_tangent(&t, &x, &velocity, Direction::Forward, None);
    let (g, inner) = before.encode_with_tangent(&t, &x, &velocity, Direction::Forward, None).unwrap();
    assert!(gap(&g, &old.assemble()) < 1e-13);
    assert!(gap(&tangent, &inner.matmul(&mixing)) < 1e-12);
}

#[test]
fn spectral_students_become_dense_and_come_back() {
    for readout in [ReadoutKind::Slice, ReadoutKind::Linear, ReadoutKind::Network] {
        let before = student(StudentConfig { readout, ..base() }, 0.3);
        let full = before.to_dense().unwrap();
        assert_eq!(full.config().observables, before.config().observables);
        same_paths(&before, &full, 1e-10);
        assert!(gap(&full.generator().matrix(), &before.generator().matrix()) < 1e-15);
        if readout == ReadoutKind::Slice {
            // Nobody reads the zero eigenvalues of the state itself.
            let (again, report) = full.to_spectral().unwrap();
            assert_eq!((report.dropped, again.config().observables), (3, 7), "{report:?}");
            same_paths(&before, &again, 1e-9);
            same_spectrum(&before, &again);
            // A mixed student converts once more, through both mixtures.
            let (last, _) = again.to_dense().unwrap().to_spectral().unwrap();
            same_paths(&before, &last, 1e-9);
        }
    }
}

#[test]
fn stable_and_single_precision_students_convert() {
    for stability in [Stability::Dissipative, Stability::Bounded] {
        let before = student(dense(StudentConfig { stability, ..base() }), 0.4);
        let (after, report) = before.to_spectral().unwrap();
        assert_eq!(after.config().stability, Stability::Free);
        same_paths(&before, &after, 1e-9 * report.condition_number);
    }
    let single = student(dense(StudentConfig { dtype: "float32".into(), ..base() }), 0.3);
    let (after, report) = single.to_spectral().unwrap();
    same_paths(&single, &after, 1e-4 * report.condition_number);
}

fn with_block(block: &Tensor, affine: f64) -> Student {
    let student = student(dense(StudentConfig { event_shape: vec![1], observables: 2, ..base() }), 0.1);
    let columns = Tensor::cat(&[Tensor::full([2, 3], affine, DOUBLE), block.copy()], 0);
    student.set_generator_columns(&columns).unwrap();
    student
}

#[test]
fn what_has_no_spectral_form_is_refused() {
    let said = |student: &Student| match student.to_spectral() {
        Err(Error::Divergence(message)) => message,
        other => panic!("{:?}", other.map(|(_, report)| report)),
    };
    let matrix = |values: [f64; 9]| Tensor::from_slice(&values).view([3, 3]);
    let jordan = matrix([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
    assert!(said(&with_block(&jordan, 0.1)).contains("nearly parallel"));
    let fast = matrix([9.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0]);
    assert!(said(&with_block(&fast, 0.1)).contains("bounded by 8"));
    // An eigenvalue 0 whose own motion is affine: read by a linear readout, it cannot be expressed.
    let still = matrix([0.5, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0]);
    let read = student(
        dense(StudentConfig { event_shape: vec![1], observables: 2, readout: ReadoutKind::Linear, ..base() }),
        0.1,
    );
    let columns = Tensor::cat(&[Tensor::full([2, 3], 0.3, DOUBLE), still.copy()], 0);
    read.set_generator_columns(&columns).unwrap();
    assert!(said(&read).contains("zero"));
    // Read as a slice, it does not matter.
    let (after, report) = with_block(&still, 0.3).to_spectral().unwrap();
    assert_eq!(report.dropped, 1);
    let x = normal(2, &[4, 1]);
    let path = |s: &Student| sampling::sample_path(s, &x, &[0.5, 2.0], None, &mut Silent).unwrap();
    assert!(gap(&path(&after), &path(&with_block(&still, 0.3))) < 1e-12);
    assert!(matches!(after.to_spectral(), Err(Error::Argument { .. })));
    assert!(matches!(read.to_dense(), Err(Error::Argument { .. })));
}

#[test]
fn a_nearly_vanishing_eigenvalue_loses_little() {
    for size in [1e-3, 1e-6, 1e-9, 1e-12] {
        let block = Tensor::from_slice(&[0.5, 0.2, 0.1, 0.3, -1.0, 0.0, 0.7, 0.0, size]).view([3, 3]);
        // Triangular coupling of the slow feature into x.
        let before = with_block(&block, 0.3);
        let (after, _) = before.to_spectral().unwrap();
        let x = normal(2, &[4, 1]);
        let path = |s: &Student| sampling::sample_path(s, &x, &[0.5, 2.0], None, &mut Silent).unwrap();
        // No pairs at all: empty tensors go through a file as well.
        assert_eq!(
            (after.config().pairs, gap(&path(&through_a_file(&after, "pairs")), &path(&after))),
            (Some(0), 0.0)
        );
        let lost = gap(&path(&after), &path(&before));
        assert!(lost < 1e-6, "λ near {size:e}: {lost:e}");
    }
}
