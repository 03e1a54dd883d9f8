//! A fused kernel that multiplies features by e^{λ tau} or (e^{λ tau} - 1)/λ in one pass, with its own
//! gradient. In libtorch this takes about fifty operations of a few microseconds each. Times mostly come from
//! a grid, or are the same for all rows, so factors are computed once for each distinct time.

use std::collections::HashMap;
use std::ops::{Add, Div, Mul, Sub};
use std::slice;

use tch::{kind, Device, Kind, Tensor};

use crate::error::Result;
use crate::koopman::Stability;
use crate::tensor::{gradients_of, is_grad_enabled, with_gradient};

/// Growth rates lie in ±GROWTH_BOUND by construction.
const GROWTH_BOUND: f64 = Stability::BOUND;

/// For eigenvalues below this modulus, the series is used.
pub(super) const SERIES_BELOW: f64 = 1e-3;

/// Λ by its parameters.
pub(super) struct Eigenvalues<'a> {
    /// Growth before the bound, `[p + r]`: pairs, then real eigenvalues.
    pub raw_growth: &'a Tensor,
    /// Angular frequencies of the pairs, `[p]`.
    pub frequency: &'a Tensor,
}

/// The same product by libtorch's operations, as a function of features, growth before the bound, frequencies
/// and times.
pub(super) type Composed = fn([&Tensor; 4], Factor) -> Tensor;

/// What features are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Factor {
    /// e^{λ tau}.
    Exponential,
    /// (e^{λ tau} - 1)/λ.
    Integral,
}

/// Floating-point types of tensors.
trait Real:
    kind::Element
    + Copy
    + Send
    + Sync
    + From<f32>
    + Into<f64>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + 'static
{
    fn of(value: f64) -> Self;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

/// If |λ tau| is below this for the longest time, the derivative in λ is summed as a series. Its closed form
/// would be the difference of two nearly equal numbers.
const DERIVATIVE_SERIES_BELOW: f64 = 0.1;
const DERIVATIVE_TERMS: i32 = 10;

/// Whether the fused kernel can multiply features `[B, k]` of these blocks, at times `[B]` or one time for
/// all rows.
pub(super) fn fusible(blocks: &Eigenvalues, features: &Tensor, tau: &Tensor) -> bool {
    let kind = features.kind();
    let alike = |x: &Tensor| x.device() == Device::Cpu && x.kind() == kind;
    let rows = [1, features.size()[0]].contains(&tau.size1().unwrap_or(-1));
    matches!(kind, Kind::Float | Kind::Double)
        && features.dim() == 2
        && features.numel() > 0
        && rows
        && !tau.requires_grad()
        && [features, tau, blocks.raw_growth, blocks.frequency].into_iter().all(alike)
}

/// Multiplies features that are [`fusible`] by their factors: `[B, k]`.
///
/// # Errors
/// Any error of libtorch.
pub(super) fn scaled(
    blocks: &Eigenvalues,
    features: &Tensor,
    tau: &Tensor,
    factor: Factor,
    composed: Composed,
) -> Result<Tensor> {
    match features.kind() {
        Kind::Double => scaled_as::<f64>(blocks, features, tau, factor, composed),
        _ => scaled_as::<f32>(blocks, features, tau, factor, composed),
    }
}

fn scaled_as<T: Real>(
    blocks: &Eigenvalues,
    features: &Tensor,
    tau: &Tensor,
    factor: Factor,
    composed: Composed,
) -> Result<Tensor> {
    let inputs = [features, blocks.raw_growth, blocks.frequency];
    if factor == Factor::Exponential && values::<T>(&tau.contiguous()).iter().all(|&time| time.into() == 0.0)
    {
        return Ok(features.shallow_clone());
    }
    let recorded = is_grad_enabled() && inputs.iter().any(|input| input.requires_grad());
    let (table, y) = tch::no_grad(|| -> Result<(Table<T>, Tensor)> {
        let table = Table::new(blocks, tau, factor, recorded)?;
        let x = features.f_contiguous()?;
        let y = x.f_empty_like()?;
        let k = features.size()[1] as usize;
        let rows = values::<T>(&x).chunks_exact(k).zip(values_mut::<T>(&y).chunks_exact_mut(k));
        for (row, (x, y)) in rows.enumerate() {
            table.multiply(table.place(row), x, y);
        }
        Ok((table, y))
    })?;
    if !recorded {
        return Ok(y);
    }
    let saved = [features, blocks.raw_growth, blocks.frequency, tau];
    let [y] = with_gradient([&y], &inputs, &saved, move |saved, gradients| match is_grad_enabled() {
        // A gradient of the gradient is wanted.
        true => gradients_of(&[&saved[0], &saved[1], &saved[2]], |inputs| {
            let y = composed([&inputs[0], &inputs[1], &inputs[2], &saved[3]], factor);
            Ok((y * &gradients[0]).sum(gradients[0].kind()))
        }),
        false => table.gradient(&saved[0], &saved[1], &gradients[0]),
    })?;
    Ok(y)
}

/// Factors for each distinct time, and their derivatives in λ if gradients are wanted.
struct Table<T> {
    pairs: usize,
    reals: usize,
    /// Row of the table for each row of features; empty if there is one time for all.
    places: Vec<u32>,
    /// `[U, p + r]` and `[U, p]`, for U distinct times.
    real: Vec<T>,
    imaginary: Vec<T>,
    derivative_real: Vec<T>,
    derivative_imaginary: Vec<T>,
}

impl<T: Real> Table<T> {
    fn new(blocks: &Eigenvalues, tau: &Tensor, factor: Factor, derivatives: bool) -> Result<Self> {
        let (growth, frequency) = (blocks.raw_growth.f_contiguous()?, blocks.frequency.f_contiguous()?);
        let growth: Vec<f64> = values::<T>(&growth)
            .iter()
            .map(|&raw| GROWTH_BOUND * (raw.into() / GROWTH_BOUND).tanh())
            .collect();
        let frequency: Vec<f64> = values::<T>(&frequency).iter().map(|&b| b.into()).collect();
        let (pairs, all) = (frequency.len(), growth.len());
        let (times, places) = distinct::<T>(&tau.f_contiguous()?);
        let count = times.len();
        let outer = |of: &dyn Fn(usize, f64) -> f64, columns: usize| -> Result<Tensor> {
            let product = Tensor::f_empty([count as i64, columns as i64], (T::KIND, Device::Cpu))?;
            for (row, &time) in values_mut::<T>(&product).chunks_exact_mut(columns.max(1)).zip(&times) {
                for (j, value) in row.iter_mut().enumerate() {
                    *value = T::of(of(j, time));
                }
            }
            Ok(product)
        };
        let mut size = outer(&|j, time| time * growth[j], all)?;
        let _ = match factor {
            Factor::Exponential => size.f_exp_()?,
            Factor::Integral => size.f_expm1_()?,
        };
        // sin and 1 - cos of the angle without cancellation.
        let half = outer(&|j, time| 0.5 * time * frequency[j], pairs)?;
        let (sine, cosine) = (half.f_sin()?, half.f_cos()?);
        let mut table = Table {
            pairs,
            reals: all - pairs,
            places,
            real: Vec::with_capacity(count * all),
            imaginary: Vec::with_capacity(count * pairs),
            derivative_real: Vec::new(),
            derivative_imaginary: Vec::new(),
        };
        let furthest = times.iter().fold(0.0f64, |most, time| most.max(time.abs()));
        let (size, sine, cosine) = (values::<T>(&size), values::<T>(&sine), values::<T>(&cosine));
        for (row, &time) in times.iter().enumerate() {
            for j in 0..all {
                let a = growth[j];
                let (b, s, c) = match j < pairs {
                    true => (frequency[j], sine[row * pairs + j].into(), cosine[row * pairs + j].into()),
                    false => (0.0, 0.0, 1.0),
                };
                let size: f64 = size[row * all + j].into();
                let lambda = Complex(a, b);
                let square = a * a + b * b;
                let (turn, fall) = (2.0 * s * c, 2.0 * s * s);
                let (value, derivative) = match factor {
                    Factor::Exponential => {
                        let value = Complex(size - size * fall, size * turn);
                        (value, value.times(time))
                    }
                    Factor::Integral => {
                        let grown = size + 1.0;
                        let exponential = Complex(grown - grown * fall, grown * turn);
                        let value = match square < SERIES_BELOW * SERIES_BELOW {
                            true => integral_series(lambda, time),
                            false => Complex(size - grown * fall, grown * turn).over(lambda),
                        };
                        let near = square.sqrt() * furthest < DERIVATIVE_SERIES_BELOW;
                        let derivative = match (derivatives, near) {
                            (false, _) => Complex(0.0, 0.0),
                            (true, true) => derivative_series(lambda, time),
                            (true, false) => {
                                let Complex(re, im) = exponential.times(time);
                                Complex(re - value.0, im - value.1).over(lambda)
                            }
                        };
                        (value, derivative)
                    }
                };
                table.real.push(T::of(value.0));
                if derivatives {
                    table.derivative_real.push(T::of(derivative.0));
                }
                if j < pairs {
                    table.imaginary.push(T::of(value.1));
                    if derivatives {
                        table.derivative_imaginary.push(T::of(derivative.1));
                    }
                }
            }
        }
        Ok(table)
    }

    fn place(&self, row: usize) -> usize {
        self.places.get(row).map_or(0, |place| *place as usize)
    }

    /// One row of features times its factors.
    fn multiply(&self, place: usize, x: &[T], y: &mut [T]) {
        let (p, all) = (self.pairs, self.pairs + self.reals);
        let real = &self.real[place * all..(place + 1) * all];
        let imaginary = &self.imaginary[place * p..(place + 1) * p];
        let ((re, rest), im) = ((&x[..p], &x[2 * p..]), &x[p..2 * p]);
        let (first, last) = y.split_at_mut(2 * p);
        let (out_re, out_im) = first.split_at_mut(p);
        for j in 0..p {
            out_re[j] = re[j] * real[j] - im[j] * imaginary[j];
            out_im[j] = re[j] * imaginary[j] + im[j] * real[j];
        }
        for ((out, x), factor) in last.iter_mut().zip(rest).zip(&real[p..]) {
            *out = *x * *factor;
        }
    }

    /// Gradients of features, growth before its bound, and frequencies.
    fn gradient(&self, features: &Tensor, raw_growth: &Tensor, gradient: &Tensor) -> Result<Vec<Tensor>> {
        let (x, g) = (features.f_contiguous()?, gradient.f_contiguous()?);
        let to_features = x.f_empty_like()?;
        let (p, r) = (self.pairs, self.reals);
        let (k, all) = (2 * p + r, p + r);
        let (mut by_growth, mut by_frequency) = (vec![0.0f64; all], vec![0.0f64; p]);
        let rows = values::<T>(&x).chunks_exact(k).zip(values::<T>(&g).chunks_exact(k));
        for (row, ((x, g), out)) in rows.zip(values_mut::<T>(&to_features).chunks_exact_mut(k)).enumerate() {
            let place = self.place(row);
            let real = &self.real[place * all..][..all];
            let imaginary = &self.imaginary[place * p..][..p];
            let slope_real = &self.derivative_real[place * all..][..all];
            let slope_imaginary = &self.derivative_imaginary[place * p..][..p];
            let (re, im, rest) = (&x[..p], &x[p..2 * p], &x[2 * p..]);
            let (g_re, g_im, g_rest) = (&g[..p], &g[p..2 * p], &g[2 * p..]);
            let (first, last) = out.split_at_mut(2 * p);
            let (out_re, out_im) = first.split_at_mut(p);
            let (pair_growth, rest_growth) = by_growth.split_at_mut(p);
            for j in 0..p {
                out_re[j] = g_re[j] * real[j] + g_im[j] * imaginary[j];
                out_im[j] = g_im[j] * real[j] - g_re[j] * imaginary[j];
                let to_real = g_re[j] * re[j] + g_im[j] * im[j];
                let to_imaginary = g_im[j] * re[j] - g_re[j] * im[j];
                let along: f64 = (to_real * slope_real[j] + to_imaginary * slope_imaginary[j]).into();
                let across: f64 = (to_imaginary * slope_real[j] - to_real * slope_imaginary[j]).into();
                pair_growth[j] += along;
                by_frequency[j] += across;
            }
            for j in 0..r {
                last[j] = g_rest[j] * real[p + j];
                let along: f64 = (g_rest[j] * rest[j] * slope_real[p + j]).into();
                rest_growth[j] += along;
            }
        }
        let raw = raw_growth.f_contiguous()?;
        for (slope, &raw) in by_growth.iter_mut().zip(values::<T>(&raw)) {
            *slope *= 1.0 - (raw.into() / GROWTH_BOUND).tanh().powi(2);
        }
        let [growth, frequency] = [&by_growth, &by_frequency].map(|slopes| Tensor::f_from_slice(slopes));
        Ok(vec![to_features, growth?.f_to_kind(T::KIND)?, frequency?.f_to_kind(T::KIND)?])
    }
}

/// The distinct times, and the index of each row's time among them. There are no indices if all times are the
/// same.
fn distinct<T: Real>(tau: &Tensor) -> (Vec<f64>, Vec<u32>) {
    let all: Vec<f64> = values::<T>(tau).iter().map(|&time| time.into()).collect();
    let mut known = HashMap::new();
    let mut times = Vec::new();
    let places: Vec<u32> = all
        .iter()
        .map(|&time| {
            *known.entry(time.to_bits()).or_insert_with(|| {
                times.push(time);
                times.len() as u32 - 1
            })
        })
        .collect();
    let places = if times.len() == 1 { Vec::new() } else { places };
    (times, places)
}

#[derive(Clone, Copy)]
struct Complex(f64, f64);

impl Complex {
    fn times(self, factor: f64) -> Self {
        Complex(self.0 * factor, self.1 * factor)
    }

    fn by(self, other: Self) -> Self {
        Complex(self.0 * other.0 - self.1 * other.1, self.0 * other.1 + self.1 * other.0)
    }

    fn over(self, other: Self) -> Self {
        let square = other.0 * other.0 + other.1 * other.1;
        self.by(Complex(other.0 / square, -other.1 / square))
    }
}

/// tau (1 + z/2 + z²/6 + ...), z = λ tau: Σ z^n / (n + 1)!.
fn integral_series(lambda: Complex, tau: f64) -> Complex {
    let z = lambda.times(tau);
    let mut sum = Complex(1.0 / 120.0, 0.0);
    for coefficient in [1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        let next = sum.by(z);
        sum = Complex(next.0 + coefficient, next.1);
    }
    sum.times(tau)
}

/// The derivative of (e^{λ tau} - 1)/λ in λ: tau² Σ n z^(n - 1) / (n + 1)!.
fn derivative_series(lambda: Complex, tau: f64) -> Complex {
    let z = lambda.times(tau);
    let (mut power, mut factorial, mut sum) = (Complex(1.0, 0.0), 1.0, Complex(0.0, 0.0));
    for n in 1..=DERIVATIVE_TERMS {
        factorial *= f64::from(n + 1);
        let term = power.times(f64::from(n) / factorial);
        sum = Complex(sum.0 + term.0, sum.1 + term.1);
        power = power.by(z);
    }
    sum.times(tau * tau)
}

/// The values of a contiguous tensor on the CPU.
fn values<T: Real>(tensor: &Tensor) -> &[T] {
    debug_assert!(tensor.kind() == T::KIND && tensor.is_contiguous());
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: a contiguous tensor has `numel` values in a row, and lives as long as the slice.
    unsafe { slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// The values of a new tensor that nothing else refers to.
#[allow(clippy::mut_from_ref)]
fn values_mut<T: Real>(tensor: &Tensor) -> &mut [T] {
    debug_assert!(tensor.kind() == T::KIND && tensor.is_contiguous());
    if tensor.numel() == 0 {
        return &mut [];
    }
    // SAFETY: as above, and the callers have just allocated it.
    unsafe { slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}
