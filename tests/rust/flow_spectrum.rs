//! The canonical spectrum of a flow, by itself: linear flows, identities of what it holds, files, and refusals.

mod common;

use common::{gap, normal, DOUBLE};
use koopflow::error::{Error, Result};
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::spectrum::flow::{measure, Displacements, FlowSpectrum, Parts, Rate, Reading};
use koopflow::store;
use tch::{Device, Kind, Tensor};

const WHOLE: Parts = Parts { drift: true, affine: true };

fn grid() -> Vec<f64> {
    (0..17).map(|step| step as f64 / 16.0).collect()
}

fn read(paths: &Tensor, times: &[f64], reading: Reading) -> Result<FlowSpectrum> {
    let mut held = Displacements::new(&paths.size()[2..], times)?;
    held.add(paths)?;
    measure(held, &reading, &mut Silent)
}

/// x0 e^{tA}, and `bend` times what a square of the noise adds in the same functions: `[T, n, d]`.
fn paths(matrix: &Tensor, n: i64, times: &[f64], bend: f64) -> Tensor {
    let d = matrix.size()[0];
    let x0 = normal(3, &[n, d]);
    let driven = &x0 + (x0.square() - 1.0) * bend;
    let states = times.iter().map(|t| {
        let moved = (matrix * *t).linalg_matrix_exp() - Tensor::eye(d, DOUBLE);
        &x0 + driven.matmul(&moved)
    });
    Tensor::stack(&states.collect::<Vec<_>>(), 0)
}

/// -0.3 ± 2i and 0.7.
fn turning() -> Tensor {
    Tensor::from_slice(&[-0.3, 2.0, 0.0, -2.0, -0.3, 0.5, 0.0, 0.0, 0.7]).reshape([3, 3])
}

fn bent() -> (Tensor, FlowSpectrum) {
    let paths = paths(&turning(), 200, &grid(), 0.5);
    let spectrum = read(&paths, &grid(), Reading::default()).unwrap();
    (paths, spectrum)
}

fn weights(times: &[f64]) -> Tensor {
    let step = times[1];
    let inner = Tensor::full([times.len() as i64], step, DOUBLE);
    let _ = inner.get(0).fill_(step / 2.0);
    let _ = inner.get(-1).fill_(step / 2.0);
    inner
}

fn flat_modes(spectrum: &FlowSpectrum) -> Tensor {
    let modes = spectrum.array("modes").unwrap();
    modes.reshape([modes.size()[0], -1])
}

#[test]
fn a_linear_flow_has_its_own_rates_and_no_components() {
    for kind in [Kind::Float, Kind::Double] {
        let paths = paths(&turning(), 64, &grid(), 0.0).to_kind(kind);
        let spectrum = read(&paths, &grid(), Reading::default()).unwrap();
        let facts = spectrum.facts();
        let known = [Rate { growth: 0.7, frequency: 0.0 }, Rate { growth: -0.3, frequency: 2.0 }];
        assert_eq!(facts.rates.len(), 2);
        for (rate, known) in facts.rates.iter().zip(known) {
            assert!((rate.growth - known.growth).abs() < 1e-3, "{rate:?}");
            assert!((rate.frequency - known.frequency).abs() < 1e-3, "{rate:?}");
        }
        assert!((facts.affine / facts.motion - 1.0).abs() < 1e-6);
        assert!(facts.groups.is_empty() && facts.agreement.is_empty());
        assert_eq!(facts.standing, 0);
        assert_eq!(spectrum.array("modes").unwrap().size(), [0, 3, 3]);
        assert_eq!(spectrum.array("amplitudes").unwrap().size(), [64, 0]);
        assert_eq!(spectrum.array("interval").unwrap().size(), [0, 2]);
        let none = Tensor::zeros([64, 0], DOUBLE);
        let end = spectrum.states(&paths.get(0), &none, 1.0, WHOLE).unwrap();
        assert_eq!(end.kind(), kind);
        assert!(gap(&end, &paths.get(-1)) < 1e-4);
        let found = spectrum.agreement(&spectrum, 3, 0, &mut Silent).unwrap();
        assert!(found.found.is_empty());
        assert_eq!(found.cosines.size(), [0, 0]);
    }
}

#[test]
fn one_dimension_few_paths_and_four_times_are_enough() {
    let times = [0.0, 0.2, 0.5, 1.0];
    let minus = Tensor::from_slice(&[-1.3]).reshape([1, 1]);
    let spectrum = read(&paths(&minus, 16, &times, 0.3), &times, Reading::default()).unwrap();
    assert_eq!(spectrum.facts().rates.len(), 1);
    assert!((spectrum.facts().rates[0].growth + 1.3).abs() < 1e-6);
    assert_eq!(spectrum.times(), times);
    assert_eq!(spectrum.facts().sizes[0], 4);
}

#[test]
fn functions_of_time_and_modes_are_orthonormal() {
    let (_, spectrum) = bent();
    let functions = spectrum.functions(&grid()).unwrap();
    let products = (&functions * weights(&grid()).unsqueeze(1)).tr().matmul(&functions);
    assert!(gap(&products, &Tensor::eye(3, DOUBLE)) < 1e-9);
    let modes = flat_modes(&spectrum);
    assert!(gap(&modes.matmul(&modes.tr()), &Tensor::eye(modes.size()[0], DOUBLE)) < 1e-9);
    let axes = spectrum.array("axes").unwrap();
    assert!(gap(&axes.matmul(&axes.tr()), &Tensor::eye(3, DOUBLE)) < 1e-9);
    assert!(spectrum.functions(&[0.0]).unwrap().abs().max().double_value(&[]) < 1e-12);
}

#[test]
fn amplitudes_are_those_that_the_paths_were_read_with() {
    let (paths, spectrum) = bent();
    let amplitudes = spectrum.amplitudes(&paths).unwrap();
    assert!(gap(&amplitudes, spectrum.array("amplitudes").unwrap()) < 1e-9);
    let energies = spectrum.array("energies").unwrap();
    let squares = amplitudes.square().sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
    let count = amplitudes.size()[1];
    let scale = 1.0 / (200.0 - spectrum.facts().freedom);
    assert!(gap(&(squares * scale), &energies.narrow(0, 0, count)) < 1e-9);
    // Two paths alone have the same ones.
    let some = paths.narrow(1, 5, 2);
    assert!(gap(&spectrum.amplitudes(&some).unwrap(), &amplitudes.narrow(0, 5, 2)) < 1e-12);
}

#[test]
fn parts_add_up_to_the_paths() {
    let (paths, spectrum) = bent();
    let (x0, count) = (paths.get(0), spectrum.facts().sizes[3]);
    let amplitudes = spectrum.amplitudes(&paths).unwrap();
    let none = Tensor::zeros([200, count], DOUBLE);
    for place in [0i64, 5, 16] {
        let t = grid()[place as usize];
        let all = spectrum.states(&x0, &amplitudes, t, WHOLE).unwrap();
        assert!(gap(&all, &paths.get(place)) < 0.05);
        assert!(gap(&spectrum.with_rates(&paths, &[true; 3], t).unwrap(), &paths.get(place)) < 1e-6);
        let neither = spectrum.states(&x0, &none, t, Parts { drift: false, affine: false }).unwrap();
        assert!(gap(&neither, &x0) < 1e-15);
        let drift = spectrum.states(&x0, &none, t, Parts { drift: true, affine: false }).unwrap() - &x0;
        let mean = (paths.get(place) - &x0).mean_dim([0i64].as_slice(), true, Kind::Double);
        assert!(gap(&drift, &mean.expand_as(&drift)) < 1e-9);
        let modes =
            spectrum.states(&x0, &amplitudes, t, Parts { drift: false, affine: false }).unwrap() - &x0;
        assert!(gap(&modes, &amplitudes.matmul(&spectrum.modes_at(t).unwrap())) < 1e-9);
    }
}

#[test]
fn more_dimensions_than_paths_are_read_by_the_paths_products() {
    // Three rates in 15 dimensions: 45 numbers of 40 paths.
    let paths = paths(&Tensor::eye(5, DOUBLE).kron(&turning()), 40, &grid(), 0.5);
    let spectrum = read(&paths, &grid(), Reading::default()).unwrap();
    let (noise, moved) = spectrum.coefficients(&paths).unwrap();
    let centred = noise - spectrum.array("noise_mean").unwrap();
    let affine = centred.unsqueeze(0).matmul(spectrum.array("affine").unwrap()).transpose(0, 1);
    let left = (moved - affine).reshape([40, -1]);
    let singular = left.svd(true, false).1.square();
    let energies = spectrum.array("energies").unwrap();
    assert_eq!(energies.size(), [40]);
    let own = energies / energies.sum(Kind::Double);
    assert!(gap(&own, &(&singular / singular.sum(Kind::Double))) < 1e-9);
    let modes = flat_modes(&spectrum);
    assert_eq!(modes.size()[0], 10);
    assert!(gap(&modes.matmul(&modes.tr()), &Tensor::eye(10, DOUBLE)) < 1e-6);
}

#[test]
fn chunks_of_paths_give_the_same_answer() {
    let (paths, whole) = bent();
    let mut held = Displacements::new(&[3], &grid()).unwrap();
    for begin in [0i64, 40, 41, 160] {
        let end = [40, 41, 160, 200].into_iter().find(|end| *end > begin).unwrap();
        held.add(&paths.narrow(1, begin, end - begin)).unwrap();
    }
    assert_eq!(held.count(), 200);
    let parts = measure(held, &Reading::default(), &mut Silent).unwrap();
    assert_eq!(parts.facts().noise, whole.facts().noise);
    assert!((parts.facts().affine - whole.facts().affine).abs() < 1e-9);
    for name in ["energies", "modes", "drift", "affine", "axis_values"] {
        assert!(gap(parts.array(name).unwrap(), whole.array(name).unwrap()) < 1e-7, "{name}");
    }
}

#[test]
fn a_seed_decides_resamples_alone() {
    let (paths, spectrum) = bent();
    let again = read(&paths, &grid(), Reading::default()).unwrap();
    let other = read(&paths, &grid(), Reading { seed: 1, ..Reading::default() }).unwrap();
    for name in ["energies", "modes", "amplitudes", "interval"] {
        assert_eq!(gap(again.array(name).unwrap(), spectrum.array(name).unwrap()), 0.0, "{name}");
    }
    assert_eq!(gap(other.array("modes").unwrap(), spectrum.array("modes").unwrap()), 0.0);
    assert!(gap(other.array("interval").unwrap(), spectrum.array("interval").unwrap()) > 0.0);
}

#[test]
fn components_are_kept_up_to_a_number() {
    let (paths, spectrum) = bent();
    let one = read(&paths, &grid(), Reading { components: 1, ..Reading::default() }).unwrap();
    assert!(spectrum.facts().sizes[3] > 1);
    assert_eq!(one.facts().sizes[3], 1);
    assert_eq!(gap(one.array("energies").unwrap(), spectrum.array("energies").unwrap()), 0.0);
    for rates in 1..=3 {
        let some = read(&paths, &grid(), Reading { rates: Some(rates), ..Reading::default() }).unwrap();
        let functions: usize = some.facts().rates.iter().map(Rate::functions).sum();
        assert_eq!(functions, rates);
        assert!(some.facts().unexplained.len() >= rates);
    }
}

#[test]
fn a_file_holds_all_of_it() {
    let (paths, spectrum) = bent();
    let bytes = store::to_bytes(&spectrum, serde_json::json!({ "header": 5 })).unwrap();
    let (again, facts) = store::from_bytes::<FlowSpectrum>(&bytes, Device::Cpu).unwrap();
    assert_eq!(facts["header"], 5);
    let text = |spectrum: &FlowSpectrum| serde_json::to_string(spectrum.facts()).unwrap();
    assert_eq!(text(&again), text(&spectrum));
    assert_eq!(again.times(), spectrum.times());
    let names =
        "times covariance drift shares mix cloud noise_mean affine axes axis_values axis_modes energies interval";
    for name in names.split(' ').chain(["modes", "amplitudes"]) {
        assert_eq!(gap(again.array(name).unwrap(), spectrum.array(name).unwrap()), 0.0, "{name}");
    }
    let amplitudes = spectrum.amplitudes(&paths).unwrap();
    assert_eq!(gap(&again.amplitudes(&paths).unwrap(), &amplitudes), 0.0);

    let refused = |bytes: &[u8]| {
        matches!(store::from_bytes::<FlowSpectrum>(bytes, Device::Cpu), Err(Error::Checkpoint { .. }))
    };
    assert!(refused(&bytes[..bytes.len() - 1]));
    assert!(refused(b"no file of ours"));
    let other = store::from_bytes::<koopflow::koopman::Student>(&bytes, Device::Cpu);
    assert!(matches!(other, Err(Error::Checkpoint { .. })));
}

#[test]
fn a_flow_is_found_again_in_itself_and_in_others_of_its_noise() {
    let (paths, spectrum) = bent();
    let same = spectrum.agreement(&spectrum, 19, 0, &mut Silent).unwrap();
    for group in &same.found {
        assert_eq!(group.first, group.second);
        assert!((group.cosine - 1.0).abs() < 1e-9);
        assert!((group.amplitude.unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(group.p, Some(1.0 / 20.0));
    }
    let energy: f64 = same.found.iter().map(|group| group.energy).sum();
    assert!((energy - 1.0).abs() < 1e-9);
    let turned = paths.flip([1i64]);
    let other = read(&turned, &grid(), Reading::default()).unwrap();
    let compared = spectrum.agreement(&other, 19, 0, &mut Silent).unwrap();
    assert!(compared.correlations.is_none());
    assert!(compared.found.iter().all(|group| group.cosine > 0.999 && group.p.is_none()));
}

/// Stops at the tick of this number.
struct Stops(u64);

impl Monitor for Stops {
    fn tick(&mut self) -> Result<()> {
        self.0 -= 1;
        match self.0 {
            0 => Err(Error::OutOfTime),
            _ => Ok(()),
        }
    }

    fn report(&mut self, _: &Progress) -> Result<()> {
        Ok(())
    }
}

#[test]
fn whoever_watches_can_stop_it() {
    let (paths, spectrum) = bent();
    for tick in 1..=3 {
        let mut held = Displacements::new(&[3], &grid()).unwrap();
        held.add(&paths).unwrap();
        assert!(matches!(measure(held, &Reading::default(), &mut Stops(tick)), Err(Error::OutOfTime)));
        assert!(matches!(spectrum.agreement(&spectrum, 9, 0, &mut Stops(tick)), Err(Error::OutOfTime)));
    }
}

fn names<T>(result: Result<T>, name: &str) -> bool {
    match result.err() {
        Some(
            Error::Shape { argument, .. }
            | Error::NonFinite { argument, .. }
            | Error::Argument { argument, .. },
        ) => argument == name,
        _ => false,
    }
}

#[test]
fn times_that_do_not_rise_from_zero_are_refused() {
    let wrong: [&[f64]; 7] = [
        &[],
        &[0.0, 0.5, 1.0],
        &[0.1, 0.2, 0.5, 1.0],
        &[0.0, 0.5, 0.5, 1.0],
        &[0.0, 0.5, 0.4, 1.0],
        &[0.0, f64::NAN, 0.5, 1.0],
        &[0.0, 0.4, 0.5, f64::INFINITY],
    ];
    for times in wrong {
        assert!(names(Displacements::new(&[3], times), "times"), "{times:?}");
    }
}

#[test]
fn paths_that_do_not_fit_are_refused_and_change_nothing() {
    let (paths, spectrum) = bent();
    let mut held = Displacements::new(&[3], &grid()).unwrap();
    let spoiled = paths.copy();
    let _ = spoiled.get(2).get(1).get(0).fill_(f64::NAN);
    for wrong in [paths.narrow(0, 0, 5), paths.narrow(2, 0, 2), paths.unsqueeze(2), paths.get(0), spoiled] {
        assert!(names(held.add(&wrong), "paths"), "{:?}", wrong.size());
        assert!(names(spectrum.amplitudes(&wrong), "paths"), "{:?}", wrong.size());
        assert!(names(spectrum.with_rates(&wrong, &[true; 3], 0.5), "paths"), "{:?}", wrong.size());
    }
    held.add(&paths).unwrap();
    let again = measure(held, &Reading::default(), &mut Silent).unwrap();
    assert_eq!(gap(again.array("modes").unwrap(), spectrum.array("modes").unwrap()), 0.0);
}

#[test]
fn an_empty_batch_of_paths_is_refused() {
    let (paths, spectrum) = bent();
    let empty = paths.narrow(1, 0, 0);
    let mut held = Displacements::new(&[3], &grid()).unwrap();
    assert!(names(held.add(&empty), "paths"));
    assert!(names(spectrum.amplitudes(&empty), "paths"));
    assert!(names(spectrum.with_rates(&empty, &[true; 3], 0.5), "paths"));
}

#[test]
fn readings_out_of_range_are_refused() {
    let (paths, _) = bent();
    let wrong = [
        (Reading { rates: Some(0), ..Reading::default() }, "rates"),
        (Reading { rates: Some(16), ..Reading::default() }, "rates"),
        (Reading { tolerance: 0.0, ..Reading::default() }, "tolerance"),
        (Reading { tolerance: 1.0, ..Reading::default() }, "tolerance"),
        (Reading { tolerance: f64::NAN, ..Reading::default() }, "tolerance"),
        (Reading { components: 0, ..Reading::default() }, "components"),
    ];
    for (reading, name) in wrong {
        assert!(names(read(&paths, &grid(), reading), name), "{reading:?}");
    }
    assert!(names(read(&paths.narrow(1, 0, 15), &grid(), Reading::default()), "n"));
    let none = Displacements::new(&[3], &grid()).unwrap();
    assert!(names(measure(none, &Reading::default(), &mut Silent), "n"));
}

#[test]
fn samples_that_move_alike_have_no_spectrum() {
    let x0 = normal(1, &[32, 2]);
    for kind in [Kind::Float, Kind::Double] {
        for by in [0.0, 5.0] {
            let states: Vec<Tensor> = grid().iter().map(|t| (&x0 + by * *t).to_kind(kind)).collect();
            let alike = read(&Tensor::stack(&states, 0), &grid(), Reading::default());
            assert!(matches!(alike, Err(Error::Divergence(_))), "{kind:?} {by}");
        }
    }
}

#[test]
fn questions_that_do_not_fit_are_refused() {
    let (paths, spectrum) = bent();
    let (x0, count) = (paths.get(0), spectrum.facts().sizes[3]);
    let none = Tensor::zeros([200, count], DOUBLE);
    assert!(names(spectrum.array("eigenvalues"), "array"));
    for t in [-0.1, 1.1, f64::NAN] {
        assert!(names(spectrum.states(&x0, &none, t, WHOLE), "t"));
        assert!(names(spectrum.with_rates(&paths, &[true; 3], t), "t"));
    }
    for wrong in [none.narrow(0, 0, 5), Tensor::zeros([200, count + 1], DOUBLE), Tensor::zeros([200], DOUBLE)]
    {
        assert!(names(spectrum.states(&x0, &wrong, 1.0, WHOLE), "amplitudes"));
    }
    assert!(names(spectrum.states(&x0.narrow(1, 0, 2), &none, 1.0, WHOLE), "x0"));
    assert!(names(spectrum.axis_amplitudes(&x0.narrow(1, 0, 2)), "x0"));
    assert!(names(spectrum.with_rates(&paths, &[true; 2], 1.0), "keep"));
    let flat = Tensor::eye(2, DOUBLE) * -1.0;
    let plane = read(&self::paths(&flat, 64, &grid(), 0.5), &grid(), Reading::default()).unwrap();
    assert!(names(spectrum.agreement(&plane, 9, 0, &mut Silent), "other"));
    let half: Vec<f64> = grid().iter().map(|t| t / 2.0).collect();
    let shorter = read(&self::paths(&turning(), 64, &half, 0.5), &half, Reading::default()).unwrap();
    assert!(names(spectrum.agreement(&shorter, 9, 0, &mut Silent), "other"));
}
