//! Where training points come from: the probability path against its closed form, the sources of pairs,
//! and what they cost in evaluations of the teacher.

use std::collections::BTreeMap;

use koopflow::condition::Conditioning;
use koopflow::data::Coupling;
use koopflow::data::{
    Curriculum, Inputs, PairDraw, PairKind, PathPlan, PathPoints, Trajectories, TrajectoryPlan,
};
use koopflow::distill::{distill, DistillConfig, TrainingData, Weights};
use koopflow::flow::Path;
use koopflow::monitor::Silent;
use koopflow::tensor::RandomSource;
use koopflow::training::TrainingOptions;
use koopflow::velocity::{EmpiricalField, GaussianField, NetworkField, NetworkFieldConfig};
use tch::{Device, Kind, Tensor};

fn gaussian() -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Float).unwrap()
}

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Float, Device::Cpu).unwrap()
}

/// Draws of the Gaussian teacher's data.
fn data(count: i64) -> Tensor {
    let root = Tensor::from_slice(&[2f32.sqrt(), 0.0, 0.6 / 2f32.sqrt(), 0.32f32.sqrt()]).view([2, 2]);
    normal(5, &[count, 2]).matmul(&root.tr()) + Tensor::from_slice(&[1f32, -2.0])
}

fn path_plan(coupling: Coupling, path: Path) -> PathPlan {
    PathPlan {
        coupling,
        path,
        coupling_size: 128,
        flip: false,
        seed: 1,
        kind: Kind::Float,
        device: Device::Cpu,
    }
}

fn only_consistency() -> BTreeMap<String, f64> {
    Weights { consistency: 1.0, ..Weights::NONE }.to_map()
}

fn config() -> DistillConfig {
    DistillConfig {
        observables: Some(6),
        width: Some(12),
        depth: Some(1),
        trajectories: Some(64),
        path_steps: Some(4),
        training: TrainingOptions {
            steps: Some(30),
            batch_size: Some(64),
            ..DistillConfig::default().training
        },
        ..DistillConfig::default()
    }
}

// --- points of the probability path ---------------------------------------------------------------

#[test]
fn points_have_the_moments_of_the_path() {
    let field = gaussian();
    let points =
        PathPoints::new(&field, &data(4096), None, None, path_plan(Coupling::Independent, Path::Vp)).unwrap();
    let batch = points.batch(&RandomSource::new(3), 0, 40_000, &mut Silent).unwrap();
    // Times are spread evenly: about 400 of them lie in each hundredth.
    let late = batch.t.gt(0.7).logical_and(&batch.t.lt(0.8));
    let x = batch.x.index_select(0, &late.nonzero().squeeze_dim(1));
    let count = x.size()[0] as f64;
    assert!((count - 4000.0).abs() <= 2.0, "{count}");
    let (a, s) =
        ((0.75f64 * std::f64::consts::FRAC_PI_2).sin(), (0.75f64 * std::f64::consts::FRAC_PI_2).cos());
    let mean = x.mean_dim(0, false, Kind::Double);
    let variance = x.to_kind(Kind::Double).var_dim(0, true, false);
    for (axis, (centre, spread)) in [(1.0, 2.0), (-2.0, 0.5)].into_iter().enumerate() {
        let expected = a * a * spread + s * s;
        assert!((mean.double_value(&[axis as i64]) - a * centre).abs() < 0.12);
        assert!((variance.double_value(&[axis as i64]) / expected - 1.0).abs() < 0.12);
    }
}

#[test]
fn coupled_points_follow_the_optimal_assignment() {
    // Data at -3 and 3: under optimal transport negative noise goes left.
    let pole = Tensor::from_slice(&[-3f32, 3.0]).view([2, 1]);
    let field = EmpiricalField::new(&pole, Device::Cpu, Kind::Float).unwrap();
    let spread = |coupling| {
        let points = PathPoints::new(&field, &pole, None, None, path_plan(coupling, Path::Linear)).unwrap();
        let batch = points.batch(&RandomSource::new(3), 0, 128, &mut Silent).unwrap();
        // Variance of x_t near t = 1/2: E x0 x1 adds to it where noise and data are coupled.
        let middle = batch.t.gt(0.4).logical_and(&batch.t.lt(0.6)).nonzero().squeeze_dim(1);
        batch.x.index_select(0, &middle).square().mean(Kind::Double).double_value(&[])
    };
    // (9 + 1) / 4 = 2.5 without, (9 + 1 + 2 * 3 * sqrt(2 / pi)) / 4 = 3.7 with.
    assert!((spread(Coupling::Independent) - 2.5).abs() < 0.9, "{}", spread(Coupling::Independent));
    assert!((spread(Coupling::Ot) - 3.7).abs() < 0.5, "{}", spread(Coupling::Ot));
}

#[test]
fn points_are_a_function_of_seed_and_step_from_any_step_on() {
    let field = gaussian();
    let points =
        || PathPoints::new(&field, &data(256), None, None, path_plan(Coupling::Ot, Path::Linear)).unwrap();
    let one = points();
    let random = RandomSource::new(9);
    let draws: Vec<Tensor> =
        (0..6).map(|step| one.batch(&random, step, 32, &mut Silent).unwrap().x).collect();
    assert!(!draws[0].equal(&draws[1]));
    // A resumed run starts in the middle, another batch size comes between, and steps repeat.
    let other = points();
    assert!(other.batch(&random, 4, 32, &mut Silent).unwrap().x.equal(&draws[4]));
    let _ = other.batch(&random, 5, 16, &mut Silent).unwrap();
    assert!(other.batch(&random, 5, 32, &mut Silent).unwrap().x.equal(&draws[5]));
    assert!(other.batch(&random, 1, 32, &mut Silent).unwrap().x.equal(&draws[1]));
    assert!(!other.batch(&RandomSource::new(8), 1, 32, &mut Silent).unwrap().x.equal(&draws[1]));
}

#[test]
fn held_out_points_use_rows_that_training_never_sees() {
    // Data are the numbers 0 to 63 far apart: at t near 1 a point tells its row.
    let rows = Tensor::arange(64, (Kind::Float, Device::Cpu)).view([64, 1]) * 1000.0;
    let field = EmpiricalField::new(&rows, Device::Cpu, Kind::Float).unwrap();
    let points =
        PathPoints::new(&field, &rows, None, None, path_plan(Coupling::Independent, Path::Linear)).unwrap();
    let seen = |x: &Tensor, t: &Tensor| {
        let late = t.gt(0.2).nonzero().squeeze_dim(1);
        let (x, t) = (x.index_select(0, &late).squeeze_dim(1), t.index_select(0, &late));
        let index = (x / t / 1000.0).round().to_kind(Kind::Int64);
        Vec::<i64>::try_from(index).unwrap().into_iter().collect::<std::collections::BTreeSet<_>>()
    };
    let training = points.batch(&RandomSource::new(1), 0, 4096, &mut Silent).unwrap();
    let held_out = points.held_out().unwrap();
    let (training, held_out) = (seen(&training.x, &training.t), seen(&held_out.x, &held_out.t));
    assert_eq!((training.len(), held_out.len()), (56, 8));
    assert!(training.is_disjoint(&held_out));
}

/// A teacher that saw mirrored images is distilled at points between noise and mirrored images too.
#[test]
fn points_of_a_flipping_teacher_are_mirrored() {
    let rows = Tensor::from_slice(&[-100f32, 100.0]).view([1, 1, 1, 2]).repeat([64, 1, 1, 1]);
    let field = EmpiricalField::new(&rows, Device::Cpu, Kind::Float).unwrap();
    let mirrored = |flip| {
        let plan = PathPlan { flip, ..path_plan(Coupling::Ot, Path::Linear) };
        let points = PathPoints::new(&field, &rows, None, None, plan).unwrap();
        let batch = points.batch(&RandomSource::new(1), 0, 512, &mut Silent).unwrap();
        assert_eq!(batch.x.size(), [512, 2]);
        let late = batch.x.index_select(0, &batch.t.gt(0.2).nonzero().squeeze_dim(1));
        late.select(1, 0).gt(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
    };
    assert_eq!(mirrored(false), 0.0);
    assert!((mirrored(true) - 0.5).abs() < 0.13, "{}", mirrored(true));
    let plan = PathPlan { flip: true, ..path_plan(Coupling::Ot, Path::Linear) };
    let points = PathPoints::new(&gaussian(), &data(64), None, None, plan).unwrap();
    let error = points.batch(&RandomSource::new(1), 0, 8, &mut Silent).unwrap_err();
    assert!(error.to_string().starts_with("flip: "), "{error}");
}

#[test]
fn conditions_stay_with_their_rows() {
    let labels = Tensor::arange(4, (Kind::Int64, Device::Cpu)).repeat([64]);
    let rows = (labels.to_kind(Kind::Float) * 100.0).view([256, 1]);
    let field = NetworkFieldConfig {
        event_shape: vec![1],
        conditioning: Conditioning::Labels { classes: 4 },
        width: 4,
        depth: 1,
        ..NetworkFieldConfig::default()
    };
    let mut random = RandomSource::new(0);
    let field = NetworkField::new(field, &rows, Some(&labels), Device::Cpu, &mut random).unwrap();
    let points =
        PathPoints::new(&field, &rows, None, Some(&labels), path_plan(Coupling::Ot, Path::Linear)).unwrap();
    let batch = points.batch(&RandomSource::new(1), 0, 128, &mut Silent).unwrap();
    let label = batch.teacher_condition.unwrap();
    let gap = batch.x.squeeze_dim(1) - label.to_kind(Kind::Float) * 100.0 * &batch.t;
    assert!(gap.abs().max().double_value(&[]) < 6.0);
    assert!(batch.condition.unwrap().argmax(1, false).equal(&label));
    let short = PathPoints::new(
        &field,
        &rows,
        None,
        Some(&labels.narrow(0, 0, 9)),
        path_plan(Coupling::Ot, Path::Linear),
    );
    assert!(short.err().unwrap().to_string().contains("condition"));
}

// --- what it costs --------------------------------------------------------------------------------

#[test]
fn consistency_alone_solves_no_ode() {
    let field = gaussian();
    let config = DistillConfig {
        weights: only_consistency(),
        training: TrainingOptions { steps: Some(100), ..config().training },
        ..config()
    };
    let inputs = Inputs { data: Some(data(512)), ..Inputs::default() };
    let (_, history) = distill(&field, &config, &inputs, &mut Silent).unwrap();
    // One evaluation a step, and one for the held-out points.
    assert_eq!((history.teacher_evaluations, history.trajectories), (101, 0));
    let error = |entry: &koopflow::distill::LogEntry| {
        entry.values.iter().find(|(name, _)| name == "score").unwrap().1
    };
    let best = history.log.iter().min_by(|a, b| error(a).total_cmp(&error(b))).unwrap();
    assert_eq!(history.best_step, best.step);
    assert!(error(best) < 0.9 * error(&history.log[0]));
    // Without data the points of solved trajectories serve.
    let (_, history) = distill(&field, &config, &Inputs::default(), &mut Silent).unwrap();
    assert_eq!(history.trajectories, 64);
    assert!(history.teacher_evaluations > 101 + 6);
}

#[test]
fn other_terms_ask_the_teacher_nothing_while_training() {
    let field = gaussian();
    let cost = |steps| {
        let config = DistillConfig {
            training: TrainingOptions { steps: Some(steps), ..config().training },
            ..config()
        };
        distill(&field, &config, &Inputs::default(), &mut Silent).unwrap().1.teacher_evaluations
    };
    assert_eq!(cost(2), cost(20));
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let field = gaussian();
    let fit = |inputs: Inputs, config: &DistillConfig| {
        distill(&field, config, &inputs, &mut Silent).err().unwrap().to_string()
    };
    let narrow = Inputs { data: Some(normal(0, &[8, 3])), ..Inputs::default() };
    assert!(fit(narrow, &config()).contains("data"));
    let pool = Inputs { pool: Some(normal(0, &[8, 3])), ..Inputs::default() };
    assert!(fit(pool, &config()).contains("condition"));
    let tiny = DistillConfig { trajectory_memory: 1e-7, ..config() };
    assert!(fit(Inputs::default(), &tiny).contains("trajectory_memory"));
    let odd = DistillConfig { curriculum: Some(Curriculum::Forward), ..config() };
    assert!(fit(Inputs::default(), &odd).contains("curriculum"));
}

#[test]
fn memory_bounds_the_number_of_trajectories() {
    // 5 states of 2 floats: 40 bytes each.
    let gib = 40.0 * 32.5 / (1u64 << 30) as f64;
    let config = DistillConfig { trajectory_memory: gib, ..config() };
    let (_, history) = distill(&gaussian(), &config, &Inputs::default(), &mut Silent).unwrap();
    assert_eq!(history.trajectories, 32);
}

// --- sources of pairs -----------------------------------------------------------------------------

fn plan(count: i64) -> TrajectoryPlan {
    TrajectoryPlan {
        count,
        path_steps: 8,
        fixed: None,
        seed: 3,
        kind: Kind::Float,
        device: Device::Cpu,
        max_seconds: None,
    }
}

#[test]
fn pairs_connect_the_times_that_were_asked_for() {
    let paths = Trajectories::generate(&gaussian(), &plan(128), None, &mut Silent).unwrap();
    let steps = |kind, curriculum, done, step| {
        let draw = PairDraw { kind, curriculum, done };
        let pairs = paths.batch(&RandomSource::new(7), step, 512, draw).pairs.unwrap();
        let index = |t: &Tensor| Vec::<i64>::try_from((t * 8.0).round().to_kind(Kind::Int64)).unwrap();
        (index(&pairs.s), index(&pairs.t))
    };
    let (s, t) = steps(PairKind::Endpoints, None, 0.0, 0);
    assert!(s.iter().all(|i| *i == 0) && t.iter().all(|i| *i == 8));
    let gap = |curriculum, done, step| {
        let (s, t) = steps(PairKind::TimeGrouped, curriculum, done, step);
        let gaps: std::collections::BTreeSet<i64> = s.iter().zip(&t).map(|(s, t)| t - s).collect();
        assert_eq!(gaps.len(), 1, "one difference for the batch");
        let starts: std::collections::BTreeSet<i64> = s.into_iter().collect();
        let gap = gaps.into_iter().next().unwrap();
        assert_eq!(starts.len() as i64, 9 - gap, "every start");
        gap
    };
    let along = |curriculum| [0.0, 0.5, 1.0].map(|done| gap(Some(curriculum), done, 0));
    assert_eq!(along(Curriculum::Forward), [1, 5, 8]);
    assert_eq!(along(Curriculum::Reverse), [8, 4, 1]);
    let random: std::collections::BTreeSet<i64> = (0..100).map(|step| gap(None, 0.0, step)).collect();
    assert_eq!(random.into_iter().collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
}

#[test]
fn training_data_passes_the_pair_source_on() {
    let config = DistillConfig {
        pairs: PairKind::TimeGrouped,
        curriculum: Some(Curriculum::Reverse),
        path_steps: Some(8),
        ..config()
    };
    let field = gaussian();
    let recipe = config.resolve(&[2], Conditioning::None).unwrap();
    let data =
        TrainingData::prepare(&field, &config, &recipe, &Inputs::default(), None, &mut Silent).unwrap();
    let tau =
        |done| data.batch(&RandomSource::new(1), 0, 16, done, &mut Silent).unwrap().pairs.unwrap().tau();
    assert!(tau(0.0).eq(1.0).all().int64_value(&[]) == 1);
    assert!(tau(1.0).eq(0.125).all().int64_value(&[]) == 1);
}

#[test]
fn points_lie_on_trajectories_where_those_are_solved_anyway() {
    let field = gaussian();
    let inputs = || Inputs { data: Some(data(512)), ..Inputs::default() };
    let prepare = |weights| {
        let config = DistillConfig { weights, ..config() };
        let recipe = config.resolve(&[2], Conditioning::None).unwrap();
        TrainingData::prepare(&field, &config, &recipe, &inputs(), None, &mut Silent).unwrap()
    };
    let both = prepare([("phase".to_string(), 0.1), ("consistency".to_string(), 0.1)].into());
    let points = both.batch(&RandomSource::new(3), 0, 16, 0.0, &mut Silent).unwrap().points.unwrap();
    let states = both.trajectories.as_ref().unwrap().states();
    let last = states.size()[1] - 1;
    for row in 0..points.count() {
        let index = (points.t.double_value(&[row]) * last as f64).round() as i64;
        assert!(index < last, "the teacher may be singular at 1");
        let gap =
            (states.select(1, index) - points.x.select(0, row)).abs().sum_dim_intlist(1, false, Kind::Float);
        assert!(gap.min().double_value(&[]) < 1e-6);
    }
    let alone = prepare(only_consistency());
    assert!(alone.trajectories.is_none() && alone.points.is_some());
}
