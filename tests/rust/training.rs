//! What training is made of: optimisers and schedules against their recursions, held-out errors against
//! the student's public algebra.

use koopflow::baselines::BaselineConfig;
use koopflow::condition::Conditioning;
use koopflow::data::Inputs;
use koopflow::distill::{DistillConfig, Evaluator, TrainingData, Weights};
use koopflow::flow::TeacherConfig;
use koopflow::koopman::{Direction, Student};
use koopflow::monitor::Silent;
use koopflow::nets::Parameters;
use koopflow::training::{clip_norm, Adam, JsonOptions, Optimizer, Schedule, ScheduleKind, TrainingOptions};
use koopflow::velocity::{GaussianField, VelocityField};
use tch::{Device, Kind, Tensor};

fn gaussian() -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap()
}

fn config() -> DistillConfig {
    DistillConfig {
        observables: Some(6),
        width: Some(12),
        depth: Some(1),
        path_steps: Some(8),
        training: TrainingOptions { dtype: "float64".into(), ..DistillConfig::default().training },
        ..DistillConfig::default()
    }
}

#[test]
fn adam_follows_its_recursion() {
    for (optimizer, decay) in [(Optimizer::Adam, 0.0), (Optimizer::Adam, 0.1), (Optimizer::AdamW, 0.1)] {
        let mut parameters = Parameters::new(Kind::Double, Device::Cpu);
        let _ = parameters.add("generator.a", Tensor::from_slice(&[0.5]));
        let _ = parameters.add("lift.b", Tensor::from_slice(&[-2.0]));
        parameters.pack();
        let ratio = |name: &str| if name.starts_with("generator.") { 0.25 } else { 1.0 };
        let multipliers = parameters.multipliers(ratio).unwrap();
        let mut adam = Adam::new(&parameters, optimizer, decay).unwrap().with_multipliers(Some(multipliers));
        let gradients = [[0.3, -1.0], [0.1, 2.0], [-0.7, 0.4]];
        for gradient in &gradients {
            adam.step(&parameters, &Tensor::from_slice(gradient), 0.05).unwrap();
        }
        for (index, (start, rate)) in [(0.5, 0.0125), (-2.0, 0.05)].into_iter().enumerate() {
            let (mut x, mut m, mut v) = (start, 0.0, 0.0f64);
            for (step, gradient) in gradients.iter().enumerate() {
                let mut g: f64 = gradient[index];
                match optimizer {
                    Optimizer::Adam => g += decay * x,
                    Optimizer::AdamW => x -= rate * decay * x,
                }
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let n = step as i32 + 1;
                let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(n)), v / (1.0 - 0.999f64.powi(n)));
                x -= rate * m_hat / (v_hat.sqrt() + 1e-8);
            }
            let got = parameters.flat().unwrap().double_value(&[index as i64]);
            assert!((got - x).abs() < 1e-12, "{optimizer:?} {decay}: {got} {x}");
        }
    }
}

#[test]
fn clipping_bounds_the_norm_and_keeps_the_direction() {
    let mut gradient = Tensor::from_slice(&[3.0, 4.0]);
    let before = clip_norm(&mut gradient, 1.0).unwrap().double_value(&[]);
    assert!((before - 5.0).abs() < 1e-12);
    let gap = (&gradient - Tensor::from_slice(&[0.6, 0.8])).abs().max().double_value(&[]);
    assert!(gap < 1e-9);
    let short = gradient.copy();
    let _ = clip_norm(&mut gradient, 2.0).unwrap();
    assert!(gradient.equal(&short));
    let mut long = Tensor::from_slice(&[30.0, 40.0]);
    let _ = clip_norm(&mut long, 0.0).unwrap();
    assert_eq!(long.double_value(&[1]), 40.0, "0 does not clip");
}

#[test]
fn schedules_have_their_shapes() {
    let cosine = Schedule::new(ScheduleKind::Cosine, 2.0, 4);
    assert_eq!(cosine.rate(0, 0.0), 0.5);
    assert_eq!(cosine.rate(3, 0.0), 2.0);
    assert!((cosine.rate(9, 0.5) - 1.0).abs() < 1e-12);
    assert!(cosine.rate(9, 1.0) < 1e-12);
    let constant = Schedule::new(ScheduleKind::Constant, 2.0, 4);
    assert_eq!((constant.rate(1, 0.0), constant.rate(9, 1.0)), (1.0, 2.0));
    let mut plateau = Schedule::new(ScheduleKind::Plateau, 2.0, 0);
    for _ in 0..3 {
        (0..4).for_each(|_| plateau.evaluated(false));
        plateau.evaluated(true);
    }
    assert_eq!(plateau.rate(9, 0.9), 2.0);
    (0..5).for_each(|_| plateau.evaluated(false));
    assert_eq!(plateau.rate(9, 0.9), 1.0);
}

#[test]
fn held_out_errors_are_what_they_say() {
    let field = gaussian();
    let config = DistillConfig { trajectories: Some(128), ..config() };
    let recipe = config.resolve(&[2], Conditioning::None).unwrap();
    let data =
        TrainingData::prepare(&field, &config, &recipe, &Inputs::default(), None, &mut Silent).unwrap();
    let paths = data.trajectories.as_ref().unwrap();
    let mut student = Student::new(recipe.student, 1, Device::Cpu).unwrap();
    student.set_coordinates(data.coordinates(9, None).unwrap());
    let evaluator = Evaluator::new(&field, &data, &recipe.weights, false, &mut Silent).unwrap();
    let asked = field.evaluations();
    let errors = evaluator.errors(&student, &mut Silent).unwrap();
    assert_eq!(field.evaluations(), asked, "velocities are asked for once");

    let (held_out, _) = paths.held_out();
    let (x0, x1) = (held_out.select(1, 0), held_out.select(1, 8));
    let states = paths.states().to_kind(Kind::Double);
    let total = |x: &Tensor| x.var_dim(0, false, false).sum(Kind::Double).double_value(&[]);
    let mean = |x: &Tensor| x.square().sum_dim_intlist(1, false, Kind::Double).mean(Kind::Double);
    let rms = |x: &Tensor| mean(x).double_value(&[]).sqrt();
    let encode = |t: f64, x: &Tensor, d| student.encode(&Tensor::from(t), x, d, None).unwrap();
    let close = |name: &str, got: f64, expected: f64| {
        assert!((got - expected).abs() < 1e-9 * expected.max(1.0), "{name}: {got} {expected}");
    };
    let noise = encode(0.0, &x0, Direction::Forward);
    let at = |t: f64| student.propagate(&noise, &Tensor::from(t)).unwrap();
    let scale = total(&states.select(1, 8)).sqrt();
    close("endpoint", errors.endpoint, rms(&(student.readout(&at(1.0)).unwrap() - &x1)) / scale);
    let path: f64 = (1..8)
        .map(|i| rms(&(student.readout(&at(f64::from(i) / 8.0)).unwrap() - held_out.select(1, i.into()))))
        .sum();
    close("path", errors.path, path / 7.0 / scale);
    let back = student.propagate(&encode(1.0, &x1, Direction::Backward), &Tensor::from(-1.0)).unwrap();
    let deviation = total(&states.select(1, 0)).sqrt();
    close("inversion", errors.inversion, rms(&(student.readout(&back).unwrap() - &x0)) / deviation);
    let features = encode(1.0, &x1, Direction::Forward).narrow(1, 4, 6);
    let gap = at(1.0).narrow(1, 4, 6) - &features;
    close("phase", errors.phase, rms(&gap) / total(&features).sqrt());
    let (mut residual, mut rate) = (0.0, 0.0);
    for i in 0..8 {
        let t = Tensor::from(f64::from(i) / 8.0);
        let x = held_out.select(1, i.into());
        let v = field.velocity(&t.expand([x.size()[0]], false), &x, None).unwrap();
        let (g, tangent) = student.encode_with_tangent(&t, &x, &v, Direction::Forward, None).unwrap();
        let gap = (&tangent - g.matmul(&student.generator().matrix())).narrow(1, 4, 6);
        residual += mean(&gap).double_value(&[]);
        rate += mean(&tangent.narrow(1, 4, 6)).double_value(&[]);
    }
    close("consistency", errors.consistency, (residual / rate).sqrt());
    close("score", errors.score, errors.endpoint + errors.path + errors.inversion);
    // What no term trains is no part of the score.
    let ends = Weights { endpoint: 1.0, ..Weights::NONE };
    let score = |weights: &Weights| {
        let evaluator = Evaluator::new(&field, &data, weights, false, &mut Silent).unwrap();
        evaluator.errors(&student, &mut Silent).unwrap().score
    };
    close("score", score(&ends), errors.endpoint);
    close("score", score(&Weights { path: 0.5, ..ends }), errors.endpoint + errors.path);
}

/// What the header of a safetensors file says under `facts.config`.
fn stored_config(name: &str) -> serde_json::Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/before_redesign");
    let bytes = std::fs::read(format!("{folder}/{name}.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let text = header["__metadata__"]["koopflow"].as_str().unwrap();
    serde_json::from_str::<serde_json::Value>(text).unwrap()["facts"]["config"].clone()
}

/// Every option of `before` is there with the same value, but `clip_norm`, where 0 may stand for null.
fn keeps(before: &serde_json::Value, after: &serde_json::Value) {
    for (name, value) in before.as_object().unwrap() {
        assert_eq!(after.get(name), Some(value), "{name}");
    }
}

#[test]
fn options_of_files_from_before_the_redesign_are_read() {
    let teacher = stored_config("training_teacher");
    let read: TeacherConfig = serde_json::from_value(teacher.clone()).unwrap();
    keeps(&teacher, &serde_json::to_value(&read).unwrap());
    let student = stored_config("training_student");
    let read: DistillConfig = serde_json::from_value(student.clone()).unwrap();
    keeps(&student, &serde_json::to_value(&read).unwrap());
    let baseline = stored_config("baseline_kdm");
    let read: BaselineConfig = serde_json::from_value(baseline.clone()).unwrap();
    keeps(&baseline, &serde_json::to_value(&read).unwrap());
    let unclipped: TeacherConfig = serde_json::from_str(r#"{"clip_norm": null}"#).unwrap();
    assert_eq!(unclipped.training.clip_norm, 0.0);
}

/// The same checks and refusals for every trainer; `check` is what the trainer does with its options.
fn shares_options<C: JsonOptions>(check: impl Fn(&C) -> koopflow::Result<()>) {
    let json = |text: &str| C::from_json(serde_json::from_str(text).unwrap());
    let defaults = serde_json::to_value(C::default()).unwrap();
    assert_eq!(serde_json::to_value(json("{}").ok().unwrap()).unwrap(), defaults);
    let one = serde_json::to_value(json(r#"{"seed": 7}"#).ok().unwrap()).unwrap();
    assert_eq!(one["seed"], 7);
    assert_eq!(one["warmup_steps"], defaults["warmup_steps"]);
    let unknown = json(r#"{"sed": 7}"#).err().unwrap();
    assert_eq!(unknown.option, "sed");
    assert!(unknown.reason.contains("unknown field `sed`") && unknown.reason.contains("`seed`"));
    for text in [r#"{"seed": "x"}"#, r#"{"optimizer": "sgd"}"#, r#"{"width": "wide"}"#, r#"{"seed": -1}"#] {
        let wrong = json(text).err().unwrap();
        assert!(text.contains(&wrong.option) && wrong.option != "config", "{wrong}");
    }
    assert!(json("[]").is_err());
    check(&json(r#"{"clip_norm": 0}"#).ok().unwrap()).unwrap();
    for (name, value) in [
        ("steps", "0"),
        ("batch_size", "0"),
        ("learning_rate", "0.0"),
        ("weight_decay", "-1.0"),
        ("ema_decay", "1.0"),
        ("clip_norm", "-1.0"),
        ("max_seconds", "0.0"),
        ("device", "\"abacus\""),
        ("dtype", "\"float16\""),
    ] {
        let error = check(&json(&format!("{{{name:?}: {value}}}")).ok().unwrap()).err().unwrap();
        assert!(error.to_string().starts_with(name), "{name}: {error}");
    }
}

#[test]
fn every_trainer_reads_and_checks_the_shared_options() {
    shares_options(|config: &TeacherConfig| config.check());
    shares_options(|config: &DistillConfig| config.resolve(&[2], Conditioning::None).map(drop));
    shares_options(|config: &BaselineConfig| config.with_defaults(&[2], Conditioning::None).map(drop));
    // Defaults differ: a student averages no weights.
    let ema = |json: serde_json::Value| json["ema_decay"].as_f64().unwrap();
    assert_eq!(ema(serde_json::to_value(DistillConfig::default()).unwrap()), 0.0);
    assert_eq!(ema(serde_json::to_value(TeacherConfig::default()).unwrap()), 0.999);
}
