//! The Gaussian and the empirical field against NumPy/SciPy, closed forms and libtorch's autograd.

use koopflow::monitor::Silent;
use koopflow::ode::{solve, SolveOptions};
use koopflow::tensor::RandomSource;
use koopflow::velocity::{
    Conditioning, EmpiricalField, EvaluationCounter, FieldState, GaussianField, Path, Units, UnitsField,
    VelocityField,
};
use koopflow::Result;
use tch::{Device, Kind, Tensor};

const GAUSSIAN_V: [f64; 2] = [1.265673606462392, -2.8333577098111573];
const GAUSSIAN_LOGPDF: f64 = -10.67723351509514;
const EMPIRICAL_V: [f64; 4] =
    [-0.16029684296410282, 0.6779402128186791, -2.0000000000000004, -4.000000000000001];

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn normal(seed: u64, shape: &[i64], kind: Kind) -> Tensor {
    RandomSource::new(seed).normal(shape, kind, Device::Cpu).unwrap()
}

fn full(t: f64, batch: i64, kind: Kind) -> Tensor {
    Tensor::full([batch], t, (kind, Device::Cpu))
}

fn gaussian(dtype: Kind) -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, dtype).unwrap()
}

fn singular(dtype: Kind) -> GaussianField {
    let covariance = Tensor::from_slice(&[4.0, 2.0, 2.0, 1.0]).view([2, 2]);
    GaussianField::new(&Tensor::from_slice(&[1.0, -2.0]), &covariance, &[2], Device::Cpu, dtype).unwrap()
}

/// Hides a field's own vector-Jacobian product, so that the trait's autograd default is used.
struct Autograd(Box<dyn VelocityField>);

impl VelocityField for Autograd {
    fn event_shape(&self) -> &[i64] {
        self.0.event_shape()
    }
    fn device(&self) -> Device {
        self.0.device()
    }
    fn dtype(&self) -> Kind {
        self.0.dtype()
    }
    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.0.velocity(t, x, condition)
    }
    fn counter(&self) -> &EvaluationCounter {
        self.0.counter()
    }
    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        self.0.shallow_clone()
    }
    fn kind_name(&self) -> &'static str {
        "autograd"
    }
    fn state(&self) -> Option<FieldState> {
        None
    }
}

fn check_vjp(field: &dyn VelocityField, t: &[f64], bound: f64) {
    let (batch, kind) = (t.len() as i64, field.dtype());
    let mut shape = vec![batch];
    shape.extend(field.event_shape());
    let (x, cotangent) = (normal(1, &shape, kind), normal(2, &shape, kind));
    let t = Tensor::from_slice(t).to_kind(kind);
    let (v, product) = field.velocity_and_vjp(&t, &x, &cotangent, None).unwrap();
    let (auto_v, auto_product) =
        Autograd(field.shallow_clone()).velocity_and_vjp(&t, &x, &cotangent, None).unwrap();
    assert_eq!((v.kind(), product.size()), (kind, shape.clone()));
    assert!(worst(&v, &auto_v) < bound);
    let scale = auto_product.abs().max().double_value(&[]);
    assert!(worst(&product, &auto_product) < bound * scale);
    assert!(!v.requires_grad() && !product.requires_grad());
}

/// NumPy: m + (x - t * m) @ inv(t * t * C + (1 - t) ** 2 * I) @ (t * C - (1 - t) * I) at t = .3, x = [.5, .25];
/// and scipy.stats.multivariate_normal(m, C).logpdf([.5, .25]).
#[test]
fn gaussian_matches_numpy_and_scipy() {
    let field = gaussian(Kind::Double);
    let x = Tensor::from_slice(&[0.5, 0.25]).view([1, 2]);
    let v = field.velocity(&full(0.3, 1, Kind::Double), &x, None).unwrap();
    assert!(worst(&v, &Tensor::from_slice(&GAUSSIAN_V).view([1, 2])) < 1e-12, "{v}");
    let log_prob = field.log_prob(&x).unwrap();
    assert!((log_prob.double_value(&[0]) - GAUSSIAN_LOGPDF).abs() < 1e-12, "{log_prob}");
}

#[test]
fn gaussian_flow_is_the_solution_of_its_field() {
    for dtype in [Kind::Float, Kind::Double] {
        let field = gaussian(dtype);
        let x = normal(4, &[50, 2], dtype);
        let bound = if dtype == Kind::Float { 1e-5 } else { 1e-7 };
        let times = [0.0, 0.35, 1.0];
        let options = SolveOptions::adaptive(1e-9);
        let path = solve(&field, &x, &times, &options, None, &mut Silent).unwrap().trajectory;
        assert!(worst(&path.get(1), &field.flow(&x, 0.0, 0.35).unwrap()) < bound);
        assert!(worst(&path.get(2), &field.flow_map(&x).unwrap()) < bound);
        let back = field.inverse_flow_map(&path.get(2)).unwrap();
        assert!(worst(&back, &x) < 4.0 * bound);
        assert_eq!(back.kind(), dtype);
    }
}

#[test]
fn gaussian_flow_map_gives_the_covariance() {
    let field = gaussian(Kind::Double);
    // x1 - m = x0 C^{1/2}: applied to the identity, its square is C.
    let eye = Tensor::eye(2, (Kind::Double, Device::Cpu));
    let root = field.flow_map(&eye).unwrap() - Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    assert!(worst(&root.matmul(&root.tr()), &covariance) < 1e-12);
}

#[test]
fn gaussian_ends_are_exact() {
    let field = gaussian(Kind::Double);
    let x = normal(5, &[7, 2], Kind::Double);
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    // At t = 0 the best guess of x1 is m and x is all noise; at t = 1 that of x0 is 0 and x is data.
    assert!(worst(&field.velocity(&full(0.0, 7, Kind::Double), &x, None).unwrap(), &(&mean - &x)) < 1e-14);
    assert!(worst(&field.velocity(&full(1.0, 7, Kind::Double), &x, None).unwrap(), &x) < 1e-14);
}

#[test]
fn a_singular_gaussian_flows_onto_its_support() {
    for (dtype, bound) in [(Kind::Float, 2e-4), (Kind::Double, 2e-4)] {
        let field = singular(dtype);
        let x = normal(6, &[20, 2], dtype);
        let options = SolveOptions::default();
        let solution = solve(&field, &x, &[0.0, 1.0], &options, None, &mut Silent).unwrap();
        let error = worst(&solution.endpoint(), &field.flow_map(&x).unwrap());
        assert!(error < bound, "{error} after {} evaluations", solution.evaluations);
        assert!(solution.evaluations < 300, "{} evaluations", solution.evaluations);
        let end = field.velocity(&full(1.0, 20, dtype), &x, None).unwrap();
        assert!(end.isfinite().all().int64_value(&[]) == 1);
        assert!(field.inverse_flow_map(&x).unwrap_err().to_string().contains("singular"));
        assert!(field.log_prob(&x).is_err());
    }
}

#[test]
fn both_fields_have_the_jacobian_that_autograd_finds() {
    check_vjp(&gaussian(Kind::Double), &[0.0, 0.3, 0.9, 1.0, -0.5, 1.5], 1e-12);
    check_vjp(&gaussian(Kind::Float), &[0.0, 0.3, 0.9, 1.0], 1e-5);
    check_vjp(&singular(Kind::Double), &[0.0, 0.5, 0.999, 1.0], 1e-10);
    let data = normal(7, &[40, 2, 3], Kind::Double);
    let empirical = |kind| EmpiricalField::new(&data, Device::Cpu, kind).unwrap();
    check_vjp(&empirical(Kind::Double), &[0.0, 0.3, 0.8, 0.97, 1.0], 1e-10);
    check_vjp(&empirical(Kind::Float), &[0.0, 0.3, 0.8], 1e-5);
}

/// v = 3 whatever x is, without a graph or with one that leads to a parameter only.
struct Constant(Tensor, EvaluationCounter);

impl VelocityField for Constant {
    fn event_shape(&self) -> &[i64] {
        &[2]
    }
    fn device(&self) -> Device {
        Device::Cpu
    }
    fn dtype(&self) -> Kind {
        Kind::Float
    }
    fn velocity(&self, _: &Tensor, x: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        Ok(x.zeros_like() + &self.0)
    }
    fn counter(&self) -> &EvaluationCounter {
        &self.1
    }
    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(Constant(self.0.shallow_clone(), self.1.clone()))
    }
    fn kind_name(&self) -> &'static str {
        "constant"
    }
    fn state(&self) -> Option<FieldState> {
        None
    }
}

#[test]
fn autograd_products_survive_no_grad_and_constant_fields() {
    let x = normal(1, &[3, 2], Kind::Double);
    let t = full(0.5, 3, Kind::Double);
    let field = gaussian(Kind::Double);
    let expected = field.velocity_and_vjp(&t, &x, &x, None).unwrap().1;
    let product = tch::no_grad(|| Autograd(field.shallow_clone()).velocity_and_vjp(&t, &x, &x, None));
    assert!(worst(&product.unwrap().1, &expected) < 1e-12);
    for parameter in [false, true] {
        let value = Tensor::from(3.0f32).set_requires_grad(parameter);
        let field = Constant(value, EvaluationCounter::default());
        let x = normal(1, &[3, 2], Kind::Float);
        let (v, product) = field.velocity_and_vjp(&t.to_kind(Kind::Float), &x, &x, None).unwrap();
        assert_eq!(v, x.full_like(3.0));
        assert_eq!(product, x.zeros_like());
    }
}

#[test]
fn bad_gaussians_are_refused() {
    let mean = Tensor::from_slice(&[0.0, 0.0]);
    let matrix = |values: [f64; 4]| Tensor::from_slice(&values).view([2, 2]);
    let refuse = |mean: &Tensor, covariance: &Tensor, event: &[i64]| {
        let result = GaussianField::new(mean, covariance, event, Device::Cpu, Kind::Float);
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let good = matrix([1.0, 0.0, 0.0, 1.0]);
    assert_eq!(refuse(&mean, &good, &[2]), "");
    assert!(refuse(&mean, &matrix([1.0, 0.5, 0.2, 1.0]), &[2]).starts_with("cov: expected a symmetric"));
    assert!(refuse(&mean, &matrix([1.0, 2.0, 2.0, 1.0]), &[2]).contains("semidefinite"));
    assert!(refuse(&mean, &matrix([-1.0, 0.0, 0.0, -1.0]), &[2]).contains("semidefinite"));
    assert!(refuse(&mean, &matrix([1.0, f64::NAN, 0.0, 1.0]), &[2]).starts_with("cov: 1 NaN"));
    assert!(refuse(&mean, &mean, &[2]).starts_with("cov: expected shape (2, 2)"));
    assert!(refuse(&mean, &good, &[3]).starts_with("mean: expected shape (3,)"));
    assert!(refuse(&mean, &good, &[]).starts_with("event_shape"));
    assert!(refuse(&mean, &good, &[0]).starts_with("event_shape"));
    let half = GaussianField::new(&mean, &good, &[2], Device::Cpu, Kind::Half);
    assert!(half.err().unwrap().to_string().starts_with("dtype"));
}

/// NumPy: d = ((x - t * y) ** 2).sum(1); w = np.exp(-d / 2 / (1 - t) ** 2); w /= w.sum(); (w @ y - x) / (1 - t)
/// for y = [[0, 0], [1, 2], [-1, .5]], x = [.2, .4], t = .25 and t = .9.
#[test]
fn empirical_matches_numpy() {
    let data = Tensor::from_slice(&[0.0, 0.0, 1.0, 2.0, -1.0, 0.5]).view([3, 2]);
    let field = EmpiricalField::new(&data, Device::Cpu, Kind::Double).unwrap();
    let x = Tensor::from_slice(&[0.2, 0.4, 0.2, 0.4]).view([2, 2]);
    let v = field.velocity(&Tensor::from_slice(&[0.25, 0.9]), &x, None).unwrap();
    assert!(worst(&v, &Tensor::from_slice(&EMPIRICAL_V).view([2, 2])) < 1e-12, "{v}");
    assert_eq!(field.evaluations(), 1);
    assert_eq!(field.conditioning(), Conditioning::None);
}

#[test]
fn one_data_point_gives_a_straight_line() {
    let point = Tensor::from_slice(&[3.0, -1.0]).view([1, 2]);
    let field = EmpiricalField::new(&point, Device::Cpu, Kind::Double).unwrap();
    let x = normal(8, &[10, 2], Kind::Double);
    let options = SolveOptions::default();
    let solution = solve(&field, &x, &[0.0, 0.5, 1.0], &options, None, &mut Silent).unwrap();
    assert!(worst(&solution.trajectory.get(1), &((&x + &point) * 0.5)) < 1e-9);
    assert!(worst(&solution.trajectory.get(2), &point) < 5e-5);
}

#[test]
fn empirical_flow_ends_on_the_data() {
    let data = normal(9, &[30, 2], Kind::Double);
    for (dtype, bound) in [(Kind::Float, 2e-4), (Kind::Double, 2e-4)] {
        let field = EmpiricalField::new(&data, Device::Cpu, dtype).unwrap();
        let x = normal(10, &[64, 2], dtype);
        let options = SolveOptions::default();
        let solution = solve(&field, &x, &[0.0, 1.0], &options, None, &mut Silent).unwrap();
        let nearest = Tensor::cdist(&solution.endpoint().to_kind(Kind::Double), &data, 2.0, 2).amin(1, false);
        let gap = nearest.max().double_value(&[]);
        assert!(gap < bound, "{gap}");
        assert!(solution.evaluations < 1000, "{} evaluations", solution.evaluations);
    }
}

#[test]
fn empirical_chunks_change_nothing() {
    // 5,000 points and 2,000 rows exceed one chunk (2^22 weights).
    let data = normal(11, &[5000, 2], Kind::Float);
    let field = EmpiricalField::new(&data, Device::Cpu, Kind::Float).unwrap();
    let x = normal(12, &[2000, 2], Kind::Float);
    let t = RandomSource::new(1).uniform(&[2000], Kind::Float, Device::Cpu).unwrap();
    let whole = field.velocity(&t, &x, None).unwrap();
    let row = |i: i64| field.velocity(&t.narrow(0, i, 1), &x.narrow(0, i, 1), None).unwrap();
    for i in [0, 837, 838, 839, 1999] {
        assert!(worst(&whole.narrow(0, i, 1), &row(i)) < 1e-5);
    }
    let (v, product) = field.velocity_and_vjp(&t, &x, &x, None).unwrap();
    assert!(worst(&v, &whole) < 1e-6);
    assert_eq!(product.size(), [2000, 2]);
}

/// Far from the data and close to t = 1 the naive exponentials are all zero.
#[test]
fn empirical_survives_large_exponents() {
    let data = Tensor::from_slice(&[1000.0f32, 0.0, -1000.0, 0.0]).view([2, 2]);
    let field = EmpiricalField::new(&data, Device::Cpu, Kind::Float).unwrap();
    let x = Tensor::from_slice(&[10.0f32, 1.0]).view([1, 2]);
    let v = field.velocity(&full(0.999, 1, Kind::Float), &x, None).unwrap();
    let expected = Tensor::from_slice(&[990.0 / 0.001, -1.0 / 0.001]).view([1, 2]);
    assert!(worst(&(v / &expected), &expected.ones_like()) < 1e-4);
    for t in [1.0, 1.5, -1.0] {
        let v = field.velocity(&full(t, 1, Kind::Float), &x, None).unwrap();
        assert_eq!(v.isfinite().all().int64_value(&[]), 1);
    }
}

#[test]
fn empirical_owns_its_data() {
    let mut data = normal(13, &[4, 2], Kind::Double);
    let field = EmpiricalField::new(&data, Device::Cpu, Kind::Double).unwrap();
    let (t, x) = (full(0.5, 1, Kind::Double), Tensor::zeros([1, 2], (Kind::Double, Device::Cpu)));
    let before = field.velocity(&t, &x, None).unwrap();
    let _ = data.zero_();
    assert_eq!(before, field.velocity(&t, &x, None).unwrap());
    for bad in
        [normal(1, &[0, 2], Kind::Float), normal(1, &[3], Kind::Float), normal(1, &[3, 0], Kind::Float)]
    {
        assert!(EmpiricalField::new(&bad, Device::Cpu, Kind::Float).is_err());
    }
    assert!(EmpiricalField::new(&(x / 0.0), Device::Cpu, Kind::Float).is_err());
}

#[test]
fn states_rebuild_the_same_fields() {
    for dtype in [Kind::Float, Kind::Double] {
        let data = normal(14, &[10, 1, 2], dtype);
        let x = normal(15, &[6, 1, 2], dtype);
        let t = full(0.4, 6, dtype);
        let empirical = EmpiricalField::new(&data, Device::Cpu, dtype).unwrap();
        let state = empirical.state().unwrap();
        let again = EmpiricalField::from_state(&[1, 2], &state.tensors, Device::Cpu).unwrap();
        assert_eq!(again.velocity(&t, &x, None).unwrap(), empirical.velocity(&t, &x, None).unwrap());
        assert_eq!(again.dtype(), dtype);
        assert!(EmpiricalField::from_state(&[2], &state.tensors, Device::Cpu).is_err());
        assert!(EmpiricalField::from_state(&[1, 2], &[], Device::Cpu).is_err());

        let gaussian = gaussian(dtype);
        let x = x.view([6, 2]);
        let state = gaussian.state().unwrap();
        let again = GaussianField::from_state(&[2], &state.tensors, Device::Cpu).unwrap();
        assert_eq!(again.velocity(&t, &x, None).unwrap(), gaussian.velocity(&t, &x, None).unwrap());
        assert_eq!(again.dtype(), dtype);
        let clone = gaussian.shallow_clone();
        let _ = clone.velocity(&t, &x, None).unwrap();
        assert_eq!(gaussian.evaluations(), 2);
    }
}

#[test]
fn a_field_of_other_units_is_that_of_standard_data_seen_through_the_map() {
    let shift = Tensor::from_slice(&[128.0, -30.0]);
    let mean = Tensor::from_slice(&[0.3, -0.2]);
    let covariance = Tensor::from_slice(&[1.2, 0.4, 0.4, 0.8]).view([2, 2]);
    for scale in [60.0, 1e-3] {
        let field = |mean: &Tensor, covariance: &Tensor| {
            GaussianField::new(mean, covariance, &[2], Device::Cpu, Kind::Double).unwrap()
        };
        let standard = field(&mean, &covariance);
        let raw = field(&(&shift + &mean * scale), &(&covariance * scale * scale));
        let units = Units::new(Path::Linear, &shift, scale).unwrap();
        // The closed forms on both sides of the map know nothing of it.
        let (there, back) = (
            UnitsField::new(standard.shallow_clone(), &units),
            UnitsField::new(raw.shallow_clone(), &units.inverse()),
        );
        let t = Tensor::from_slice(&[0.0, 0.2, 0.7, 0.999, 1.0]);
        let x = raw_states(&raw, &t);
        let (u, z) = units.standard(&t, &x).unwrap();
        let e = normal(4, &[5, 2], Kind::Double);
        for (one, other, t, x) in [(&there, &raw, &t, &x), (&back, &standard, &u, &z)] {
            let (ours, our_product) = one.velocity_and_vjp(t, x, &e, None).unwrap();
            let (theirs, their_product) = other.velocity_and_vjp(t, x, &e, None).unwrap();
            let size = theirs.abs().max().double_value(&[]);
            assert!(worst(&ours, &theirs) < 1e-9 * size, "{ours} {theirs}");
            assert!(worst(&our_product, &their_product) < 1e-9 * their_product.abs().max().double_value(&[]));
            assert!(worst(&one.velocity(t, x, None).unwrap(), &theirs) < 1e-9 * size);
        }
        // Solved in standard coordinates, the flow is the closed one.
        let noise = normal(5, &[9, 2], Kind::Double);
        let times = [0.0, 0.4, 1.0];
        let path = solve(&raw, &noise, &times, &SolveOptions::adaptive(1e-9), None, &mut Silent).unwrap();
        assert_eq!(path.trajectory.get(0), noise);
        for (index, time) in times.iter().enumerate() {
            let exact = raw.flow(&noise, 0.0, *time).unwrap();
            assert!(worst(&path.trajectory.get(index as i64), &exact) < 1e-6 * scale.max(1.0));
        }
    }
}

/// States of a flow at times `[B]`, from fixed noise.
fn raw_states(field: &GaussianField, t: &Tensor) -> Tensor {
    let noise = normal(2, &[t.size()[0], 2], Kind::Double);
    let state = |row: i64| field.flow(&noise.narrow(0, row, 1), 0.0, t.double_value(&[row])).unwrap();
    Tensor::cat(&(0..t.size()[0]).map(state).collect::<Vec<_>>(), 0)
}

#[test]
fn both_paths_have_units_and_their_times_are_inverse_to_each_other() {
    for path in [Path::Linear, Path::Vp] {
        let units = Units::new(path, &Tensor::from_slice(&[3.0]), 40.0).unwrap();
        let (x0, z1) = (Tensor::from_slice(&[0.7]).view([1, 1]), Tensor::from_slice(&[-1.1]).view([1, 1]));
        let x1 = &z1 * 40.0 + 3.0;
        for time in [0.0, 0.1, 0.5, 0.99, 1.0] {
            let t = full(time, 1, Kind::Double);
            let (u, z) = units.standard(&t, &path.sample(&t, &x0, &x1).unwrap()).unwrap();
            assert!(worst(&z, &path.sample(&u, &x0, &z1).unwrap()) < 1e-12);
            assert!((u.double_value(&[0]) - units.time(time)).abs() < 1e-12);
            assert!((units.inverse().time(units.time(time)) - time).abs() < 1e-12);
            // dx/dt of a pair, from dz/du of it.
            let rate = path.target(&u, &x0, &z1).unwrap();
            let x = path.sample(&t, &x0, &x1).unwrap();
            let v = units.velocity(&t, &x, |_, _| Ok(rate)).unwrap();
            assert!(worst(&v, &path.target(&t, &x0, &x1).unwrap()) < 1e-9);
        }
    }
}
