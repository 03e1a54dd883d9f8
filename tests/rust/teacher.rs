//! Training a teacher: against closed forms, finite differences and its own repetition.

use koopflow::data::Coupling;
use koopflow::flow::{train, Path, TeacherConfig, TeacherHistory};
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::tensor::RandomSource;
use koopflow::training::{Stopped, TrainingOptions};
use koopflow::velocity::{Conditioning, FieldDescription, NetworkField, VelocityField};
use koopflow::{Error, Result};
use tch::{Device, Kind, Tensor};

fn normal(shape: &[i64], seed: u64) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

type Tensors = Vec<(String, Tensor)>;

fn config(steps: u64) -> TeacherConfig {
    TeacherConfig {
        width: Some(32),
        depth: Some(2),
        coupling_size: 32,
        log_every: 10,
        training: TrainingOptions {
            steps: Some(steps),
            batch_size: Some(64),
            learning_rate: Some(5e-3),
            warmup_steps: 10,
            ema_decay: 0.98,
            ..TeacherConfig::default().training
        },
        ..TeacherConfig::default()
    }
}

fn fit(config: &TeacherConfig, data: &Tensor, condition: Option<&Tensor>) -> (NetworkField, TeacherHistory) {
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
    let other = fit(
        &TeacherConfig { training: TrainingOptions { seed: 1, ..config(60).training }, ..config(60) },
        &data(),
        None,
    )
    .0;
    assert!(!tensors(&first)[0].1.equal(&tensors(&other)[0].1));
}

#[test]
fn double_precision_and_shaped_samples() {
    let data = normal(&[30, 1, 2, 2], 1);
    let (field, _) = fit(
        &TeacherConfig {
            training: TrainingOptions { dtype: "float64".into(), ..config(5).training },
            ..config(5)
        },
        &data,
        None,
    );
    let v = field.velocity(&normal(&[3], 1).abs(), &normal(&[3, 1, 2, 2], 2), None).unwrap();
    assert_eq!((v.size(), v.kind()), (vec![3, 1, 2, 2], Kind::Double));
    assert!(!v.requires_grad());
    assert_eq!(field.evaluations(), 1);
}

/// All data are (-3, 3) and, seen in a mirror, (3, -3).
#[test]
fn flips_double_the_data() {
    let data = Tensor::from_slice(&[-3.0, 3.0]).view([1, 1, 1, 2]).repeat([50, 1, 1, 1]);
    let (field, _) = fit(&TeacherConfig { flip: true, ..config(400) }, &data, None);
    let t = Tensor::full([400], 0.9, (Kind::Float, Device::Cpu));
    let at = |sign: f64| {
        let x = (&data.narrow(0, 0, 1) * (0.9 * sign)).to_kind(Kind::Float).expand([400, 1, 1, 2], false);
        // The velocity x1 - x0 at 0.9 x1 of noise at the origin.
        let v = field.velocity(&t, &x, None).unwrap().mean_dim([0].as_slice(), false, Kind::Double);
        v.flatten(0, -1)
    };
    for sign in [1.0, -1.0] {
        let expected = Tensor::from_slice(&[-3.0 * sign, 3.0 * sign]);
        assert!(largest(&(at(sign) - expected)) < 0.7, "{}", at(sign));
    }
}

#[test]
fn gradient_in_x_is_exact() {
    let (field, _) = fit(
        &TeacherConfig {
            training: TrainingOptions { dtype: "float64".into(), ..config(20).training },
            ..config(20)
        },
        &data(),
        None,
    );
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
    fit(
        &TeacherConfig {
            training: TrainingOptions { ema_decay: 0.0, clip_norm: 0.0, ..config(5).training },
            ..config(5)
        },
        &data(),
        None,
    );
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
    // A busy machine looks at the monitor while it waits for a batch, too.
    let last = history.steps;
    assert!((1..=25).contains(&last) && history.stopped == Stopped::Interrupted, "{history:?}");
    let logged = [10, 20].into_iter().filter(|step| *step < last).chain([last]);
    assert!(history.loss.iter().map(|(step, _)| *step).eq(logged), "{history:?}");
    assert!(sample(&field, 5, None).isfinite().all().int64_value(&[]) == 1);
    let mut monitor = StopAt { ticks: 25, interrupt: false };
    let error = train(&config(1000), &data(), None, &mut monitor).err().unwrap();
    assert!(matches!(error, Error::NotFitted(_)));
}

#[test]
fn a_budget_ends_it() {
    let options = TeacherConfig {
        training: TrainingOptions { max_seconds: Some(0.05), ..config(100_000_000).training },
        ..config(100_000_000)
    };
    let (_, history) = fit(&options, &data(), None);
    assert_eq!(history.stopped, Stopped::Budget);
    assert!(history.steps < 100_000_000);
}

#[test]
fn divergence_keeps_the_last_good_teacher() {
    let options = TeacherConfig {
        training: TrainingOptions { learning_rate: Some(1e30), clip_norm: 0.0, ..config(200).training },
        ..config(200)
    };
    let (field, history) = fit(&options, &data(), None);
    assert_eq!((history.stopped, history.restarts), (Stopped::Diverged, 3));
    assert!(history.steps < 200 && history.skipped_steps >= 40, "{history:?}");
    assert_eq!(history.notes.len(), 4);
    assert!(history.loss.iter().all(|(_, loss)| loss.is_finite()));
    assert!(sample(&field, 5, None).isfinite().all().int64_value(&[]) == 1);
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

/// Large data are standardised a few coordinates at a time.
#[test]
fn moments_of_large_data() {
    let count = (1 << 21) + 2;
    let side = Tensor::arange(count, (Kind::Float, Device::Cpu)).remainder(2.0) * 2.0 - 1.0;
    let data =
        side.unsqueeze(1) * Tensor::from_slice(&[1f32, 2.0, 3.0]) + Tensor::from_slice(&[0f32, 10.0, 20.0]);
    let network = config(1).network(&[3]);
    let field = NetworkField::new(network, &data, None, Device::Cpu, &mut RandomSource::new(0)).unwrap();
    for (name, expected) in [("data.mean", [0.0, 10.0, 20.0]), ("data.scale", [1.0, 2.0, 3.0])] {
        let stored = tensors(&field).into_iter().find(|(other, _)| other == name).unwrap().1;
        assert!(largest(&(stored - Tensor::from_slice(&expected))) < 1e-6, "{name}");
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
    refused("steps", &|c| c.training.steps = Some(0));
    refused("batch_size", &|c| c.training.batch_size = Some(0));
    refused("coupling_size", &|c| c.coupling_size = 0);
    refused("learning_rate", &|c| c.training.learning_rate = Some(f64::NAN));
    refused("weight_decay", &|c| c.training.weight_decay = -1.0);
    refused("ema_decay", &|c| c.training.ema_decay = 1.0);
    refused("clip_norm", &|c| c.training.clip_norm = -1.0);
    refused("max_seconds", &|c| c.training.max_seconds = Some(-1.0));
    refused("log_every", &|c| c.log_every = 0);
    refused("device", &|c| c.training.device = "abacus".into());
    refused("dtype", &|c| c.training.dtype = "int8".into());
    refused("conditioning", &|c| c.conditioning = Conditioning::Labels { classes: 0 });
    refused("condition", &|c| c.conditioning = Conditioning::Labels { classes: 2 });
    refused("flip", &|c| c.flip = true);
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
    assert!(
        resolved.width.is_some()
            && resolved.training.steps.is_some()
            && resolved.training.learning_rate.is_some()
    );
}
