//! Where training points come from: the probability path against its closed form, the sources of pairs,
//! trajectory files against what is kept in memory, and what all of it costs in evaluations.

use std::fs;
use std::path::{Path as FilePath, PathBuf};

use koopflow::checkpoint;
use koopflow::condition::Conditioning;
use koopflow::distill::{
    distill, Curriculum, DistillConfig, Inputs, PairDraw, PairKind, PathPlan, PathPoints, TrainingData,
    Trajectories, TrajectoryPlan, Weights,
};
use koopflow::error::Error;
use koopflow::flow::{Coupling, Path};
use koopflow::tensor::RandomSource;
use koopflow::training::{Monitor, Progress, Silent};
use koopflow::velocity::{
    EmpiricalField, EvaluationCounter, FieldState, GaussianField, NetworkField, NetworkFieldConfig,
    VelocityField,
};
use safetensors::SafeTensors;
use tch::{Device, Kind, Tensor};

fn gaussian(shift: f64) -> GaussianField {
    let mean = Tensor::from_slice(&[1.0 + shift, -2.0]);
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
    PathPlan { coupling, path, coupling_size: 128, seed: 1, kind: Kind::Float, device: Device::Cpu }
}

fn only_consistency() -> Weights {
    Weights {
        endpoint: 0.0,
        path: 0.0,
        pairs: 0.0,
        inverse: 0.0,
        round_trip: 0.0,
        phase: 0.0,
        consistency: 1.0,
    }
}

fn config() -> DistillConfig {
    DistillConfig {
        observables: Some(6),
        width: Some(12),
        depth: Some(1),
        steps: Some(30),
        batch_size: 64,
        trajectories: Some(64),
        path_steps: 4,
        ..DistillConfig::default()
    }
}

// --- points of the probability path ---------------------------------------------------------------

#[test]
fn points_have_the_moments_of_the_path() {
    let field = gaussian(0.0);
    let points =
        PathPoints::new(&field, &data(4096), None, path_plan(Coupling::Independent, Path::Vp)).unwrap();
    let batch = points.batch(&RandomSource::new(3), 0, 40_000).unwrap();
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
        let points = PathPoints::new(&field, &pole, None, path_plan(coupling, Path::Linear)).unwrap();
        let batch = points.batch(&RandomSource::new(3), 0, 128).unwrap();
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
    let field = gaussian(0.0);
    let points = || PathPoints::new(&field, &data(256), None, path_plan(Coupling::Ot, Path::Linear)).unwrap();
    let one = points();
    let random = RandomSource::new(9);
    let draws: Vec<Tensor> = (0..6).map(|step| one.batch(&random, step, 32).unwrap().x).collect();
    assert!(!draws[0].equal(&draws[1]));
    // A resumed run starts in the middle, another batch size comes between, and steps repeat.
    let other = points();
    assert!(other.batch(&random, 4, 32).unwrap().x.equal(&draws[4]));
    let _ = other.batch(&random, 5, 16).unwrap();
    assert!(other.batch(&random, 5, 32).unwrap().x.equal(&draws[5]));
    assert!(other.batch(&random, 1, 32).unwrap().x.equal(&draws[1]));
    assert!(!other.batch(&RandomSource::new(8), 1, 32).unwrap().x.equal(&draws[1]));
}

#[test]
fn held_out_points_use_rows_that_training_never_sees() {
    // Data are the numbers 0 to 63 far apart: at t near 1 a point tells its row.
    let rows = Tensor::arange(64, (Kind::Float, Device::Cpu)).view([64, 1]) * 1000.0;
    let field = EmpiricalField::new(&rows, Device::Cpu, Kind::Float).unwrap();
    let points =
        PathPoints::new(&field, &rows, None, path_plan(Coupling::Independent, Path::Linear)).unwrap();
    let seen = |x: &Tensor, t: &Tensor| {
        let late = t.gt(0.2).nonzero().squeeze_dim(1);
        let (x, t) = (x.index_select(0, &late).squeeze_dim(1), t.index_select(0, &late));
        let index = (x / t / 1000.0).round().to_kind(Kind::Int64);
        Vec::<i64>::try_from(index).unwrap().into_iter().collect::<std::collections::BTreeSet<_>>()
    };
    let training = points.batch(&RandomSource::new(1), 0, 4096).unwrap();
    let held_out = points.held_out().unwrap();
    let (training, held_out) = (seen(&training.x, &training.t), seen(&held_out.x, &held_out.t));
    assert_eq!((training.len(), held_out.len()), (56, 8));
    assert!(training.is_disjoint(&held_out));
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
        PathPoints::new(&field, &rows, Some(&labels), path_plan(Coupling::Ot, Path::Linear)).unwrap();
    let batch = points.batch(&RandomSource::new(1), 0, 128).unwrap();
    let label = batch.teacher_condition.unwrap();
    let gap = batch.x.squeeze_dim(1) - label.to_kind(Kind::Float) * 100.0 * &batch.t;
    assert!(gap.abs().max().double_value(&[]) < 6.0);
    assert!(batch.condition.unwrap().argmax(1, false).equal(&label));
    let short =
        PathPoints::new(&field, &rows, Some(&labels.narrow(0, 0, 9)), path_plan(Coupling::Ot, Path::Linear));
    assert!(short.err().unwrap().to_string().contains("condition"));
}

// --- what it costs --------------------------------------------------------------------------------

#[test]
fn consistency_alone_solves_no_ode() {
    let field = gaussian(0.0);
    let config = DistillConfig { weights: only_consistency(), steps: Some(100), ..config() };
    let inputs = Inputs { data: Some(data(512)), ..Inputs::default() };
    let (_, history) = distill(&field, &config, &inputs, &mut Silent).unwrap();
    // One evaluation a step, and one for the held-out points.
    assert_eq!((history.teacher_evaluations, history.trajectories), (101, 0));
    let error = |entry: &koopflow::distill::LogEntry| {
        entry.values.iter().find(|(name, _)| name == "consistency_error").unwrap().1
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
    let field = gaussian(0.0);
    let cost = |steps| {
        let config = DistillConfig { steps: Some(steps), ..config() };
        distill(&field, &config, &Inputs::default(), &mut Silent).unwrap().1.teacher_evaluations
    };
    assert_eq!(cost(2), cost(20));
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let field = gaussian(0.0);
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
    let (_, history) = distill(&gaussian(0.0), &config, &Inputs::default(), &mut Silent).unwrap();
    assert_eq!(history.trajectories, 32);
}

// --- sources of pairs -----------------------------------------------------------------------------

fn plan(count: i64) -> TrajectoryPlan {
    TrajectoryPlan {
        count,
        path_steps: 8,
        seed: 3,
        kind: Kind::Float,
        device: Device::Cpu,
        max_seconds: None,
    }
}

#[test]
fn pairs_connect_the_times_that_were_asked_for() {
    let paths = Trajectories::generate(&gaussian(0.0), &plan(128), None, &mut Silent).unwrap();
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
        path_steps: 8,
        ..config()
    };
    let field = gaussian(0.0);
    let recipe = config.resolve(&[2], Conditioning::None).unwrap();
    let data = TrainingData::prepare(&field, &config, &recipe, &Inputs::default(), &mut Silent).unwrap();
    let tau = |done| data.batch(&RandomSource::new(1), 0, 16, done).unwrap().pairs.unwrap().tau();
    assert!(tau(0.0).eq(1.0).all().int64_value(&[]) == 1);
    assert!(tau(1.0).eq(0.125).all().int64_value(&[]) == 1);
}

// --- trajectory files -----------------------------------------------------------------------------

/// A file of one test, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("koopflow-data-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Scratch(folder.join("paths.safetensors"))
    }

    fn partial(&self) -> PathBuf {
        self.0.with_extension("safetensors.partial")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn in_file(
    field: &dyn VelocityField,
    plan: &TrajectoryPlan,
    path: &FilePath,
) -> koopflow::Result<Trajectories> {
    Trajectories::in_file(field, plan, None, path, false, &mut Silent)
}

/// Keeps the steps reported and stops after some of them.
struct StopAfter(usize, Vec<u64>);

impl Monitor for StopAfter {
    fn tick(&mut self) -> koopflow::Result<()> {
        Ok(())
    }

    fn report(&mut self, progress: &Progress) -> koopflow::Result<()> {
        self.1.push(progress.step);
        match self.1.len() >= self.0 {
            true => Err(Error::Interrupted("enough".into())),
            false => Ok(()),
        }
    }
}

#[test]
fn a_file_holds_what_memory_would_and_is_reused() {
    let scratch = Scratch::new("reuse");
    let field = gaussian(0.0);
    let in_memory = Trajectories::generate(&field, &plan(5000), None, &mut Silent).unwrap();
    let stored = in_file(&field, &plan(5000), &scratch.0).unwrap();
    assert!(stored.states().equal(in_memory.states()));
    assert!(!scratch.partial().exists());
    // An ordinary safetensors file for any other reader.
    let bytes = fs::read(&scratch.0).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let states = tensors.tensor("states").unwrap();
    assert_eq!(states.shape(), [5000, 9, 2]);
    let whole = Tensor::from_data_size(states.data(), &[5000, 9, 2], Kind::Float);
    assert!(whole.equal(in_memory.states()));

    let before = field.evaluations();
    let again = in_file(&field, &TrajectoryPlan { seed: 99, ..plan(5000) }, &scratch.0).unwrap();
    assert_eq!(field.evaluations() - before, 1);
    let random = RandomSource::new(0);
    let draw = |paths: &Trajectories| paths.batch(&random, 3, 64, PairDraw::default()).pairs.unwrap().x_t;
    assert!(draw(&again).equal(&draw(&in_memory)));
    assert!(matches!(checkpoint::load_student(&scratch.0, Device::Cpu), Err(Error::Checkpoint { .. })));
}

#[test]
fn an_interrupted_file_resumes_to_the_same_bytes() {
    let (scratch, whole) = (Scratch::new("resume"), Scratch::new("whole"));
    let field = gaussian(0.0);
    in_file(&field, &plan(9000), &whole.0).unwrap();
    let mut stop = StopAfter(2, Vec::new());
    let cut = Trajectories::in_file(&field, &plan(9000), None, &scratch.0, false, &mut stop);
    assert!(matches!(cut, Err(Error::Interrupted(_))));
    assert_eq!(stop.1, [2048, 4096]);
    // Killed while the third chunk was written: what there is of it is solved again.
    let bytes = fs::read(scratch.partial()).unwrap();
    fs::write(scratch.partial(), [&bytes[..], &[7u8; 1001]].concat()).unwrap();
    let mut watch = StopAfter(usize::MAX, Vec::new());
    Trajectories::in_file(&field, &plan(9000), None, &scratch.0, false, &mut watch).unwrap();
    assert_eq!(watch.1, [4096, 6144, 8192, 9000]);
    assert!(fs::read(&scratch.0).unwrap() == fs::read(&whole.0).unwrap());
    // Killed between the last chunk and the new name.
    fs::rename(&scratch.0, scratch.partial()).unwrap();
    let before = field.evaluations();
    in_file(&field, &plan(9000), &scratch.0).unwrap();
    assert_eq!(field.evaluations() - before, 1);
    assert!(scratch.0.exists() && !scratch.partial().exists());
}

#[test]
fn a_budget_trains_on_what_there_is_and_a_later_fit_continues() {
    let scratch = Scratch::new("budget");
    let field = gaussian(0.0);
    let hurried = TrajectoryPlan { max_seconds: Some(1e-9), ..plan(5000) };
    assert_eq!(in_file(&field, &hurried, &scratch.0).unwrap().states().size(), [2048, 9, 2]);
    assert_eq!(in_file(&field, &hurried, &scratch.0).unwrap().states().size(), [4096, 9, 2]);
    assert!(scratch.partial().exists());
    assert_eq!(in_file(&field, &plan(5000), &scratch.0).unwrap().states().size(), [5000, 9, 2]);
}

#[test]
fn a_file_of_another_kind_is_refused_with_the_reason() {
    let scratch = Scratch::new("refuse");
    let field = gaussian(0.0);
    in_file(&field, &plan(64), &scratch.0).unwrap();
    let reason = |field: &dyn VelocityField, plan: &TrajectoryPlan| match in_file(field, plan, &scratch.0) {
        Err(Error::Checkpoint { message, .. }) => message,
        other => panic!("{other:?}"),
    };
    for (plan, what) in [
        (plan(65), "number of trajectories is 64, this fit needs 65"),
        (TrajectoryPlan { path_steps: 7, ..plan(64) }, "path_steps is 8, this fit needs 7"),
    ] {
        let message = reason(&field, &plan);
        assert!(message.contains(what) && message.contains("refresh=True"), "{message}");
    }
    let message = reason(&gaussian(1e-2), &plan(64));
    assert!(message.contains("another teacher") && message.contains("refresh=True"), "{message}");
    // A teacher that rounds differently is the same one.
    in_file(&gaussian(1e-6), &plan(64), &scratch.0).unwrap();
    let fresh =
        Trajectories::in_file(&gaussian(1e-2), &plan(64), None, &scratch.0, true, &mut Silent).unwrap();
    assert!(in_file(&gaussian(1e-2), &plan(64), &scratch.0).unwrap().states().equal(fresh.states()));

    let bytes = fs::read(&scratch.0).unwrap();
    let damaged: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("cut in the header", bytes[..100].to_vec()),
        ("cut in the data", bytes[..bytes.len() - 4].to_vec()),
        ("too long", [&bytes[..], &[0; 8]].concat()),
        ("text", b"not a safetensors file, but rather long".to_vec()),
        ("a huge header", [&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat()),
    ];
    for (what, bytes) in damaged {
        fs::write(&scratch.0, bytes).unwrap();
        assert!(
            matches!(in_file(&gaussian(1e-2), &plan(64), &scratch.0), Err(Error::Checkpoint { .. })),
            "{what}"
        );
    }
    checkpoint::save_field(&scratch.0, &field, serde_json::Value::Null).unwrap();
    assert!(reason(&field, &plan(64)).contains("holds a teacher"));
    let nowhere = scratch.0.join("no/such/folder");
    assert!(matches!(in_file(&field, &plan(64), &nowhere), Err(Error::Io { .. })));
}

#[test]
fn a_refresh_that_is_interrupted_leaves_the_old_file() {
    let scratch = Scratch::new("refresh");
    let field = gaussian(0.0);
    in_file(&field, &plan(3000), &scratch.0).unwrap();
    let bytes = fs::read(&scratch.0).unwrap();
    let mut stop = StopAfter(1, Vec::new());
    let cut = Trajectories::in_file(&field, &plan(3000), None, &scratch.0, true, &mut stop);
    assert!(matches!(cut, Err(Error::Interrupted(_))));
    assert!(fs::read(&scratch.0).unwrap() == bytes);
}

#[test]
fn a_student_learns_the_same_from_a_file_as_from_memory() {
    let scratch = Scratch::new("student");
    let field = gaussian(0.0);
    let fit = |inputs: Inputs| {
        let (student, history) = distill(&field, &config(), &inputs, &mut Silent).unwrap();
        (student.parameters().flat().unwrap().copy(), history.teacher_evaluations)
    };
    let (memory, cost) = fit(Inputs::default());
    let stored = || Inputs { trajectory_file: Some(scratch.0.clone()), ..Inputs::default() };
    let (first, first_cost) = fit(stored());
    let (second, second_cost) = fit(stored());
    assert!(first.equal(&memory) && second.equal(&memory));
    assert_eq!((first_cost, second_cost), (cost + 1, 1));
}

/// v(t, x, c) = c: conditions show in the states.
struct Conveyor {
    counter: EvaluationCounter,
    conditioning: Conditioning,
}

impl VelocityField for Conveyor {
    fn event_shape(&self) -> &[i64] {
        &[1]
    }

    fn conditioning(&self) -> Conditioning {
        self.conditioning
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn dtype(&self) -> Kind {
        Kind::Float
    }

    fn velocity(&self, _: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> koopflow::Result<Tensor> {
        self.counter.add(1);
        Ok(condition.unwrap().to_kind(Kind::Float).view_as(x))
    }

    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(Conveyor { counter: self.counter.clone(), conditioning: self.conditioning })
    }

    fn kind_name(&self) -> &'static str {
        "conveyor"
    }

    fn state(&self) -> Option<FieldState> {
        None
    }
}

#[test]
fn conditions_are_stored_beside_the_trajectories() {
    let labels = Tensor::from_slice(&[0i64, 2, 5]);
    let vectors = Tensor::from_slice(&[0.25f64, -1.5, 3.0]).view([3, 1]);
    for (name, pool, conditioning) in [
        ("labels", labels, Conditioning::Labels { classes: 6 }),
        ("vectors", vectors, Conditioning::Vector { dim: 1 }),
    ] {
        let scratch = Scratch::new(name);
        let field = Conveyor { counter: EvaluationCounter::default(), conditioning };
        let run = |pool: &Tensor| {
            Trajectories::in_file(&field, &plan(333), Some(pool), &scratch.0, false, &mut Silent)
        };
        for _ in 0..2 {
            let pairs = run(&pool).unwrap().batch(&RandomSource::new(1), 0, 64, PairDraw::default()).pairs;
            let pairs = pairs.unwrap();
            let moved = (&pairs.x_t - &pairs.x_s).squeeze_dim(1) / pairs.tau();
            let gap = moved - pairs.teacher_condition.unwrap().to_kind(Kind::Float).view([-1]);
            assert!(gap.abs().max().double_value(&[]) < 1e-3);
        }
        let bytes = fs::read(&scratch.0).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(stored.tensor("condition").unwrap().shape()[0], 333);
        let message = run(&(pool + 0 + 1).clamp_max(5)).unwrap_err().to_string();
        assert!(message.contains("another pool of conditions"), "{message}");
    }
}
