//! Fits that several ranks share, each on a thread here: they follow one process that takes as many micro-batches, and
//! no rank waits for one that has left.

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use koopflow::baselines::{self, BaselineConfig, Method};
use koopflow::data::{Coupling, Inputs, Trajectories, TrajectoryPlan};
use koopflow::distill::{distill, distill_with, Checkpointing, DistillConfig, DistillHistory, Extras};
use koopflow::error::Error;
use koopflow::flow::{train, TeacherConfig};
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::ode::{FixedSteps, Solver};
use koopflow::tensor::RandomSource;
use koopflow::training::{Stopped, TrainingOptions};
use koopflow::velocity::{Conditioning, EvaluationCounter, FieldState, GaussianField, VelocityField};
use koopflow::world::{Collective, World};
use koopflow::Result;
use tch::{Device, Kind, Tensor};

/// Threads that add up what each brings.
struct Threads {
    meet: Barrier,
    brought: Mutex<Vec<Tensor>>,
}

impl Collective for Threads {
    fn sum(&self, x: &Tensor) -> Result<()> {
        self.brought.lock().unwrap().push(x.copy());
        self.meet.wait();
        let whole = {
            let brought = self.brought.lock().unwrap();
            assert!(brought.iter().all(|own| own.size() == x.size()), "ranks bring tensors of other sizes");
            // In one order on all ranks: that of arrival.
            brought.iter().skip(1).fold(brought[0].copy(), |sum, own| sum + own)
        };
        if self.meet.wait().is_leader() {
            self.brought.lock().unwrap().clear();
        }
        self.meet.wait();
        tch::no_grad(|| x.shallow_clone().copy_(&whole));
        Ok(())
    }
}

/// A monitor of one rank that may stop it at a step of a stage.
struct Rank {
    world: World,
    stop: Option<(u64, fn() -> Error)>,
}

impl Monitor for Rank {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn report(&mut self, progress: &Progress) -> Result<()> {
        match self.stop {
            Some((step, error)) if progress.stage != "trajectories" && progress.step >= step => Err(error()),
            _ => Ok(()),
        }
    }

    fn world(&self) -> &World {
        &self.world
    }
}

/// What `work` answers on each of `size` ranks.
fn on_ranks<T: Send>(size: i64, work: impl Fn(&mut Rank) -> T + Sync) -> Vec<T> {
    let threads = Arc::new(Threads { meet: Barrier::new(size as usize), brought: Mutex::new(Vec::new()) });
    thread::scope(|scope| {
        let handles: Vec<_> = (0..size)
            .map(|rank| {
                let world = World::new(rank, size, threads.clone()).unwrap();
                let work = &work;
                scope.spawn(move || work(&mut Rank { world, stop: None }))
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

fn gaussian() -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap()
}

fn options(steps: u64, batch_size: i64) -> TrainingOptions {
    TrainingOptions {
        steps: Some(steps),
        batch_size: Some(batch_size),
        dtype: "float64".into(),
        ..DistillConfig::default().training
    }
}

fn config() -> DistillConfig {
    DistillConfig {
        observables: Some(6),
        width: Some(12),
        depth: Some(1),
        trajectories: Some(128),
        path_steps: Some(8),
        evaluate_every: Some(5),
        training: options(40, 32),
        ..DistillConfig::default()
    }
}

fn gap(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs().max(1e-3)).fold(0.0, f64::max)
}

fn values_of(x: &Tensor) -> Vec<f64> {
    Vec::try_from(&x.detach().f_view([-1]).unwrap().to_kind(Kind::Double)).unwrap()
}

/// Everything that a log holds.
fn logged(history: &DistillHistory) -> Vec<f64> {
    history.log.iter().flat_map(|entry| entry.values.iter().map(|(_, value)| *value)).collect()
}

#[test]
fn ranks_follow_one_process_of_as_many_micro_batches() {
    // 16 trajectories keep two out of training: too few for three ranks to share. Errors of eight averages take more than one exchange.
    let many = (1..=8).map(|tenth| 0.1 * f64::from(tenth)).collect();
    for (size, trajectories, averages) in [(2, 128, vec![]), (3, 128, many), (3, 16, vec![])] {
        let trajectories = Some(trajectories);
        let config = DistillConfig { training: options(40, 36), trajectories, averages, ..config() };
        let alone = DistillConfig { accumulate: size, ..config.clone() };
        let (student, history) = distill(&gaussian(), &alone, &Inputs::default(), &mut Silent).unwrap();
        let found = on_ranks(size, |rank| {
            let (student, history) = distill(&gaussian(), &config, &Inputs::default(), rank).unwrap();
            (values_of(&student.parameters().flat().unwrap()), logged(&history))
        });
        for (weights, log) in &found {
            assert!(gap(log, &logged(&history)) < 1e-8, "{:e}", gap(log, &logged(&history)));
            assert!(gap(weights, &values_of(&student.parameters().flat().unwrap())) < 1e-7);
            assert_eq!(weights, &found[0].0, "ranks end with the same bits");
        }
    }
}

#[test]
fn trajectories_are_those_of_one_process_bit_for_bit() {
    for (count, size) in [(5000, 2), (5000, 3), (100, 2)] {
        let plan = TrajectoryPlan {
            count,
            path_steps: 4,
            fixed: (count == 100).then_some(FixedSteps { solver: Solver::Heun, steps: 4 }),
            seed: 3,
            kind: Kind::Float,
            device: Device::Cpu,
            max_seconds: None,
        };
        let alone = Trajectories::generate(&gaussian(), &plan, None, &mut Silent).unwrap();
        let found = on_ranks(size, |rank| {
            let field = gaussian();
            let paths = Trajectories::generate(&field, &plan, None, rank).unwrap();
            (values_of(paths.states()), field.counter().get())
        });
        let evaluations: u64 = found.iter().map(|(_, evaluations)| evaluations).sum();
        assert!(found.iter().all(|(states, _)| *states == values_of(alone.states())));
        assert!(
            count < 2048 || found.iter().all(|(_, own)| own * 5 / 4 < evaluations),
            "they are shared out"
        );
    }
}

#[test]
fn against_the_clock_ranks_have_the_same_trajectories() {
    let plan = TrajectoryPlan {
        count: 20_000_000,
        path_steps: 4,
        fixed: None,
        seed: 3,
        kind: Kind::Float,
        device: Device::Cpu,
        max_seconds: Some(0.3),
    };
    let plan = TrajectoryPlan { count: 400_000, ..plan };
    let found = on_ranks(2, |rank| {
        let paths = Trajectories::generate(&gaussian(), &plan, None, rank).unwrap();
        values_of(paths.states())
    });
    assert!(found[0].len() >= 16 * 10);
    assert_eq!(found[0], found[1]);
}

#[test]
fn teachers_follow_one_process_that_couples_as_many_parts() {
    let data = || RandomSource::new(1).normal(&[300, 2], Kind::Double, Device::Cpu).unwrap() * 0.5;
    for coupling in [Coupling::Ot, Coupling::Independent] {
        let config = TeacherConfig {
            width: Some(12),
            depth: Some(1),
            coupling,
            coupling_size: 20,
            log_every: 5,
            training: TrainingOptions { ema_decay: 0.9, ..options(30, 40) },
            ..TeacherConfig::default()
        };
        let (field, history) = train(&config, &data(), None, &mut Silent).unwrap();
        let found = on_ranks(2, |rank| {
            let (field, history) = train(&config, &data(), None, rank).unwrap();
            let losses: Vec<f64> = history.loss.iter().map(|(_, loss)| *loss).collect();
            (values_of(&field.parameters().flat().unwrap()), losses)
        });
        let losses: Vec<f64> = history.loss.iter().map(|(_, loss)| *loss).collect();
        for (weights, own) in &found {
            assert!(gap(own, &losses) < 1e-9, "{own:?} {losses:?}");
            assert!(gap(weights, &values_of(&field.parameters().flat().unwrap())) < 1e-7);
            assert_eq!(weights, &found[0].0);
        }
    }
}

#[test]
fn hidden_labels_are_those_of_one_process() {
    let data = || RandomSource::new(1).normal(&[60, 2], Kind::Double, Device::Cpu).unwrap();
    let labels = || Tensor::arange(60, (Kind::Int64, Device::Cpu)).remainder(3);
    let config = TeacherConfig {
        width: Some(8),
        depth: Some(1),
        coupling: Coupling::Independent,
        conditioning: Conditioning::Labels { classes: 3 },
        label_dropout: 0.4,
        training: options(10, 12),
        ..TeacherConfig::default()
    };
    let weights = |monitor: &mut dyn Monitor| {
        let (field, _) = train(&config, &data(), Some(&labels()), monitor).unwrap();
        values_of(&field.parameters().flat().unwrap())
    };
    let alone = weights(&mut Silent);
    for own in on_ranks(3, |rank| weights(rank)) {
        assert!(gap(&own, &alone) < 1e-8);
    }
}

#[test]
fn baselines_follow_one_process() {
    for method in [Method::PlainNetwork, Method::MeanVelocity] {
        let config = BaselineConfig {
            width: Some(12),
            depth: Some(1),
            trajectories: Some(64),
            path_steps: Some(4),
            training: TrainingOptions { ema_decay: 0.9, ..options(20, 30) },
            method,
            ..BaselineConfig::default()
        };
        let weights = |monitor: &mut dyn Monitor| {
            let (student, _) = baselines::fit(&gaussian(), &config, &Inputs::default(), monitor).unwrap();
            values_of(&student.parameters().flat().unwrap())
        };
        let alone = weights(&mut Silent);
        for own in on_ranks(2, |rank| weights(rank)) {
            assert!(gap(&own, &alone) < 1e-8, "{method:?}");
        }
    }
}

#[test]
fn who_fails_or_is_interrupted_takes_the_others_along() {
    let interrupt: fn() -> Error = || Error::Interrupted("Ctrl-C".into());
    let failure: fn() -> Error = || Error::Callback("a bug".into());
    // At the first, at some and at the last step, on the leading rank and on another one.
    for (error, kept) in [(interrupt, true), (failure, false)] {
        for (step, culprit) in [(1, 0), (20, 1), (40, 0)] {
            let found = on_ranks(2, |rank| {
                rank.stop = (rank.world.rank() == culprit).then_some((step, error));
                let outcome = distill(&gaussian(), &config(), &Inputs::default(), rank);
                outcome.map(|(student, history)| (values_of(&student.parameters().flat().unwrap()), history))
            });
            for (rank, outcome) in found.iter().enumerate() {
                match (kept, outcome) {
                    (true, Ok((_, history))) => {
                        let cut = matches!(history.stopped, Stopped::Interrupted | Stopped::Completed);
                        assert!(cut && history.steps <= step + 1, "{history:?}");
                    }
                    (false, Err(Error::Callback(_))) => assert_eq!(rank as i64, culprit),
                    (false, Err(Error::Distributed(message))) => {
                        assert!(message.contains(&format!("rank {culprit} of 2 failed")), "{message}");
                    }
                    (_, other) => panic!("rank {rank}: {:?}", other.as_ref().map(|_| "a student")),
                }
            }
            if let (Ok((first, _)), Ok((second, _))) = (&found[0], &found[1]) {
                assert_eq!(first, second);
            }
        }
    }
}

/// Fails from an evaluation of its own on.
struct Failing(GaussianField, u64);

impl VelocityField for Failing {
    fn event_shape(&self) -> &[i64] {
        self.0.event_shape()
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn dtype(&self) -> Kind {
        Kind::Double
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        match self.0.counter().get() >= self.1 {
            true => Err(Error::teacher("worn out")),
            false => self.0.velocity(t, x, condition),
        }
    }

    fn counter(&self) -> &EvaluationCounter {
        self.0.counter()
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        unreachable!("nobody clones it")
    }

    fn kind_name(&self) -> &'static str {
        "failing"
    }

    fn state(&self) -> Option<FieldState> {
        None
    }
}

#[test]
fn a_teacher_that_fails_while_trajectories_are_solved_is_told() {
    let plan = TrajectoryPlan {
        count: 5000,
        path_steps: 4,
        fixed: None,
        seed: 3,
        kind: Kind::Float,
        device: Device::Cpu,
        max_seconds: None,
    };
    let found = on_ranks(2, |rank| {
        let most = if rank.world.rank() == 1 { 5 } else { u64::MAX };
        Trajectories::generate(&Failing(gaussian(), most), &plan, None, rank).err().unwrap()
    });
    assert!(matches!(&found[1], Error::Teacher { .. }), "{}", found[1]);
    assert!(found[0].to_string().contains("rank 1 of 2 failed while solving trajectories"), "{}", found[0]);
}

#[test]
fn ranks_that_begin_unlike_are_refused() {
    let found = on_ranks(2, |rank| {
        let seed = rank.world.rank() as u64;
        let config = DistillConfig { training: TrainingOptions { seed, ..config().training }, ..config() };
        distill(&gaussian(), &config, &Inputs::default(), rank).err().unwrap().to_string()
    });
    assert!(found.iter().all(|message| message.contains("rank 1")), "{found:?}");
}

#[test]
fn a_batch_too_small_for_the_ranks_is_refused() {
    let found = on_ranks(3, |rank| {
        let config = DistillConfig { training: options(5, 4), ..config() };
        distill(&gaussian(), &config, &Inputs::default(), rank).err().unwrap().to_string()
    });
    assert!(found.iter().all(|message| message.starts_with("batch_size: expected at least")), "{found:?}");
}

#[test]
fn seconds_end_all_ranks_at_one_step() {
    let found = on_ranks(2, |rank| {
        let training =
            TrainingOptions { max_seconds: Some(0.8), steps: Some(1_000_000), ..config().training };
        let config = DistillConfig { training, ..config() };
        let (student, history) = distill(&gaussian(), &config, &Inputs::default(), rank).unwrap();
        (history.steps, values_of(&student.parameters().flat().unwrap()), history.stopped)
    });
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].2, Stopped::Budget);
}

#[test]
fn a_file_of_one_process_is_resumed_by_two() {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ranks");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("student.safetensors");
    let extras = || Extras {
        checkpoint: Some(Checkpointing { file: file.clone(), ..Checkpointing::default() }),
        ..Extras::default()
    };
    let config = config();
    let (whole, _) = distill(
        &gaussian(),
        &DistillConfig { accumulate: 2, ..config.clone() },
        &Inputs::default(),
        &mut Silent,
    )
    .unwrap();
    // Cut after 20 steps on two ranks, the leading one of which writes.
    on_ranks(2, |rank| {
        rank.stop = Some((20, || Error::Interrupted("Ctrl-C".into())));
        let files = if rank.world.leads() { extras() } else { Extras::default() };
        distill_with(&gaussian(), &config, &Inputs::default(), &files, rank).unwrap();
    });
    let resume = || Extras { resume: Some(file.clone()), ..Extras::default() };
    for size in [1, 2] {
        let found = on_ranks(size, |rank| {
            let (student, _) =
                distill_with(&gaussian(), &config, &Inputs::default(), &resume(), rank).unwrap();
            values_of(&student.parameters().flat().unwrap())
        });
        // One process takes whole batches, whose own statistics are those of all rows.
        let limit = if size == 2 { 1e-6 } else { 0.05 };
        let own = values_of(&whole.parameters().flat().unwrap());
        assert!(gap(&found[0], &own) < limit || size == 1, "{:e}", gap(&found[0], &own));
        assert_eq!(found.first(), found.last());
    }
}

/// Joins nobody.
struct Nothing;

impl Collective for Nothing {
    fn sum(&self, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_sum_that_adds_nothing_up_is_found_before_the_first_step() {
    let mut rank = Rank { world: World::new(0, 2, Arc::new(Nothing)).unwrap(), stop: None };
    let data = RandomSource::new(1).normal(&[60, 2], Kind::Double, Device::Cpu).unwrap();
    let config = TeacherConfig { training: options(5, 12), ..TeacherConfig::default() };
    let error = train(&config, &data, None, &mut rank).err().unwrap();
    assert!(error.to_string().contains("the sum over ranks is wrong"), "{error}");
}
