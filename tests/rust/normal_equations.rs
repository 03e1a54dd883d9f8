//! Least squares from sums alone, against libtorch's own least squares.

use koopflow::distill::{ridge_curve, select_ridge, NormalEquations};
use koopflow::error::Error;
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn sums(a: &Tensor, y: &Tensor) -> NormalEquations {
    let mut sums = NormalEquations::new(a.size()[1], y.size()[1]);
    sums.add(a, y).unwrap();
    sums
}

/// Regressors of very different sizes, and targets with noise.
fn noisy_problem(seed: u64, rows: i64) -> (Tensor, Tensor) {
    let scale = Tensor::from_slice(&[1.0, 0.05, 30.0, 3.0, 0.2]);
    let a = normal(seed, &[rows, 5]) * &scale;
    let truth = normal(99, &[5, 2]) / scale.unsqueeze(1);
    let y = a.matmul(&truth) + normal(seed + 1, &[rows, 2]) * 0.5;
    (a, y)
}

#[test]
fn merged_parts_equal_the_whole() {
    let (a, y) = noisy_problem(1, 300);
    let whole = sums(&a, &y);
    let mut parts = sums(&a.narrow(0, 0, 100), &y.narrow(0, 0, 100));
    parts.merge(&sums(&a.narrow(0, 100, 200), &y.narrow(0, 100, 200))).unwrap();
    assert_eq!(parts.count(), 300);
    for (part, all) in [(parts.gram(), whole.gram()), (parts.cross(), whole.cross())] {
        assert!(gap(part, all) <= 1e-12 * all.abs().max().double_value(&[]));
    }
    let (solution, expected) = (parts.solve(1e-6).unwrap(), whole.solve(1e-6).unwrap());
    assert!(gap(&solution, &expected) <= 1e-12 * expected.abs().max().double_value(&[]));
    assert!((parts.residual(&solution).unwrap() - whole.residual(&solution).unwrap()).abs() < 1e-12);
}

#[test]
fn the_solution_is_least_squares() {
    let (a, y) = noisy_problem(3, 200);
    let equations = sums(&a, &y);
    let own = equations.solve(0.0).unwrap();
    let (expected, ..) = a.f_linalg_lstsq(&y, None, "gelsd").unwrap();
    assert!((((&own - &expected) / &expected).abs().max().double_value(&[])) < 1e-9);
    // The residual needs no data.
    let left = (&y - a.matmul(&own)).square().sum_dim_intlist(0, false, Kind::Double);
    let share = (left / y.square().sum_dim_intlist(0, false, Kind::Double)).mean(Kind::Double);
    assert!((equations.residual(&own).unwrap() - share.double_value(&[])).abs() < 1e-12);
}

#[test]
fn ridge_is_tikhonov_in_units_of_the_regressors() {
    let (a, y) = noisy_problem(5, 150);
    let ridge = 0.3f64;
    // Augmented least squares: rows sqrt(ridge) * |column| that ask for zero.
    let penalty = a.square().sum_dim_intlist(0, false, Kind::Double).sqrt().diag(0) * ridge.sqrt();
    let tall = Tensor::cat(&[&a, &penalty], 0);
    let zeros = Tensor::zeros([5, 2], DOUBLE);
    let (expected, ..) = tall.f_linalg_lstsq(&Tensor::cat(&[&y, &zeros], 0), None, "gelsd").unwrap();
    let own = sums(&a, &y).solve(ridge).unwrap();
    assert!((((own - &expected) / &expected).abs().max().double_value(&[])) < 1e-9);
}

#[test]
fn a_known_linear_system_is_recovered() {
    let a = normal(7, &[400, 6]);
    let truth = normal(8, &[6, 3]);
    let equations = sums(&a, &a.matmul(&truth));
    let own = equations.solve(0.0).unwrap();
    assert!(gap(&own, &truth) < 1e-12);
    assert!(equations.residual(&own).unwrap() < 1e-13);
}

#[test]
fn dependent_regressors_need_a_ridge() {
    let a = normal(9, &[50, 3]);
    let dependent = Tensor::cat(&[&a, &(a.select(1, 0) - a.select(1, 2)).unsqueeze(1)], 1);
    let equations = sums(&dependent, &a.narrow(1, 0, 1));
    let error = equations.solve(0.0).unwrap_err().to_string();
    assert!(error.contains("ridge") && error.contains("rank 3"), "{error}");
    let own = equations.solve(1e-10).unwrap();
    assert!(equations.residual(&own).unwrap() < 1e-9);
    for (ridge, name) in [(-1.0, "ridge"), (f64::NAN, "ridge")] {
        assert!(equations.solve(ridge).unwrap_err().to_string().contains(name));
    }
    let nothing = NormalEquations::new(2, 1).solve(1.0).unwrap_err();
    assert!(nothing.to_string().contains("at least one row"), "{nothing}");
}

#[test]
fn bad_rows_are_refused_and_leave_the_sums_alone() {
    let mut equations = NormalEquations::new(2, 1);
    let (a, y) = (normal(1, &[3, 2]), normal(2, &[3, 1]));
    assert!(matches!(equations.add(&y, &y), Err(Error::Shape { .. })));
    assert!(matches!(equations.add(&a, &normal(2, &[4, 1])), Err(Error::Shape { .. })));
    assert!(matches!(equations.add(&(&a * f64::INFINITY), &y), Err(Error::NonFinite { .. })));
    assert!(matches!(equations.merge(&NormalEquations::new(3, 1)), Err(Error::Shape { .. })));
    assert_eq!(equations.count(), 0);
    assert_eq!(equations.gram().abs().sum(Kind::Double).double_value(&[]), 0.0);
}

#[test]
fn the_chosen_ridge_is_the_one_that_predicts() {
    // Forty weights from fifty noisy rows: least squares overfits, a huge ridge forgets.
    let truth = normal(10, &[40, 1]);
    let draw = |seed, rows: i64| {
        let a = normal(seed, &[rows, 40]);
        let y = a.matmul(&truth) + normal(seed + 1, &[rows, 1]) * 6.0;
        sums(&a, &y)
    };
    let (train, held_out, fresh) = (draw(11, 50), draw(13, 400), draw(15, 4000));
    let candidates = [1e-8, 1e-4, 1e-2, 0.1, 0.3, 1.0, 10.0, 1e3];
    let choice = select_ridge(&train, &held_out, &candidates).unwrap();
    assert!(choice.ridge > 1e-3 && choice.ridge < 100.0, "{}", choice.ridge);
    // Independent data agree: it beats least squares and forgetting, and is near the best there is.
    let error = |ridge| fresh.residual(&train.solve(ridge).unwrap()).unwrap();
    let best = candidates.iter().map(|ridge| error(*ridge)).fold(f64::INFINITY, f64::min);
    assert!(error(choice.ridge) < 0.8 * error(1e-8));
    assert!(error(choice.ridge) < 1.1 * best);
    assert!(gap(&choice.solution, &train.solve(choice.ridge).unwrap()) == 0.0);
    assert!(select_ridge(&train, &held_out, &[]).is_err());
    let curve = ridge_curve(&train, &held_out, &candidates).unwrap();
    assert_eq!(curve.len(), candidates.len());
    assert!(curve.iter().all(|point| point.residual >= choice.residual));
}
