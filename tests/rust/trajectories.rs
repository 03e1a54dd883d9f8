//! Trajectory files: the same as what is kept in memory, reused, resumed after any cut, refused with the
//! reason where they do not fit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use koopflow::condition::Conditioning;
use koopflow::data::{Inputs, PairDraw, Trajectories, TrajectoryPlan};
use koopflow::distill::{distill, DistillConfig};
use koopflow::error::Error;
use koopflow::koopman::Student;
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::ode::{self, Chunks, DensityOptions, SolveOptions};
use koopflow::store;
use koopflow::tensor::RandomSource;
use koopflow::training::TrainingOptions;
use koopflow::velocity::{EvaluationCounter, FieldState, GaussianField, VelocityField};
use safetensors::SafeTensors;
use tch::{Device, Kind, Tensor};

fn gaussian(shift: f64) -> GaussianField {
    let mean = Tensor::from_slice(&[1.0 + shift, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Float).unwrap()
}

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

/// A file of one test, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("koopflow-trajectories-{}-{name}", std::process::id()));
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

fn in_file(field: &dyn VelocityField, plan: &TrajectoryPlan, path: &Path) -> koopflow::Result<Trajectories> {
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
    assert!(matches!(store::load::<Student>(&scratch.0, Device::Cpu), Err(Error::Checkpoint { .. })));
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
    assert_eq!(in_file(&field, &hurried, &scratch.0).unwrap().states().size(), [16, 9, 2]);
    assert!(scratch.partial().exists());
    // What was sketched is no part of a whole chunk, and so it is solved again.
    let whole = in_file(&field, &plan(5000), &scratch.0).unwrap();
    let unhurried = Trajectories::generate(&field, &plan(5000), None, &mut Silent).unwrap();
    assert!(whole.states().equal(unhurried.states()));
}

/// Another field, whose memory holds so many rows, and whose velocity is so many multiplications.
struct Limited {
    field: GaussianField,
    rows: i64,
    work: f64,
}

impl VelocityField for Limited {
    fn event_shape(&self) -> &[i64] {
        self.field.event_shape()
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn dtype(&self) -> Kind {
        self.field.dtype()
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> koopflow::Result<Tensor> {
        match x.size()[0] > self.rows {
            true => Err(Error::Teacher { message: "CUDA out of memory. Tried".into(), source: None }),
            false => self.field.velocity(t, x, condition),
        }
    }

    fn work(&self) -> koopflow::Result<Option<f64>> {
        Ok(Some(self.work))
    }

    fn counter(&self) -> &EvaluationCounter {
        self.field.counter()
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(Limited { field: gaussian(0.0), ..*self })
    }

    fn kind_name(&self) -> &'static str {
        "limited"
    }

    fn state(&self) -> Option<FieldState> {
        None
    }
}

#[test]
fn a_teacher_whose_memory_runs_out_is_asked_for_fewer_at_once() {
    let small = Limited { field: gaussian(0.0), rows: 300, work: 1.0 };
    let paths = Trajectories::generate(&small, &plan(1000), None, &mut Silent).unwrap();
    let whole = Trajectories::generate(&gaussian(0.0), &plan(1000), None, &mut Silent).unwrap();
    let gap = (paths.states() - whole.states()).abs().max().double_value(&[]);
    assert!(paths.states().size() == whole.states().size() && gap < 1e-2, "{gap}");
    let x = RandomSource::new(0).normal(&[1000, 2], Kind::Float, Device::Cpu).unwrap();
    let options = SolveOptions::default();
    let solve = |field: &dyn VelocityField| {
        ode::solve_chunked(field, &x, &[0.0, 1.0], &options, None, Chunks::new("sample"), &mut Silent)
            .unwrap()
            .endpoint()
    };
    assert!((solve(&small) - solve(&small.field)).abs().max().double_value(&[]) < 1e-3);
    let density = |field: &dyn VelocityField| {
        ode::log_prob(field, &x, &DensityOptions::default(), None, &mut Silent).unwrap()
    };
    assert!((density(&small) - density(&small.field)).abs().max().double_value(&[]) < 1e-2);
    let none = Limited { rows: 0, ..small };
    let refused = Trajectories::generate(&none, &plan(100), None, &mut Silent);
    assert!(refused.unwrap_err().to_string().contains("out of memory"));
}

#[test]
fn time_that_is_over_leaves_the_fewest_trajectories_and_says_so() {
    let field = gaussian(0.0);
    let hurried = TrajectoryPlan { max_seconds: Some(1e-9), ..plan(5000) };
    let paths = Trajectories::generate(&field, &hurried, None, &mut Silent).unwrap();
    assert!(field.evaluations() <= 2, "{} evaluations after the deadline", field.evaluations());
    assert_eq!(paths.states().size(), [16, 9, 2]);
    // One step of Euler's method, and a straight line.
    let x0 = paths.states().select(1, 0);
    let line = &x0 + field.velocity(&Tensor::zeros([16], (Kind::Float, Device::Cpu)), &x0, None).unwrap();
    let gap = (paths.states().select(1, 8) - &line).abs().max().double_value(&[]);
    let middle = (paths.states().select(1, 4) - (x0 + line) / 2.0).abs().max().double_value(&[]);
    assert!(gap < 1e-5 && middle < 1e-5, "{gap} {middle}");
    assert!(paths.notes()[0].contains("max_seconds") && paths.notes()[0].contains("approximated"));
}

#[test]
fn no_more_trajectories_are_solved_than_training_is_worth() {
    let fit = |work: f64, steps: u64, trajectories: Option<i64>| {
        let field = Limited { field: gaussian(0.0), rows: 1 << 20, work };
        let mut config = DistillConfig { trajectories, ..config() };
        config.training.steps = Some(steps);
        let mut told = Notes(Vec::new());
        let (_, history) = distill(&field, &config, &Inputs::default(), &mut told).unwrap();
        let noted: Vec<String> = history.notes.iter().map(|note| note.text.clone()).collect();
        assert_eq!(noted, told.0);
        (history.trajectories, noted)
    };
    // 64 rows of noise, 32 pairs, 64 of data and 32 points in each of 3 steps, and those held out.
    assert_eq!(fit(1.0, 3, None), (3 * 192 + 512, vec![]));
    // Where one velocity is much more work than a step of training, some hundreds; twice the same.
    let (count, notes) = fit(1e9, 30, None);
    assert_eq!(count, 512);
    assert!(
        notes.len() == 1 && notes[0].starts_with("512 trajectories") && notes[0].contains("trajectories=")
    );
    assert_eq!(fit(1e9, 30, None).0, 512);
    // A number that was asked for is obeyed.
    assert_eq!(fit(1e9, 3, Some(4000)), (4000, vec![]));
}

struct Notes(Vec<String>);

impl Monitor for Notes {
    fn tick(&mut self) -> koopflow::Result<()> {
        Ok(())
    }

    fn report(&mut self, _: &Progress) -> koopflow::Result<()> {
        Ok(())
    }

    fn note(&mut self, _: &Progress, text: &str) -> koopflow::Result<()> {
        self.0.push(text.into());
        Ok(())
    }
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
    store::save(&scratch.0, &field.shallow_clone(), serde_json::Value::Null).unwrap();
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
    // Known again by one evaluation; four judge the held-out paths.
    assert_eq!((first_cost, second_cost), (cost + 1, 1 + 4));
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

/// Goes on only when another thread has found out that it has to wait.
struct UntilSomebodyWaits(Option<mpsc::Receiver<()>>);

impl Monitor for UntilSomebodyWaits {
    fn tick(&mut self) -> koopflow::Result<()> {
        Ok(())
    }

    fn report(&mut self, _: &Progress) -> koopflow::Result<()> {
        if let Some(waiting) = self.0.take() {
            waiting.recv().unwrap();
        }
        Ok(())
    }
}

struct TellsThatItWaits(mpsc::Sender<()>);

impl Monitor for TellsThatItWaits {
    fn tick(&mut self) -> koopflow::Result<()> {
        Ok(())
    }

    fn report(&mut self, _: &Progress) -> koopflow::Result<()> {
        Ok(())
    }

    fn note(&mut self, _: &Progress, text: &str) -> koopflow::Result<()> {
        assert!(text.contains("waiting for another fit"), "{text}");
        self.0.send(()).unwrap();
        Ok(())
    }
}

#[test]
fn of_two_fits_with_one_file_the_second_waits_and_uses_what_the_first_wrote() {
    let scratch = Scratch::new("shared");
    let path = scratch.0.clone();
    let (tell, waiting) = mpsc::channel();
    let (begun, begin) = mpsc::channel();
    let first = std::thread::spawn(move || {
        let field = gaussian(0.0);
        let mut monitor = Begun(begun, UntilSomebodyWaits(Some(waiting)));
        let whole = Trajectories::in_file(&field, &plan(5000), None, &path, false, &mut monitor).unwrap();
        whole.states().copy()
    });
    begin.recv().unwrap();
    let field = gaussian(0.0);
    let mut monitor = TellsThatItWaits(tell);
    let second = Trajectories::in_file(&field, &plan(5000), None, &scratch.0, false, &mut monitor).unwrap();
    assert_eq!(field.evaluations(), 1, "only to know the teacher again");
    assert!(second.states().equal(&first.join().unwrap()));
    let folder = fs::read_dir(scratch.0.parent().unwrap()).unwrap();
    let name = scratch.0.file_name().unwrap().to_str().unwrap().to_string();
    let left: Vec<_> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|other| *other == name || !other.starts_with(&name)), "{left:?}");
}

/// Tells when the first chunk is being solved, and so the file is locked.
struct Begun(mpsc::Sender<()>, UntilSomebodyWaits);

impl Monitor for Begun {
    fn tick(&mut self) -> koopflow::Result<()> {
        let _ = self.0.send(());
        Ok(())
    }

    fn report(&mut self, progress: &Progress) -> koopflow::Result<()> {
        self.1.report(progress)
    }
}

#[test]
fn a_linked_trajectory_file_stays_a_link() {
    let (scratch, target) = (Scratch::new("link"), Scratch::new("link-target"));
    std::os::unix::fs::symlink(&target.0, &scratch.0).unwrap();
    let field = gaussian(0.0);
    in_file(&field, &plan(64), &scratch.0).unwrap();
    assert!(fs::symlink_metadata(&scratch.0).unwrap().is_symlink());
    assert!(fs::symlink_metadata(&target.0).unwrap().is_file());
    let before = field.evaluations();
    in_file(&field, &plan(64), &scratch.0).unwrap();
    assert_eq!(field.evaluations() - before, 1);
}
