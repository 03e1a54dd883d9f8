//! Log-likelihoods against the Gaussian's closed form; quadrature against eigenvalues.

use koopflow::monitor::{Monitor, Progress, Silent};
use koopflow::ode::SolveOptions;
use koopflow::ode::{log_prob, DensityOptions, Divergence};
use koopflow::sampling::log_quadratic_form;
use koopflow::tensor::RandomSource;
use koopflow::velocity::{EmpiricalField, GaussianField, VelocityField};
use koopflow::Result;
use tch::{Device, Kind, Tensor};

fn normal(seed: u64, shape: &[i64], kind: Kind) -> Tensor {
    RandomSource::new(seed).normal(shape, kind, Device::Cpu).unwrap()
}

/// A Gaussian of `size` dimensions with correlations, shaped as `event`.
fn gaussian(event: &[i64], kind: Kind) -> GaussianField {
    let size: i64 = event.iter().product();
    let root = normal(1, &[size, size], Kind::Double) / (size as f64).sqrt();
    let covariance = root.matmul(&root.tr()) + Tensor::eye(size, (Kind::Double, Device::Cpu)) * 0.2;
    GaussianField::new(&normal(2, &[size], Kind::Double), &covariance, event, Device::Cpu, kind).unwrap()
}

fn batch(field: &GaussianField, rows: i64) -> Tensor {
    let mut shape = vec![rows];
    shape.extend(field.event_shape());
    field.flow_map(&normal(3, &shape, field.dtype())).unwrap()
}

fn options(divergence: Divergence, tolerance: f64) -> DensityOptions {
    DensityOptions { divergence, solve: SolveOptions::adaptive(tolerance), ..DensityOptions::default() }
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn exact_log_prob_is_the_closed_form() {
    for (kind, bound) in [(Kind::Double, 1e-6), (Kind::Float, 2e-4)] {
        for event in [&[2][..], &[2, 3], &[1]] {
            let field = gaussian(event, kind);
            let x = batch(&field, 9);
            let tolerance = if kind == Kind::Double { 1e-9 } else { 1e-6 };
            for divergence in [Divergence::Auto, Divergence::Exact] {
                let found = log_prob(&field, &x, &options(divergence, tolerance), None, &mut Silent).unwrap();
                assert_eq!((found.size(), found.kind()), (vec![9], kind));
                let error = worst(&found.to_kind(Kind::Double), &field.log_prob(&x).unwrap());
                assert!(error < bound, "{event:?} {kind:?}: {error}");
            }
        }
    }
}

/// Up to a time before 1 the empirical field's density is a known mixture of Gaussians; a non-linear
/// flow whose divergence depends on x, by the trait's autograd default. Over a grid it has mass one.
#[test]
fn a_mixture_has_its_density_and_mass_one() {
    let data = Tensor::from_slice(&[-1.0, 0.5, 2.0]).view([3, 1]);
    let field = EmpiricalField::new(&data, Device::Cpu, Kind::Double).unwrap();
    let stopped = Stopped(field, 0.8);
    let x = Tensor::linspace(-4.0, 5.0, 181, (Kind::Double, Device::Cpu)).view([181, 1]);
    let found = log_prob(&stopped, &x, &options(Divergence::Exact, 1e-9), None, &mut Silent).unwrap();
    // p_t = mean_i N(t y_i, (1 - t)^2).
    let scaled = (&x - data.tr() * 0.8) / 0.2;
    let terms = scaled.square() * -0.5 - 0.2f64.ln() - 0.5 * (2.0 * std::f64::consts::PI).ln() - 3f64.ln();
    let expected = terms.logsumexp(1i64, false);
    let likely = expected.gt(-20.0);
    let error = worst(&found.masked_select(&likely), &expected.masked_select(&likely));
    assert!(error < 1e-5, "{error}");
    let mass = found.exp().sum(Kind::Double).double_value(&[]) * 0.05;
    assert!((mass - 1.0).abs() < 1e-4, "{mass}");
}

/// The field in the time t' = t / end: its flow over [0, 1] is the field's over [0, end].
struct Stopped(EmpiricalField, f64);

impl VelocityField for Stopped {
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
        Ok(self.0.velocity(&(t * self.1), x, condition)? * self.1)
    }
    fn counter(&self) -> &koopflow::velocity::EvaluationCounter {
        self.0.counter()
    }
    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        self.0.shallow_clone()
    }
    fn kind_name(&self) -> &'static str {
        "stopped"
    }
    fn state(&self) -> Option<koopflow::velocity::FieldState> {
        None
    }
}

#[test]
fn hutchinson_is_unbiased_and_seeded() {
    let field = gaussian(&[5], Kind::Double);
    let x = batch(&field, 4);
    let exact = field.log_prob(&x).unwrap();
    let estimate = |probes, seed| {
        let options = DensityOptions { probes, seed, ..options(Divergence::Hutchinson, 1e-6) };
        log_prob(&field, &x, &options, None, &mut Silent).unwrap()
    };
    let one = estimate(1, 0);
    assert!(worst(&one, &exact) > 1e-3, "one probe is not exact");
    assert_eq!(one, estimate(1, 0));
    assert!(worst(&one, &estimate(1, 1)) > 1e-3);
    // The spread of single probes says what the mean of 2,000 may miss: five standard errors.
    let singles = Tensor::stack(&(0..40).map(|seed| estimate(1, seed)).collect::<Vec<_>>(), 0);
    let spread = singles.std(true).double_value(&[]);
    assert!(worst(&estimate(2000, 7), &exact) < 5.0 * spread / 2000f64.sqrt());
}

#[test]
fn auto_turns_to_hutchinson_above_32_dimensions() {
    for (size, same) in [(32, Divergence::Exact), (33, Divergence::Hutchinson)] {
        let field = gaussian(&[size], Kind::Double);
        let x = batch(&field, 2);
        let run = |divergence| log_prob(&field, &x, &options(divergence, 1e-4), None, &mut Silent).unwrap();
        assert_eq!(run(Divergence::Auto), run(same));
    }
}

struct Count(Vec<u64>);

impl Monitor for Count {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }
    fn report(&mut self, progress: &Progress) -> Result<()> {
        assert_eq!((progress.stage, progress.total), ("density", 1000));
        self.0.push(progress.step);
        Ok(())
    }
}

#[test]
fn chunks_report_and_agree() {
    let field = gaussian(&[16], Kind::Double);
    let x = batch(&field, 1000);
    let mut count = Count(vec![]);
    let found = log_prob(&field, &x, &options(Divergence::Exact, 1e-6), None, &mut count).unwrap();
    assert_eq!(count.0, [512, 1000]);
    assert!(worst(&found, &field.log_prob(&x).unwrap()) < 1e-3);
}

#[test]
fn bad_arguments_are_named() {
    let field = gaussian(&[2], Kind::Float);
    let x = batch(&field, 3);
    let refuse = |x: &Tensor, options: &DensityOptions, condition: Option<&Tensor>| {
        let error = log_prob(&field, x, options, condition, &mut Silent).unwrap_err();
        error.to_string().split(':').next().unwrap_or("").to_string()
    };
    let good = DensityOptions::default();
    assert_eq!(refuse(&x, &DensityOptions { probes: 0, ..good.clone() }, None), "probes");
    assert_eq!(refuse(&x.view([2, 3]), &good, None), "x");
    assert_eq!(refuse(&x, &good, Some(&x)), "condition");
    assert!("trace".parse::<Divergence>().unwrap_err().to_string().contains("'hutchinson'"));
    assert_eq!("exact".parse::<Divergence>().unwrap(), Divergence::Exact);
}

/// e^T log(A) e by the eigenvectors of A: Lanczos' with as many products as dimensions, above it with fewer, and
/// with more than the space has directions.
#[test]
fn lanczos_quadrature_is_exact_with_all_products_and_too_large_with_few() {
    let double = (Kind::Double, Device::Cpu);
    let rates = Tensor::linspace(-3.0, 2.0, 12, double);
    let (axes, _) = Tensor::linalg_qr(&normal(7, &[12, 12], Kind::Double), "reduced");
    let matrix = (&axes * rates.exp()).matmul(&axes.tr());
    let probes = normal(8, &[5, 12], Kind::Double);
    let exact = (probes.matmul(&axes).square() * &rates).sum_dim_intlist(1, false, Kind::Double);
    let form = |steps, matrix: &Tensor, probes: &Tensor| {
        log_quadratic_form(probes, steps, f64::EPSILON, |v| Ok(v.matmul(matrix))).unwrap()
    };
    for steps in [12, 40] {
        assert!(worst(&form(steps, &matrix, &probes), &exact) < 1e-8, "{steps}");
    }
    let few: Vec<Tensor> = [1, 2, 4, 8].iter().map(|steps| form(*steps, &matrix, &probes)).collect();
    assert!(few.iter().all(|found| found.gt_tensor(&exact).all().int64_value(&[]) != 0));
    assert!(few.windows(2).all(|pair| pair[1].lt_tensor(&pair[0]).all().int64_value(&[]) != 0));
    // The space of a multiple of the identity is exhausted at once.
    let squares = probes.square().sum_dim_intlist(1, false, Kind::Double);
    let found = form(6, &(Tensor::eye(12, double) * 3.0), &probes);
    assert!(worst(&found, &(squares * 3f64.ln())) < 1e-10);
}
