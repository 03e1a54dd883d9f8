//! Log-density of a student by the change of variables through its one-step map S. For x = S(z), log p(x) =
//! log p0(z) - log |det dS/dz|, where p0 is the density of the source, mostly the standard normal one. z is
//! found by the student's inverse, polished against S.

use std::str::FromStr;

use tch::{Kind, Tensor};

use super::{log_quadratic_form, Inversion, Polish, SampleMap, JACOBIAN_LIMIT};
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::monitor::Monitor;
use crate::nets::precision::Lowered;
use crate::ode;
use crate::sampling;
use crate::tensor::{all_finite, chunks, finite_densities, in_chunks, shape_text, RandomSource};

/// How log |det dS/dz| is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Determinant {
    /// Exact up to [`JACOBIAN_LIMIT`] coordinates, estimated above.
    #[default]
    Auto,
    /// Determinant of the Jacobian in float64, by d vector-Jacobian products per sample.
    Exact,
    /// Half of tr log J^T J, estimated by stochastic Lanczos quadrature: see [`log_quadratic_form`].
    Lanczos,
}

impl FromStr for Determinant {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Determinant::Auto),
            "exact" => Ok(Determinant::Exact),
            "lanczos" => Ok(Determinant::Lanczos),
            _ => Err(Error::argument("determinant", "'auto', 'exact' or 'lanczos'", format!("{name:?}"))),
        }
    }
}

/// Options of [`student_density`].
#[derive(Debug, Clone)]
pub struct StudentDensityOptions {
    pub determinant: Determinant,
    /// Polishing steps of the inverse, 0 to 1000: Newton's up to [`JACOBIAN_LIMIT`] coordinates, fixed-point
    /// steps above.
    pub polish: i64,
    /// Number of random sign vectors for each sample that Lanczos starts from, at least 2.
    pub probes: i64,
    /// Number of products with J^T J for each of those vectors, at least 1.
    pub products: i64,
    /// Random seed of the sign vectors.
    pub seed: u64,
}

impl Default for StudentDensityOptions {
    fn default() -> Self {
        StudentDensityOptions { determinant: Determinant::Auto, polish: 10, probes: 8, products: 32, seed: 0 }
    }
}

impl StudentDensityOptions {
    fn check(&self) -> Result<()> {
        for (name, value, least) in [("probes", self.probes, 2), ("products", self.products, 1)] {
            if value < least {
                return Err(Error::argument(name, format!("at least {least}"), value));
            }
        }
        Ok(())
    }
}

/// Log-densities and the quantities that they are computed from, each `[B]` except the noise.
#[derive(Debug)]
pub struct StudentDensity {
    /// Log-density in nats at S(noise), which is close to x if `residuals` are small. If other noise leads to
    /// x too, the true density is larger.
    pub log_prob: Tensor,
    /// `[B, *event]`
    pub noise: Tensor,
    /// Distances ||S(noise) - x||.
    pub residuals: Tensor,
    pub log_determinant: Tensor,
    /// Standard errors of the log-determinants over their probes; 0 if they are exact.
    pub standard_errors: Tensor,
    /// Total standard deviation of the data that the student was fitted to, which residuals are compared with.
    pub spread: f64,
}

/// Damping of Newton's steps.
const DAMPING: f64 = 1e-3;

/// Densities of `x` `[B, *event]` in the student's dtype, on its device.
///
/// # Errors
/// As [`sampling::invert_polished`]; [`Error::Argument`] naming `probes`, `products`, or `determinant` if it
/// is to be estimated for a student with a decoder network; [`Error::Divergence`] if a Jacobian is not
/// finite; [`Error::NonFinite`] naming `x` if a density overflows the dtype.
pub fn student_density(
    student: &Student,
    x: &Tensor,
    condition: Option<&Tensor>,
    options: &StudentDensityOptions,
    monitor: &mut dyn Monitor,
) -> Result<StudentDensity> {
    let _guard = tch::no_grad_guard();
    let _full = Lowered::to(None);
    options.check()?;
    ode::check_density(student.source())?;
    let dimension = student.config().dimension();
    let method = if dimension <= JACOBIAN_LIMIT { Polish::Newton } else { Polish::FixedPoint };
    let Inversion { noise, residuals } =
        sampling::invert_polished(student, x, condition, method, options.polish, DAMPING, monitor)?;
    let (log_prob, log_determinant, standard_errors) =
        at_noise(student, &noise, condition, options, monitor)?;
    let kind = student.kind();
    let scale = student.length(1.0)?;
    Ok(StudentDensity {
        log_prob: finite_densities(log_prob.to_kind(kind))?,
        noise,
        residuals,
        log_determinant: log_determinant.to_kind(kind),
        standard_errors: standard_errors.to_kind(kind),
        spread: student.coordinates().spread() * scale,
    })
}

/// Samples `[B, *event]` of given noise, with their log-densities, log |det dS/dz| and its standard errors,
/// each `[B]` in float64. The change of variables is evaluated at the given noise, so nothing is inverted.
///
/// # Errors
/// As [`student_density`], except those of the inverse; an error naming `x0`.
pub fn sample_with_density(
    student: &Student,
    x0: &Tensor,
    condition: Option<&Tensor>,
    options: &StudentDensityOptions,
    monitor: &mut dyn Monitor,
) -> Result<[Tensor; 4]> {
    let _guard = tch::no_grad_guard();
    let _full = Lowered::to(None);
    ode::check_density(student.source())?;
    let x = sampling::sample(student, x0, condition, 1, monitor)?;
    let (log_prob, log_determinant, errors) = at_noise(student, x0, condition, options, monitor)?;
    Ok([x, finite_densities(log_prob)?, log_determinant, errors])
}

/// Multiplies `covectors` `[B, K, *event]` by dS/dz at noise `[B, *event]`, in the data's coordinates.
/// Returns `[B, K, *event]`.
///
/// # Errors
/// An error naming `x0`, `condition` or `covectors`; [`Error::Divergence`] if exp(L) is not finite.
pub fn pull_back(
    student: &Student,
    x0: &Tensor,
    covectors: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let _full = Lowered::to(None);
    let noise = student.flatten("x0", x0)?;
    let (rows, d) = noise.size2()?;
    let mut expected = vec![rows, covectors.size().get(1).copied().unwrap_or(1)];
    expected.extend(&student.config().event_shape);
    if covectors.size() != expected {
        return Err(Error::shape("covectors", shape_text(&expected), shape_text(&covectors.size())));
    }
    let condition = student.condition_input(condition, rows)?;
    let flat = covectors.to_device(noise.device()).to_kind(noise.kind()).reshape([rows, expected[1], d]);
    let pulled = SampleMap::new(student)?.pull_many(&noise, &flat, condition.as_ref(), monitor)?;
    Ok((pulled * student.length(1.0)?).reshape(expected))
}

/// Log-density, log |det dS/dz| and its standard error at noise `[B, *event]`: each `[B]` in float64.
fn at_noise(
    student: &Student,
    noise: &Tensor,
    condition: Option<&Tensor>,
    options: &StudentDensityOptions,
    monitor: &mut dyn Monitor,
) -> Result<(Tensor, Tensor, Tensor)> {
    options.check()?;
    let dimension = student.config().dimension();
    let flat = student.flatten("x0", noise)?;
    let given = condition;
    let condition = student.condition_input(condition, flat.size()[0])?;
    let map = SampleMap::new(student)?;
    let exact = match options.determinant {
        Determinant::Auto => dimension <= JACOBIAN_LIMIT,
        Determinant::Exact => true,
        Determinant::Lanczos => false,
    };
    let (log_determinant, standard_errors) = match exact {
        true => exact_log_determinant(&map, &flat, condition.as_ref(), monitor)?,
        false => estimated_log_determinant(&map, &flat, condition.as_ref(), options, monitor)?,
    };
    let (start, exact) = (student.unflatten(&flat), ode::DensityOptions::default());
    let log_noise = ode::log_density(student.source(), &start, &exact, given, monitor)?;
    let log_determinant = log_determinant + dimension as f64 * student.length(1.0)?.ln();
    Ok((log_noise - &log_determinant, log_determinant, standard_errors))
}

/// log |det J| and its standard error, which is zero: each `[B]` in float64.
fn exact_log_determinant(
    map: &SampleMap,
    noise: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<(Tensor, Tensor)> {
    let log_determinant = in_chunks(noise.size()[0], map.samples_at_once(), 0, |first, rows| {
        let condition = condition.map(|c| c.narrow(0, first, rows));
        let jacobian = map.jacobian(&noise.narrow(0, first, rows), condition.as_ref(), monitor)?;
        if !all_finite(&jacobian) {
            return Err(Error::Divergence("the Jacobian of the one-step map is not finite".into()));
        }
        Ok(Tensor::f_linalg_slogdet(&jacobian.to_kind(Kind::Double))?.1)
    })?;
    let none = log_determinant.zeros_like();
    Ok((log_determinant, none))
}

/// Largest number of values in the Lanczos bases that are held at once.
const BASIS_VALUES: i64 = 1 << 25;

/// An estimate of log |det J| and its standard error: each `[B]` in float64.
fn estimated_log_determinant(
    map: &SampleMap,
    noise: &Tensor,
    condition: Option<&Tensor>,
    options: &StudentDensityOptions,
    monitor: &mut dyn Monitor,
) -> Result<(Tensor, Tensor)> {
    let (count, dimension) = noise.size2()?;
    let (probes, kind) = (options.probes, noise.kind());
    let floor = if kind == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let at_once = (BASIS_VALUES / (dimension * probes * options.products.min(dimension))).max(1);
    let mut source = RandomSource::new(options.seed).fork("determinant probes");
    let (mut means, mut errors) = (Vec::new(), Vec::new());
    for (first, rows) in chunks(count, at_once) {
        let each = |x: &Tensor| x.narrow(0, first, rows).repeat_interleave_self_int(probes, 0, None);
        let (noise, condition) = (each(noise), condition.map(each));
        let signs = source.uniform(&noise.size(), Kind::Float, noise.device())?.ge(0.5);
        let signs = signs.to_kind(Kind::Double) * 2.0 - 1.0;
        let product = |v: &Tensor| map.gram(&noise, &v.to_kind(kind), condition.as_ref(), monitor);
        let halves = log_quadratic_form(&signs, options.products, floor, product)? * 0.5;
        let halves = halves.f_view([rows, probes])?;
        means.push(halves.f_mean_dim([1].as_slice(), false, Kind::Double)?);
        errors.push(halves.f_std_dim([1].as_slice(), true, false)? / (probes as f64).sqrt());
    }
    Ok((Tensor::f_cat(&means, 0)?, Tensor::f_cat(&errors, 0)?))
}
