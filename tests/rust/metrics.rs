//! The distances against POT, SciPy and closed forms.

use std::f64::consts::PI;

use koopflow::metrics::{
    endpoint_error, energy_distance, energy_distance_watched, frechet_distance, frechet_distance_watched,
    inversion_error, median_bandwidths, mmd, mmd_watched, path_error, precision_recall,
    precision_recall_watched, round_trip_error, sliced_wasserstein, sliced_wasserstein_along, straightness,
    total_std, wasserstein2, wasserstein2_watched, Statistic, ASSIGNMENT_LIMIT,
};
use koopflow::monitor::{Monitor, Progress};
use koopflow::tensor::RandomSource;
use koopflow::{Error, Result};
use tch::{Device, Kind, Tensor};

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

/// The two sets of the reference snippet: `[20, 3]` and `[30, 3]`.
fn sets() -> (Tensor, Tensor) {
    let i = Tensor::arange(30, (Kind::Double, Device::Cpu));
    let a = Tensor::stack(&[i.sin(), (&i * 1.7).cos(), (&i * &i * 0.3).sin()], 1).narrow(0, 0, 20);
    let b = Tensor::stack(&[(&i * 0.9).cos() + 0.5, (&i * 2.3).sin(), (&i * &i).cos() * 0.2], 1);
    (a, b)
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-10, "{found} is not {expected}");
}

/// Made by NumPy, SciPy 1.17 and POT 0.9:
/// i = np.arange(30.0)
/// a = np.stack([np.sin(i), np.cos(1.7 * i), np.sin(0.3 * i * i)], 1)[:20]
/// b = np.stack([np.cos(0.9 * i) + 0.5, np.sin(2.3 * i), 0.2 * np.cos(i * i)], 1)
/// p = np.stack([np.ones(3) / 3 ** 0.5, [0.6, 0, 0.8], [0, 1, 0], [-0.28, 0.96, 0]], 1)
/// ot.sliced_wasserstein_distance(a, b[:20], projections=p); ot.sliced_wasserstein_distance(a, b, projections=p)
/// ot.emd2([], [], cdist(a, b[:20]) ** 2) ** 0.5
/// 2 * cdist(a, b).mean() - cdist(a, a).sum() / (20 * 19) - cdist(b, b).sum() / (30 * 29)
/// a.var(0).sum() ** 0.5; (((a - b[:20]) ** 2).sum(1).mean()) ** 0.5
#[test]
fn values_are_those_of_pot_and_scipy() {
    let (a, b) = sets();
    let first = b.narrow(0, 0, 20);
    let third = 1.0 / 3f64.sqrt();
    let directions =
        Tensor::from_slice(&[third, 0.6, 0.0, -0.28, third, 0.0, 1.0, 0.96, third, 0.8, 0.0, 0.0]);
    let directions = directions.view([3, 4]);
    close(sliced_wasserstein_along(&a, &first, &directions).unwrap(), 0.34240334988664495);
    close(sliced_wasserstein_along(&a, &b, &directions).unwrap(), 0.3595034598130649);
    close(sliced_wasserstein_along(&b, &a, &directions).unwrap(), 0.3595034598130649);
    close(wasserstein2(&a, &first).unwrap(), 0.8990550024791664);
    close(energy_distance(&a, &b).unwrap(), 0.14357584673542);
    close(total_std(&a).unwrap(), 1.2658884146532128);
    close(endpoint_error(&a, &first, 2.0).unwrap().value(), 1.4654432901048928 / 2.0);
}

#[test]
fn errors_are_those_of_their_definitions() {
    // Distances of 3-4-5 triangles: 5 and 10 at the first time, 0 and 5 at the second.
    let exact = Tensor::zeros([2, 2, 2], (Kind::Float, Device::Cpu));
    let path = Tensor::from_slice(&[3f32, 4.0, 6.0, 8.0, 0.0, 0.0, 4.0, 3.0]).view([2, 2, 2]);
    let roots = [(125f64 / 2.0).sqrt(), (25f64 / 2.0).sqrt()];
    let errors = path_error(&path, &exact, 4.0).unwrap();
    assert_eq!(errors.samples(), 2);
    close(errors.value(), (roots[0] + roots[1]) / 2.0 / 4.0);
    // The second sample, three times over: 10 and 5.
    close(errors.value_of(&Tensor::from_slice(&[1i64, 1, 1])).unwrap(), 15.0 / 2.0 / 4.0);
    close(round_trip_error(&path.get(0), &exact.get(0), 2.0).unwrap().value(), roots[0] / 2.0);
    // Over the noise's own norm, the root of (1 + 1 + 1 + 1) / 2.
    let noise = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
    close(inversion_error(&(path.get(0) + 1.0), &noise).unwrap().value(), roots[0] / 2f64.sqrt());
    close(inversion_error(&noise.zeros_like(), &noise).unwrap().value(), 1.0);
}

#[test]
fn events_are_flattened_and_dtypes_mixed() {
    let (a, b) = (normal(1, &[12, 2, 3]), normal(2, &[12, 2, 3]).to_kind(Kind::Float));
    let (flat_a, flat_b) = (a.view([12, 6]), b.view([12, 6]));
    close(wasserstein2(&a, &b).unwrap(), wasserstein2(&flat_a, &flat_b).unwrap());
    close(sliced_wasserstein(&a, &b, 9, 4).unwrap(), sliced_wasserstein(&flat_a, &flat_b, 9, 4).unwrap());
    close(energy_distance(&a, &b).unwrap(), energy_distance(&flat_a, &flat_b).unwrap());
}

#[test]
fn a_shift_moves_each_distance_as_it_should() {
    let a = normal(3, &[400, 3]);
    let shift = Tensor::from_slice(&[0.3, -0.4, 1.2]); // length 1.3
    let b = &a + &shift;
    close(wasserstein2(&a, &b.flip([0])).unwrap(), 1.3);
    // The mean of (shift . direction)^2 over the sphere is 1.3^2 / 3.
    let sliced = sliced_wasserstein(&a, &b, 4000, 0).unwrap();
    assert!((sliced - 1.3 / 3f64.sqrt()).abs() < 0.02, "{sliced}");
    close(sliced, sliced_wasserstein(&a, &b.flip([0]), 4000, 0).unwrap());
    assert_ne!(sliced, sliced_wasserstein(&a, &b, 4000, 1).unwrap());
    assert_eq!(sliced_wasserstein(&a, &a, 64, 0).unwrap(), 0.0);
}

#[test]
fn one_dimension_is_sorting() {
    let (a, b) = (normal(4, &[300, 1]), normal(5, &[300, 1]) * 2.0);
    let sorted = |x: &Tensor| x.sort(0, false).0;
    let expected = (sorted(&a) - sorted(&b)).square().mean(Kind::Double).double_value(&[]).sqrt();
    close(wasserstein2(&a, &b).unwrap(), expected);
    close(sliced_wasserstein(&a, &b, 3, 0).unwrap(), expected);
    // Every sample of a taken three times is the same distribution.
    close(sliced_wasserstein(&a.repeat([3, 1]), &b, 3, 0).unwrap(), expected);
}

#[test]
fn duplicates_clusters_and_grids_do_not_loop() {
    // A few points many times over, at awkward scales, against their shifted and reordered copies.
    let points = normal(6, &[5, 2]);
    let order = RandomSource::new(7).permutation(500, Device::Cpu);
    for scale in [1e-9, 1.0, 1e7] {
        let a = points.repeat([100, 1]) * scale;
        let b = a.index_select(0, &order);
        assert_eq!(wasserstein2(&a, &b).unwrap(), 0.0);
        let shifted = &b + Tensor::from_slice(&[3.0 * scale, 4.0 * scale]);
        assert!((wasserstein2(&a, &shifted).unwrap() / scale - 5.0).abs() < 1e-9);
    }
    // Tight clusters far apart.
    let clusters = points.repeat([100, 1]) * 100.0 + normal(8, &[500, 2]) * 1e-6;
    let moved = clusters.index_select(0, &order) + 1.0;
    assert!((wasserstein2(&clusters, &moved).unwrap() - 2f64.sqrt()).abs() < 1e-9);
    // An integer grid, every cost tied with others.
    let axis = Tensor::arange(20, (Kind::Double, Device::Cpu));
    let grid = Tensor::cartesian_prod(&[&axis, &axis]);
    let shifted = grid.flip([0]) + Tensor::from_slice(&[1.0, 0.0]);
    close(wasserstein2(&grid, &shifted).unwrap(), 1.0);
    // All in one place.
    let place = Tensor::zeros([50, 2], (Kind::Float, Device::Cpu));
    assert_eq!(wasserstein2(&place, &place).unwrap(), 0.0);
    close(wasserstein2(&place, &(&place + 2.0)).unwrap(), 8f64.sqrt());
    close(wasserstein2(&place.narrow(0, 0, 1), &(place.narrow(0, 0, 1) + 2.0)).unwrap(), 8f64.sqrt());
}

struct Stop;

impl Monitor for Stop {
    fn tick(&mut self) -> Result<()> {
        Err(Error::Interrupted("stop".into()))
    }
    fn report(&mut self, _: &Progress) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_monitor_stops_a_large_assignment() {
    let (a, b) = (normal(1, &[1200, 2]), normal(2, &[1200, 2]));
    let error = wasserstein2_watched(&a, &b, &mut Stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted(_)), "{error}");
}

#[test]
fn energy_distance_is_unbiased_and_chunked() {
    // Equal distributions: the mean over independent pairs of sets is 0 within its spread.
    let draws: Vec<f64> = (0..40)
        .map(|k| energy_distance(&normal(100 + k, &[50, 2]), &normal(900 + k, &[60, 2])).unwrap())
        .collect();
    let mean = draws.iter().sum::<f64>() / 40.0;
    let spread = (draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 39.0).sqrt();
    assert!(mean.abs() < 4.0 * spread / 40f64.sqrt(), "{mean} with spread {spread}");
    assert!(draws.iter().any(|d| *d < 0.0));
    // 3,000 x 3,000 pairs exceed a chunk; two distant points are 2 |gap| apart less what is within.
    let a = normal(9, &[3000, 2]) * 1e-3;
    let found = energy_distance(&a, &(normal(10, &[3000, 2]) * 1e-3 + 1e3)).unwrap();
    assert!((found / (2.0 * 1e3 * 2f64.sqrt()) - 1.0).abs() < 1e-5, "{found}");
    // Many dimensions, far from the origin.
    let (a, b) = (normal(11, &[40, 30]), normal(12, &[40, 30]));
    let far = energy_distance(&(&a + 1e4), &(&b + 1e4)).unwrap();
    assert!((far - energy_distance(&a, &b).unwrap()).abs() < 1e-6);
}

/// Made by NumPy and SciPy, with a and b as above:
/// def k(x, y): return sum(np.exp(-cdist(x, y, "sqeuclidean") / (2 * s * s)) for s in (0.5, 1.5))
/// (k(a, a).sum() - 40) / (20 * 19) + (k(b, b).sum() - 60) / (30 * 29) - 2 * k(a, b).mean()
/// np.median(pdist(b))
/// c, d = np.cov(a.T), np.cov(b.T)
/// ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
/// def r(x): return np.sort(cdist(x, x), axis=1)[:, 2]
/// (cdist(a, b) <= r(b)).any(axis=1).mean(), (cdist(b, a) <= r(a)).any(axis=1).mean()
#[test]
fn values_are_those_of_numpy() {
    let (a, b) = sets();
    close(mmd(&a, &b, Some(&[0.5, 1.5])).unwrap(), 0.11710598901702474);
    let median = 1.371462844290766;
    for (found, factor) in median_bandwidths(&b).unwrap().iter().zip([0.5, 1.0, 2.0]) {
        close(*found, factor * median);
    }
    let stated = mmd(&a, &b, Some(&[0.5 * median, median, 2.0 * median])).unwrap();
    close(mmd(&a, &b, None).unwrap(), stated);
    close(frechet_distance(&a, &b).unwrap(), 0.7552800718213962);
    let found = precision_recall(&a, &b, 2).unwrap();
    close(found.precision, 0.3);
    close(found.recall, 0.9333333333333333);
}

#[test]
fn the_discrepancy_is_unbiased() {
    let draws: Vec<f64> = (0..40)
        .map(|k| mmd(&normal(200 + k, &[50, 2]), &normal(700 + k, &[60, 2]), Some(&[1.0])).unwrap())
        .collect();
    let mean = draws.iter().sum::<f64>() / 40.0;
    let spread = (draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 39.0).sqrt();
    assert!(mean.abs() < 4.0 * spread / 40f64.sqrt(), "{mean} with spread {spread}");
    assert!(draws.iter().any(|d| *d < 0.0));
    // Kernels that are far too narrow or far too wide see nothing.
    let (a, b) = (normal(1, &[30, 2]), normal(2, &[30, 2]) + 1e3);
    let nothing = mmd(&a, &b, Some(&[1e-9, 1e9])).unwrap();
    assert!(nothing.abs() < 1e-9, "{nothing}");
    // What no kernel reaches across leaves what is within: E exp(-|x - x'|^2 / 2) of standard normal pairs in 2-D is 1 / (1 + 2).
    let (a, b) = (normal(3, &[3000, 2]), normal(4, &[3000, 2]) + 1e3);
    let within = mmd(&a, &b, Some(&[1.0])).unwrap();
    assert!((within - 2.0 / 3.0).abs() < 0.02, "{within}");
}

#[test]
fn frechet_distances_of_maps_of_one_set_are_known() {
    // b = 2 a + 3: C becomes 4 C, so that tr(C + 4 C - 2 (4 C^2)^(1/2)) = tr C. More rows than a chunk.
    let a = normal(5, &[2_200_000, 2]);
    let found = frechet_distance(&a, &(&a * 2.0 + 3.0)).unwrap();
    let gap = (a.mean_dim([0i64].as_slice(), false, Kind::Double) + 3.0).square().sum(Kind::Double);
    let deviation = total_std(&a).unwrap();
    let expected = gap.double_value(&[]) + deviation * deviation * 2_200_000.0 / 2_199_999.0;
    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    // Far fewer samples than features.
    let few = normal(6, &[8, 300]);
    assert!(frechet_distance(&few, &few.flip([0])).unwrap().abs() < 1e-9);
    let shift = normal(7, &[1, 300]);
    let length = shift.square().sum(Kind::Double).double_value(&[]);
    assert!((frechet_distance(&few, &(&few + shift)).unwrap() - length).abs() < 1e-9);
    // Deviations along different axes have nothing in common: traces add up.
    let first = Tensor::from_slice(&[1.0, 0.0, -1.0, 0.0]).view([2, 2]);
    close(frechet_distance(&first, &first.flip([1])).unwrap(), 4.0);
}

#[test]
fn precision_and_recall_tell_missing_from_bad() {
    let data = Tensor::cat(&[normal(8, &[200, 2]), normal(9, &[200, 2]) + 50.0], 0);
    let half = precision_recall(&normal(10, &[400, 2]), &data, 3).unwrap();
    assert!(half.precision > 0.85 && (0.4..=0.5).contains(&half.recall), "{half:?}");
    let wide = precision_recall(&(&data * 4.0), &data, 3).unwrap();
    assert!(wide.precision < 0.7, "{wide:?}");
    let swapped = precision_recall(&data, &(&data * 4.0), 3).unwrap();
    assert_eq!((wide.precision, wide.recall), (swapped.recall, swapped.precision));
    for k in [1, 5] {
        let own = precision_recall(&data, &data.flip([0]), k).unwrap();
        assert_eq!((own.precision, own.recall), (1.0, 1.0));
    }
    // In many dimensions, and in more than one chunk.
    let (a, b) = (normal(11, &[2500, 20]), normal(12, &[2500, 20]));
    let same = precision_recall(&a, &b, 3).unwrap();
    assert!((same.precision - same.recall).abs() < 0.1, "{same:?}");
    assert_eq!(precision_recall(&a, &(&b + 1e3), 3).unwrap().precision, 0.0);
}

/// Half a circle at constant speed, `[K + 1, B, 2]` for one radius a path.
fn half_circles(pieces: i64, radii: &[f64]) -> (Tensor, Vec<f64>) {
    let times = Tensor::linspace(0.0, 1.0, pieces + 1, (Kind::Double, Device::Cpu));
    let unit = Tensor::stack(&[(&times * PI).cos(), (&times * PI).sin()], 1);
    let path = unit.unsqueeze(1) * Tensor::from_slice(radii).view([1, -1, 1]);
    (path, Vec::<f64>::try_from(times).unwrap())
}

#[test]
fn straightness_of_lines_and_circles() {
    // Chords of length 2 r sin(pi / 2K) in a time of 1 / K; a displacement of 2 r.
    let (path, times) = half_circles(10, &[1.0, 3.0]);
    let speed = 20.0 * (PI / 20.0).sin();
    let found = straightness(&path, &times).unwrap();
    for (index, radius) in [1.0f64, 3.0].into_iter().enumerate() {
        close(found.bend.double_value(&[index as i64]), radius.powi(2) * (speed.powi(2) - 4.0));
        close(found.displacement.double_value(&[index as i64]), 4.0 * radius.powi(2));
    }
    close(found.value(), speed.powi(2) / 4.0 - 1.0);
    // Finer, it is the circle's own: pi^2 - 4 over 4.
    let (fine, many) = half_circles(1000, &[1.0]);
    assert!((straightness(&fine, &many).unwrap().value() - (PI * PI / 4.0 - 1.0)).abs() < 1e-5);
    // Another clock, and the way back.
    let slower: Vec<f64> = times.iter().map(|t| 5.0 + 2.0 * t).collect();
    close(straightness(&path, &slower).unwrap().value(), found.value());
    let back: Vec<f64> = times.iter().rev().copied().collect();
    close(straightness(&path.flip([0]), &back).unwrap().value(), found.value());
    // A line at constant speed, and one that is waited on for half of the time.
    let line = Tensor::from_slice(&[0.0, 1.0, 4.0]).view([3, 1, 1]);
    close(straightness(&line, &[0.0, 0.25, 1.0]).unwrap().value(), 0.0);
    let late = Tensor::from_slice(&[0.0, 0.0, 4.0]).view([3, 1, 1]);
    close(straightness(&late, &[0.0, 0.5, 1.0]).unwrap().value(), 1.0);
}

#[test]
fn a_monitor_stops_each_of_the_long_ones() {
    let (a, b) = (normal(13, &[50, 3]), normal(14, &[50, 3]));
    let stopped = |result: Result<f64>| matches!(result, Err(Error::Interrupted(_)));
    assert!(stopped(energy_distance_watched(&a, &b, &mut Stop)));
    assert!(stopped(mmd_watched(&a, &b, None, &mut Stop)));
    assert!(stopped(frechet_distance_watched(&a, &b, &mut Stop)));
    assert!(stopped(precision_recall_watched(&a, &b, 3, &mut Stop).map(|found| found.recall)));
}

#[test]
fn bad_arguments_are_named() {
    let (a, b) = (normal(1, &[4, 2]), normal(2, &[5, 2]));
    let name =
        |result: Result<f64>| result.unwrap_err().to_string().split(':').next().unwrap_or("").to_string();
    assert_eq!(name(wasserstein2(&a, &b)), "b");
    let value = |errors: Result<koopflow::metrics::Errors>| errors.map(|errors| errors.value());
    assert_eq!(name(value(endpoint_error(&a, &b, 1.0))), "ends");
    assert_eq!(name(value(endpoint_error(&a, &a, 0.0))), "scale");
    assert_eq!(name(value(path_error(&a, &a, 1.0))), "path");
    assert_eq!(name(value(path_error(&a.view([2, 2, 2]), &a.view([1, 4, 2]), 1.0))), "path");
    assert_eq!(name(value(inversion_error(&a, &b))), "noise");
    assert_eq!(name(value(round_trip_error(&(&a / 0.0), &a, 1.0))), "again");
    let errors = endpoint_error(&a, &(&a + 1.0), 1.0).unwrap();
    for places in [&[][..], &[-1], &[4]] {
        assert_eq!(name(errors.value_of(&Tensor::from_slice(places))), "rows");
    }
    assert_eq!(name(sliced_wasserstein(&a, &b, 0, 0)), "projections");
    assert_eq!(name(sliced_wasserstein(&a, &normal(1, &[4, 3]), 8, 0)), "b");
    assert_eq!(name(sliced_wasserstein(&normal(1, &[4]), &b, 8, 0)), "a");
    assert_eq!(name(sliced_wasserstein_along(&a, &b, &normal(1, &[3, 4]))), "directions");
    assert_eq!(name(energy_distance(&a.narrow(0, 0, 1), &b)), "a");
    assert_eq!(name(energy_distance(&a, &(&b / 0.0))), "b");
    assert_eq!(name(total_std(&a.to_kind(Kind::Int64))), "data");
    assert_eq!(name(mmd(&a.narrow(0, 0, 1), &b, None)), "samples");
    assert_eq!(name(mmd(&a, &Tensor::ones([4, 2], (Kind::Float, Device::Cpu)), None)), "data");
    for widths in [&[][..], &[1.0, 0.0], &[f64::NAN]] {
        assert_eq!(name(mmd(&a, &b, Some(widths))), "bandwidths");
    }
    assert_eq!(name(frechet_distance(&a, &normal(1, &[4, 3]))), "b");
    assert_eq!(name(frechet_distance(&a.narrow(0, 0, 1), &b)), "a");
    for k in [0, 4] {
        assert_eq!(name(precision_recall(&a, &b, k).map(|found| found.recall)), "k");
    }
    assert_eq!(name(precision_recall(&(&a / 0.0), &b, 3).map(|found| found.recall)), "samples");
    let (path, times) = half_circles(4, &[1.0]);
    let ratio = |path: &Tensor, times: &[f64]| straightness(path, times).map(|found| found.value());
    assert_eq!(name(ratio(&a, &times)), "path");
    assert_eq!(name(ratio(&(&path / 0.0), &times)), "path");
    assert_eq!(name(ratio(&path, &times[1..])), "times");
    assert_eq!(name(ratio(&path, &[0.0, 0.5, 0.5, 0.7, 1.0])), "times");
    assert_eq!(name(ratio(&path.narrow(0, 0, 2), &[0.0, 1.0])), "times");
    let many = Tensor::zeros([ASSIGNMENT_LIMIT + 1, 1], (Kind::Float, Device::Cpu));
    assert_eq!(name(wasserstein2(&many, &many)), "a");
}
