//! Diffusion models as velocity fields, on Gaussian data, where every prediction is known in closed form.

use koopflow::monitor::Silent;
use koopflow::ode::{solve, SolveOptions};
use koopflow::tensor::RandomSource;
use koopflow::velocity::{
    Conditioning, Cosine, DiffusionConfig, DiffusionField, EvaluationCounter, FieldState, Geometric, Karras,
    LinearBeta, NoiseArgument, NoiseSchedule, Parametrisation, ScaledBeta, VelocityField,
};
use koopflow::Result;
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);
const SIGMA_DATA: f64 = 0.7;

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

fn full(t: f64, batch: i64) -> Tensor {
    Tensor::full([batch], t, DOUBLE)
}

/// Data N(m, C), C = U diag(c) U^T.
struct Data {
    mean: Tensor,
    variances: Tensor,
    basis: Tensor,
}

impl Data {
    fn new() -> Data {
        let (sin, cos) = 0.6f64.sin_cos();
        Data {
            mean: Tensor::from_slice(&[0.8, -0.5]),
            variances: Tensor::from_slice(&[1.5, 0.2]),
            basis: Tensor::from_slice(&[cos, -sin, sin, cos]).view([2, 2]),
        }
    }

    /// f(C) for rows, f given on the eigenvalues.
    fn apply(&self, f: &Tensor, rows: &Tensor) -> Tensor {
        (rows.matmul(&self.basis) * f).matmul(&self.basis.tr())
    }

    /// E[x0 | z] and E[x1 | z] for z = alpha x1 + sigma x0.
    fn expectations(&self, alpha: f64, sigma: f64, z: &Tensor) -> (Tensor, Tensor) {
        let precision = (&self.variances * (alpha * alpha) + sigma * sigma).reciprocal();
        let whitened = self.apply(&precision, &(z - &self.mean * alpha));
        let data = &self.mean + self.apply(&(&self.variances * alpha), &whitened);
        (whitened * sigma, data)
    }
}

/// A schedule by formulas of its own: alpha and sigma at diffusion time r, c, and whether r is 1 - t alone.
fn alpha_sigma(schedule: &NoiseSchedule, r: f64) -> (f64, f64) {
    let preserving = |b: f64| ((-b / 2.0).exp(), (1.0 - (-b).exp()).sqrt());
    match *schedule {
        NoiseSchedule::Vp(LinearBeta { beta_min: low, beta_max: high, .. }) => {
            preserving(r * low + r * r * (high - low) / 2.0)
        }
        NoiseSchedule::ScaledLinear(ScaledBeta { beta_min: low, beta_max: high, .. }) => {
            let (low, high) = (low.sqrt(), high.sqrt());
            let end = low + (high - low) * r;
            preserving((end.powi(3) - low.powi(3)) / (3.0 * (high - low)))
        }
        NoiseSchedule::Cosine(Cosine { offset, .. }) => {
            let angle = |r: f64| (r + offset) / (1.0 + offset) * std::f64::consts::FRAC_PI_2;
            let alpha = angle(r).cos() / angle(0.0).cos();
            (alpha, (1.0 - alpha * alpha).sqrt())
        }
        NoiseSchedule::Ve(Geometric { sigma_min, sigma_max }) => {
            (1.0, sigma_min * (sigma_max / sigma_min).powf(r))
        }
        NoiseSchedule::Edm(Karras { sigma_min, sigma_max, rho }) => {
            let (low, high) = (sigma_min.powf(1.0 / rho), sigma_max.powf(1.0 / rho));
            (1.0, (low + r * (high - low)).powf(rho))
        }
    }
}

fn scale(schedule: &NoiseSchedule, r: f64) -> f64 {
    let ((_, low), (_, high)) = (alpha_sigma(schedule, 0.0), alpha_sigma(schedule, 1.0));
    if low == 0.0 || schedule.preserves_variance() {
        return 1.0;
    }
    let (_, sigma) = alpha_sigma(schedule, r);
    let share = (sigma * sigma - low * low) / (high * high - low * low);
    (1.0 + share * (high * high - 1.0)).sqrt()
}

fn schedules() -> Vec<NoiseSchedule> {
    vec![
        NoiseSchedule::Vp(LinearBeta::default()),
        NoiseSchedule::ScaledLinear(ScaledBeta::default()),
        NoiseSchedule::Cosine(Cosine::default()),
        NoiseSchedule::Ve(Geometric::default()),
        NoiseSchedule::Edm(Karras::default()),
        NoiseSchedule::Edm(Karras { sigma_min: 0.01, sigma_max: 0.9, rho: 3.0 }),
    ]
}

const PARAMETRISATIONS: [Parametrisation; 5] = [
    Parametrisation::Eps,
    Parametrisation::Score,
    Parametrisation::X0,
    Parametrisation::V,
    Parametrisation::F,
];

/// The perfect model of the data, told the diffusion time.
struct Model {
    data: Data,
    schedule: NoiseSchedule,
    parametrisation: Parametrisation,
    kind: Kind,
    counter: EvaluationCounter,
}

impl Model {
    fn new(schedule: NoiseSchedule, parametrisation: Parametrisation, kind: Kind) -> Model {
        Model { data: Data::new(), schedule, parametrisation, kind, counter: EvaluationCounter::default() }
    }

    fn row(&self, r: f64, z: &Tensor) -> Tensor {
        let (alpha, sigma) = alpha_sigma(&self.schedule, r);
        let noise = sigma / alpha;
        let spread = (noise * noise + SIGMA_DATA * SIGMA_DATA).sqrt();
        // F sees its input scaled by c_in.
        let z = match self.parametrisation {
            Parametrisation::F => z * (alpha * spread),
            _ => z.shallow_clone(),
        };
        let (x0, x1) = self.data.expectations(alpha, sigma, &z);
        match self.parametrisation {
            Parametrisation::Eps => x0,
            Parametrisation::Score => x0 / -sigma,
            Parametrisation::X0 => x1,
            Parametrisation::V => (x0 * alpha - x1 * sigma) / alpha.hypot(sigma),
            Parametrisation::F => {
                let skip = SIGMA_DATA * SIGMA_DATA / (spread * spread);
                (x1 - z / alpha * skip) / (noise * SIGMA_DATA / spread)
            }
        }
    }
}

impl VelocityField for Model {
    fn event_shape(&self) -> &[i64] {
        &[2]
    }
    fn conditioning(&self) -> Conditioning {
        Conditioning::None
    }
    fn device(&self) -> Device {
        Device::Cpu
    }
    fn dtype(&self) -> Kind {
        self.kind
    }
    fn velocity(&self, t: &Tensor, x: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        self.counter.add(1);
        let rows = (0..t.size()[0]).map(|i| self.row(t.double_value(&[i]), &x.get(i).to_kind(Kind::Double)));
        Ok(Tensor::stack(&rows.collect::<Vec<_>>(), 0).view([-1, 2]).to_kind(self.kind))
    }
    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }
    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(Model::new(self.schedule, self.parametrisation, self.kind))
    }
    fn kind_name(&self) -> &'static str {
        "model"
    }
    fn state(&self) -> Option<FieldState> {
        None
    }
}

fn field(schedule: NoiseSchedule, parametrisation: Parametrisation, kind: Kind) -> DiffusionField {
    let config = DiffusionConfig {
        parametrisation,
        schedule,
        noise_argument: Some(NoiseArgument::Time),
        sigma_data: SIGMA_DATA,
        ..DiffusionConfig::default()
    };
    DiffusionField::new(Box::new(Model::new(schedule, parametrisation, kind)), config).unwrap()
}

/// Where the exact flow carries x (rows) from time t to time u: in each direction of C, the distance from the
/// mean grows as the marginal deviation.
fn flow(schedule: &NoiseSchedule, x: &Tensor, t: f64, u: f64) -> Tensor {
    let data = Data::new();
    let at = |t: f64| {
        let (alpha, sigma) = alpha_sigma(schedule, 1.0 - t);
        let c = scale(schedule, 1.0 - t);
        (&data.mean * (alpha / c), (&data.variances * (alpha * alpha) + sigma * sigma).sqrt() / c)
    };
    let ((mean, deviation), (mean_then, deviation_then)) = (at(t), at(u));
    mean_then + data.apply(&(deviation_then / deviation), &(x - mean))
}

#[test]
fn every_prediction_gives_the_marginal_velocity() {
    let h = 1e-6;
    let mut largest: f64 = 0.0;
    for schedule in schedules() {
        for parametrisation in PARAMETRISATIONS {
            let field = field(schedule, parametrisation, Kind::Double);
            for t in [0.002, 0.1, 0.35, 0.6, 0.85, 0.97, 0.998] {
                let x = normal(1, &[5, 2]);
                let v = field.velocity(&full(t, 5), &x, None).unwrap();
                // The slope of the exact flow through x.
                let slope = (flow(&schedule, &x, t, t + h) - flow(&schedule, &x, t, t - h)) / (2.0 * h);
                let error = worst(&v, &slope) / slope.abs().max().double_value(&[]).max(1.0);
                assert!(error < 1e-6, "{schedule:?} {parametrisation:?} t = {t}: {error:e}");
                largest = largest.max(error);
            }
        }
    }
    println!("velocities: within {largest:.1e} of the slope of the exact flow");
}

#[test]
fn flows_carry_noise_to_data() {
    let mut from_exact: f64 = 0.0;
    // Zero and the axes: an affine map is known by where they go.
    let probes = Tensor::from_slice(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0]).view([3, 2]);
    let data = Data::new();
    let covariance = data.basis.matmul(&data.variances.diag(0)).matmul(&data.basis.tr());
    // The last schedule starts from noise as small as its data.
    for schedule in schedules().into_iter().take(5) {
        for parametrisation in PARAMETRISATIONS {
            let field = field(schedule, parametrisation, Kind::Double);
            let options = SolveOptions::adaptive(1e-8);
            let ends = solve(&field, &probes, &[0.0, 1.0], &options, None, &mut Silent).unwrap().endpoint();
            let ends_exactly = if schedule.preserves_variance() { (1e-3, 1.0 - 1e-3) } else { (0.0, 1.0) };
            let exact = flow(&schedule, &probes, ends_exactly.0, ends_exactly.1);
            // Within time_clip of the ends the field stands still: the exact flow hardly moves there.
            let error = worst(&ends, &exact);
            assert!(error < if ends_exactly.0 > 0.0 { 2e-3 } else { 1e-5 }, "{schedule:?}: {error:e}");
            from_exact = from_exact.max(error);

            let mean = ends.get(0);
            let map = ends.narrow(0, 1, 2) - &mean;
            let mean_error = worst(&mean, &data.mean);
            let covariance_error = worst(&map.tr().matmul(&map), &covariance);
            // What the marginal at t = 0 still holds of the data, alpha / c, is missing in N(0, I).
            let left = alpha_sigma(&schedule, 1.0).0 / scale(&schedule, 1.0);
            assert!(mean_error < 1.3 * left + 2e-3 && covariance_error < 2.0 * left * left + 2e-3);
            println!("{schedule:?} {parametrisation:?}: mean {mean_error:.1e}, cov {covariance_error:.1e}");
        }
    }
    println!("flow maps: within {from_exact:.1e} of the exact ones");
}

#[test]
fn products_with_the_jacobian_match_finite_differences() {
    let mut largest: f64 = 0.0;
    for schedule in schedules() {
        for parametrisation in PARAMETRISATIONS {
            let field = field(schedule, parametrisation, Kind::Double);
            let (x, u, w) = (normal(2, &[4, 2]), normal(3, &[4, 2]), normal(4, &[4, 2]));
            let t = Tensor::from_slice(&[0.0, 0.3, 0.7, 1.0]);
            let (v, product) = field.velocity_and_vjp(&t, &x, &u, None).unwrap();
            assert!(worst(&v, &field.velocity(&t, &x, None).unwrap()) < 1e-10);
            let h = 1e-5;
            let at = |sign: f64| field.velocity(&t, &(&x + &w * (sign * h)), None).unwrap();
            let along = (at(1.0) - at(-1.0)) / (2.0 * h);
            // u . J w, sample by sample.
            let dot =
                |a: &Tensor, b: &Tensor| (a * b).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
            let scale = along.abs().max().double_value(&[]).max(1.0);
            let error = worst(&dot(&product, &w), &dot(&u, &along)) / scale;
            assert!(error < 1e-7, "{schedule:?} {parametrisation:?}: {error:e}");
            largest = largest.max(error);
        }
    }
    println!("vector-Jacobian products: within {largest:.1e} of finite differences");
}

#[test]
fn ends_and_what_lies_beyond_are_finite_in_single_precision() {
    for schedule in schedules() {
        for parametrisation in PARAMETRISATIONS {
            let single = field(schedule, parametrisation, Kind::Float);
            let double = field(schedule, parametrisation, Kind::Double);
            let x = normal(5, &[6, 2]);
            let t = Tensor::from_slice(&[-0.5, 0.0, 1e-4, 0.5, 1.0, 1.5]);
            let expected = double.velocity(&t, &x, None).unwrap();
            let v = single.velocity(&t.to_kind(Kind::Float), &x.to_kind(Kind::Float), None).unwrap();
            assert_eq!(v.kind(), Kind::Float);
            let scale = expected.abs().max().double_value(&[]);
            assert!(worst(&v.to_kind(Kind::Double), &expected) < 2e-3 * scale, "{schedule:?}");
        }
    }
}

/// A model whose prediction is off by delta makes the flow's end off by at most a few delta, though alpha or
/// sigma vanish at an end.
#[test]
fn errors_of_the_model_are_not_blown_up() {
    struct Off(Model);
    impl VelocityField for Off {
        fn event_shape(&self) -> &[i64] {
            &[2]
        }
        fn device(&self) -> Device {
            Device::Cpu
        }
        fn dtype(&self) -> Kind {
            Kind::Double
        }
        fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
            Ok(self.0.velocity(t, x, condition)? + 0.01)
        }
        fn counter(&self) -> &EvaluationCounter {
            self.0.counter()
        }
        fn shallow_clone(&self) -> Box<dyn VelocityField> {
            self.0.shallow_clone()
        }
        fn kind_name(&self) -> &'static str {
            "off"
        }
        fn state(&self) -> Option<FieldState> {
            None
        }
    }
    let x = normal(6, &[8, 2]);
    for schedule in schedules().into_iter().take(5) {
        for parametrisation in [Parametrisation::Eps, Parametrisation::X0, Parametrisation::V] {
            let config = DiffusionConfig {
                parametrisation,
                schedule,
                noise_argument: Some(NoiseArgument::Time),
                ..DiffusionConfig::default()
            };
            let model = Off(Model::new(schedule, parametrisation, Kind::Double));
            let off = DiffusionField::new(Box::new(model), config).unwrap();
            let exact = field(schedule, parametrisation, Kind::Double);
            let end = |field: &dyn VelocityField| {
                let options = SolveOptions::adaptive(1e-6);
                solve(field, &x, &[0.0, 1.0], &options, None, &mut Silent).unwrap().endpoint()
            };
            let error = worst(&end(&off), &end(&exact));
            assert!(error < 0.15, "{schedule:?} {parametrisation:?}: {error}");
        }
    }
}

/// Answers its own time, so that v tells what the model was told.
struct Told(EvaluationCounter, std::sync::Arc<std::sync::Mutex<Option<Tensor>>>);

impl VelocityField for Told {
    fn event_shape(&self) -> &[i64] {
        &[2]
    }
    fn device(&self) -> Device {
        Device::Cpu
    }
    fn dtype(&self) -> Kind {
        Kind::Double
    }
    fn velocity(&self, t: &Tensor, x: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        *self.1.lock().unwrap() = Some(t.copy());
        Ok(x.zeros_like())
    }
    fn counter(&self) -> &EvaluationCounter {
        &self.0
    }
    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(Told(self.0.clone(), self.1.clone()))
    }
    fn kind_name(&self) -> &'static str {
        "told"
    }
    fn state(&self) -> Option<FieldState> {
        None
    }
}

#[test]
fn models_are_told_the_noise_in_their_own_measure() {
    let told = |schedule, parametrisation, noise_argument| {
        let told = Told(EvaluationCounter::default(), Default::default());
        let seen = told.1.clone();
        let config =
            DiffusionConfig { parametrisation, schedule, noise_argument, ..DiffusionConfig::default() };
        let field = DiffusionField::new(Box::new(told), config).unwrap();
        let _ = field.velocity(&full(0.3004, 1), &Tensor::zeros([1, 2], DOUBLE), None).unwrap();
        let seen = seen.lock().unwrap().take().unwrap();
        (seen.kind(), seen.double_value(&[0]))
    };
    let vp = NoiseSchedule::default();
    let edm = NoiseSchedule::Edm(Karras::default());
    let ratio = |schedule| {
        let (alpha, sigma) = alpha_sigma(schedule, 1.0 - 0.3004);
        sigma / alpha
    };
    let (q, sigma) = (ratio(&vp), ratio(&edm));
    let (eps, f) = (Parametrisation::Eps, Parametrisation::F);
    let cases = [
        (vp, eps, None, 0.6996),
        (vp, eps, Some(NoiseArgument::Timestep), 999.0 * 0.6996),
        (vp, eps, Some(NoiseArgument::Sigma), q),
        (vp, eps, Some(NoiseArgument::LogSnr), -2.0 * q.ln()),
        (edm, eps, None, sigma),
        (edm, f, None, sigma.ln() / 4.0),
        (vp, f, None, q.ln() / 4.0),
        (edm, f, Some(NoiseArgument::Time), 0.6996),
    ];
    for (schedule, parametrisation, argument, expected) in cases {
        let (kind, got) = told(schedule, parametrisation, argument);
        assert!((got - expected).abs() < 1e-9 * expected.abs(), "{schedule:?} {argument:?}: {got}");
        assert_eq!(kind, Kind::Double);
    }
    assert_eq!(told(vp, eps, Some(NoiseArgument::Index)), (Kind::Int64, 699.0));
}

#[test]
fn numbers_out_of_range_are_named() {
    let refuse = |config: DiffusionConfig| config.check().unwrap_err().to_string();
    let with = |schedule| DiffusionConfig { schedule, ..DiffusionConfig::default() };
    let vp = LinearBeta::default();
    assert!(
        refuse(with(NoiseSchedule::Vp(LinearBeta { beta_min: 30.0, ..vp }))).starts_with("beta_min, beta")
    );
    assert!(refuse(with(NoiseSchedule::Vp(LinearBeta { time_clip: 0.5, ..vp }))).starts_with("time_clip"));
    assert!(
        refuse(with(NoiseSchedule::Vp(LinearBeta { time_clip: f64::NAN, ..vp }))).starts_with("time_clip")
    );
    let cosine = Cosine { offset: -1.0, time_clip: 1e-3 };
    assert!(refuse(with(NoiseSchedule::Cosine(cosine))).starts_with("offset"));
    let ve = Geometric { sigma_min: 0.0, sigma_max: 50.0 };
    assert!(refuse(with(NoiseSchedule::Ve(ve))).starts_with("sigma_min, sigma_max"));
    let edm = Karras { rho: 0.5, ..Karras::default() };
    assert!(refuse(with(NoiseSchedule::Edm(edm))).starts_with("rho"));
    assert!(refuse(DiffusionConfig { num_timesteps: 1, ..Default::default() }).starts_with("num_timesteps"));
    assert!(refuse(DiffusionConfig { sigma_data: 0.0, ..Default::default() }).starts_with("sigma_data"));
}
