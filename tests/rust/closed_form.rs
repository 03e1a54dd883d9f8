//! Generators and readouts that are solved for: against flows known in closed form, and what a distillation
//! promises about them.

use koopflow::condition::Conditioning;
use koopflow::data::Inputs;
use koopflow::distill::{
    distill, generator_equations, install, readout_equations, DistillConfig, DistillHistory, FlowPoints,
    Method, Solved, StatePairs, Weights,
};
use koopflow::error::Error;
use koopflow::koopman::{Direction, GeneratorKind, Student};
use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::tensor::RandomSource;
use koopflow::training::{Stopped, TrainingOptions};
use koopflow::velocity::{EvaluationCounter, FieldState, GaussianField, VelocityField};
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

/// dx/dt = x A + b.
struct LinearField {
    matrix: Tensor,
    offset: Tensor,
    counter: EvaluationCounter,
}

impl LinearField {
    fn new() -> Self {
        LinearField {
            matrix: Tensor::from_slice(&[0.3, 1.2, -0.9, -0.4]).view([2, 2]),
            offset: Tensor::from_slice(&[0.5, -0.2]),
            counter: EvaluationCounter::default(),
        }
    }
}

impl VelocityField for LinearField {
    fn event_shape(&self) -> &[i64] {
        &[2]
    }
    fn device(&self) -> Device {
        Device::Cpu
    }
    fn dtype(&self) -> Kind {
        Kind::Double
    }
    fn velocity(&self, _: &Tensor, x: &Tensor, _: Option<&Tensor>) -> koopflow::Result<Tensor> {
        self.counter.add(1);
        Ok(x.matmul(&self.matrix) + &self.offset)
    }
    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }
    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(LinearField {
            matrix: self.matrix.shallow_clone(),
            offset: self.offset.shallow_clone(),
            counter: self.counter.clone(),
        })
    }
    fn kind_name(&self) -> &'static str {
        "linear"
    }
    fn state(&self) -> Option<FieldState> {
        None
    }
}

fn config(generator: GeneratorKind, method: Method) -> DistillConfig {
    DistillConfig {
        observables: Some(6),
        generator,
        method,
        width: Some(12),
        depth: Some(1),
        trajectories: Some(128),
        path_steps: Some(8),
        training: TrainingOptions {
            steps: Some(40),
            dtype: "float64".into(),
            ..DistillConfig::default().training
        },
        ..DistillConfig::default()
    }
}

fn gaussian() -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap()
}

#[test]
fn a_linear_teacher_is_recovered() {
    let field = LinearField::new();
    // The teacher is in the span of x: plain least squares finds it.
    let config = DistillConfig { ridge: Some(0.0), ..config(GeneratorKind::Dense, Method::ClosedForm) };
    let (student, history) = distill(&field, &config, &Inputs::default(), &mut Silent).unwrap();
    let generator = student.generator().matrix();
    let columns = generator.narrow(1, 2, 2);
    assert!(gap(&columns.narrow(0, 2, 2), &field.matrix) < 1e-6);
    assert!(gap(&columns.select(0, 0), &field.offset) < 1e-6);
    assert!(columns.select(0, 1).abs().max().double_value(&[]) < 1e-6);
    assert!(columns.narrow(0, 4, 6).abs().max().double_value(&[]) < 1e-6);
    // The constant and time stay exact.
    let mut exact = vec![0.0; 20];
    exact[1] = 1.0;
    assert_eq!(gap(&generator.narrow(1, 0, 2), &Tensor::from_slice(&exact).view([10, 2])), 0.0);

    // The one-step map is the exponential of [[A, 0], [b, 0]].
    let augmented = Tensor::zeros([3, 3], DOUBLE);
    augmented.narrow(0, 0, 2).narrow(1, 0, 2).copy_(&field.matrix);
    augmented.narrow(0, 2, 1).narrow(1, 0, 2).copy_(&field.offset.unsqueeze(0));
    let exponential = augmented.linalg_matrix_exp();
    let x0 = normal(21, &[50, 2]);
    let ones = Tensor::ones([50, 1], DOUBLE);
    let expected = Tensor::cat(&[&x0, &ones], 1).matmul(&exponential).narrow(1, 0, 2);
    let g = student.encode(&Tensor::from(0.0), &x0, Direction::Forward, None).unwrap();
    let moved = student.readout(&student.propagate(&g, &Tensor::from(1.0)).unwrap()).unwrap();
    assert!(gap(&moved, &expected) < 1e-6, "{:e}", gap(&moved, &expected));

    let report = history.closed_form.unwrap();
    assert_eq!((report.method, report.solved, report.kept), (Method::ClosedForm, Solved::Generator, true));
    assert_eq!((history.steps, history.stopped, report.trained_score), (0, Stopped::Completed, None));
    assert_eq!(history.log.len(), 1);
    assert!(report.rows >= 1000 && report.residual < 1.0 && report.ridge == 0.0);
}

/// Root mean square endpoint error from fresh noise, over the deviation of the endpoints.
fn endpoint_error(field: &GaussianField, one_step: impl Fn(&Tensor) -> Tensor) -> f64 {
    let x0 = normal(31, &[2000, 2]);
    let exact = field.flow(&x0, 0.0, 1.0).unwrap();
    let total = |x: &Tensor| x.square().sum(Kind::Double).double_value(&[]);
    let spread = &exact - exact.mean_dim(0, true, Kind::Double);
    (total(&(one_step(&x0) - &exact)) / total(&spread)).sqrt()
}

/// Exact points of the flow, from another source than stored trajectories.
fn flow_points(field: &GaussianField, seed: u64, count: i64) -> FlowPoints {
    let x0 = normal(seed, &[count, 2]);
    let t = RandomSource::new(seed + 1).uniform(&[16], Kind::Double, Device::Cpu).unwrap();
    let states: Vec<Tensor> = x0
        .split(count / 16, 0)
        .iter()
        .enumerate()
        .map(|(i, x)| field.flow(x, 0.0, t.double_value(&[i as i64])).unwrap())
        .collect();
    let (x, t) = (Tensor::cat(&states, 0), t.repeat_interleave_self_int(count / 16, None, None));
    let velocity = field.velocity(&t, &x, None).unwrap();
    FlowPoints { t, x, velocity, condition: None }
}

/// The generator of g = [1, t, x] alone, by libtorch's least squares.
fn affine_error(field: &GaussianField) -> f64 {
    let FlowPoints { t, x, velocity, .. } = flow_points(field, 41, 32_000);
    let g = Tensor::cat(&[&t.ones_like().unsqueeze(1), &t.unsqueeze(1), &x], 1);
    let (columns, ..) = g.f_linalg_lstsq(&velocity, None, "gelsd").unwrap();
    let matrix = Tensor::zeros([4, 4], DOUBLE);
    let _ = matrix.narrow(0, 0, 1).narrow(1, 1, 1).fill_(1.0);
    matrix.narrow(1, 2, 2).copy_(&columns);
    let map = matrix.linalg_matrix_exp().narrow(1, 2, 2);
    endpoint_error(field, |x0| {
        let ones = Tensor::ones([x0.size()[0], 1], DOUBLE);
        Tensor::cat(&[&ones, &ones.zeros_like(), x0], 1).matmul(&map)
    })
}

fn one_step(student: &Student, x0: &Tensor) -> Tensor {
    let g = student.encode(&Tensor::from(0.0), x0, Direction::Forward, None).unwrap();
    student.readout(&student.propagate(&g, &Tensor::from(1.0)).unwrap()).unwrap()
}

#[test]
fn random_observables_without_a_gradient_step() {
    let field = gaussian();
    let affine = affine_error(&field);
    let kinds = [GeneratorKind::Dense, GeneratorKind::Spectral];
    for (generator, dtype) in kinds.into_iter().flat_map(|kind| [(kind, "float64"), (kind, "float32")]) {
        let config = DistillConfig {
            observables: Some(64),
            width: Some(64),
            trajectories: Some(2048),
            path_steps: Some(32),
            training: TrainingOptions {
                dtype: dtype.into(),
                ..config(generator, Method::ClosedForm).training
            },
            ..config(generator, Method::ClosedForm)
        };
        let (student, _) = distill(&field, &config, &Inputs::default(), &mut Silent).unwrap();
        let own = endpoint_error(&field, |x0| one_step(&student, x0));
        assert!(own < 0.4 * affine, "{generator:?} {dtype}: {own} against {affine}");
    }
}

#[test]
fn the_ridge_is_chosen_by_the_flow() {
    let report = |ridge| {
        let config = DistillConfig {
            observables: Some(16),
            width: Some(64),
            depth: Some(3),
            trajectories: Some(512),
            ridge,
            ..config(GeneratorKind::Dense, Method::ClosedForm)
        };
        distill(&gaussian(), &config, &Inputs::default(), &mut Silent).unwrap().1.closed_form.unwrap()
    };
    let (chosen, smallest) = (report(None), report(Some(1e-12)));
    // The smallest leaves less of dg/dt, but its exponential is worse.
    assert!(smallest.residual < chosen.residual && chosen.residual < 10.0 * smallest.residual);
    assert!(chosen.solved_score.unwrap() < 0.8 * smallest.solved_score.unwrap());
    assert_eq!(report(Some(chosen.ridge)).solved_score, chosen.solved_score);
}

#[test]
fn points_from_anywhere_can_be_plugged_in() {
    let field = gaussian();
    let recipe = config(GeneratorKind::Dense, Method::ClosedForm).resolve(&[2], Conditioning::None).unwrap();
    let mut student = Student::new(recipe.student, 3, Device::Cpu).unwrap();
    let whole = flow_points(&field, 51, 4096);
    let parts = |chunks: i64| -> Vec<koopflow::Result<FlowPoints>> {
        let cut = |tensor: &Tensor| tensor.chunk(chunks, 0);
        let (t, x, velocity) = (cut(&whole.t), cut(&whole.x), cut(&whole.velocity));
        (0..chunks as usize)
            .map(|i| {
                Ok(FlowPoints {
                    t: t[i].shallow_clone(),
                    x: x[i].shallow_clone(),
                    velocity: velocity[i].shallow_clone(),
                    condition: None,
                })
            })
            .collect()
    };
    let train = generator_equations(&student, parts(4), &mut Silent).unwrap();
    let solution = train.solve(0.0).unwrap();
    install(&mut student, &solution).unwrap();
    // Ordinary least squares over the student's public algebra.
    let (g, rate) =
        student.encode_with_tangent(&whole.t, &whole.x, &whole.velocity, Direction::Forward, None).unwrap();
    let (expected, ..) = g.f_linalg_lstsq(&rate.narrow(1, 2, 8), None, "gelsd").unwrap();
    assert!(gap(&solution, &expected) < 1e-6);
    assert_eq!(gap(&student.generator().matrix().narrow(1, 2, 8), &solution), 0.0);
    let failing = [Err(Error::Interrupted("enough".into()))];
    assert!(matches!(generator_equations(&student, failing, &mut Silent), Err(Error::Interrupted(_))));
}

#[test]
fn a_readout_is_recovered_from_the_students_own_paths() {
    let recipe = config(GeneratorKind::Spectral, Method::Refine).resolve(&[2], Conditioning::None).unwrap();
    let mut student = Student::new(recipe.student, 3, Device::Cpu).unwrap();
    let (readout, drift) = (normal(61, &[6, 2]), normal(62, &[2, 2]));
    student.set_spectral_readout(&readout, &drift).unwrap();
    let chunk = |seed: u64, direction: Direction| {
        let uniform = |seed| RandomSource::new(seed).uniform(&[600], Kind::Double, Device::Cpu).unwrap();
        let (s, t, x_s) = (uniform(seed), uniform(seed + 1), normal(seed + 2, &[600, 2]));
        let g = student.encode(&s, &x_s, direction, None).unwrap();
        let x_t = student.readout(&student.propagate(&g, &(&t - &s)).unwrap()).unwrap();
        Ok(StatePairs { s, t, x_s, x_t, weight: uniform(seed + 3), direction, condition: None })
    };
    let chunks = [chunk(71, Direction::Forward), chunk(81, Direction::Backward)];
    let train = readout_equations(&student, chunks, &mut Silent).unwrap();
    assert_eq!(train.count(), 1200);
    student.set_spectral_readout(&readout.zeros_like(), &drift.zeros_like()).unwrap();
    let solution = train.solve(0.0).unwrap();
    install(&mut student, &solution).unwrap();
    assert!(matches!(install(&mut student, &drift), Err(Error::Shape { .. })));
    assert!(gap(&solution, &Tensor::cat(&[&drift, &readout], 0)) < 1e-6);
    let matrix = student.generator().matrix();
    assert!(gap(&matrix.narrow(0, 4, 6).narrow(1, 2, 2), &readout) < 1e-6);
    assert!(gap(&matrix.narrow(0, 0, 2).narrow(1, 2, 2), &drift) < 1e-6);
}

#[test]
fn setters_belong_to_their_generator() {
    let build = |generator| {
        let recipe = config(generator, Method::Gradient).resolve(&[2], Conditioning::None).unwrap();
        Student::new(recipe.student, 3, Device::Cpu).unwrap()
    };
    let (dense, spectral) = (build(GeneratorKind::Dense), build(GeneratorKind::Spectral));
    let (columns, readout, drift) = (normal(1, &[10, 8]), normal(2, &[6, 2]), normal(3, &[2, 2]));
    // Folded propagators of the old values are forgotten.
    let noise = normal(4, &[5, 2]);
    let folded =
        |student: &Student| koopflow::sampling::sample(student, &noise, None, 1, &mut Silent).unwrap();
    let before = [folded(&dense), folded(&spectral)];
    dense.set_generator_columns(&columns).unwrap();
    spectral.set_spectral_readout(&readout, &drift).unwrap();
    for (before, student) in before.iter().zip([&dense, &spectral]) {
        assert!(gap(&folded(student), before) > 1e-3);
    }
    let wrong = [spectral.set_generator_columns(&columns), dense.set_spectral_readout(&readout, &drift)];
    for error in wrong.into_iter().map(Result::unwrap_err) {
        assert!(error.to_string().contains("generator"), "{error}");
    }
    assert!(matches!(dense.set_generator_columns(&readout), Err(Error::Shape { .. })));
    assert!(matches!(spectral.set_spectral_readout(&readout, &readout), Err(Error::Shape { .. })));
    let nan = &columns * f64::NAN;
    assert!(matches!(dense.set_generator_columns(&nan), Err(Error::NonFinite { .. })));
}

/// The held-out score as the history logs it.
fn best_score(history: &DistillHistory) -> f64 {
    let of = |values: &[(String, f64)], name: &str| values.iter().find(|(own, _)| own == name).unwrap().1;
    let score = |values: &[(String, f64)]| {
        ["endpoint_error", "path_error", "inversion_error"].iter().map(|name| of(values, name)).sum::<f64>()
    };
    history.log.iter().map(|entry| score(&entry.values)).fold(f64::INFINITY, f64::min)
}

#[test]
fn refining_never_makes_the_held_out_score_worse() {
    for (generator, steps) in
        [(GeneratorKind::Dense, 40), (GeneratorKind::Spectral, 5), (GeneratorKind::Spectral, 300)]
    {
        let plain = DistillConfig {
            training: TrainingOptions { steps: Some(steps), ..config(generator, Method::Gradient).training },
            ..config(generator, Method::Gradient)
        };
        let refine = DistillConfig { method: Method::Refine, ..plain.clone() };
        let (trained, _) = distill(&gaussian(), &plain, &Inputs::default(), &mut Silent).unwrap();
        let (student, history) = distill(&gaussian(), &refine, &Inputs::default(), &mut Silent).unwrap();
        let report = history.closed_form.as_ref().unwrap();
        let before = report.trained_score.unwrap();
        assert!((before - best_score(&history)).abs() < 1e-12 * before);
        let same = student.parameters().flat().unwrap().equal(&trained.parameters().flat().unwrap());
        assert_eq!(same, !report.kept);
        assert_eq!(report.kept, report.solved_score.is_some_and(|score| score < before));
        // The readout is linear: after five steps of training solving for it must help.
        assert!(report.kept || steps != 5);
    }
}

/// Interrupts the first look after `stage` was reported as over.
struct StopAfter(&'static str, bool);

impl Monitor for StopAfter {
    fn tick(&mut self) -> koopflow::Result<()> {
        match self.1 {
            true => Err(Error::Interrupted("enough".into())),
            false => Ok(()),
        }
    }

    fn report(&mut self, progress: &Progress) -> koopflow::Result<()> {
        self.1 |= progress.stage == self.0 && progress.step == progress.total;
        Ok(())
    }
}

/// Lets one look pass: the one after the last step comes before the solve.
struct Second(StopAfter, u64);
impl Monitor for Second {
    fn tick(&mut self) -> koopflow::Result<()> {
        match (self.0.tick(), self.1) {
            (Err(_), 0) => {
                self.1 = 1;
                Ok(())
            }
            (other, _) => other,
        }
    }
    fn report(&mut self, progress: &Progress) -> koopflow::Result<()> {
        self.0.report(progress)
    }
}

#[test]
fn an_interrupt_of_the_solve_is_honoured() {
    for generator in [GeneratorKind::Dense, GeneratorKind::Spectral] {
        // Without training there is nothing to keep.
        let early = config(generator, Method::ClosedForm);
        let early = distill(&gaussian(), &early, &Inputs::default(), &mut StopAfter("trajectories", false));
        assert!(matches!(early, Err(Error::Interrupted(_))));
    }
    let refine = config(GeneratorKind::Dense, Method::Refine);
    let (trained, _) = distill(
        &gaussian(),
        &config(GeneratorKind::Dense, Method::Gradient),
        &Inputs::default(),
        &mut Silent,
    )
    .unwrap();
    let mut monitor = Second(StopAfter("student", false), 0);
    let (student, history) = distill(&gaussian(), &refine, &Inputs::default(), &mut monitor).unwrap();
    assert_eq!((history.stopped, history.steps), (Stopped::Interrupted, 40));
    assert!(history.closed_form.is_none());
    assert!(student.parameters().flat().unwrap().equal(&trained.parameters().flat().unwrap()));
}

#[test]
fn a_linear_solve_makes_do_with_the_rows_that_there_is_time_for() {
    for generator in [GeneratorKind::Dense, GeneratorKind::Spectral] {
        for method in [Method::ClosedForm, Method::Refine] {
            let mut late = config(generator, method);
            late.training.max_seconds = Some(1e-9);
            let field = gaussian();
            let outcome = distill(&field, &late, &Inputs::default(), &mut Silent);
            assert!(field.evaluations() < 12, "{} evaluations after the deadline", field.evaluations());
            let (student, history) = match outcome {
                // Sixteen trajectories may be too few for any ridge, which is said.
                Err(Error::Divergence(_)) if method == Method::ClosedForm => continue,
                fitted => fitted.unwrap(),
            };
            assert_eq!(history.closed_form.unwrap().rows % 512, 0, "one chunk for each target");
            let flat = student.parameters().flat().unwrap();
            assert!(flat.isfinite().all().int64_value(&[]) == 1);
        }
    }
}

#[test]
fn the_solve_counts_the_teachers_evaluations() {
    let evaluations = |generator, method| {
        let field = gaussian();
        let (_, history) =
            distill(&field, &config(generator, method), &Inputs::default(), &mut Silent).unwrap();
        assert_eq!(history.teacher_evaluations, field.evaluations());
        history.teacher_evaluations
    };
    // 32768 points in chunks of 8192, and one chunk of held-out points.
    let plain = evaluations(GeneratorKind::Dense, Method::Gradient);
    assert_eq!(evaluations(GeneratorKind::Dense, Method::ClosedForm), plain + 5);
    assert_eq!(evaluations(GeneratorKind::Dense, Method::Refine), plain + 5);
    // The readout is solved from stored states alone.
    let plain = evaluations(GeneratorKind::Spectral, Method::Gradient);
    assert_eq!(evaluations(GeneratorKind::Spectral, Method::ClosedForm), plain);
}

#[test]
fn conditions_reach_teacher_and_student() {
    /// Drift by the label: dx/dt = c - 1.
    struct Drift(EvaluationCounter);
    impl VelocityField for Drift {
        fn event_shape(&self) -> &[i64] {
            &[2]
        }
        fn conditioning(&self) -> Conditioning {
            Conditioning::Labels { classes: 3 }
        }
        fn device(&self) -> Device {
            Device::Cpu
        }
        fn dtype(&self) -> Kind {
            Kind::Double
        }
        fn velocity(&self, _: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> koopflow::Result<Tensor> {
            self.0.add(1);
            let label = condition.expect("labels").to_kind(Kind::Double) - 1.0;
            Ok(x.zeros_like() + label.unsqueeze(1))
        }
        fn counter(&self) -> &EvaluationCounter {
            &self.0
        }
        fn shallow_clone(&self) -> Box<dyn VelocityField> {
            Box::new(Drift(self.0.clone()))
        }
        fn kind_name(&self) -> &'static str {
            "drift"
        }
        fn state(&self) -> Option<FieldState> {
            None
        }
    }
    for generator in [GeneratorKind::Dense, GeneratorKind::Spectral] {
        let config = DistillConfig { observables: Some(24), ..config(generator, Method::ClosedForm) };
        let field = Drift(EvaluationCounter::default());
        let (student, _) = distill(&field, &config, &Inputs::default(), &mut Silent).unwrap();
        let (x0, labels) = (normal(5, &[30, 2]), Tensor::arange(3, (Kind::Int64, Device::Cpu)).repeat([10]));
        let g = student.encode(&Tensor::from(0.0), &x0, Direction::Forward, Some(&labels)).unwrap();
        let moved = student.readout(&student.propagate(&g, &Tensor::from(1.0)).unwrap()).unwrap();
        let expected = &x0 + (labels.to_kind(Kind::Double) - 1.0).unsqueeze(1);
        let error = (moved - expected).square().mean(Kind::Double).sqrt().double_value(&[]);
        assert!(error < 0.1, "{generator:?}: {error}");
    }
}

#[test]
fn options_of_the_solve_are_checked() {
    let base = config(GeneratorKind::Spectral, Method::ClosedForm);
    let off = Weights { phase: 1.0, ..Weights::NONE }.to_map();
    let cases = [
        ("ridge", DistillConfig { ridge: Some(-1.0), ..base.clone() }),
        ("ridge", DistillConfig { ridge: Some(f64::NAN), ..base.clone() }),
        ("weights", DistillConfig { weights: off, ..base.clone() }),
    ];
    for (name, config) in cases {
        let error = distill(&gaussian(), &config, &Inputs::default(), &mut Silent).err().unwrap();
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
    // One lift: nothing but training tells two apart.
    let resolved = base.with_defaults(&[2], Conditioning::None).unwrap();
    assert_eq!((base.lifts, resolved.lifts), (2, 1));
    // Options from before there was a choice of method.
    let old: DistillConfig = serde_json::from_str(r#"{"generator": "dense"}"#).unwrap();
    assert_eq!((old.method, old.ridge), (Method::Gradient, None));
    let named: DistillConfig = serde_json::from_str(r#"{"method": "closed_form", "ridge": 0.1}"#).unwrap();
    assert_eq!((named.method, named.ridge), (Method::ClosedForm, Some(0.1)));
}
