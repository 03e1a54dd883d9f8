//! The solvers against SciPy's RK45, closed forms and their own orders of convergence.

use std::time::Instant;

use koopflow::monitor::{Monitor, Progress, Silent, Until};
use koopflow::ode::{integrate, solve, solve_chunked, Chunks, SolveOptions, Solver};
use koopflow::tensor::RandomSource;
use koopflow::velocity::{GaussianField, VelocityField};
use koopflow::{Error, Result};
use tch::{Device, Kind, Tensor};

const FIXED: [(Solver, u64, i32); 4] =
    [(Solver::Euler, 1, 1), (Solver::Midpoint, 2, 2), (Solver::Heun, 2, 2), (Solver::Rk4, 4, 4)];

/// A driven pendulum beside a variable with a fast patch around t = 0.5.
fn pendulum(t: f64, y: &Tensor) -> Result<Tensor> {
    let (a, b, c) = (y.double_value(&[0]), y.double_value(&[1]), y.double_value(&[2]));
    let patch = (-50.0 * (t - 0.5).powi(2)).exp() * 20.0 * c;
    Ok(Tensor::from_slice(&[b, -4.0 * a.sin() + (3.0 * t).cos(), patch]))
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn normal(shape: &[i64], kind: Kind) -> Tensor {
    RandomSource::new(3).normal(shape, kind, Device::Cpu).unwrap()
}

fn gaussian(dtype: Kind) -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, dtype).unwrap()
}

/// Made by SciPy 1.17:
/// def f(t, y): return np.array([y[1], -4 * np.sin(y[0]) + np.cos(3 * t), np.exp(-50 * (t - 0.5) ** 2) * 20 * y[2]])
/// for times, tol in (([0, 0.1, 0.5, 0.9, 2], 1e-6), ([2, 1.4, 0.45, 0], 1e-4)):
///     s = solve_ivp(f, (times[0], times[-1]), [1, 0, 0.3], method="RK45", t_eval=times, rtol=tol, atol=tol)
///     print(s.nfev, s.y.T)
#[test]
fn dopri5_follows_scipy_step_for_step() {
    let forward = [
        [1.0, 0.0, 0.3],
        [0.9881545787302705, -0.23722427406607804, 0.300043944695088],
        [0.6972003008768256, -1.2277026844991075, 3.6790015243169387],
        [0.029091452029602262, -2.0148425836557253, 45.11016152257103],
        [-1.2170499320310413, 0.8629511849221085, 45.11728687517208],
    ];
    let backward = [
        [1.0, 0.0, 0.3],
        [0.5329195378919784, 1.584077359660637, 0.3000000001629843],
        [-1.2113792429501833, 0.9481723398783153, 0.009366255151203132],
        [-1.190506575480747, -1.0996251974073334, 0.001997486929081524],
    ];
    let start = Tensor::from_slice(&[1.0, 0.0, 0.3]);
    let run = |times: &[f64], tolerance, expected: &[[f64; 3]], nfev, accepted| {
        let options = SolveOptions::adaptive(tolerance);
        let solution = integrate(pendulum, &start, times, &options, &mut Silent).unwrap();
        let expected = Tensor::from_slice(&expected.concat()).view([-1, 3]);
        assert!(worst(&solution.trajectory, &expected) < 1e-9, "{}", solution.trajectory);
        assert_eq!(solution.evaluations, nfev);
        assert_eq!(solution.accepted, accepted);
        assert_eq!(solution.evaluations, 2 + 6 * (solution.accepted + solution.rejected));
    };
    run(&[0.0, 0.1, 0.5, 0.9, 2.0], 1e-6, &forward, 254, 32);
    run(&[2.0, 1.4, 0.45, 0.0], 1e-4, &backward, 98, 12);
}

/// Made by SciPy 1.17, the batch flattened:
/// m = [1, -2]; C = [[2, .6], [.6, .5]]; S = t * t * C + (1 - t) ** 2 * I
/// v = m + (x - t * m) @ inv(S) @ (t * C - (1 - t) * I)
/// solve_ivp(v, (0, 1), [0, 0, 1, -1, 2, .5], method="RK45", t_eval=[0, .3, 1], rtol=1e-5, atol=1e-5)
#[test]
fn dopri5_on_a_batch_follows_scipy() {
    let field = gaussian(Kind::Double);
    let x = Tensor::from_slice(&[0.0, 0.0, 1.0, -1.0, 2.0, 0.5]).view([3, 2]);
    let options = SolveOptions::default();
    let solution = solve(&field, &x, &[0.0, 0.3, 1.0], &options, None, &mut Silent).unwrap();
    let expected = Tensor::from_slice(
        &[
            [0.0, 0.0, 1.0, -1.0, 2.0, 0.5],
            [0.3, -0.6, 1.0829289604353205, -1.2956999061120102, 1.9530869751939512, -0.16492099262068483],
            [1.0, -2.0, 2.0865770018550487, -2.345681770534607, 3.914049235030541, -1.0862638834122544],
        ]
        .concat(),
    )
    .view([3, 3, 2]);
    assert!(worst(&solution.trajectory, &expected) < 1e-11);
    assert_eq!(solution.evaluations, 32);
    assert_eq!(field.evaluations(), 32);
}

#[test]
fn fixed_solvers_have_their_orders_both_ways() {
    let start = Tensor::from_slice(&[1.0, 0.0, 0.3]);
    for (solver, cost, order) in FIXED {
        for times in [[0.0, 0.4], [2.0, 1.6]] {
            let run = |options| integrate(pendulum, &start, &times, &options, &mut Silent).unwrap();
            let exact = run(SolveOptions::adaptive(1e-13)).endpoint();
            let error = |steps| {
                let solution = run(SolveOptions::fixed(solver, steps));
                assert_eq!(solution.evaluations, cost * steps);
                worst(&solution.endpoint(), &exact)
            };
            let measured = (error(100) / error(200)).log2();
            assert!((measured - f64::from(order)).abs() < 0.15, "{solver:?} {times:?}: order {measured}");
        }
    }
}

#[test]
fn fixed_steps_are_shared_out_over_the_intervals() {
    let x = normal(&[4, 2], Kind::Double);
    let field = gaussian(Kind::Double);
    let run = |times: &[f64], steps| {
        let options = SolveOptions::fixed(Solver::Euler, steps);
        solve(&field, &x, times, &options, None, &mut Silent).unwrap()
    };
    // Times on the grid change nothing but what is stored.
    let whole = run(&[0.0, 1.0], 10);
    let parts = run(&[0.0, 0.1, 0.5, 1.0], 10);
    assert_eq!((whole.evaluations, parts.evaluations), (10, 10));
    assert!(worst(&whole.endpoint(), &parts.endpoint()) < 1e-12);
    assert_eq!(parts.trajectory.size(), [4, 4, 2]);
    assert_eq!(parts.trajectory.get(0), x);
    // More intervals than steps: one step each.
    assert_eq!(run(&[1.0, 0.9, 0.5, 0.2, 0.0], 2).evaluations, 4);
}

#[test]
fn forwards_and_back_returns_in_both_dtypes() {
    for (kind, bound) in [(Kind::Float, 5e-4), (Kind::Double, 5e-4)] {
        let field = gaussian(kind);
        let x = normal(&[100, 2], kind);
        let options = SolveOptions::default();
        let there = solve(&field, &x, &[0.0, 1.0], &options, None, &mut Silent).unwrap().endpoint();
        assert_eq!(there.kind(), kind);
        let error = worst(&there, &field.flow_map(&x).unwrap());
        assert!(error < bound, "{error}");
        let back = solve(&field, &there, &[1.0, 0.0], &options, None, &mut Silent).unwrap().endpoint();
        let error = worst(&back, &x);
        assert!(error < bound, "{error}");
    }
}

#[test]
fn tighter_than_float32_still_finishes() {
    let field = gaussian(Kind::Float);
    let x = normal(&[10, 2], Kind::Float);
    let options = SolveOptions { rtol: 0.0, atol: 1e-12, ..SolveOptions::default() };
    let end = solve(&field, &x, &[0.0, 1.0], &options, None, &mut Silent).unwrap().endpoint();
    assert!(worst(&end, &field.flow_map(&x).unwrap()) < 1e-5);
}

#[test]
fn one_time_is_the_start_itself() {
    let x = normal(&[3, 2], Kind::Float);
    let field = gaussian(Kind::Float);
    let solution = solve(&field, &x, &[0.4], &SolveOptions::default(), None, &mut Silent).unwrap();
    assert_eq!(solution.trajectory.size(), [1, 3, 2]);
    assert_eq!(solution.evaluations, 0);
}

struct Log(Vec<(String, u64, u64)>, u64, Option<u64>);

impl Monitor for Log {
    fn tick(&mut self) -> Result<()> {
        self.1 += 1;
        match self.2 {
            Some(limit) if self.1 > limit => Err(Error::Interrupted("stop".into())),
            _ => Ok(()),
        }
    }

    fn report(&mut self, progress: &Progress) -> Result<()> {
        self.0.push((progress.stage.into(), progress.step, progress.total));
        Ok(())
    }
}

#[test]
fn chunks_agree_with_the_whole_and_report() {
    let field = gaussian(Kind::Float);
    let x = normal(&[25, 2], Kind::Double);
    let options = SolveOptions::fixed(Solver::Rk4, 5);
    let times = [0.0, 0.5, 1.0];
    let whole = solve(&field, &x, &times, &options, None, &mut Silent).unwrap();
    let mut log = Log(vec![], 0, None);
    let chunks = Chunks { stage: "trajectories", rows: 10 };
    let parts = solve_chunked(&field, &x, &times, &options, None, chunks, &mut log).unwrap();
    assert!(worst(&whole.trajectory, &parts.trajectory) < 1e-6);
    assert_eq!(parts.evaluations, whole.evaluations);
    let stage = || "trajectories".to_string();
    assert_eq!(log.0, [(stage(), 10, 25), (stage(), 20, 25), (stage(), 25, 25)]);
    // Before each evaluation, four a step.
    assert_eq!(log.1, 3 * 5 * 4);
}

#[test]
fn a_monitor_stops_every_solver_at_once() {
    let field = gaussian(Kind::Float);
    let x = normal(&[3, 2], Kind::Float);
    for solver in FIXED.map(|row| row.0).into_iter().chain([Solver::Dopri5]) {
        let mut log = Log(vec![], 0, Some(2));
        let options = SolveOptions { solver, ..SolveOptions::adaptive(1e-8) };
        let error = solve(&field, &x, &[0.0, 1.0], &options, None, &mut log).unwrap_err();
        assert!(matches!(error, Error::Interrupted(_)), "{error}");
        assert_eq!(log.1, 3);
    }
}

#[test]
fn time_that_is_over_stops_a_solve_before_its_next_evaluation() {
    let (field, x) = (gaussian(Kind::Float), normal(&[3, 2], Kind::Float));
    let run = |monitor: &mut dyn Monitor, deadline| {
        let mut until = Until::new(monitor, deadline);
        solve(&field, &x, &[0.0, 1.0], &SolveOptions::default(), None, &mut until).map(drop)
    };
    assert!(matches!(run(&mut Silent, Some(Instant::now())), Err(Error::OutOfTime)));
    assert_eq!(field.evaluations(), 0);
    // The wish to stop comes first, and without a limit there is none.
    let mut stopped = Log(vec![], 0, Some(0));
    assert!(matches!(run(&mut stopped, Some(Instant::now())), Err(Error::Interrupted(_))));
    run(&mut Silent, None).unwrap();
}

#[test]
fn divergence_says_when() {
    let start = Tensor::from_slice(&[1.0, 2.0]);
    let square = |_: f64, y: &Tensor| Ok(y * y); // y = 1 / (c - t): a pole at t = 0.5
    let broken = |t: f64, y: &Tensor| Ok(if t > 0.25 { y * f64::NAN } else { y.shallow_clone() });
    let dopri5 = SolveOptions::default();
    for options in
        [dopri5.clone(), SolveOptions::fixed(Solver::Euler, 2000), SolveOptions::fixed(Solver::Rk4, 2000)]
    {
        let error = integrate(square, &start, &[0.0, 1.0], &options, &mut Silent).unwrap_err();
        assert!(matches!(error, Error::Divergence(_)), "{error}");
        assert!(error.to_string().contains("t = 0.5"), "{error}");
        let error = integrate(broken, &start, &[0.0, 1.0], &options, &mut Silent).unwrap_err();
        assert!(error.to_string().contains("not finite at t = 0.25"), "{error}");
    }
    let error = integrate(|_, y| Ok(y / 0.0), &start, &[0.5, 1.0], &dopri5, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("not finite at t = 0.5"), "{error}");
}

#[test]
fn bad_arguments_are_named() {
    let field = gaussian(Kind::Float);
    let x = normal(&[3, 2], Kind::Float);
    let good = SolveOptions::default();
    let refuse = |x: &Tensor, times: &[f64], options: &SolveOptions, condition: Option<&Tensor>| {
        let error = solve(&field, x, times, options, condition, &mut Silent).unwrap_err();
        error.to_string().split(':').next().unwrap_or("").to_string()
    };
    for times in [&[][..], &[0.0, 0.0], &[0.0, 1.0, 0.5], &[0.0, f64::NAN], &[0.0, f64::INFINITY]] {
        assert_eq!(refuse(&x, times, &good, None), "times");
    }
    assert_eq!(refuse(&x, &[0.0, 1.0], &SolveOptions { steps: 0, ..good.clone() }, None), "steps");
    assert_eq!(refuse(&x, &[0.0, 1.0], &SolveOptions { rtol: -1.0, ..good.clone() }, None), "rtol");
    assert_eq!(refuse(&x, &[0.0, 1.0], &SolveOptions { atol: f64::NAN, ..good.clone() }, None), "atol");
    assert_eq!(refuse(&x.view([2, 3]), &[0.0, 1.0], &good, None), "x");
    assert_eq!(refuse(&(&x / 0.0), &[0.0, 1.0], &good, None), "x");
    assert_eq!(refuse(&x, &[0.0, 1.0], &good, Some(&x)), "condition");
    let narrow = |_: f64, y: &Tensor| Ok(y.narrow(0, 0, 1));
    let error = integrate(narrow, &x, &[0.0, 1.0], &good, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::Teacher { .. }), "{error}");
}

#[test]
fn options_parse_and_serialise() {
    for (solver, ..) in FIXED {
        assert_eq!(solver.name().parse::<Solver>().unwrap(), solver);
    }
    assert!("rk45".parse::<Solver>().unwrap_err().to_string().contains("'dopri5'"));
    let options: SolveOptions = serde_json::from_str(r#"{"solver": "rk4", "steps": 7}"#).unwrap();
    assert_eq!(options, SolveOptions::fixed(Solver::Rk4, 7));
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<SolveOptions>(&text).unwrap(), options);
}
