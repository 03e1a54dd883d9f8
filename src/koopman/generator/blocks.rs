//! Λ in real arithmetic: 2x2 blocks [[a, b], [-b, a]] and 1x1 blocks [a], whose exponentials are elementwise.

use tch::{Device, Tensor};

use super::fused::{self, Eigenvalues, Factor, SERIES_BELOW};
use crate::error::Result;
use crate::koopman::Stability;
use crate::nets::Parameters;
use crate::tensor::RandomSource;

/// Growth rates lie in ±GROWTH_BOUND by construction.
pub(in crate::koopman) const GROWTH_BOUND: f64 = Stability::BOUND;

/// Features are laid out as [real parts (p), imaginary parts (p), real eigenvalues (r)], k = 2 p + r: the
/// complex feature z = re + i im obeys z' = (a + i b) z.
#[derive(Debug)]
pub struct Blocks {
    /// Growth before the bound, `[p + r]`: pairs, then real eigenvalues.
    raw_growth: Tensor,
    /// Angular frequencies of the pairs, `[p]`.
    frequency: Tensor,
}

/// e^{λ tau} or (e^{λ tau} - 1)/λ of every eigenvalue: real and imaginary part, pairs first.
pub(in crate::koopman) struct Factors {
    pub real: Tensor,
    pub imaginary: Tensor,
}

/// (e^z - 1)/λ = tau (1 + z/2 + z²/6 + z³/24 + z⁴/120 + ...), z = λ tau with real parts `[B, p + r]` and, for
/// the pairs, imaginary parts `[B, p]`; Horner's scheme in complex arithmetic.
fn integral_series(tau: &Tensor, real: &Tensor, imaginary: &Tensor) -> Factors {
    let (pairs, all) = (imaginary.size()[1], real.size()[1]);
    let zi = imaginary.constant_pad_nd([0, all - pairs]);
    let (mut re, mut im) = (real / 120.0 + 1.0 / 24.0, &zi / 120.0);
    for coefficient in [1.0 / 6.0, 0.5, 1.0] {
        let next = real * &re - &zi * &im + coefficient;
        im = real * &im + &zi * &re;
        re = next;
    }
    Factors { real: re * tau, imaginary: (im * tau).narrow(1, 0, pairs) }
}

/// (e^{λ tau} - 1)/λ for eigenvalues λ of real parts `growth` `[p + r]`, the first p with the imaginary parts
/// `frequency` `[p]`, and tau `[B, 1]`. Without cancellation: the numerator is expm1(a tau) cos(b tau) - 2
/// sin²(b tau / 2) + i e^{a tau} sin(b tau). Near λ = 0, where the quotient is 0/0, [`integral_series`] is
/// used.
fn integrals(growth: &Tensor, frequency: &Tensor, tau: &Tensor) -> Factors {
    let pairs = frequency.size()[0];
    let reals = growth.size()[0] - pairs;
    let (a, b) = (growth.narrow(0, 0, pairs), frequency);
    let square = Tensor::cat(&[a.square() + b.square(), growth.narrow(0, pairs, reals).square()], 0);
    let small = square.detach().lt(SERIES_BELOW * SERIES_BELOW);
    // Eigenvalues near 0 are rare. If there are any, both branches are computed, and the quotient's divisor
    // is replaced where it vanishes. On a GPU the check would wait for the device at every step, so both
    // branches are always computed there.
    let vanishing = small.device() != Device::Cpu || small.any().int64_value(&[]) != 0;
    let safe = match vanishing {
        true => square.masked_fill(&small, 1.0),
        false => square,
    };
    let scaled = tau * growth;
    let rise = scaled.expm1();
    let angle = tau * b;
    let pair_rise = rise.narrow(1, 0, pairs);
    let re = &pair_rise * angle.cos() - (&angle * 0.5).sin().square() * 2.0;
    let im = (&pair_rise + 1.0) * angle.sin();
    let divisor = safe.narrow(0, 0, pairs);
    let (a, b) = (&a / &divisor, b / &divisor);
    let rest = rise.narrow(1, pairs, reals) * (growth.narrow(0, pairs, reals) / safe.narrow(0, pairs, reals));
    let quotient =
        Factors { real: Tensor::cat(&[&re * &a + &im * &b, rest], 1), imaginary: &im * &a - &re * &b };
    if !vanishing {
        return quotient;
    }
    let series = integral_series(tau, &scaled, &angle);
    Factors {
        real: series.real.where_self(&small, &quotient.real),
        imaginary: series.imaginary.where_self(&small.narrow(0, 0, pairs), &quotient.imaginary),
    }
}

/// (e^{λ tau} - 1)/λ of complex eigenvalues, `[r]`, as accurate near λ = 0 as elsewhere; tau where λ is 0.
///
/// # Errors
/// [`crate::Error::Torch`] for a tensor that is not complex and one-dimensional.
pub fn exponential_integral(eigenvalues: &Tensor, tau: f64) -> Result<Tensor> {
    let (growth, frequency) = (eigenvalues.f_real()?, eigenvalues.f_imag()?);
    let tau = Tensor::full([1, 1], tau, (growth.kind(), growth.device()));
    let Factors { real, imaginary } = integrals(&growth, &frequency, &tau);
    Ok(Tensor::f_complex(&real.f_squeeze_dim(0)?, &imaginary.f_squeeze_dim(0)?)?)
}

impl Blocks {
    /// Registers `<name>.growth` and `<name>.frequency` of `features` features; about a quarter of them are real
    /// eigenvalues (slow drifts and plain decays) unless the number of pairs is given.
    pub fn new(
        name: &str,
        features: i64,
        pairs: Option<i64>,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let options = (parameters.kind(), parameters.device());
        let pairs = pairs.unwrap_or((features * 3 / 8).max(i64::from(features >= 2)));
        let growth = random.normal(&[features - pairs], options.0, options.1)?;
        let frequency = Tensor::linspace(0.5, 6.5, pairs, options);
        Ok(Blocks {
            raw_growth: parameters.add(format!("{name}.growth"), growth),
            frequency: parameters.add(format!("{name}.frequency"), frequency),
        })
    }

    pub fn pairs(&self) -> i64 {
        self.frequency.size()[0]
    }

    /// Angular frequencies of the pairs, `[p]`.
    pub fn frequency(&self) -> &Tensor {
        &self.frequency
    }

    /// Growth rates a, `[p + r]`, within the bound.
    pub fn growth(&self) -> Tensor {
        (&self.raw_growth * (1.0 / GROWTH_BOUND)).tanh() * GROWTH_BOUND
    }

    /// The same blocks with converted parameters.
    pub(in crate::koopman) fn map(&self, convert: impl Fn(&Tensor) -> Tensor) -> Self {
        Blocks { raw_growth: convert(&self.raw_growth), frequency: convert(&self.frequency) }
    }

    pub fn shallow_clone(&self) -> Self {
        self.map(Tensor::shallow_clone)
    }

    /// e^{λ tau} for tau `[B, 1]`.
    pub(in crate::koopman) fn exponentials(&self, tau: &Tensor) -> Factors {
        let magnitude = (tau * self.growth()).exp();
        let (pairs, all) = (self.pairs(), magnitude.size()[1]);
        let angle = tau * &self.frequency;
        let modulus = magnitude.narrow(1, 0, pairs);
        Factors {
            real: Tensor::cat(&[&modulus * angle.cos(), magnitude.narrow(1, pairs, all - pairs)], 1),
            imaginary: modulus * angle.sin(),
        }
    }

    /// (e^{λ tau} - 1)/λ for tau `[B, 1]`.
    pub(in crate::koopman) fn integrals(&self, tau: &Tensor) -> Factors {
        integrals(&self.growth(), &self.frequency, tau)
    }

    /// k, the number of features.
    pub fn features(&self) -> i64 {
        self.raw_growth.size()[0] + self.pairs()
    }

    /// Eigenvalues as (real, imaginary) rows `[k, 2]`: conjugate pairs side by side, then the real ones.
    pub fn eigenvalues(&self) -> Tensor {
        let (growth, pairs) = (self.growth(), self.pairs());
        let of_pairs = growth.narrow(0, 0, pairs);
        let upper = Tensor::stack(&[&of_pairs, &self.frequency], 1);
        let lower = Tensor::stack(&[of_pairs, -&self.frequency], 1);
        let couples = Tensor::stack(&[upper, lower], 1).view([-1, 2]);
        let rest = growth.narrow(0, pairs, growth.size()[0] - pairs);
        Tensor::cat(&[couples, Tensor::stack(&[rest.shallow_clone(), rest.zeros_like()], 1)], 0)
    }

    /// Multiplies features, `[B, k]` or `[B, k, pixels]`, by one complex (pairs) or real factor each.
    pub(in crate::koopman) fn scale(&self, features: &Tensor, factors: &Factors) -> Tensor {
        let spread = |factor: &Tensor| match features.dim() {
            2 => factor.shallow_clone(),
            _ => factor.unsqueeze(-1),
        };
        let factors = &Factors { real: spread(&factors.real), imaginary: spread(&factors.imaginary) };
        let pairs = self.pairs();
        let reals = features.size()[1] - 2 * pairs;
        let (re, im) = (features.narrow(1, 0, pairs), features.narrow(1, pairs, pairs));
        let rest = features.narrow(1, 2 * pairs, reals);
        let (real, imaginary) = (factors.real.narrow(1, 0, pairs), &factors.imaginary);
        Tensor::cat(
            &[
                &re * &real - &im * imaginary,
                &re * imaginary + &im * &real,
                rest * factors.real.narrow(1, pairs, reals),
            ],
            1,
        )
    }

    /// Multiplies features, `[B, k]` or `[B, k, pixels]`, by one number for each eigenfunction. `factors`
    /// `[2, p + r]` holds real and imaginary parts, for the pairs and then for the real ones, which ignore
    /// the imaginary part.
    pub(in crate::koopman) fn multiply(&self, features: &Tensor, factors: &Tensor) -> Tensor {
        let imaginary = factors.narrow(0, 1, 1).narrow(1, 0, self.pairs());
        self.scale(features, &Factors { real: factors.narrow(0, 0, 1), imaginary })
    }

    /// phi e^{tau Λ} for features `[B, k]` or `[B, k, pixels]` and tau `[B]`.
    pub fn propagate(&self, features: &Tensor, tau: &Tensor) -> Tensor {
        self.scaled(features, tau, Factor::Exponential)
    }

    /// phi (e^{tau Λ} - 1) Λ^{-1} for features `[B, k]` and tau `[B]`.
    pub(in crate::koopman) fn integrated(&self, features: &Tensor, tau: &Tensor) -> Tensor {
        self.scaled(features, tau, Factor::Integral)
    }

    fn scaled(&self, features: &Tensor, tau: &Tensor, factor: Factor) -> Tensor {
        let eigenvalues = Eigenvalues { raw_growth: &self.raw_growth, frequency: &self.frequency };
        let composed = |[features, raw_growth, frequency, tau]: [&Tensor; 4], factor: Factor| {
            let [raw_growth, frequency] = [raw_growth, frequency].map(Tensor::shallow_clone);
            Blocks { raw_growth, frequency }.composed(features, tau, factor)
        };
        let fused = fused::fusible(&eigenvalues, features, tau)
            .then(|| fused::scaled(&eigenvalues, features, tau, factor, composed));
        // If the fused kernel fails, libtorch's operations fail too, and report the error.
        fused.and_then(Result::ok).unwrap_or_else(|| self.composed(features, tau, factor))
    }

    /// As [`Blocks::scaled`], by libtorch's operations.
    fn composed(&self, features: &Tensor, tau: &Tensor, factor: Factor) -> Tensor {
        let tau = tau.unsqueeze(1);
        let factors = match factor {
            Factor::Exponential => self.exponentials(&tau),
            Factor::Integral => self.integrals(&tau),
        };
        self.scale(features, &factors)
    }

    /// phi Λ, of the features' shape.
    pub fn rate(&self, features: &Tensor) -> Tensor {
        let eigenvalues =
            Factors { real: self.growth().unsqueeze(0), imaginary: self.frequency.unsqueeze(0) };
        self.scale(features, &eigenvalues)
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    /// Values, gradients and their gradients are those of libtorch's operations, small eigenvalues among them.
    #[test]
    fn one_pass_is_what_the_operations_are() {
        tch::manual_seed(0);
        let options = (Kind::Double, Device::Cpu);
        let raw_growth = Tensor::from_slice(&[0.4, -2.0, 1e-5, 0.0, 3.0, -1e-2, 1e-6]);
        let frequency = Tensor::from_slice(&[3.0, 0.5, 1e-5, 0.02]);
        let features = Tensor::randn([5, 11], options);
        let weight = Tensor::randn([5, 11], options);
        for tau in [vec![1.0, 1.0, -1.0, 0.25, 0.0], vec![0.5; 5], vec![-0.3], vec![0.0; 5]] {
            let tau = Tensor::from_slice(&tau);
            for factor in [Factor::Exponential, Factor::Integral] {
                let of = |one_pass: bool, twice: bool| {
                    let inputs =
                        [&features, &raw_growth, &frequency].map(|x| x.copy().set_requires_grad(true));
                    let blocks = Blocks {
                        raw_growth: inputs[1].shallow_clone(),
                        frequency: inputs[2].shallow_clone(),
                    };
                    let y = match one_pass {
                        true => {
                            let [raw_growth, frequency] = [&inputs[1], &inputs[2]];
                            let eigenvalues = Eigenvalues { raw_growth, frequency };
                            assert!(fused::fusible(&eigenvalues, &inputs[0], &tau));
                            blocks.scaled(&inputs[0], &tau, factor)
                        }
                        false => blocks.composed(&inputs[0], &tau, factor),
                    };
                    // Near 0 the derivatives by libtorch's operations suffer from cancellation, so second
                    // derivatives are taken with respect to the features only.
                    let inputs = if twice { &inputs[..1] } else { &inputs[..] };
                    let mut found = vec![y.detach()];
                    let product = (y.tanh() * &weight).sum(Kind::Double);
                    let slopes = Tensor::run_backward(&[&product], inputs, true, twice);
                    if twice {
                        let size = slopes[0].square().sum(Kind::Double);
                        found.extend(Tensor::run_backward(&[size], inputs, false, false));
                    } else {
                        let size = |x: &Tensor, like: &Tensor| match x.defined() {
                            true => x.shallow_clone(),
                            false => like.zeros_like(),
                        };
                        found.extend(slopes.iter().zip(inputs).map(|(x, like)| size(x, like)));
                    }
                    found
                };
                for twice in [false, true] {
                    for (own, other) in of(true, twice).iter().zip(of(false, twice)) {
                        let gap = (own - other).abs().max().double_value(&[]);
                        assert!(gap < 1e-9, "{gap:e}: {factor:?}, tau {tau:?}, twice {twice}");
                    }
                }
            }
        }
    }
}
