//! Paths, couplings and the prefetcher, against finite differences and brute force.

use koopflow::flow::{assign, Coupling, PairBatch, PairSource, PairStream, Path};
use koopflow::tensor::RandomSource;
use koopflow::Error;
use std::sync::Arc;
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

mod teacher {
    use super::*;
    use koopflow::flow::{train, TeacherConfig, TeacherHistory};
    use koopflow::training::{Monitor, Progress, Silent, Stopped};
    use koopflow::velocity::{Conditioning, FieldDescription, NetworkField, VelocityField};
    use koopflow::Result;

    type Tensors = Vec<(String, Tensor)>;

    fn config(steps: u64) -> TeacherConfig {
        TeacherConfig {
            width: Some(32),
            depth: Some(2),
            steps: Some(steps),
            batch_size: 64,
            coupling_size: 32,
            learning_rate: Some(5e-3),
            warmup_steps: 10,
            ema_decay: 0.98,
            log_every: 10,
            ..TeacherConfig::default()
        }
    }

    fn fit(
        config: &TeacherConfig,
        data: &Tensor,
        condition: Option<&Tensor>,
    ) -> (NetworkField, TeacherHistory) {
        train(config, data, condition, &mut Silent).unwrap()
    }

    fn tensors(field: &NetworkField) -> Tensors {
        field.state().unwrap().tensors
    }

    fn assert_equal(a: &NetworkField, b: &NetworkField) {
        for ((name, x), (_, y)) in tensors(a).iter().zip(&tensors(b)) {
            assert!(x.equal(y), "{name} differs");
        }
    }

    /// Two blobs, far from the origin and of very different widths along the two axes.
    fn data() -> Tensor {
        let side = Tensor::arange(400, (Kind::Double, Device::Cpu)).remainder(2.0) * 2.0 - 1.0;
        let blobs = normal(&[400, 2], 8) * 0.2 + Tensor::stack(&[&side, &side.neg()], 1);
        blobs * Tensor::from_slice(&[4.0, 0.5]) + Tensor::from_slice(&[60.0, -4.0])
    }

    /// Between Gaussians the marginal velocity is known: v = m + (t C - (1 - t)) S_t^-1 (x - t m) with
    /// S_t = t^2 C + (1 - t)^2, here in independent coordinates.
    #[test]
    fn learns_the_velocity_between_gaussians() {
        let (mean, deviation) = (Tensor::from_slice(&[3.0, -1.0]), Tensor::from_slice(&[0.3, 2.0]));
        let data = normal(&[4000, 2], 1) * &deviation + &mean;
        let options = TeacherConfig { coupling: Coupling::Independent, ..config(800) };
        let (field, _) = fit(&options, &data, None);
        let t = RandomSource::new(3).uniform(&[2000], Kind::Double, Device::Cpu).unwrap();
        let column = t.unsqueeze(1);
        let variance = deviation.square();
        let rest: Tensor = 1.0 - &column;
        let spread = column.square() * &variance + rest.square();
        let x = normal(&[2000, 2], 4) * spread.sqrt() + &column * &mean;
        let exact = &mean + (&column * &variance - rest) / spread * (&x - &column * &mean);
        let (t, x) = (t.to_kind(Kind::Float), x.to_kind(Kind::Float));
        let v = field.velocity(&t, &x, None).unwrap().to_kind(Kind::Double);
        let error = (v - &exact).square().mean(Kind::Double).sqrt().double_value(&[]);
        let size = (exact - &mean).square().mean(Kind::Double).sqrt().double_value(&[]);
        assert!(error < 0.1 * size, "{error} against {size}");
    }

    /// Integrates the field from fresh noise: midpoint rule, 25 steps.
    fn sample(field: &NetworkField, count: i64, condition: Option<&Tensor>) -> Tensor {
        let h = 1.0 / 25.0;
        let velocity = |time: f64, x: &Tensor| {
            let t = Tensor::full([count], time, (field.dtype(), Device::Cpu));
            field.velocity(&t, x, condition).unwrap()
        };
        let mut x = normal(&[count, 2], 77).to_kind(field.dtype());
        for step in 0..25 {
            let t = f64::from(step) * h;
            let middle = &x + velocity(t, &x) * (h / 2.0);
            x = &x + velocity(t + h / 2.0, &middle) * h;
        }
        x.to_kind(Kind::Double)
    }

    #[test]
    fn samples_lie_where_unscaled_data_lie() {
        for (path, coupling) in [(Path::Linear, Coupling::Ot), (Path::Vp, Coupling::Independent)] {
            let (field, history) = fit(&TeacherConfig { path, coupling, ..config(800) }, &data(), None);
            let mapped = sample(&field, 500, None) - Tensor::from_slice(&[60.0, -4.0]);
            let mapped = mapped / Tensor::from_slice(&[4.0, 0.5]);
            // The blobs are at (1, -1) and (-1, 1), of width 0.2; a Gaussian of the same moments would
            // be at a distance of 0.6.
            let side = mapped.select(1, 0).sign();
            let centre = Tensor::stack(&[&side, &side.neg()], 1);
            let distance = (&mapped - centre).square().mean(Kind::Double).sqrt().double_value(&[]);
            assert!(distance < 0.4, "{path:?}: {distance}");
            assert!(side.mean(Kind::Double).double_value(&[]).abs() < 0.2);
            let (first, last) = (history.loss[0].1, history.loss[history.loss.len() - 1].1);
            assert!(last < 0.7 * first, "{path:?}: {first} -> {last}");
        }
    }

    #[test]
    fn follows_its_condition() {
        let side = Tensor::arange(400, (Kind::Int64, Device::Cpu)).remainder(2);
        let labels = TeacherConfig { conditioning: Conditioning::Labels { classes: 2 }, ..config(500) };
        let vectors = TeacherConfig { conditioning: Conditioning::Vector { dim: 1 }, ..config(500) };
        let far = side.to_kind(Kind::Double).unsqueeze(1) * 1e-3 + 7.0;
        let wanted = Tensor::zeros([200], (Kind::Int64, Device::Cpu));
        let wanted_vector = Tensor::full([200, 1], 7.0, (Kind::Double, Device::Cpu));
        for (config, given, asked) in [(labels, &side, &wanted), (vectors, &far, &wanted_vector)] {
            let (field, _) = fit(&config, &data(), Some(given));
            // Class 0 is the left blob, around 56.
            let right = sample(&field, 200, Some(asked)).select(1, 0).gt(60.0).sum(Kind::Int64);
            assert!(right.int64_value(&[]) < 10, "{config:?}");
        }
    }

    #[test]
    fn is_the_same_for_the_same_seed() {
        let (first, history) = fit(&config(60), &data(), None);
        let (second, repeated) = fit(&config(60), &data(), None);
        assert_equal(&first, &second);
        assert_eq!(history.loss, repeated.loss);
        let other = fit(&TeacherConfig { seed: 1, ..config(60) }, &data(), None).0;
        assert!(!tensors(&first)[0].1.equal(&tensors(&other)[0].1));
    }

    #[test]
    fn double_precision_and_shaped_samples() {
        let data = normal(&[30, 1, 2, 2], 1);
        let (field, _) = fit(&TeacherConfig { dtype: "float64".into(), ..config(5) }, &data, None);
        let v = field.velocity(&normal(&[3], 1).abs(), &normal(&[3, 1, 2, 2], 2), None).unwrap();
        assert_eq!((v.size(), v.kind()), (vec![3, 1, 2, 2], Kind::Double));
        assert!(!v.requires_grad());
        assert_eq!(field.evaluations(), 1);
    }

    #[test]
    fn gradient_in_x_is_exact() {
        let (field, _) = fit(&TeacherConfig { dtype: "float64".into(), ..config(20) }, &data(), None);
        let (t, x) = (Tensor::full([4], 0.6, (Kind::Double, Device::Cpu)), normal(&[4, 2], 2) * 30.0);
        let (direction, cotangent) = (normal(&[4, 2], 3), normal(&[4, 2], 4));
        let (_, product) = field.velocity_and_vjp(&t, &x, &cotangent, None).unwrap();
        let h = 1e-4;
        let at = |sign: f64| field.velocity(&t, &(&x + &direction * (sign * h)), None).unwrap();
        let slope = ((at(1.0) - at(-1.0)) / (2.0 * h) * &cotangent).sum_dim_intlist(1, false, None);
        let exact = (product * &direction).sum_dim_intlist(1, false, None);
        assert!(largest(&(slope - &exact)) < 1e-6 * (1.0 + largest(&exact)));
    }

    #[test]
    fn odd_data_train() {
        let one = Tensor::from_slice(&[1.5_f64, -2.0]).view([1, 2]);
        fit(&config(5), &one, None);
        let constant = Tensor::ones([50, 3], (Kind::Double, Device::Cpu)) * 1e4;
        let (_, history) = fit(&config(50), &constant, None);
        assert!(history.loss.iter().all(|(_, loss)| loss.is_finite()));
        fit(&TeacherConfig { ema_decay: 0.0, clip_norm: None, ..config(5) }, &data(), None);
    }

    /// Stops at a given tick.
    struct StopAt {
        ticks: u64,
        interrupt: bool,
    }

    impl Monitor for StopAt {
        fn tick(&mut self) -> Result<()> {
            self.ticks -= 1;
            match (self.ticks, self.interrupt) {
                (0, true) => Err(Error::Interrupted("stop".into())),
                (0, false) => Err(Error::NotFitted("another error".into())),
                _ => Ok(()),
            }
        }

        fn report(&mut self, progress: &Progress) -> Result<()> {
            assert_eq!((progress.stage, progress.total), ("teacher", 1000));
            Ok(())
        }
    }

    #[test]
    fn an_interrupt_keeps_the_teacher() {
        let mut monitor = StopAt { ticks: 25, interrupt: true };
        let (field, history) = train(&config(1000), &data(), None, &mut monitor).unwrap();
        assert_eq!((history.steps, history.stopped), (25, Stopped::Interrupted));
        assert_eq!(history.loss.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [10, 20, 25]);
        assert!(sample(&field, 5, None).isfinite().all().int64_value(&[]) == 1);
        let mut monitor = StopAt { ticks: 25, interrupt: false };
        let error = train(&config(1000), &data(), None, &mut monitor).err().unwrap();
        assert!(matches!(error, Error::NotFitted(_)));
    }

    #[test]
    fn a_budget_ends_it() {
        let options = TeacherConfig { max_seconds: Some(0.05), ..config(100_000_000) };
        let (_, history) = fit(&options, &data(), None);
        assert_eq!(history.stopped, Stopped::Budget);
        assert!(history.steps < 100_000_000);
    }

    #[test]
    fn divergence_is_an_error() {
        let options = TeacherConfig { learning_rate: Some(1e30), clip_norm: None, ..config(200) };
        let error = train(&options, &data(), None, &mut Silent).err().unwrap();
        assert!(matches!(&error, Error::Divergence(message) if message.contains("step")), "{error}");
    }

    #[derive(Default)]
    struct Collect(Vec<Progress>);

    impl Monitor for Collect {
        fn tick(&mut self) -> Result<()> {
            Ok(())
        }

        fn report(&mut self, progress: &Progress) -> Result<()> {
            self.0.push(progress.clone());
            Ok(())
        }
    }

    #[test]
    fn reports_its_loss() {
        let mut monitor = Collect::default();
        let (_, history) = train(&config(40), &data(), None, &mut monitor).unwrap();
        let last = monitor.0.last().unwrap();
        assert_eq!((last.step, last.total), (40, 40));
        assert_eq!(last.values[0].0, "loss");
        assert!(last.values[0].1.is_finite());
        assert_eq!(last.values[1].0, "learning_rate");
        assert_eq!((history.steps, history.stopped, history.loss.len()), (40, Stopped::Completed, 4));
        let json = serde_json::to_value(&history).unwrap();
        assert_eq!(json["stopped"], "completed");
        assert_eq!(json["loss"][0][0], 10);
    }

    #[test]
    fn survives_its_own_state() {
        let options = TeacherConfig { conditioning: Conditioning::Vector { dim: 3 }, ..config(5) };
        let (field, _) = fit(&options, &data(), Some(&normal(&[400, 3], 1)));
        let state = field.state().unwrap();
        let FieldDescription::Network(description) = &state.description else { panic!() };
        let copy = NetworkField::from_state(description, &state.tensors, Device::Cpu).unwrap();
        assert_equal(&field, &copy);
        let (t, x) = (Tensor::from_slice(&[0.3_f32]), Tensor::from_slice(&[1.0_f32, 2.0]).view([1, 2]));
        let c = Tensor::from_slice(&[0.1_f32, 0.2, 0.3]).view([1, 3]);
        let v = field.velocity(&t, &x, Some(&c)).unwrap();
        assert!(v.equal(&copy.velocity(&t, &x, Some(&c)).unwrap()));
        assert!(v.equal(&field.shallow_clone().velocity(&t, &x, Some(&c)).unwrap()));
        assert_eq!(field.evaluations(), 2);
        let text = serde_json::to_string(&state.description).unwrap();
        assert_eq!(serde_json::from_str::<FieldDescription>(&text).unwrap(), state.description);

        let refused = |change: &dyn Fn(&mut Tensors)| {
            let mut tensors: Tensors = state.tensors.iter().map(|(n, x)| (n.clone(), x.copy())).collect();
            change(&mut tensors);
            assert!(NetworkField::from_state(description, &tensors, Device::Cpu).is_err());
        };
        for index in 0..state.tensors.len() {
            refused(&|tensors| drop(tensors.remove(index)));
            refused(&|tensors| tensors[index].1 = &tensors[index].1 * f64::NAN);
            refused(&|tensors| tensors[index].1 = tensors[index].1.unsqueeze(0));
        }
        refused(&|tensors| tensors.push(("extra".into(), normal(&[2], 1))));
        refused(&|tensors| {
            let scale = tensors.iter_mut().find(|(name, _)| name == "data.scale").unwrap();
            scale.1 = scale.1.zeros_like();
        });
        // A description that asks for more memory than there is must not get as far as asking.
        for width in [1 << 19, i64::MAX] {
            let mut huge = description.clone();
            huge.width = width;
            assert!(NetworkField::from_state(&huge, &state.tensors, Device::Cpu).is_err());
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let refused = |name: &str, change: &dyn Fn(&mut TeacherConfig)| {
            let mut config = config(5);
            change(&mut config);
            let error = train(&config, &data(), None, &mut Silent).err().unwrap();
            let text = error.to_string();
            assert!(text.contains(name), "{name}: {text}");
        };
        refused("width", &|c| c.width = Some(0));
        refused("depth", &|c| c.depth = Some(0));
        refused("steps", &|c| c.steps = Some(0));
        refused("batch_size", &|c| c.batch_size = 0);
        refused("coupling_size", &|c| c.coupling_size = 0);
        refused("learning_rate", &|c| c.learning_rate = Some(f64::NAN));
        refused("weight_decay", &|c| c.weight_decay = -1.0);
        refused("ema_decay", &|c| c.ema_decay = 1.0);
        refused("clip_norm", &|c| c.clip_norm = Some(0.0));
        refused("max_seconds", &|c| c.max_seconds = Some(-1.0));
        refused("log_every", &|c| c.log_every = 0);
        refused("device", &|c| c.device = "abacus".into());
        refused("dtype", &|c| c.dtype = "int8".into());
        refused("conditioning", &|c| c.conditioning = Conditioning::Labels { classes: 0 });
        refused("condition", &|c| c.conditioning = Conditioning::Labels { classes: 2 });
        let bad = |x: &Tensor| train(&config(5), x, None, &mut Silent).err().unwrap();
        assert!(matches!(bad(&normal(&[5], 1)), Error::Shape { .. }));
        assert!(matches!(bad(&normal(&[0, 2], 1)), Error::Shape { .. }));
        assert!(matches!(bad(&(normal(&[5, 2], 1) * f64::INFINITY)), Error::NonFinite { .. }));
        assert!(matches!(bad(&normal(&[5, 2], 1).to_kind(Kind::Int64)), Error::Dtype { .. }));
    }

    #[test]
    fn configuration_is_json() {
        let json = serde_json::to_value(TeacherConfig::default()).unwrap();
        assert_eq!(json["coupling"], "ot");
        assert_eq!(json["path"], "linear");
        assert_eq!(json["optimizer"], "adam");
        let parsed: TeacherConfig =
            serde_json::from_str(r#"{"path": "vp", "conditioning": {"labels": {"classes": 3}}}"#).unwrap();
        assert_eq!(parsed.conditioning, Conditioning::Labels { classes: 3 });
        assert_eq!(serde_json::from_value::<TeacherConfig>(json).unwrap(), TeacherConfig::default());
        assert!(serde_json::from_str::<TeacherConfig>(r#"{"widht": 3}"#).is_err());
        let resolved = TeacherConfig::default().resolve(&[64]);
        assert!(resolved.width.is_some() && resolved.steps.is_some() && resolved.learning_rate.is_some());
    }
}
