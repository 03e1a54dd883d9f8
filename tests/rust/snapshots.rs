//! Curves through snapshots, the plans they follow, and rates of growth: against SciPy's spline, frequencies of draws
//! and closed forms.

use koopflow::data::{Chaining, Chains, Interpolant, Plan, PointBatch, Prefetch, Snapshots};
use koopflow::flow::{train_on_snapshots, TeacherConfig, TrainingFiles};
use koopflow::monitor::Silent;
use koopflow::ode::log_masses;
use koopflow::tensor::RandomSource;
use koopflow::training::TrainingOptions;
use koopflow::velocity::VelocityField;
use koopflow::{Error, Result};
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn normal(shape: &[i64], seed: u64) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

/// Snapshots of two equal rows each, so that there is one curve.
fn single(times: &[f64], values: &[f64], interpolant: Interpolant) -> Chains {
    let sets = values.iter().map(|&value| Tensor::full([2, 1], value, DOUBLE)).collect();
    let snapshots = Snapshots::new(sets, times).unwrap().joined_by(interpolant, Chaining::Ot { size: 64 });
    snapshots.chains(4096, RandomSource::new(1)).unwrap()
}

/// The value of a curve next to `time`, and its velocity.
fn at(batch: &PointBatch, time: f32) -> (f64, f64) {
    let place = batch.times.iter().position(|&t| t >= time).unwrap();
    let ahead = f64::from(batch.times[place] - time);
    (f64::from(batch.x[place]) - ahead * f64::from(batch.u[place]), f64::from(batch.u[place]))
}

mod curves {
    use super::*;

    const TIMES: [f64; 5] = [0.0, 0.1, 0.45, 0.7, 1.0];
    const VALUES: [f64; 5] = [1.0, -2.0, 0.5, 3.0, 2.0];

    /// `scipy.interpolate.CubicSpline(TIMES, VALUES, bc_type="natural")` and its derivative.
    const SPLINE: [(f32, f64, f64); 6] = [
        (0.05, -0.667153, -31.114355),
        (0.2, -2.922922, 1.110406),
        (0.3, -2.081182, 14.208066),
        (0.5, 1.275226, 14.196112),
        (0.65, 2.785385, 5.786956),
        (0.9, 2.605069, -5.371352),
    ];

    #[test]
    fn the_spline_is_that_of_scipy() {
        let batch = single(&TIMES, &VALUES, Interpolant::Spline).batch(0).unwrap();
        for (time, value, slope) in SPLINE {
            let (x, u) = at(&batch, time);
            assert!((x - value).abs() < 1e-4, "{time}: {x} for {value}");
            assert!((u - slope).abs() < 0.1, "{time}: {u} for {slope}");
        }
    }

    #[test]
    fn lines_join_the_states_whatever_unit_times_have() {
        let weeks: Vec<f64> = TIMES.iter().map(|time| 30.0 + 20.0 * time).collect();
        let batch = single(&weeks, &VALUES, Interpolant::Linear).batch(3).unwrap();
        for (time, value, slope) in [(0.05, -0.5, -30.0), (0.275, -0.75, 2.5 / 0.35), (0.85, 2.5, -1.0 / 0.3)]
        {
            let (x, u) = at(&batch, time);
            assert!((x - value).abs() < 1e-4 && (u - slope).abs() < 1e-4, "{time}: {x}, {u}");
        }
    }

    #[test]
    fn two_snapshots_have_a_straight_spline() {
        let line = single(&[0.0, 2.0], &[1.0, 4.0], Interpolant::Linear).batch(0).unwrap();
        assert_eq!(single(&[0.0, 2.0], &[1.0, 4.0], Interpolant::Spline).batch(0).unwrap(), line);
    }
}

mod chains {
    use super::*;

    /// Rows that tell their snapshot and number: `[N, 2 snapshots]` of the number, and of one, in columns of its own.
    fn numbered(counts: &[i64]) -> Vec<Tensor> {
        let row = |k: usize, number: i64| {
            let mut row = vec![0.0; 2 * counts.len()];
            (row[k], row[counts.len() + k]) = (number as f64, 1.0);
            Tensor::from_slice(&row)
        };
        let set =
            |(k, &count)| Tensor::stack(&(0..count).map(|number| row(k, number)).collect::<Vec<_>>(), 0);
        counts.iter().enumerate().map(set).collect()
    }

    /// The chains behind the points of some batches, with their times, masses and rates.
    fn followed(chains: &Chains, counts: usize, batches: u64) -> Vec<(f32, Vec<usize>, f32, f32)> {
        let mut all = Vec::new();
        for step in 0..batches {
            let batch = chains.batch(step).unwrap();
            for (place, &time) in batch.times.iter().enumerate() {
                let row = &batch.x[2 * counts * place..][..2 * counts];
                let number = |k: usize| (row[k] / row[counts + k]).round() as usize;
                let grown = |values: &[f32]| values.get(place).copied().unwrap_or(0.0);
                all.push((
                    time,
                    (0..counts).map(number).collect(),
                    grown(&batch.masses),
                    grown(&batch.rates),
                ));
            }
        }
        all
    }

    fn share<T>(all: &[T], of: impl Fn(&T) -> bool, among: impl Fn(&T) -> bool) -> f64 {
        let among: Vec<&T> = all.iter().filter(|item| among(item)).collect();
        among.iter().filter(|item| of(item)).count() as f64 / among.len() as f64
    }

    #[test]
    fn plans_are_followed_both_ways_from_the_interval_of_the_time() {
        let plans = [
            Tensor::from_slice2(&[[0.3, 0.1], [0.05, 0.25], [0.15, 0.15]]),
            Tensor::from_slice2(&[[0.2, 0.3], [0.4, 0.1]]),
        ];
        let snapshots = Snapshots::new(numbered(&[3, 2, 2]), &[0.0, 1.0, 2.0]).unwrap();
        let snapshots =
            snapshots.joined_by(Interpolant::Spline, Chaining::Independent).planned(&plans).unwrap();
        let chains = snapshots.chains(512, RandomSource::new(4)).unwrap();
        let all = followed(&chains, 3, 60);
        // Near a knot the weights of other states round to 0.
        let late: Vec<_> = all.iter().filter(|(time, ..)| (0.55..0.95).contains(time)).collect();
        for j in 0..2 {
            let middle = |(_, chain, ..): &&(f32, Vec<usize>, f32, f32)| chain[1] == j;
            assert!((share(&late, middle, |_| true) - 0.5).abs() < 0.03);
            let ahead = plans[1].double_value(&[j as i64, 0])
                / plans[1].get(j as i64).sum(Kind::Double).double_value(&[]);
            assert!((share(&late, |item| item.1[2] == 0, middle) - ahead).abs() < 0.03);
            let column = plans[0].select(1, j as i64);
            for i in 0..3 {
                let back = column.double_value(&[i as i64]) / column.sum(Kind::Double).double_value(&[]);
                assert!((share(&late, |item| item.1[0] == i, middle) - back).abs() < 0.03);
            }
        }
    }

    #[test]
    fn assignments_are_exact_and_leave_each_row_as_often_as_the_others() {
        // The best plan of points on a line keeps their order.
        let line = |count: i64, scale: f64| (Tensor::arange(count, DOUBLE) * scale).unsqueeze(1);
        let sets = vec![line(60, 1.0), line(60, 2.0) + 5.0];
        let snapshots = Snapshots::new(sets, &[0.0, 1.0]).unwrap();
        let snapshots = snapshots.joined_by(Interpolant::Linear, Chaining::Ot { size: 60 });
        let batch = snapshots.chains(60, RandomSource::new(2)).unwrap().batch(0).unwrap();
        let mut starts: Vec<i64> = Vec::new();
        for (place, &time) in batch.times.iter().enumerate() {
            let start = batch.x[place] - time * batch.u[place];
            assert!((batch.u[place] - (start + 5.0)).abs() < 1e-3);
            starts.push(start.round() as i64);
        }
        starts.sort_unstable();
        assert_eq!(starts, (0..60).collect::<Vec<_>>());
    }

    #[test]
    fn unequal_snapshots_keep_their_marginals() {
        let snapshots = Snapshots::new(numbered(&[3, 5]), &[0.0, 1.0]).unwrap();
        for chaining in [Chaining::Independent, Chaining::Ot { size: 30 }] {
            let snapshots = Snapshots::new(numbered(&[3, 5]), &[0.0, 1.0])
                .unwrap()
                .joined_by(Interpolant::Linear, chaining);
            let all = followed(&snapshots.chains(300, RandomSource::new(3)).unwrap(), 2, 20);
            let inside: Vec<_> = all.iter().filter(|(time, ..)| (0.05..0.95).contains(time)).collect();
            for row in 0..5 {
                assert!((share(&inside, |item| item.1[1] == row, |_| true) - 0.2).abs() < 0.02);
            }
        }
        assert!(!snapshots.grows() && snapshots.rates().is_none());
    }

    #[test]
    fn mass_grows_exponentially_by_the_sums_of_a_plan() {
        let plan = Tensor::from_slice2(&[[0.15, 0.10], [0.35, 0.40]]);
        let snapshots = Snapshots::new(numbered(&[2, 2, 2]), &[0.0, 1.0, 4.0]).unwrap();
        let even = Tensor::ones([2, 2], DOUBLE);
        let snapshots = snapshots.planned(&[even, plan]).unwrap().growing(&[1.0, 1.0, 2.0]).unwrap();
        let all = followed(&snapshots.chains(256, RandomSource::new(3)).unwrap(), 3, 2);
        for (time, chain, mass, rate) in all {
            let (log, all_alike, begin, length) = match time < 0.25 {
                true => (0.0, 0.0, 0.0, 0.25),
                false => ([0.5_f64, 1.5][chain[1]].ln(), 2.0_f64.ln(), 0.25, 0.75),
            };
            let behind = (f64::from(time) - begin) / length;
            if (0.02..0.98).contains(&behind) {
                assert!((f64::from(mass) - (log * behind).exp()).abs() < 1e-5);
                assert!((f64::from(rate) - (log + all_alike) / length).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_batch_depends_on_its_number_alone() {
        let sets = || vec![normal(&[20, 2], 1), normal(&[30, 2], 2), normal(&[25, 2], 3)];
        let chains = || {
            let snapshots = Snapshots::new(sets(), &[0.0, 1.0, 2.0]).unwrap();
            let snapshots = snapshots.joined_by(Interpolant::Spline, Chaining::Ot { size: 16 });
            snapshots.chains(32, RandomSource::new(9)).unwrap()
        };
        let ahead: Vec<PointBatch> = Prefetch::new(chains(), 2, 6).unwrap().collect::<Result<_>>().unwrap();
        let alone: Vec<PointBatch> = (2..6).map(|step| chains().batch(step).unwrap()).collect();
        assert_eq!(ahead, alone);
    }
}

mod training {
    use super::*;

    fn config(steps: u64) -> TeacherConfig {
        TeacherConfig {
            width: Some(32),
            depth: Some(2),
            training: TrainingOptions {
                steps: Some(steps),
                batch_size: Some(64),
                ..TeacherConfig::default().training
            },
            ..TeacherConfig::default()
        }
    }

    fn snapshots() -> Snapshots {
        let sets =
            vec![normal(&[90, 2], 1) * 0.3, normal(&[80, 2], 2) * 0.3 + 2.0, normal(&[70, 2], 3) * 0.3];
        let snapshots = Snapshots::new(sets, &[0.0, 1.0, 2.0]).unwrap();
        snapshots.joined_by(Interpolant::Linear, Chaining::Ot { size: 64 })
    }

    fn fit(config: &TeacherConfig, snapshots: &Snapshots) -> Box<dyn VelocityField> {
        Box::new(train_on_snapshots(config, snapshots, &TrainingFiles::default(), &mut Silent).unwrap().0)
    }

    #[test]
    fn rates_of_growth_are_those_of_the_population() {
        // As many as before, then e times as many: rates of 0 and 2 in the flow's own time.
        let field = fit(&config(600), &snapshots().growing(&[1.0, 1.0, 1.0_f64.exp()]).unwrap());
        let x = [normal(&[40, 2], 4) * 0.3 + 1.0, normal(&[40, 2], 5) * 0.3 + 1.0];
        for (time, x, rate) in [(0.25, &x[0], 0.0), (0.75, &x[1], 2.0)] {
            let t = Tensor::from(time).to_kind(Kind::Float);
            let found = field.checked_growth(&t, x).unwrap().unwrap();
            assert!((found - rate).abs().mean(Kind::Float).double_value(&[]) < 0.15, "at {time}");
        }
        // Rates of 2 t along a path would give t^2, which trapezes over two intervals overestimate by h^2.
        let states = Tensor::stack(&[&x[0], &x[0], &x[1]], 0);
        let logs = log_masses(&*field, &[0.1, 0.2, 0.3], &states).unwrap();
        assert_eq!(logs.size(), [3, 40]);
        let rate = |k: i64, time: f64| {
            let t = Tensor::from(time).to_kind(Kind::Float);
            field.checked_growth(&t, &states.get(k)).unwrap().unwrap().to_kind(Kind::Double)
        };
        let expected = (rate(0, 0.1) + rate(1, 0.2) * 2.0 + rate(2, 0.3)) * 0.05;
        assert!((logs.get(2) - expected).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn a_growing_field_goes_through_its_file() {
        let field = fit(&config(20), &snapshots().growing(&[1.0, 2.0, 1.0]).unwrap());
        let path = std::env::temp_dir().join(format!("koopflow-growing-{}.safetensors", std::process::id()));
        koopflow::store::save(&path, &field, serde_json::Value::Null).unwrap();
        let again = koopflow::store::load::<Box<dyn VelocityField>>(&path, Device::Cpu).unwrap().0;
        std::fs::remove_file(&path).unwrap();
        let (t, x) = (Tensor::from(0.4_f32), normal(&[10, 2], 6));
        assert!(field
            .checked_velocity(&t, &x, None)
            .unwrap()
            .equal(&again.checked_velocity(&t, &x, None).unwrap()));
        let rates = |field: &dyn VelocityField| field.checked_growth(&t, &x).unwrap().unwrap();
        assert!(rates(&*field).equal(&rates(&*again)));
        assert_eq!(again.source().name(), "rows");
    }

    #[test]
    fn the_same_seed_gives_the_same_field() {
        let (t, x) = (Tensor::from(0.4_f32), normal(&[10, 2], 6));
        let velocity = || fit(&config(15), &snapshots()).checked_velocity(&t, &x, None).unwrap();
        assert!(velocity().equal(&velocity()));
    }

    #[test]
    fn masses_need_a_field_that_grows() {
        let field = fit(&config(2), &snapshots());
        assert!(field.checked_growth(&Tensor::from(0.4_f32), &normal(&[3, 2], 6)).unwrap().is_none());
        let error = log_masses(&*field, &[0.0, 1.0], &normal(&[2, 3, 2], 6)).unwrap_err();
        assert!(matches!(&error, Error::Argument { argument, .. } if argument == "growth"), "{error}");
        let error = log_masses(&*field, &[0.0, 1.0], &normal(&[3, 3, 2], 6)).unwrap_err();
        assert!(matches!(&error, Error::Shape { argument, .. } if argument == "states"), "{error}");
    }

    #[test]
    fn options_that_snapshots_have_no_use_for_are_named() {
        let bad = TeacherConfig { path: koopflow::flow::Path::Vp, ..config(2) };
        let error =
            train_on_snapshots(&bad, &snapshots(), &TrainingFiles::default(), &mut Silent).err().unwrap();
        assert!(matches!(&error, Error::Argument { argument, .. } if argument == "path"), "{error}");
    }
}

mod refusals {
    use super::*;

    fn named<T>(result: Result<T>, name: &str) {
        let error = result.err().unwrap();
        let found = match &error {
            Error::Argument { argument, .. }
            | Error::Shape { argument, .. }
            | Error::NonFinite { argument, .. } => argument,
            _ => panic!("{error}"),
        };
        assert_eq!(found, name, "{error}");
    }

    fn three() -> Vec<Tensor> {
        vec![normal(&[4, 2], 1), normal(&[5, 2], 2), normal(&[6, 2], 3)]
    }

    #[test]
    fn of_snapshots_and_times() {
        named(Snapshots::new(vec![normal(&[4, 2], 1)], &[0.0]), "snapshots");
        let second = |set: Tensor| Snapshots::new(vec![normal(&[4, 2], 1), set], &[0.0, 1.0]);
        named(second(normal(&[4, 3], 1)), "snapshots[1]");
        named(second(normal(&[1, 2], 1)), "snapshots[1]");
        named(second(normal(&[4], 1)), "snapshots[1]");
        named(second(Tensor::full([4, 2], f64::NAN, DOUBLE)), "snapshots[1]");
        for times in [vec![0.0, 1.0], vec![0.0, 2.0, 1.0], vec![0.0, 0.0, 1.0], vec![0.0, 1.0, f64::INFINITY]]
        {
            named(Snapshots::new(three(), &times), "times");
        }
    }

    #[test]
    fn of_sizes_and_plans() {
        let snapshots = || Snapshots::new(three(), &[0.0, 1.0, 2.0]).unwrap();
        for sizes in [vec![1.0, 2.0], vec![1.0, 0.0, 2.0], vec![1.0, -1.0, 2.0], vec![1.0, f64::NAN, 2.0]] {
            named(snapshots().growing(&sizes), "growth");
        }
        named(snapshots().planned(&[Tensor::ones([4, 5], DOUBLE)]), "coupling");
        named(Plan::new(&Tensor::ones([4, 5], DOUBLE), 5, 4), "coupling");
        named(Plan::new(&Tensor::zeros([4, 5], DOUBLE), 4, 5), "coupling");
        named(Plan::new(&-Tensor::ones([4, 5], DOUBLE), 4, 5), "coupling");
        named(Plan::new(&Tensor::full([4, 5], f64::NAN, DOUBLE), 4, 5), "coupling");
        let lonely = Tensor::from_slice2(&[[1.0, 0.0], [1.0, 0.0]]);
        named(Plan::new(&lonely, 2, 2), "coupling");
    }
}
