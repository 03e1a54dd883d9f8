//! Paths, couplings and the prefetcher, against finite differences and brute force.

use koopflow::data::{assign, Coupling, PairBatch, PairSource, PairStream};
use koopflow::flow::{Path, TimeSampler};
use koopflow::monitor::{Silent, Until};
use koopflow::tensor::RandomSource;
use koopflow::Error;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

fn normal(shape: &[i64], seed: u64) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

fn floats(count: usize, seed: u64) -> Vec<f32> {
    Vec::try_from(normal(&[count as i64], seed).to_kind(Kind::Float)).unwrap()
}

fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

mod path {
    use super::*;

    #[test]
    fn begins_in_noise_and_ends_in_data() {
        let (x0, x1) = (normal(&[3, 2, 2], 1), normal(&[3, 2, 2], 2));
        for path in [Path::Linear, Path::Vp] {
            let at = |time: f64| {
                let t = Tensor::full([3], time, (Kind::Double, Device::Cpu));
                path.sample(&t, &x0, &x1).unwrap()
            };
            assert!(largest(&(at(0.0) - &x0)) < 1e-15);
            assert!(largest(&(at(1.0) - &x1)) < 1e-15);
        }
    }

    #[test]
    fn velocity_is_the_derivative_of_the_path() {
        let (x0, x1) = (normal(&[50, 3], 1), normal(&[50, 3], 2));
        let t = RandomSource::new(3).uniform(&[50], Kind::Double, Device::Cpu).unwrap();
        for path in [Path::Linear, Path::Vp] {
            let h = 1e-5;
            let ahead = path.sample(&(&t + h), &x0, &x1).unwrap();
            let behind = path.sample(&(&t - h), &x0, &x1).unwrap();
            let slope = (ahead - behind) / (2.0 * h);
            assert!(largest(&(path.target(&t, &x0, &x1).unwrap() - slope)) < 1e-8);
        }
    }

    #[test]
    fn variance_preserving_keeps_the_variance() {
        let t = Tensor::linspace(0.0, 1.0, 11, (Kind::Double, Device::Cpu));
        let c = Path::Vp.coefficients(&t);
        assert!(largest(&(c.a.square() + c.s.square() - 1.0)) < 1e-15);
        let c = Path::Linear.coefficients(&t);
        assert!(largest(&(c.a + c.s - 1.0)) < 1e-15);
    }

    #[test]
    fn mismatched_shapes_are_named() {
        let x = normal(&[4, 2], 1);
        let error = Path::Linear.sample(&normal(&[3], 2), &x, &x).unwrap_err();
        assert!(matches!(&error, Error::Shape { argument, .. } if argument == "t"), "{error}");
        let error = Path::Vp.target(&normal(&[4], 2), &normal(&[4, 3], 3), &x).unwrap_err();
        assert!(matches!(&error, Error::Shape { argument, .. } if argument == "x0"), "{error}");
    }
}

mod coupling {
    use super::*;

    fn squared_distance(x0: &[f32], x1: &[f32], dim: usize, pairing: &[usize]) -> f64 {
        let row = |x: &[f32], i: usize| x[i * dim..(i + 1) * dim].to_vec();
        let cost = |(i, &j): (usize, &usize)| -> f64 {
            row(x0, i).iter().zip(row(x1, j)).map(|(&a, b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
        };
        pairing.iter().enumerate().map(cost).sum()
    }

    fn permutations(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![vec![]];
        }
        let mut all = Vec::new();
        for shorter in permutations(n - 1) {
            for place in 0..n {
                let mut longer = shorter.clone();
                longer.insert(place, n - 1);
                all.push(longer);
            }
        }
        all
    }

    fn assert_permutation(pairing: &[usize], n: usize) {
        let mut sorted = pairing.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn is_the_best_of_all_permutations() {
        for (case, scale) in [(0_u64, 1.0_f32), (1, 1e-6), (2, 1e6)] {
            for n in 1..=7 {
                for dim in [1, 3] {
                    let x0 = floats(n * dim, 100 * case + n as u64);
                    let x1: Vec<f32> = floats(n * dim, 7000 + n as u64).iter().map(|v| v * scale).collect();
                    let pairing = assign(&x0, &x1, dim).unwrap();
                    assert_permutation(&pairing, n);
                    let got = squared_distance(&x0, &x1, dim, &pairing);
                    let best = permutations(n)
                        .iter()
                        .map(|p| squared_distance(&x0, &x1, dim, p))
                        .fold(f64::INFINITY, f64::min);
                    assert!(got <= best * (1.0 + 1e-12), "n {n}, dim {dim}, scale {scale}: {got} > {best}");
                }
            }
        }
    }

    /// In one dimension the optimal pairing is by order.
    #[test]
    fn sorts_in_one_dimension() {
        let (x0, x1) = (floats(256, 1), floats(256, 2));
        let pairing = assign(&x0, &x1, 1).unwrap();
        let mut order: Vec<usize> = (0..256).collect();
        order.sort_by(|&i, &j| x0[i].total_cmp(&x0[j]));
        let partners: Vec<f32> = order.iter().map(|&i| x1[pairing[i]]).collect();
        assert!(partners.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn survives_duplicates() {
        let x0 = floats(128, 1);
        assert_permutation(&assign(&x0, &[2.5; 128], 2).unwrap(), 64);
        assert_permutation(&assign(&[0.0; 128], &[0.0; 128], 2).unwrap(), 64);
        let x1: Vec<f32> = (0..64).flat_map(|i| [(i % 3) as f32, (i % 2) as f32]).collect();
        assert_permutation(&assign(&x0, &x1, 2).unwrap(), 64);
        assert_permutation(&assign(&x1, &x1, 2).unwrap(), 64);
        let same = assign(&x1, &x1, 2).unwrap();
        assert_eq!(squared_distance(&x1, &x1, 2, &same), 0.0);
    }

    /// An offset common to all data changes no pairing, even where float32 has few digits left.
    #[test]
    fn ignores_an_offset() {
        let x0 = floats(200, 1);
        let x1: Vec<f32> = floats(200, 2).iter().map(|v| (v * 64.0).round() / 64.0).collect();
        let far: Vec<f32> = x1.iter().map(|v| v + 8192.0).collect();
        assert_eq!(assign(&x0, &x1, 2).unwrap(), assign(&x0, &far, 2).unwrap());
    }

    #[test]
    fn refuses_bad_input() {
        for bad in [f32::NAN, f32::INFINITY] {
            let error = assign(&[0.0, 1.0], &[bad, 1.0], 1).unwrap_err();
            assert!(matches!(&error, Error::NonFinite { argument, .. } if argument == "x1"), "{error}");
        }
        for (x0, x1, dim) in [(3, 3, 2), (4, 2, 2), (4, 4, 0)] {
            assert!(matches!(assign(&vec![0.0; x0], &vec![0.0; x1], dim), Err(Error::Shape { .. })));
        }
        assert!(assign(&[], &[], 2).unwrap().is_empty());
    }
}

mod stream {
    use super::*;

    fn source(coupling: Coupling, batch_size: usize, seed: u64) -> PairSource {
        PairSource::new(&normal(&[40, 2], 5), None, coupling, batch_size, batch_size, RandomSource::new(seed))
            .unwrap()
    }

    #[test]
    fn is_the_same_for_any_number_of_threads() {
        let reference: Vec<PairBatch> =
            (3..20).map(|step| source(Coupling::Ot, 32, 9).batch(step).unwrap()).collect();
        for threads in [1, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let stream = PairStream::on(Arc::new(pool), source(Coupling::Ot, 32, 9), 3, 20).unwrap();
            let batches: Vec<PairBatch> = stream.map(Result::unwrap).collect();
            assert_eq!(batches, reference);
        }
        assert_ne!(source(Coupling::Ot, 32, 10).batch(3).unwrap(), reference[0]);
        assert_ne!(source(Coupling::Ot, 32, 9).batch(4).unwrap().noise, reference[0].noise);
    }

    /// Both couplings use the same draws: only the order of the rows differs.
    #[test]
    fn transport_shortens_the_pairs() {
        let data = Vec::<f64>::try_from(normal(&[40, 2], 5).view([-1])).unwrap();
        let cost = |batch: &PairBatch| -> f64 {
            let pair = |(place, &row): (usize, &i64)| -> f64 {
                (0..2)
                    .map(|k| (f64::from(batch.noise[2 * place + k]) - data[2 * row as usize + k]).powi(2))
                    .sum()
            };
            batch.indices.iter().enumerate().map(pair).sum()
        };
        for step in 0..5 {
            let free = source(Coupling::Independent, 32, 9).batch(step).unwrap();
            let transport = source(Coupling::Ot, 32, 9).batch(step).unwrap();
            assert_eq!(free.noise, transport.noise);
            let sorted = |batch: &PairBatch| {
                let mut rows = batch.indices.clone();
                rows.sort_unstable();
                rows
            };
            assert_eq!(sorted(&free), sorted(&transport));
            assert!(cost(&transport) < 0.8 * cost(&free));
        }
    }

    #[test]
    fn shows_every_row_equally_often() {
        let batch = source(Coupling::Independent, 100, 1).batch(0).unwrap();
        let count = |row: i64| batch.indices.iter().filter(|&&index| index == row).count();
        let counts: Vec<usize> = (0..40).map(count).collect();
        assert_eq!(counts.iter().sum::<usize>(), 100);
        assert!(counts.iter().all(|&count| count == 2 || count == 3));
    }

    #[test]
    fn times_are_stratified() {
        let batch = source(Coupling::Ot, 64, 1).batch(0).unwrap();
        for (i, &t) in batch.times.iter().enumerate() {
            assert!((0.0..1.0).contains(&t));
            assert!((t * 64.0 - i as f32) > -1e-3 && (t * 64.0 - i as f32) < 1.001);
        }
    }

    /// Given the label, the noise must stay standard normal: with two far classes, an assignment
    /// across labels would give the left class the left half of the noise.
    #[test]
    fn labels_keep_the_noise_normal() {
        let labels: Vec<i64> = (0..40).map(|i| i % 2).collect();
        let labels = Tensor::from_slice(&labels);
        let data = normal(&[40, 1], 5) + labels.view([40, 1]).to_kind(Kind::Double) * 100.0;
        let mean_of_left = |condition: Option<&Tensor>| -> f32 {
            let random = RandomSource::new(2);
            let source = PairSource::new(&data, condition, Coupling::Ot, 40, 40, random).unwrap();
            let mut total = 0.0;
            for step in 0..100 {
                let batch = source.batch(step).unwrap();
                let left = batch.indices.iter().zip(&batch.noise).filter(|(&row, _)| row % 2 == 0);
                total += left.map(|(_, noise)| noise).sum::<f32>();
            }
            total / 2000.0
        };
        assert!(mean_of_left(None) < -0.7);
        // Four standard errors of 2,000 draws.
        assert!(mean_of_left(Some(&labels)).abs() < 0.09);
        let vectors = labels.view([40, 1]).to_kind(Kind::Float);
        assert!(mean_of_left(Some(&vectors)).abs() < 0.09);
    }

    #[test]
    fn dropping_frees_the_pool() {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
        let data = normal(&[3000, 2], 5);
        let source = PairSource::new(&data, None, Coupling::Ot, 3000, 3000, RandomSource::new(0)).unwrap();
        let stream = PairStream::on(Arc::clone(&pool), source, 0, 1_000_000).unwrap();
        drop(stream);
        // Hangs here (for minutes of assignments) unless the queued jobs gave up.
        pool.install(|| ());
        assert_eq!(Arc::strong_count(&pool), 1);
    }

    #[test]
    fn a_long_assignment_is_not_waited_for_after_a_wish_to_stop() {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
        let data = normal(&[3000, 2], 5);
        let source = PairSource::new(&data, None, Coupling::Ot, 3000, 3000, RandomSource::new(0)).unwrap();
        let mut stream = PairStream::on(Arc::clone(&pool), source, 0, 1_000_000).unwrap();
        let mut silent = Silent;
        let mut until = Until::new(&mut silent, Some(Instant::now()));
        assert!(matches!(stream.watched(&mut until), Some(Err(Error::OutOfTime))));
        drop(stream);
        pool.install(|| ());
    }

    #[test]
    fn ends_at_its_end() {
        let mut stream = PairStream::new(source(Coupling::Independent, 4, 1), 0, 3).unwrap();
        assert_eq!(stream.by_ref().map(|batch| batch.unwrap().step).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(stream.next().is_none());
        assert!(PairStream::new(source(Coupling::Ot, 4, 1), 5, 5).unwrap().next().is_none());
    }

    #[test]
    fn refuses_bad_data() {
        let make = |data: &Tensor, size| {
            PairSource::new(data, None, Coupling::Ot, size, size, RandomSource::new(0)).map(|_| ())
        };
        assert!(matches!(make(&Tensor::from_slice(&[f64::NAN, 1.0]), 4), Err(Error::NonFinite { .. })));
        assert!(matches!(make(&normal(&[0, 2], 1), 4), Err(Error::Argument { .. })));
        assert!(matches!(make(&normal(&[4, 2], 1), 0), Err(Error::Argument { .. })));
    }
}

mod given {
    use super::*;

    #[test]
    fn each_row_has_its_own_noise() {
        let (data, noise) = (normal(&[30, 2], 5), normal(&[30, 2], 6));
        let source = PairSource::new(&data, None, Coupling::Given, 64, 64, RandomSource::new(1)).unwrap();
        let batch = source.batch(3).unwrap();
        let x1 = batch.rows(&data).unwrap().to_kind(Kind::Float);
        let x0 = batch.noise_for(&x1, Some(&noise)).unwrap();
        assert_eq!((x0.size(), x0.kind()), (vec![64, 2], Kind::Float));
        for (place, &row) in batch.indices.iter().enumerate() {
            let expected = noise.get(row).to_kind(Kind::Float);
            assert_eq!(x0.get(place as i64), expected);
        }
        assert!(batch.noise.is_empty());
    }

    #[test]
    fn noise_is_wanted_there_and_only_there() {
        let (data, short) = (normal(&[30, 2], 5), normal(&[29, 2], 6));
        let check = |coupling: Coupling, noise, flip| coupling.check_noise(&data, noise, flip);
        assert!(check(Coupling::Given, Some(&data), false).is_ok());
        assert!(check(Coupling::Ot, None, true).is_ok());
        let named = |outcome: koopflow::Result<()>, name: &str| {
            let text = outcome.unwrap_err().to_string();
            assert!(text.starts_with(&format!("{name}: ")), "{text}");
        };
        named(check(Coupling::Given, None, false), "noise");
        named(check(Coupling::Independent, Some(&data), false), "noise");
        named(check(Coupling::Given, Some(&data), true), "flip");
        named(check(Coupling::Given, Some(&short), false), "noise");
    }
}

mod flips {
    use super::*;

    /// Pixel (row, y, x) is 100 row + 10 y + x: [5, 1, 2, 3].
    fn images() -> Tensor {
        let pixel = |index: i64| (index / 6 * 100 + index / 3 % 2 * 10 + index % 3) as f64;
        Tensor::from_slice(&(0..30).map(pixel).collect::<Vec<f64>>()).view([5, 1, 2, 3])
    }

    fn source(data: &Tensor, coupling: Coupling, batch_size: usize, seed: u64) -> PairSource {
        let random = RandomSource::new(seed);
        PairSource::new(data, None, coupling, batch_size, 64, random)
            .unwrap()
            .with_flips(&data.size()[1..])
            .unwrap()
    }

    #[test]
    fn rows_are_mirrored_left_to_right() {
        let (data, batch) = (images(), source(&images(), Coupling::Independent, 40, 1).batch(0).unwrap());
        let rows = batch.rows(&data).unwrap();
        assert_eq!(rows.size(), [40, 1, 2, 3]);
        for place in 0..40_i64 {
            let row = batch.indices[place as usize];
            for (y, x) in (0..2).flat_map(|y| (0..3).map(move |x| (y, x))) {
                let column = if batch.flipped[place as usize] { 2 - x } else { x };
                let expected = (100 * row + 10 * y + column) as f64;
                assert_eq!(rows.double_value(&[place, 0, y, x]), expected);
            }
        }
    }

    #[test]
    fn every_row_is_mirrored_half_of_the_time() {
        let batch = source(&images(), Coupling::Independent, 20_000, 2).batch(0).unwrap();
        let count = |row: i64| {
            let flipped = batch.indices.iter().zip(&batch.flipped);
            flipped.filter(|(&index, &flipped)| index == row && flipped).count() as f64
        };
        // Five standard deviations of 4,000 draws.
        assert!((0..5).map(count).all(|flipped| (flipped - 2000.0).abs() < 158.0));
    }

    #[test]
    fn are_the_same_for_any_number_of_threads_and_change_no_other_draw() {
        let batches = |seed| -> Vec<PairBatch> {
            (2..9).map(|step| source(&images(), Coupling::Ot, 32, seed).batch(step).unwrap()).collect()
        };
        let reference = batches(9);
        for threads in [1, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let stream =
                PairStream::on(Arc::new(pool), source(&images(), Coupling::Ot, 32, 9), 2, 9).unwrap();
            assert_eq!(stream.map(Result::unwrap).collect::<Vec<_>>(), reference);
        }
        assert_ne!(reference[0].flipped, reference[1].flipped);
        assert_ne!(reference[0].flipped, batches(10)[0].flipped);

        let coupling = Coupling::Independent;
        let flipping = source(&images(), coupling, 32, 9).batch(3).unwrap();
        let plain = PairSource::new(&images(), None, coupling, 32, 64, RandomSource::new(9)).unwrap();
        let plain = plain.batch(3).unwrap();
        assert!(plain.flipped.is_empty());
        assert_eq!(PairBatch { flipped: Vec::new(), ..flipping }, plain);
    }

    /// All rows are (-5, 5) and mirrored (5, -5): the best assignment gives the mirrored ones the noise
    /// that falls most from left to right. One that looks at the rows as they lie in the data has no
    /// preference.
    #[test]
    fn coupling_sees_mirrored_rows() {
        let data = Tensor::from_slice(&[-5.0, 5.0]).view([1, 1, 1, 2]).repeat([64, 1, 1, 1]);
        for step in 0..5 {
            let batch = source(&data, Coupling::Ot, 64, 3).batch(step).unwrap();
            let falls = |mirrored: bool| -> Vec<f32> {
                let noise = batch.noise.chunks_exact(2).zip(&batch.flipped);
                noise.filter(|(_, &flipped)| flipped == mirrored).map(|(n, _)| n[0] - n[1]).collect()
            };
            let least = falls(true).into_iter().fold(f32::INFINITY, f32::min);
            let most = falls(false).into_iter().fold(f32::NEG_INFINITY, f32::max);
            assert!(least > most, "step {step}: {least} and {most}");
        }
    }

    #[test]
    fn only_images_are_mirrored() {
        for event in [&[6][..], &[2, 3], &[1, 1, 2, 3]] {
            let data = images().view([5, 6]);
            let source = PairSource::new(&data, None, Coupling::Ot, 4, 4, RandomSource::new(0)).unwrap();
            let error = source.with_flips(event).map(|_| ()).unwrap_err();
            assert!(matches!(&error, Error::Argument { argument, .. } if argument == "flip"), "{error}");
        }
    }
}

/// The distribution function of each law takes its quantiles back to where they came from.
#[test]
fn laws_of_training_times_have_their_quantiles() {
    let uniform = (Tensor::arange(5000, (Kind::Double, Device::Cpu)) + 0.5) / 5000.0;
    let normal = |mean: f64, deviation: f64| TimeSampler::LogitNormal { mean, deviation };
    let power = |exponent: f64| TimeSampler::Power { exponent };
    let laws =
        [TimeSampler::Uniform, normal(0.0, 1.0), normal(-0.8, 1.6), power(1.0), power(-0.5), power(3.0)];
    for law in laws {
        let t = law.times(&uniform).unwrap();
        assert!(t.min().double_value(&[]) > 0.0 && t.max().double_value(&[]) < 1.0);
        let back: Tensor = match law {
            TimeSampler::Uniform => t.shallow_clone(),
            TimeSampler::LogitNormal { mean, deviation } => {
                let odds: Tensor = &t / (1.0 - &t);
                let z = (odds.log() - mean) / deviation;
                ((z / std::f64::consts::SQRT_2).erf() + 1.0) / 2.0
            }
            TimeSampler::Power { exponent } => t.pow_tensor_scalar(exponent + 1.0),
        };
        assert!((back - &uniform).abs().max().double_value(&[]) < 1e-6, "{law:?}");
    }
}

#[test]
fn training_times_stay_inside_for_any_law() {
    let ends = Tensor::from_slice(&[0.0f32, 1.0 - f32::EPSILON]);
    let laws = [
        TimeSampler::Uniform,
        TimeSampler::LogitNormal { mean: 0.0, deviation: 30.0 },
        TimeSampler::Power { exponent: -0.99 },
    ];
    for law in laws {
        let t = law.times(&ends).unwrap();
        assert!(t.min().double_value(&[]) >= 0.0 && t.max().double_value(&[]) < 1.0, "{law:?}");
    }
}
