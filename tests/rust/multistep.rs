//! Multistep solvers and grids of steps: orders, straight paths, histories, and the expectations behind a velocity.

use koopflow::monitor::Silent;
use koopflow::ode::{log_prob, solve, step_times, DensityOptions, Grid, SolveOptions, Solver};
use koopflow::tensor::RandomSource;
use koopflow::velocity::{
    mean_shift, DiffusionConfig, DiffusionField, EmpiricalField, Expectation, GaussianField, Karras,
    LinearBeta, Mixing, NoiseArgument, NoiseSchedule, Parametrisation, Path, VelocityField,
};
use tch::{Device, Kind, Tensor};

const MULTISTEP: [(Solver, f64); 3] = [(Solver::Ab2, 2.0), (Solver::Ab3, 3.0), (Solver::Dpm2m, 2.0)];

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn normal(shape: &[i64]) -> Tensor {
    RandomSource::new(3).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

fn gaussian() -> GaussianField {
    let mean = Tensor::from_slice(&[0.4, -0.3]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap()
}

fn point() -> EmpiricalField {
    EmpiricalField::new(&Tensor::from_slice(&[0.5, -1.0]).view([1, 2]), Device::Cpu, Kind::Double).unwrap()
}

/// A diffusion model of one data point: a model of x1 that answers v + x of the linear field at time 0, which is it.
fn diffusion_of_a_point(schedule: NoiseSchedule) -> DiffusionField {
    struct Constant(EmpiricalField);
    impl VelocityField for Constant {
        fn event_shape(&self) -> &[i64] {
            self.0.event_shape()
        }
        fn device(&self) -> Device {
            self.0.device()
        }
        fn dtype(&self) -> Kind {
            self.0.dtype()
        }
        fn velocity(&self, t: &Tensor, x: &Tensor, _: Option<&Tensor>) -> koopflow::Result<Tensor> {
            Ok(self.0.velocity(&t.zeros_like(), x, None)? + x)
        }
        fn counter(&self) -> &koopflow::velocity::EvaluationCounter {
            self.0.counter()
        }
        fn shallow_clone(&self) -> Box<dyn VelocityField> {
            Box::new(Constant(point()))
        }
        fn kind_name(&self) -> &'static str {
            "constant"
        }
        fn state(&self) -> Option<koopflow::velocity::FieldState> {
            None
        }
    }
    let config = DiffusionConfig {
        parametrisation: Parametrisation::X0,
        schedule,
        noise_argument: Some(NoiseArgument::Time),
        ..DiffusionConfig::default()
    };
    DiffusionField::new(Box::new(Constant(point())), config).unwrap()
}

#[test]
fn multistep_solvers_have_their_orders_both_ways() {
    let field = gaussian();
    let x = normal(&[16, 2]);
    // Where log(a / s) is infinite, DPM-Solver++ has steps of first order, and those next to them are long in it.
    let inner = [([0.1, 0.9], Some(Grid::Tau)), ([0.9, 0.1], None)];
    let whole = [([0.0, 1.0], None), ([1.0, 0.0], None), ([0.0, 1.0], Some(Grid::Uniform))];
    for (solver, order) in MULTISTEP {
        let ends = if solver == Solver::Dpm2m { &whole[..0] } else { &whole[..] };
        for (times, grid) in inner.iter().chain(ends) {
            let exact = field.flow(&x, times[0], times[1]).unwrap();
            let error = |steps| {
                let options = SolveOptions { grid: grid.clone(), ..SolveOptions::fixed(solver, steps) };
                let solution = solve(&field, &x, times, &options, None, &mut Silent).unwrap();
                assert_eq!(solution.evaluations, steps);
                worst(&solution.endpoint(), &exact)
            };
            let measured = (error(160) / error(320)).log2();
            assert!((measured - order).abs() < 0.25, "{solver:?} {times:?}: order {measured}");
        }
    }
}

#[test]
fn one_step_is_exact_where_paths_are_straight() {
    let x = normal(&[5, 2]);
    let target = Tensor::from_slice(&[0.5, -1.0]).view([1, 2]);
    let vp = NoiseSchedule::Vp(LinearBeta::default());
    let edm = NoiseSchedule::Edm(Karras::default());
    let fields: [Box<dyn VelocityField>; 3] =
        [Box::new(point()), Box::new(diffusion_of_a_point(vp)), Box::new(diffusion_of_a_point(edm))];
    for (index, field) in fields.iter().enumerate() {
        for (solver, _) in MULTISTEP {
            let run = |steps, times: &[f64]| {
                let options = SolveOptions::fixed(solver, steps);
                solve(&**field, &x, times, &options, None, &mut Silent).unwrap().endpoint()
            };
            // Within time_clip of the ends a schedule's field stands still: there the times are left out.
            let times = if index == 1 { [0.002, 0.998] } else { [0.0, 1.0] };
            assert!(worst(&run(1, &times), &run(7, &times)) < 1e-9, "{solver:?} on field {index}");
            if index == 0 {
                assert!(worst(&run(1, &times), &target.expand_as(&x)) < 1e-12, "{solver:?}");
            }
        }
    }
}

#[test]
fn histories_go_on_over_requested_times() {
    let field = gaussian();
    let x = normal(&[4, 2]);
    for (solver, _) in MULTISTEP {
        for grid in [Grid::Uniform, Grid::Times((0..=8).map(|i| f64::from(i) / 8.0).collect())] {
            let options = SolveOptions { grid: Some(grid), ..SolveOptions::fixed(solver, 8) };
            let run = |times: &[f64]| solve(&field, &x, times, &options, None, &mut Silent).unwrap();
            let (direct, stops) = (run(&[0.0, 1.0]), run(&[0.0, 0.25, 0.5, 1.0]));
            assert!(worst(&direct.endpoint(), &stops.endpoint()) < 1e-12, "{solver:?}");
            assert_eq!(stops.evaluations, 8);
            assert_eq!(stops.trajectory.size(), [4, 4, 2]);
        }
    }
}

#[test]
fn steps_are_where_their_grid_says() {
    let field = diffusion_of_a_point(NoiseSchedule::Vp(LinearBeta::default()));
    let mixing = field.mixing().unwrap();
    let place = |times: &[f64]| {
        let c = mixing.coefficients(&Tensor::from_slice(times));
        Vec::<f64>::try_from(&(&c.a / (&c.a + c.s))).unwrap()
    };
    let times = |grid| {
        let options = SolveOptions { grid: Some(grid), ..SolveOptions::fixed(Solver::Heun, 8) };
        step_times(&field, &[0.01, 0.99], &options).unwrap()
    };
    let tau = place(&times(Grid::Tau));
    let gaps: Vec<f64> = tau.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (gap - gaps[0]).abs() < 1e-9), "{gaps:?}");
    // The softened log-SNR, and times that rise.
    let tau: Vec<f64> = place(&times(Grid::LogSnr)).iter().map(|p| ((p + 0.1) / (1.02 - p)).ln()).collect();
    let gaps: Vec<f64> = tau.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap > 0.0 && (gap - gaps[0]).abs() < 1e-9), "{gaps:?}");
    assert_eq!(times(Grid::Uniform).len(), 9);
    assert_eq!(times(Grid::Times(vec![0.0, 0.3, 0.6, 1.0])), [0.01, 0.3, 0.6, 0.99]);
}

#[test]
fn one_step_solvers_take_grids_of_given_times() {
    let field = gaussian();
    let x = normal(&[4, 2]);
    let run = |times: &[f64], grid: Option<Grid>, steps| {
        let options = SolveOptions { grid, ..SolveOptions::fixed(Solver::Heun, steps) };
        solve(&field, &x, times, &options, None, &mut Silent).unwrap()
    };
    let given = run(&[0.0, 1.0], Some(Grid::Times(vec![0.0, 0.2, 0.5, 1.0])), 1);
    assert_eq!(given.evaluations, 6);
    assert!(worst(&given.endpoint(), &run(&[0.0, 0.2, 0.5, 1.0], None, 1).endpoint()) < 1e-12);
    let back = run(&[1.0, 0.0], Some(Grid::Times(vec![0.0, 0.2, 0.5, 1.0])), 1);
    assert!(worst(&back.endpoint(), &run(&[1.0, 0.5, 0.2, 0.0], None, 1).endpoint()) < 1e-12);
}

#[test]
fn data_far_from_standard_are_solved_on_the_grid_of_standard_ones() {
    let mean = Tensor::from_slice(&[400.0, 0.0]);
    let covariance = Tensor::from_slice(&[1e4, 0.0, 0.0, 9e4]).view([2, 2]);
    let field = GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap();
    let x = normal(&[8, 2]);
    let exact = field.flow(&x, 0.0, 1.0).unwrap();
    for (solver, _) in MULTISTEP {
        let options = SolveOptions::fixed(solver, 64);
        let ends = solve(&field, &x, &[0.0, 1.0], &options, None, &mut Silent).unwrap().endpoint();
        assert!(worst(&ends, &exact) < 1.0, "{solver:?} {}", worst(&ends, &exact));
        // The solver's own steps are the same steps when they are given by their times.
        let grid = Grid::Times(step_times(&field, &[0.0, 1.0], &options).unwrap());
        let options = SolveOptions { grid: Some(grid), ..options };
        let again = solve(&field, &x, &[0.0, 1.0], &options, None, &mut Silent).unwrap().endpoint();
        assert!(worst(&ends, &again) < 1e-6, "{solver:?}");
    }
}

#[test]
fn densities_take_adams_methods() {
    let field = gaussian();
    let x = normal(&[8, 2]);
    let density = |solve: SolveOptions| {
        log_prob(&field, &x, &DensityOptions { solve, ..DensityOptions::default() }, None, &mut Silent)
    };
    let exact = density(SolveOptions::adaptive(1e-10)).unwrap();
    assert!(worst(&density(SolveOptions::fixed(Solver::Ab3, 200)).unwrap(), &exact) < 1e-3);
    let error = density(SolveOptions::fixed(Solver::Dpm2m, 20)).unwrap_err().to_string();
    assert!(error.starts_with("solver:"), "{error}");
}

#[test]
fn bad_grids_are_named() {
    let (field, x) = (gaussian(), normal(&[2, 2]));
    let refuse = |times: &[f64], solver: Solver, grid: Option<Grid>| {
        let options = SolveOptions { grid, ..SolveOptions::fixed(solver, 4) };
        let error = solve(&field, &x, times, &options, None, &mut Silent).unwrap_err();
        error.to_string().split(':').next().unwrap_or("").to_string()
    };
    let bad = [vec![0.0], vec![1.0, 0.0], vec![0.0, 0.5, 0.5, 1.0], vec![0.0, f64::NAN], vec![0.2, 1.0]];
    for times in bad {
        assert_eq!(refuse(&[0.0, 1.0], Solver::Euler, Some(Grid::Times(times))), "grid");
    }
    assert_eq!(refuse(&[0.0, 1.0], Solver::Dopri5, Some(Grid::Uniform)), "grid");
    assert_eq!(refuse(&[0.0, 1.5], Solver::Euler, Some(Grid::Tau)), "grid");
    assert_eq!(refuse(&[0.0, 1.5], Solver::Dpm2m, None), "solver");
    assert!("karras".parse::<Grid>().unwrap_err().to_string().starts_with("grid:"));
    // Outside of [0, 1] Adams' methods go by t itself.
    let options = SolveOptions::fixed(Solver::Ab3, 200);
    let ends = solve(&field, &x, &[0.0, 1.2], &options, None, &mut Silent).unwrap().endpoint();
    assert!(worst(&ends, &field.flow(&x, 0.0, 1.2).unwrap()) < 1e-3);
}

#[test]
fn grids_are_plain_data() {
    let options: SolveOptions =
        serde_json::from_str(r#"{"solver": "ab3", "steps": 7, "grid": "log_snr"}"#).unwrap();
    assert_eq!(options.grid, Some(Grid::LogSnr));
    let options: SolveOptions = serde_json::from_str(r#"{"grid": [0, 0.5, 1]}"#).unwrap();
    assert_eq!(options.grid, Some(Grid::Times(vec![0.0, 0.5, 1.0])));
    // Files of before have none.
    let options: SolveOptions =
        serde_json::from_str(r#"{"solver": "rk4", "steps": 7, "rtol": 1e-5, "atol": 1e-5}"#).unwrap();
    assert_eq!(options, SolveOptions::fixed(Solver::Rk4, 7));
    assert!(!serde_json::to_string(&options).unwrap().contains("grid"));
}

/// Of (x1, x0) jointly Gaussian: E[x1|x] = m + a C S^-1 (x - a m), E[x0|x] = s S^-1 (x - a m), S = a^2 C + s^2 I.
#[test]
fn expectations_are_those_of_gaussians() {
    let field: Box<dyn VelocityField> = Box::new(gaussian());
    let mean = Tensor::from_slice(&[0.4, -0.3]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    let x = normal(&[6, 2]);
    for t in [0.0, 0.3, 1.0] {
        let inverse = (&covariance * (t * t)
            + Tensor::eye(2, (Kind::Double, Device::Cpu)) * ((1.0 - t) * (1.0 - t)))
            .inverse();
        let centred = (&x - &mean * t).matmul(&inverse);
        let time = Tensor::from(t);
        let data = field.denoise(&time, &x, Expectation::Data, None).unwrap();
        assert!(worst(&data, &(&mean + centred.matmul(&covariance) * t)) < 1e-10, "data at {t}");
        let noise = field.denoise(&time, &x, Expectation::Noise, None).unwrap();
        assert!(worst(&noise, &(centred * (1.0 - t))) < 1e-10, "noise at {t}");
    }
    let end = field.denoise(&Tensor::from(1.0), &x, Expectation::Data, None).unwrap();
    assert_eq!(worst(&end, &x), 0.0);
    let start = field.denoise(&Tensor::from(0.0), &x, Expectation::Noise, None).unwrap();
    assert_eq!(worst(&start, &x), 0.0);
}

#[test]
fn expectations_are_a_diffusion_models_own() {
    let target = Tensor::from_slice(&[0.5, -1.0]).view([1, 2]);
    let x = normal(&[6, 2]);
    for schedule in [NoiseSchedule::Vp(LinearBeta::default()), NoiseSchedule::Edm(Karras::default())] {
        let field: Box<dyn VelocityField> = Box::new(diffusion_of_a_point(schedule));
        for t in [0.0, 0.4, 1.0] {
            let data = field.denoise(&Tensor::from(t), &x, Expectation::Data, None).unwrap();
            assert!(worst(&data, &target.expand_as(&x)) < 1e-9, "{schedule:?} at {t}");
        }
    }
}

#[test]
fn extended_coefficients_are_integrals_of_their_rates() {
    let t = Tensor::linspace(0.0, 1.0, 4001, (Kind::Double, Device::Cpu));
    for mixing in [Mixing::Path(Path::Vp), Mixing::Schedule(NoiseSchedule::default())] {
        let c = mixing.extended(&t);
        for (value, rate) in [(&c.a, &c.a_rate), (&c.s, &c.s_rate)] {
            let middle = (rate.narrow(0, 0, 4000) + rate.narrow(0, 1, 4000)) * 0.5 / 4000.0;
            assert!(worst(&(value.narrow(0, 1, 4000) - value.narrow(0, 0, 4000)), &middle) < 1e-5);
        }
    }
}

#[test]
fn mean_shift_is_denoising_by_the_empirical_field() {
    let data = normal(&[40, 2]);
    let field: Box<dyn VelocityField> =
        Box::new(EmpiricalField::new(&data, Device::Cpu, Kind::Double).unwrap());
    let bandwidth = 0.7;
    let found = mean_shift(&data, bandwidth, 1, &mut Silent).unwrap();
    assert!(!found.converged);
    let t = 1.0 / (1.0 + bandwidth);
    let shifted = field.denoise(&Tensor::from(t), &(&data * t), Expectation::Data, None).unwrap();
    // After one step of mean shift rows stand at the denoised rows; modes are some of them.
    let gaps = (found.modes.unsqueeze(1) - shifted.unsqueeze(0)).square().sum_dim_intlist(
        [2i64].as_slice(),
        false,
        Kind::Double,
    );
    assert!(gaps.amin([1i64].as_slice(), false).max().double_value(&[]) < 1e-20);
}

#[test]
fn modes_are_those_of_separate_clouds() {
    let far = Tensor::from_slice(&[1000.0, 0.0]).view([1, 2]);
    let data = Tensor::cat(&[normal(&[30, 2]), normal(&[20, 2]) + far], 0);
    let found = mean_shift(&data, 1.0, 1000, &mut Silent).unwrap();
    assert!(found.converged);
    assert_eq!(found.modes.size(), [2, 2]);
    let assignment = Vec::<i64>::try_from(&found.assignment).unwrap();
    assert!(assignment[..30].iter().all(|mode| *mode == 0) && assignment[30..].iter().all(|mode| *mode == 1));
    // The gradient of the density vanishes, and its log is that of the definition.
    let squares =
        (found.modes.get(0) - &data).square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
    let weights = (squares * -0.5).exp();
    let pull = ((&data - found.modes.get(0)) * weights.unsqueeze(1)).sum_dim_intlist(
        [0i64].as_slice(),
        false,
        Kind::Double,
    );
    assert!(pull.abs().max().double_value(&[]) < 1e-2);
    let density = weights.sum(Kind::Double).double_value(&[]) / 50.0 / (2.0 * std::f64::consts::PI);
    assert!((found.log_density.double_value(&[0]) - density.ln()).abs() < 1e-9);
    for bandwidth in [0.0, -1.0, f64::NAN] {
        let error = mean_shift(&data, bandwidth, 10, &mut Silent).unwrap_err().to_string();
        assert!(error.starts_with("bandwidth:"), "{error}");
    }
}
