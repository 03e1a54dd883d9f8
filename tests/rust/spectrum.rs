//! The spectrum against the assembled generator: eigenvectors, projectors, truncation and edits by matrix algebra.

mod common;

use common::{base, gap, normal, student, DOUBLE};
use koopflow::condition::Conditioning;
use koopflow::error::Error;
use koopflow::koopman::{Direction, GeneratorKind, ReadoutKind, Student, StudentConfig};
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::sampling;
use koopflow::sampling::Polish;
use koopflow::sampling::Source;
use koopflow::spectrum::{Edit, Facts, Sort, Spectrum};
use koopflow::velocity::GaussianField;
use tch::{Kind, Tensor};

fn each() -> impl Iterator<Item = Student> {
    [GeneratorKind::Spectral, GeneratorKind::Dense].into_iter().flat_map(|generator| {
        [ReadoutKind::Slice, ReadoutKind::Linear, ReadoutKind::Network]
            .into_iter()
            .map(move |readout| student(StudentConfig { generator, readout, ..base() }, 0.3))
    })
}

fn complex(real: &Tensor) -> Tensor {
    Tensor::complex(real, &real.zeros_like())
}

fn complex_gap(a: &Tensor, b: &Tensor) -> f64 {
    gap(&a.resolve_conj().view_as_real(), &b.resolve_conj().view_as_real())
}

fn only(count: i64, kept: &[usize]) -> Vec<bool> {
    (0..count as usize).map(|k| kept.contains(&k)).collect()
}

#[test]
fn rows_and_columns_are_the_eigenvectors_of_the_generator() {
    for student in each() {
        let spectrum = Spectrum::new(&student).unwrap();
        let matrix = complex(&student.generator().matrix());
        let (w, q) = (&spectrum.weights().unwrap(), &spectrum.rows().unwrap());
        let values = spectrum.eigenvalues();
        let r = spectrum.count();
        assert_eq!(
            r,
            match student.config().generator {
                GeneratorKind::Spectral => 7,
                GeneratorKind::Dense => 10,
                GeneratorKind::Levels => unreachable!("no such student here"),
            }
        );
        assert!(complex_gap(&matrix.matmul(w), &(w * values.unsqueeze(0))) < 1e-9);
        assert!(complex_gap(&q.matmul(&matrix), &(q * values.unsqueeze(1))) < 1e-9);
        assert!(complex_gap(&q.matmul(w), &complex(&Tensor::eye(r, DOUBLE))) < 1e-9);
        assert!(complex_gap(&spectrum.rates().unwrap(), &(q * values.unsqueeze(1))) < 1e-9);
        assert!(spectrum.residual() < 1e-9);
        assert!(spectrum.condition_numbers().unwrap().min().double_value(&[]) >= 1.0 - 1e-9);
    }
}

#[test]
fn eigenfunctions_are_products_with_the_table_of_weights() {
    for student in each() {
        let spectrum = Spectrum::new(&student).unwrap();
        let g = student.encode(&Tensor::from(0.3), &normal(3, &[5, 3]), Direction::Forward, None).unwrap();
        let table = complex(&g).matmul(&spectrum.weights().unwrap());
        assert!(complex_gap(&spectrum.read(&g, None).unwrap(), &table) < 1e-12);
        let places = [4i64, 0, 5];
        let some = table.index_select(1, &Tensor::from_slice(&places));
        assert!(complex_gap(&spectrum.read(&g, Some(&places)).unwrap(), &some) < 1e-12);
        assert!(spectrum.read(&g, Some(&[99])).is_err());
        let none = spectrum.read(&g, Some(&[])).unwrap();
        assert_eq!(none.size(), [5, 0]);
    }
}

#[test]
fn condition_numbers_are_products_of_norms() {
    for student in each() {
        let spectrum = Spectrum::new(&student).unwrap();
        let norm = |tensor: &Tensor, dimension: i64| {
            tensor.abs().square().sum_dim_intlist(dimension, false, Kind::Double).sqrt()
        };
        let expected = norm(&spectrum.weights().unwrap(), 0) * norm(&spectrum.rows().unwrap(), 1);
        assert!(gap(&spectrum.condition_numbers().unwrap(), &expected) < 1e-12);
    }
}

#[test]
fn what_modes_move_of_the_state_is_read_from_the_tables() {
    for student in each() {
        let spectrum = Spectrum::new(&student).unwrap();
        let columns = student.readout_columns().unwrap();
        let columns = columns.unwrap_or_else(|| Tensor::eye(12, DOUBLE).narrow(1, 2, 3));
        let size = student.config().size();
        let columns = columns.constant_pad_nd([0, 0, 0, size - columns.size()[0]]);
        let read = |rows: Tensor| rows.matmul(&complex(&columns));
        assert!(complex_gap(&spectrum.modes(&student).unwrap(), &read(spectrum.rows().unwrap())) < 1e-12);
        let rates = spectrum.mode_rates(&student).unwrap();
        assert!(complex_gap(&rates, &read(spectrum.rates().unwrap())) < 1e-12);
        let factors = (spectrum.eigenvalues() * 0.4).exp() - 1.0;
        let moved = spectrum.modes(&student).unwrap() * factors.unsqueeze(1);
        assert!(complex_gap(&spectrum.displacements(&student, 0.4).unwrap(), &moved) < 1e-9);
    }
}

#[test]
fn energies_add_up_to_one_and_orders_are_by_them() {
    for student in each() {
        let spectrum = Spectrum::new(&student).unwrap();
        let facts =
            Facts::measure(&student, &spectrum, &normal(3, &[40, 3]), None, None, &mut Silent).unwrap();
        let energy = facts.energy(&spectrum, &[0.0, 1.0]).unwrap();
        assert_eq!(energy.select(0, 0).abs().max().double_value(&[]), 0.0);
        assert!((energy.select(0, 1).sum(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-12);
        let order = facts.order(&spectrum, Sort::Energy).unwrap();
        let sorted = Vec::<f64>::try_from(energy.select(0, 1).index_select(0, &Tensor::from_slice(&order)));
        assert!(sorted.unwrap().windows(2).all(|pair| pair[1] <= pair[0] + 1e-12));
        let partners = spectrum.partners();
        for (place, mode) in order.iter().enumerate() {
            let other = order.iter().position(|k| *k as usize == partners[*mode as usize]).unwrap();
            assert!(place.abs_diff(other) <= 1);
        }
        let refused = facts.order(&spectrum, Sort::Residual);
        assert!(matches!(refused, Err(Error::Argument { argument, .. }) if argument == "sort"));
        let flow = GaussianField::new(
            &Tensor::zeros([2], DOUBLE),
            &Tensor::eye(2, DOUBLE),
            &[2],
            tch::Device::Cpu,
            Kind::Double,
        )
        .unwrap();
        let wrong = Facts::measure(&student, &spectrum, &normal(3, &[4, 3]), None, Some(&flow), &mut Silent);
        assert!(matches!(wrong, Err(Error::Shape { argument, .. }) if argument == "teacher"));
    }
}

#[test]
fn conditions_are_spread_over_samples() {
    let labels = Conditioning::Labels { classes: 3 };
    let spread = |kind: Conditioning, given: Option<&Tensor>| kind.spread(given, 5);
    let all = spread(labels, None).unwrap().unwrap();
    assert_eq!(Vec::<i64>::try_from(all).unwrap(), [0, 1, 2, 0, 1]);
    let one = spread(labels, Some(&Tensor::from(2i64))).unwrap().unwrap();
    assert_eq!(Vec::<i64>::try_from(one).unwrap(), [2; 5]);
    let rows = normal(1, &[2, 4]);
    let vectors = spread(Conditioning::Vector { dim: 4 }, Some(&rows)).unwrap().unwrap();
    assert_eq!(gap(&vectors.select(0, 4), &rows.select(0, 0)), 0.0);
    assert!(spread(Conditioning::None, None).unwrap().is_none());
    let nothing = Tensor::zeros([0], (Kind::Int64, tch::Device::Cpu));
    for refused in [spread(Conditioning::Vector { dim: 4 }, None), spread(labels, Some(&nothing))] {
        assert!(matches!(refused, Err(Error::Argument { argument, .. }) if argument == "condition"));
    }
}

#[test]
fn all_modes_are_the_sample_and_no_modes_leave_the_rest() {
    let x0 = normal(3, &[5, 3]);
    for student in each() {
        let spectrum = Spectrum::new(&student).unwrap();
        let count = spectrum.count();
        let times = [0.0, 0.3, 1.0];
        let sample = |keep: &[bool]| {
            sampling::sample_modes(&student, &spectrum, &x0, &times, keep, None, &mut Silent).unwrap()
        };
        let path = sampling::sample_path(&student, &x0, &times, None, &mut Silent).unwrap();
        assert!(gap(&sample(&vec![true; count as usize]), &path) < 1e-9);

        // Without a network behind it x is linear in the observables, so that contributions add up: the
        // state at 0 and the drift, plus what each mode moves.
        let Some(columns) = student.readout_columns().unwrap() else { continue };
        let none = sample(&vec![false; count as usize]);
        let g = student.encode(&Tensor::from(0.0), &x0, Direction::Forward, None).unwrap();
        let psi = complex(&g).matmul(&spectrum.weights().unwrap());
        for (index, tau) in times.iter().enumerate() {
            let factors = (spectrum.eigenvalues() * *tau).exp() - 1.0;
            let moved =
                (&psi * factors.unsqueeze(0)).matmul(&spectrum.rows().unwrap()).matmul(&complex(&columns));
            let total = none.select(0, index as i64) + moved.real();
            assert!(gap(&total, &path.select(0, index as i64)) < 1e-8);
        }
    }
}

#[test]
fn one_of_a_pair_brings_the_other() {
    let student = student(base(), 0.3);
    let spectrum = Spectrum::new(&student).unwrap();
    let closed = spectrum.close(&only(7, &[1])).unwrap();
    assert_eq!(closed, only(7, &[0, 1]));
    assert_eq!(spectrum.close(&only(7, &[6])).unwrap(), only(7, &[6]));
    assert!(
        matches!(spectrum.close(&only(3, &[0])), Err(Error::Shape { argument, .. }) if argument == "modes")
    );
}

#[test]
fn an_edit_is_the_same_change_of_eigenfunctions_by_hand() {
    let x0 = normal(4, &[5, 3]);
    for student in each() {
        let spectrum = Spectrum::new(&student).unwrap();
        let count = spectrum.count();
        // A random gain and shift; the second of each pair is the conjugate of the first.
        let random = |seed: u64| {
            let parts = normal(seed, &[count, 2]).unsqueeze(0);
            let values = parts.squeeze_dim(0).contiguous().view_as_complex();
            let eigenvalues = spectrum.eigenvalues();
            let imaginary = Vec::<f64>::try_from(eigenvalues.imag().contiguous()).unwrap();
            let pieces: Vec<Tensor> = (0..count)
                .map(|k| match imaginary[k as usize] {
                    0.0 => complex(&values.select(0, k).real()),
                    value if value < 0.0 => values.select(0, k - 1).conj().resolve_conj(),
                    _ => values.select(0, k),
                })
                .collect();
            Tensor::stack(&pieces, 0)
        };
        let (gains, shifts) = (random(1), random(2));
        for at in [0.0, 0.4, 1.0] {
            let edit = Edit::new(&spectrum, &gains, &shifts, at).unwrap();
            let run = |project| {
                let source = Source::Noise;
                sampling::edit(&student, &edit, &x0, source, project, None, &mut Silent)
            };
            let encode =
                |t: f64, x: &Tensor| student.encode(&Tensor::from(t), x, Direction::Forward, None).unwrap();
            let carry = |g: &Tensor, tau: f64| student.propagate(g, &Tensor::from(tau)).unwrap();
            let g = encode(0.0, &x0);
            // What every mode has moved since noise, for psi(at) changed and carried back to 0.
            let psi = complex(&carry(&g, at)).matmul(&spectrum.weights().unwrap());
            let values = spectrum.eigenvalues();
            let change = (&psi * (&gains - 1.0).unsqueeze(0) + shifts.unsqueeze(0)) * (values * -at).exp();
            let moved = |t: f64| {
                let factors = (values * t).exp() - 1.0;
                carry(&g, t) + (&change * factors.unsqueeze(0)).matmul(&spectrum.rows().unwrap()).real()
            };
            let expected = student.readout(&moved(1.0)).unwrap();
            assert!(gap(&run(false).unwrap(), &expected) < 1e-8);

            if at == 0.0 {
                assert!(matches!(run(true), Err(Error::Argument { argument, .. }) if argument == "at"));
                continue;
            }
            let state = student.readout(&moved(at)).unwrap();
            let again = student.readout(&carry(&encode(at, &state), 1.0 - at)).unwrap();
            assert!(gap(&run(true).unwrap(), &again) < 1e-8);
        }
        // No gain is what truncation is; changing nothing gives data back, whatever a round trip loses.
        let zeros = complex(&Tensor::zeros([5, count], DOUBLE));
        let nothing = Edit::new(&spectrum, &zeros.select(0, 0), &zeros, 0.0).unwrap();
        let still = |edit: &Edit, source, project| {
            sampling::edit(&student, edit, &x0, source, project, None, &mut Silent).unwrap()
        };
        let none = vec![false; count as usize];
        let truncated =
            sampling::sample_modes(&student, &spectrum, &x0, &[1.0], &none, None, &mut Silent).unwrap();
        assert!(gap(&still(&nothing, Source::Noise, false), &truncated.select(0, 0)) < 1e-8);
        for at in [0.0, 0.6, 1.0] {
            let ones = complex(&Tensor::ones([count], DOUBLE));
            let same = Edit::new(&spectrum, &ones, &zeros, at).unwrap();
            assert!(gap(&still(&same, Source::Data, at > 0.0), &x0) < 1e-9);
            assert!(gap(&still(&same, Source::Data, false), &x0) < 1e-9);
        }
    }
}

#[test]
fn a_shift_of_observables_is_carried_by_the_generator() {
    let x0 = normal(4, &[5, 3]);
    for student in each() {
        let m = student.config().size();
        for shape in [vec![m], vec![5, m]] {
            let shift = normal(6, &shape);
            let at = 0.3;
            let edit = Edit::of_observables(m, &shift, at).unwrap();
            let run = |project| {
                sampling::edit(&student, &edit, &x0, Source::Noise, project, None, &mut Silent).unwrap()
            };
            // The constant and time are not for shifting.
            let _ = shift.narrow(-1, 0, 2).zero_();
            let carry = |g: &Tensor, tau: f64| student.propagate(g, &Tensor::from(tau)).unwrap();
            let g = student.encode(&Tensor::from(0.0), &x0, Direction::Forward, None).unwrap();
            let there = carry(&g, at) + &shift;
            let expected = student.readout(&carry(&there, 1.0 - at)).unwrap();
            assert!(gap(&run(false), &expected) < 1e-8);
            let state = student.readout(&there).unwrap();
            let again = student.encode(&Tensor::from(at), &state, Direction::Forward, None).unwrap();
            assert!(gap(&run(true), &student.readout(&carry(&again, 1.0 - at)).unwrap()) < 1e-8);
        }
        let wrong = Edit::of_observables(m, &normal(6, &[m + 1]), 0.3);
        assert!(matches!(wrong, Err(Error::Shape { argument, .. }) if argument == "shift"));
    }
}

#[test]
fn what_cannot_be_edited_is_refused() {
    let student = student(base(), 0.3);
    let spectrum = Spectrum::new(&student).unwrap();
    let ones = complex(&Tensor::ones([7], DOUBLE));
    let wrong = complex(&Tensor::ones([3], DOUBLE));
    let argument = |outcome: Result<Edit, Error>| match outcome.err().unwrap() {
        Error::Shape { argument, .. } | Error::NonFinite { argument, .. } => argument,
        other => panic!("{other}"),
    };
    assert_eq!(argument(Edit::new(&spectrum, &wrong, &ones, 0.5)), "gains");
    assert_eq!(argument(Edit::new(&spectrum, &ones, &wrong, 0.5)), "shifts");
    assert_eq!(argument(Edit::new(&spectrum, &(&ones * f64::NAN), &ones, 0.5)), "gains");
    let per_sample = Edit::new(&spectrum, &ones, &complex(&Tensor::zeros([4, 7], DOUBLE)), 0.5).unwrap();
    let x0 = normal(4, &[5, 3]);
    let outcome = sampling::edit(&student, &per_sample, &x0, Source::Noise, false, None, &mut Silent);
    assert!(matches!(outcome, Err(Error::Shape { argument, .. }) if argument == "shifts"));
    let late = Edit::new(&spectrum, &ones, &ones, 1.5);
    assert!(matches!(late, Err(Error::Argument { argument, .. }) if argument == "at"));
}

#[test]
fn a_defective_generator_is_refused_or_measured() {
    let student = student(StudentConfig { generator: GeneratorKind::Dense, ..base() }, 0.3);
    let m = student.config().size();
    // One Jordan block of size d + k at -1: exactly one eigenvector.
    let n = m - 2;
    let block = Tensor::eye(n, DOUBLE).neg();
    let _ = block.narrow(0, 0, n - 1).narrow(1, 1, n - 1).diagonal(0, 0, 1).fill_(1.0);
    let columns = Tensor::cat(&[Tensor::zeros([2, n], DOUBLE), block], 0);
    student.set_generator_columns(&columns).unwrap();
    match Spectrum::new(&student) {
        Err(Error::Divergence(message)) => assert!(message.contains("defective"), "{message}"),
        Err(other) => panic!("{other}"),
        Ok(spectrum) => assert!(spectrum.condition_numbers().unwrap().max().double_value(&[]) > 1e8),
    }
}

#[test]
fn newton_and_fixed_point_steps_lower_the_residual() {
    let x0 = normal(8, &[6, 3]);
    for lifts in [1, 2] {
        let student = student(StudentConfig { lifts, ..base() }, 0.05);
        let x1 = sampling::sample(&student, &x0, None, 1, &mut Silent).unwrap();
        let run = |polish, steps, damping| {
            sampling::invert_polished(&student, &x1, None, polish, steps, damping, &mut Silent).unwrap()
        };
        let plain = run(Polish::Newton, 0, 0.0);
        let bare = sampling::invert(&student, &x1, None, &mut Silent).unwrap();
        assert!(gap(&plain.noise, &bare) == 0.0);
        let again = sampling::sample(&student, &plain.noise, None, 1, &mut Silent).unwrap();
        let distance = (again - &x1).square().sum_dim_intlist(1, false, Kind::Double).sqrt();
        assert!(gap(&plain.residuals, &distance) < 1e-12);
        let polished = run(Polish::Newton, 30, 1e-3);
        assert!(polished.residuals.max().double_value(&[]) < 1e-8, "{:?}", polished.residuals);
        for (polish, damping) in [
            (Polish::FixedPoint, 0.0),
            (Polish::FixedPoint, 1.0),
            (Polish::Anderson, 0.0),
            (Polish::Newton, 10.0),
        ] {
            let some = run(polish, 4, damping);
            let worse = some.residuals.gt_tensor(&(&plain.residuals + 1e-12)).any().int64_value(&[]);
            assert_eq!(worse, 0);
        }
    }
}

#[test]
fn a_network_decoder_is_polished_too() {
    let student = student(StudentConfig { readout: ReadoutKind::Network, ..base() }, 0.05);
    let x1 = sampling::sample(&student, &normal(8, &[6, 3]), None, 1, &mut Silent).unwrap();
    let newton =
        sampling::invert_polished(&student, &x1, None, Polish::Newton, 30, 1e-3, &mut Silent).unwrap();
    assert!(newton.residuals.max().double_value(&[]) < 1e-8, "{:?}", newton.residuals);
    let fixed =
        sampling::invert_polished(&student, &x1, None, Polish::FixedPoint, 2, 0.0, &mut Silent).unwrap();
    assert!(fixed.residuals.isfinite().all().int64_value(&[]) != 0);
}

/// Interrupts at its third look.
struct Impatient(i64);

impl Monitor for Impatient {
    fn tick(&mut self) -> Result<(), Error> {
        self.0 += 1;
        if self.0 > 3 {
            return Err(Error::Interrupted("enough".into()));
        }
        Ok(())
    }

    fn report(&mut self, _: &Progress) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn polishing_can_be_interrupted() {
    let student = student(base(), 0.05);
    let x1 = normal(8, &[6, 3]);
    for polish in [Polish::Newton, Polish::FixedPoint, Polish::Anderson] {
        let outcome = sampling::invert_polished(&student, &x1, None, polish, 50, 0.0, &mut Impatient(0));
        assert!(matches!(outcome, Err(Error::Interrupted(_))), "{polish:?}");
    }
}
