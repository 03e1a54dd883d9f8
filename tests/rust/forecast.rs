//! Forecasters: moments of pairs that are pairs, linear systems recovered exactly, filters against dense conditioning,
//! eigenvalues of noisy paths, and files.

use koopflow::data::Observed;
use koopflow::forecast::{
    fit, forecast, smooth, BasisKind, Forecaster, ForecasterConfig, Method, Modes, Observations, ReEncode,
    Request,
};
use koopflow::monitor::Silent;
use koopflow::store;
use koopflow::tensor::RandomSource;
use koopflow::Error;
use tch::{Device, Kind, Tensor};

const REAL: (Kind, Device) = (Kind::Double, Device::Cpu);

/// A damped rotation about (1, -2), rows: z' = (z - centre) A.
fn rate() -> Tensor {
    Tensor::from_slice(&[-0.1, 1.3, -1.3, -0.1]).reshape([2, 2])
}

fn centre() -> Tensor {
    Tensor::from_slice(&[1.0, -2.0])
}

fn at(start: &Tensor, time: f64) -> Tensor {
    (start - centre()).matmul(&(rate() * time).linalg_matrix_exp()) + centre()
}

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

/// Paths of `lengths` at steps of 0.1.
fn paths(lengths: &[usize]) -> Tensor {
    let parts: Vec<Tensor> = lengths
        .iter()
        .enumerate()
        .map(|(place, length)| {
            let start = normal(place as u64, &[1, 2]) * 2.0;
            let rows: Vec<Tensor> = (0..*length).map(|row| at(&start, 0.1 * row as f64)).collect();
            Tensor::cat(&rows, 0)
        })
        .collect();
    Tensor::cat(&parts, 0)
}

fn steps(lengths: &[usize]) -> Vec<f64> {
    lengths.iter().flat_map(|length| (0..*length).map(|row| 0.1 * row as f64)).collect()
}

fn linear() -> ForecasterConfig {
    ForecasterConfig { basis: BasisKind::Polynomial, degree: 1, ..ForecasterConfig::default() }
}

fn fitted(config: &ForecasterConfig, data: &Observed) -> Forecaster {
    fit(config, data, &[2], &mut Silent).unwrap().0
}

fn ahead(model: &Forecaster, rows: &Tensor, times: &[f64], re_encode: Option<u64>) -> Tensor {
    let stack = model.check_rows("x", rows).unwrap();
    let request =
        Request { stack: &stack, condition: None, times, re_encode, inputs: None, members: 0, seed: 0 };
    model.original(&forecast(model, &request, &mut Silent).unwrap())
}

fn far(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn segments_end_at_gaps_unseen_rows_and_ends_of_paths() {
    let values = Tensor::zeros([9, 1], REAL);
    let _ = values.get(6).fill_(f64::NAN);
    // A gap of time after the third row of the first path, an unseen row in the second.
    let times = vec![0.0, 0.5, 1.0, 2.5, 3.0, 0.0, 0.5, 1.0, 1.5];
    let data = Observed::new(&values, &[5, 4], Some(times), None, None).unwrap();
    assert_eq!(data.spacing(), Some(0.5));
    let found: Vec<(usize, usize, usize)> = data
        .segments(&data.ranges(), 1)
        .iter()
        .map(|segment| (segment.path, segment.first, segment.length))
        .collect();
    assert_eq!(found, [(0, 0, 3), (0, 3, 2), (1, 5, 1), (1, 7, 2)]);
    assert_eq!(data.segments(&data.ranges(), 3).len(), 1);
    assert_eq!(data.path_of(4), 0);
    assert_eq!(data.path_of(5), 1);
}

#[test]
fn times_that_are_no_grid_are_irregular_and_bad_ones_are_refused() {
    let values = Tensor::zeros([4, 1], REAL);
    let data = Observed::new(&values, &[4], Some(vec![0.0, 0.3, 0.7, 1.9]), None, None).unwrap();
    assert_eq!(data.spacing(), None);
    for times in [vec![0.0, 1.0, 1.0, 2.0], vec![0.0, 2.0, 1.0, 3.0], vec![0.0, 1.0, f64::NAN, 2.0]] {
        let error = Observed::new(&values, &[4], Some(times), None, None).err().unwrap();
        assert!(error.to_string().starts_with("times"), "{error}");
    }
    // Both rows of a path, but the next path begins before: no step leads there.
    let data = Observed::new(&values, &[2, 2], Some(vec![5.0, 6.0, 0.0, 1.0]), None, None).unwrap();
    assert_eq!(data.spacing(), Some(1.0));
}

#[test]
fn a_split_is_by_path_and_takes_the_end_of_a_single_one() {
    let data = Observed::new(&Tensor::zeros([40, 1], REAL), &[10; 4], None, None, None).unwrap();
    let [train, held] = data.split(0.25, 2, &mut RandomSource::new(0));
    assert_eq!((train.len(), held.len()), (3, 1));
    assert!(held.iter().all(|rows| !train.contains(rows)));
    let one = Observed::new(&Tensor::zeros([40, 1], REAL), &[40], None, None, None).unwrap();
    let [train, held] = one.split(0.25, 2, &mut RandomSource::new(0));
    assert_eq!((&train[0], &held[0]), (&(0..30), &(30..40)));
    assert_eq!((train.len(), held.len()), (1, 1));
}

#[test]
fn a_linear_system_is_recovered_and_forecast_at_any_time() {
    let lengths = [30, 12, 50, 7, 20];
    let data = Observed::new(&paths(&lengths), &lengths, Some(steps(&lengths)), None, None).unwrap();
    let (model, history) = fit(&linear(), &data, &[2], &mut Silent).unwrap();
    assert_eq!(history.pairs, lengths.iter().map(|n| *n as i64 - 1).sum::<i64>());
    assert!(history.generator.is_none());
    let start = Tensor::from_slice(&[0.3, 0.4, -5.0, 9.0]).reshape([2, 2]);
    // On the grid, between its points, far away, and in any order.
    let times = [0.25, 0.1, 30.0, 0.0];
    let found = ahead(&model, &start, &times, None);
    for (place, time) in times.iter().enumerate() {
        assert!(far(&found.get(place as i64), &at(&start, *time)) < 1e-7, "{time}");
    }
    let rates = Modes::new(&model).unwrap().rates.view_as_real();
    assert!(far(&rates.abs().max(), &Tensor::from(1.3)) < 1e-8);
}

#[test]
fn pairs_across_paths_and_gaps_are_never_taken() {
    // Paths far apart: one pair from the end of one to the beginning of the next would spoil the fit.
    let lengths = [6, 5];
    let values = paths(&lengths);
    let jump = values.narrow(0, 6, 5);
    let _ = jump.shallow_clone().f_add_scalar_(0.0).unwrap();
    let hidden = values.copy();
    let _ = hidden.get(3).fill_(f64::NAN);
    let data = Observed::new(&hidden, &lengths, Some(steps(&lengths)), None, None).unwrap();
    let config = ForecasterConfig { held_out: 0.0, ridge: Some(0.0), ..linear() };
    let (model, history) = fit(&config, &data, &[2], &mut Silent).unwrap();
    assert_eq!(history.pairs, 2 + 1 + 4);
    let start = Tensor::from_slice(&[0.0, 1.0]).reshape([1, 2]);
    assert!(far(&ahead(&model, &start, &[2.0], None).get(0), &at(&start, 2.0)) < 1e-6);
}

#[test]
fn encoding_anew_makes_a_nonlinear_forecast_exact_where_one_encoding_is_not() {
    // x' = x - x^3, whose solution is known.
    let solution = |start: f64, t: f64| {
        let growth = (2.0 * t).exp();
        start * growth.sqrt() / (1.0 + start * start * (growth - 1.0)).sqrt()
    };
    let starts: Vec<f64> = (0..40).map(|i| -1.5 + 3.0 * i as f64 / 39.0 + 0.01).collect();
    let values: Vec<f64> =
        starts.iter().flat_map(|start| (0..30).map(|row| solution(*start, 0.1 * row as f64))).collect();
    let values = Tensor::from_slice(&values).unsqueeze(1);
    let lengths = vec![30; 40];
    let data = Observed::new(&values, &lengths, Some(steps(&lengths)), None, None).unwrap();
    let config = ForecasterConfig { observables: Some(60), ..ForecasterConfig::default() };
    let (model, _) = fit(&config, &data, &[1], &mut Silent).unwrap();
    let start = Tensor::from_slice(&[0.2, -0.7, 1.2]).unsqueeze(1);
    let truth: Vec<f64> = [0.2, -0.7, 1.2].iter().map(|start| solution(*start, 3.0)).collect();
    let truth = Tensor::from_slice(&truth).unsqueeze(1);
    assert!(far(&ahead(&model, &start, &[3.0], Some(1)).get(0), &truth) < 1e-4);
    assert_eq!(model.facts().re_encode, Some(1));
}

/// Mean and deviation of states `[T, 2]` of a linear system given noisy rows, by conditioning one large Gaussian.
fn conditioned(model: &Forecaster, seen: &Tensor, count: i64, noise: f64) -> (Tensor, Tensor) {
    let own = model.evolution();
    let step = own.transition.narrow(0, 1, 2).narrow(1, 1, 2);
    let shift = own.transition.select(0, 0).narrow(0, 1, 2);
    let added = own.covariance.narrow(0, 1, 2).narrow(1, 1, 2);
    let gain = &own.gain;
    // What is left of the residual's covariance, as the filter takes it: nothing below a hundredth of the noise's.
    let less = (gain + Tensor::eye(2, REAL)) * noise * noise;
    let (values, vectors) = (&added - less).linalg_eigh("L");
    let added = (&vectors * values.clamp_min((0.1 * noise).powi(2).max(1e-16))).matmul(&vectors.tr());
    let mean = Tensor::zeros([count, 2], REAL);
    let covariance = Tensor::zeros([count, 2, count, 2], REAL);
    let block = |a: i64, b: i64| covariance.select(0, a).select(1, b);
    block(0, 0).copy_(&Tensor::eye(2, REAL));
    for t in 1..count {
        mean.get(t).copy_(&(mean.get(t - 1).unsqueeze(0).matmul(&step).squeeze_dim(0) + &shift));
        for earlier in 0..t {
            let shared = step.tr().matmul(&block(t - 1, earlier));
            block(t, earlier).copy_(&shared);
            block(earlier, t).copy_(&shared.tr());
        }
        block(t, t).copy_(&(step.tr().matmul(&block(t - 1, t - 1)).matmul(&step) + &added));
    }
    let whole = covariance.reshape([2 * count, 2 * count]);
    let flat = seen.reshape([-1]);
    let places = flat.isnan().logical_not().nonzero().view([-1]);
    let of_seen = whole.index_select(1, &places);
    let own = of_seen.index_select(0, &places) + Tensor::eye(places.size()[0], REAL) * noise * noise;
    let gain = of_seen.matmul(&own.inverse());
    let off = flat.index_select(0, &places) - mean.reshape([-1]).index_select(0, &places);
    let posterior = mean.reshape([-1]) + gain.mv(&off);
    let left = &whole - gain.matmul(&of_seen.tr());
    (posterior.reshape([count, 2]), left.diagonal(0, 0, 1).sqrt().reshape([count, 2]))
}

#[test]
fn the_smoother_is_the_posterior_of_one_large_gaussian() {
    let lengths = [40, 40, 40];
    let noisy = paths(&lengths) + normal(7, &[120, 2]) * 0.05;
    let data = Observed::new(&noisy, &lengths, Some(steps(&lengths)), None, None).unwrap();
    let model = fitted(&ForecasterConfig { noise: Some(0.2), ..linear() }, &data);
    let seen = normal(3, &[1, 12, 2]);
    for (row, column) in [(3, 0), (4, 0), (4, 1), (9, 1)] {
        let _ = seen.get(0).get(row).get(column).fill_(f64::NAN);
    }
    let times: Vec<f64> = (0..12).map(|row| 0.1 * f64::from(row)).collect();
    let values = model.original(&seen);
    let request =
        Observations { values: &values, times: &times, condition: None, noise: 0.2, re_encode: true };
    let found = smooth(&model, &request, &times, true, &mut Silent).unwrap();
    let (mean, deviation) = conditioned(&model, &seen.get(0), 12, 0.2);
    assert!(far(&found.mean.select(1, 0), &model.original(&mean)) < 1e-8);
    assert!(far(&found.deviation.select(1, 0), &model.differences(&deviation)) < 1e-8);
    // The filter's last answer is the smoother's, and an answer between two rows needs no observation.
    let filtered = smooth(&model, &request, &times, false, &mut Silent).unwrap();
    assert!(far(&filtered.mean.get(11), &found.mean.get(11)) < 1e-10);
    assert!(far(&filtered.mean.get(2), &found.mean.get(2)) > 1e-4);
}

#[test]
fn eigenvalues_of_noisy_irregular_paths_are_those_of_whole_paths() {
    let mut random = RandomSource::new(5);
    let (mut values, mut times, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for path in 0..60u64 {
        let own: Vec<f64> =
            Vec::try_from(random.uniform(&[20 + path as i64], Kind::Double, Device::Cpu).unwrap()).unwrap();
        let mut own: Vec<f64> = own.iter().map(|t| 6.0 * t).collect();
        own.sort_by(f64::total_cmp);
        let start = normal(100 + path, &[1, 2]) + centre();
        values.extend(own.iter().map(|t| at(&start, *t)));
        lengths.push(own.len());
        times.extend(own);
    }
    let clean = Tensor::cat(&values, 0);
    let noisy = &clean + normal(9, &clean.size()) * 0.02;
    let data = Observed::new(&noisy, &lengths, Some(times), None, None).unwrap();
    assert_eq!(data.spacing(), None);
    let model = fitted(&linear(), &data);
    let rates = Modes::new(&model).unwrap().rates.view_as_real();
    let growth = rates.select(1, 0).min().double_value(&[]);
    let frequency = rates.select(1, 1).max().double_value(&[]);
    assert!((growth + 0.1).abs() < 2e-3 && (frequency - 1.3).abs() < 2e-3, "{growth} {frequency}");
}

#[test]
fn residuals_of_modes_are_those_of_the_data() {
    let lengths = [25, 30];
    let data = Observed::new(&paths(&lengths), &lengths, Some(steps(&lengths)), None, None).unwrap();
    let model = fitted(&linear(), &data);
    let modes = Modes::new(&model).unwrap();
    let facts = modes.facts(&model, &data, &mut Silent).unwrap();
    assert!(facts.residuals.max().double_value(&[]) < 1e-6);
    assert!((facts.explained.max().double_value(&[]) - 1.0).abs() < 1e-6);
    // The same modes along other data do not fit.
    let other = Observed::new(&normal(1, &[55, 2]), &lengths, Some(steps(&lengths)), None, None).unwrap();
    let facts = modes.facts(&model, &other, &mut Silent).unwrap();
    assert!(facts.residuals.max().double_value(&[]) > 0.5);
}

#[test]
fn files_bring_every_basis_back_bit_for_bit() {
    let lengths = [30, 30, 30];
    let data = Observed::new(&paths(&lengths), &lengths, Some(steps(&lengths)), None, None).unwrap();
    let base = ForecasterConfig { observables: Some(12), history: 2, ..ForecasterConfig::default() };
    let mut trained =
        ForecasterConfig { basis: BasisKind::Network, method: Method::Gradient, ..base.clone() };
    (trained.training.steps, trained.width) = (Some(5), 8);
    let configs = [
        base.clone(),
        ForecasterConfig { basis: BasisKind::Kernel, ..base.clone() },
        ForecasterConfig { basis: BasisKind::Polynomial, degree: 2, ..base.clone() },
        ForecasterConfig { rank: Some(4), re_encode: ReEncode::Never, ..base },
        trained,
    ];
    let rows = normal(4, &[3, 2, 2]);
    for config in configs {
        let model = fitted(&config, &data);
        let path =
            std::env::temp_dir().join(format!("koopflow-forecaster-{}.safetensors", std::process::id()));
        store::save(&path, &model, serde_json::json!({})).unwrap();
        let (again, _) = store::load::<Forecaster>(&path, Device::Cpu).unwrap();
        let times = [0.1, 0.5];
        assert_eq!(ahead(&model, &rows, &times, Some(2)), ahead(&again, &rows, &times, Some(2)));
        assert_eq!(model.config(), again.config());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(matches!(store::load::<Forecaster>(&path, Device::Cpu), Err(Error::Checkpoint { .. })));
    }
}
