//! The spectral generator: phi' = phi Λ with blocks [[a, b], [-b, a]] and [a], and
//! x' = b0 + t b1 + phi B. Every propagation is elementwise and exact, also at tau = 0:
//! x(t + tau) = x + b0 tau + b1 (t tau + tau²/2) + phi K(tau) B, K(tau) = Λ^{-1} (e^{tau Λ} - I).

use tch::{Device, Kind, Tensor};

use super::{Observables, Propagator, Stability, StudentConfig};
use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::tensor::{check_finite, shape_text, RandomSource};

/// Growth rates lie in ±GROWTH_BOUND by construction.
pub(super) const GROWTH_BOUND: f64 = Stability::BOUND;

/// phi is laid out as [real parts (p), imaginary parts (p), real eigenvalues (r)], k = 2 p + r: the
/// complex feature z = re + i im obeys z' = (a + i b) z.
#[derive(Debug)]
pub struct SpectralGenerator {
    /// Growth before the bound, `[p + r]`: pairs, then real eigenvalues.
    raw_growth: Tensor,
    /// Angular frequencies of the pairs, `[p]`.
    frequency: Tensor,
    /// B, `[k, d]`.
    readout: Tensor,
    /// b0 and b1, `[2, d]`.
    drift: Tensor,
}

/// e^{λ tau} or (e^{λ tau} - 1)/λ of every eigenvalue: real and imaginary part, pairs first.
struct Factors {
    real: Tensor,
    imaginary: Tensor,
}

/// Eigenvalues below this size are treated by the series.
const SERIES_BELOW: f64 = 1e-3;

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

impl SpectralGenerator {
    pub fn new(
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let (dimension, features) = (config.dimension(), config.observables);
        let options = (parameters.kind(), parameters.device());
        // About a quarter of the features are real eigenvalues: slow drifts and plain decays.
        let pairs = config.pairs.unwrap_or((features * 3 / 8).max(i64::from(features >= 2)));
        let reals = features - 2 * pairs;
        let growth = random.normal(&[pairs + reals], options.0, options.1)?;
        let frequency = Tensor::linspace(0.5, 6.5, pairs, options);
        let bound = 1.0 / (features as f64).sqrt();
        let readout = (random.uniform(&[features, dimension], options.0, options.1)? * 2.0 - 1.0) * bound;
        Ok(SpectralGenerator {
            raw_growth: parameters.add("generator.growth", growth),
            frequency: parameters.add("generator.frequency", frequency),
            readout: parameters.add("generator.readout", readout),
            drift: parameters.add("generator.drift", Tensor::zeros([2, dimension], options)),
        })
    }

    pub fn options(&self) -> (Kind, Device) {
        (self.readout.kind(), self.readout.device())
    }

    /// Sets B, `[k, d]`, and (b0, b1), `[2, d]`.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] name `readout` or `drift`.
    pub fn set_readout(&self, readout: &Tensor, drift: &Tensor) -> Result<()> {
        let parts = [("readout", &self.readout, readout), ("drift", &self.drift, drift)];
        for (name, own, given) in parts {
            if given.size() != own.size() {
                return Err(Error::shape(name, shape_text(&own.size()), shape_text(&given.size())));
            }
            check_finite(name, given)?;
        }
        let _guard = tch::no_grad_guard();
        for (_, own, given) in parts {
            own.shallow_clone().f_copy_(given)?;
        }
        Ok(())
    }

    fn pairs(&self) -> i64 {
        self.frequency.size()[0]
    }

    /// Growth rates a, `[p + r]`, within the bound.
    fn growth(&self) -> Tensor {
        (&self.raw_growth * (1.0 / GROWTH_BOUND)).tanh() * GROWTH_BOUND
    }

    /// Growth rates `[p + r]` and frequencies `[p]` of the pairs, then the real eigenvalues; float64 on the CPU.
    pub fn rates(&self) -> (Tensor, Tensor) {
        let exact = self.in_double();
        (exact.growth(), exact.frequency)
    }

    /// Growth rate of each feature, `[k]`, differentiable.
    pub fn growth_of_features(&self) -> Tensor {
        let (growth, pairs) = (self.growth(), self.pairs());
        Tensor::cat(&[growth.narrow(0, 0, pairs), growth], 0)
    }

    /// What each feature adds to dx/dt: `[k, d]`, differentiable.
    pub fn modes(&self) -> Tensor {
        self.readout.shallow_clone()
    }

    /// The same generator in float64 on the CPU, without gradients.
    fn in_double(&self) -> Self {
        let convert = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double);
        SpectralGenerator {
            raw_growth: convert(&self.raw_growth),
            frequency: convert(&self.frequency),
            readout: convert(&self.readout),
            drift: convert(&self.drift),
        }
    }

    /// e^{λ tau} for tau `[B, 1]`.
    fn exponentials(&self, tau: &Tensor) -> Factors {
        let magnitude = (tau * self.growth()).exp();
        let (pairs, all) = (self.pairs(), magnitude.size()[1]);
        let angle = tau * &self.frequency;
        let modulus = magnitude.narrow(1, 0, pairs);
        Factors {
            real: Tensor::cat(&[&modulus * angle.cos(), magnitude.narrow(1, pairs, all - pairs)], 1),
            imaginary: modulus * angle.sin(),
        }
    }

    /// (e^{λ tau} - 1)/λ for tau `[B, 1]`, without cancellation: the numerator is
    /// expm1(a tau) cos(b tau) - 2 sin²(b tau / 2) + i e^{a tau} sin(b tau). Near λ = 0, where the quotient
    /// is 0/0, the series of [`integral_series`].
    fn integrals(&self, tau: &Tensor) -> Factors {
        let growth = self.growth();
        let pairs = self.pairs();
        let reals = growth.size()[0] - pairs;
        let (a, b) = (growth.narrow(0, 0, pairs), &self.frequency);
        let square = Tensor::cat(&[a.square() + b.square(), growth.narrow(0, pairs, reals).square()], 0);
        let small = square.detach().lt(SERIES_BELOW * SERIES_BELOW);
        // Seldom: then both branches are formed, and the quotient's divisor is replaced where it vanishes.
        // Asking another device would wait for it at every step, so there both always are.
        let vanishing = small.device() != Device::Cpu || small.any().int64_value(&[]) != 0;
        let safe = match vanishing {
            true => square.masked_fill(&small, 1.0),
            false => square,
        };
        let scaled = tau * &growth;
        let rise = scaled.expm1();
        let angle = tau * b;
        let pair_rise = rise.narrow(1, 0, pairs);
        let re = &pair_rise * angle.cos() - (&angle * 0.5).sin().square() * 2.0;
        let im = (&pair_rise + 1.0) * angle.sin();
        let divisor = safe.narrow(0, 0, pairs);
        let (a, b) = (&a / &divisor, b / &divisor);
        let rest =
            rise.narrow(1, pairs, reals) * (growth.narrow(0, pairs, reals) / safe.narrow(0, pairs, reals));
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

    /// Multiplies features `[B, k]` by one complex (pairs) or real factor each.
    fn scale(&self, features: &Tensor, factors: &Factors) -> Tensor {
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

    pub fn rate(&self, g: &Observables) -> (Tensor, Tensor) {
        let growth = self.growth().unsqueeze(0);
        let eigenvalues = Factors { real: growth, imaginary: self.frequency.unsqueeze(0) };
        let drift = self.drift.select(0, 0) + g.t.unsqueeze(1) * self.drift.select(0, 1);
        (drift.addmm(&g.features, &self.readout), self.scale(&g.features, &eigenvalues))
    }

    /// phi K(tau), `[B, k]`, for features `[B, k]` and tau `[B]`: x(t + tau) is linear in the readout and the
    /// drift given these.
    pub fn integrated(&self, features: &Tensor, tau: &Tensor) -> Tensor {
        self.scale(features, &self.integrals(&tau.unsqueeze(1)))
    }

    pub fn propagate_state(&self, g: &Observables, tau: &Tensor) -> Tensor {
        let tau = tau.unsqueeze(1);
        let integrated = self.scale(&g.features, &self.integrals(&tau));
        let quadratic = &tau * (g.t.unsqueeze(1) + &tau * 0.5);
        let moved = &g.x + &tau * self.drift.select(0, 0) + quadratic * self.drift.select(0, 1);
        moved.addmm(&integrated, &self.readout)
    }

    /// phi e^{tau Λ}, `[B, k]`.
    pub fn propagate_features(&self, features: &Tensor, tau: &Tensor) -> Tensor {
        self.scale(features, &self.exponentials(&tau.unsqueeze(1)))
    }

    pub fn propagate(&self, g: &Observables, tau: &Tensor) -> Observables {
        Observables {
            t: &g.t + tau,
            x: self.propagate_state(g, tau),
            features: self.propagate_features(&g.features, tau),
        }
    }

    /// The state's columns of exp(tau L) in float64 on the CPU.
    fn fold(&self, tau: f64) -> Result<Propagator> {
        let exact = self.in_double();
        let tau = Tensor::from_slice(&[tau]).unsqueeze(1);
        let features = exact.readout.size()[0];
        // K(tau) B without forming K: scale acts on rows, so fold through the identity's rows.
        let identity = Tensor::eye(features, (Kind::Double, Device::Cpu));
        let folded = exact.scale(&identity, &exact.integrals(&tau)).f_matmul(&exact.readout)?;
        let (slow, fast) = (exact.drift.select(0, 0), exact.drift.select(0, 1));
        let tau = tau.reshape([1]);
        Ok(Propagator {
            constant: slow * &tau + &fast * (tau.square() * 0.5),
            time: fast * tau,
            state: None,
            features: folded,
        })
    }

    pub fn propagator(&self, tau: f64) -> Result<Propagator> {
        let (kind, device) = self.options();
        Ok(self.fold(tau)?.to_device_and_kind(device, kind))
    }

    /// exp(tau L), `[m, m]`, float64 on the CPU.
    pub fn exponential(&self, tau: f64) -> Result<Tensor> {
        let exact = self.in_double();
        let thin = self.fold(tau)?;
        let size = exact.readout.size();
        let (features, dimension) = (size[0], size[1]);
        let options = (Kind::Double, Device::Cpu);
        let step = Tensor::from_slice(&[tau]);
        let factors = exact.exponentials(&step.unsqueeze(1));
        let matrix = Tensor::f_eye(2 + dimension + features, options)?;
        matrix.narrow(0, 0, 1).narrow(1, 1, 1).f_copy_(&step)?;
        let state = matrix.narrow(1, 2, dimension);
        state.select(0, 0).f_copy_(&thin.constant)?;
        state.select(0, 1).f_copy_(&thin.time)?;
        state.narrow(0, 2 + dimension, features).f_copy_(&thin.features)?;
        let block = matrix.narrow(0, 2 + dimension, features).narrow(1, 2 + dimension, features);
        block.shallow_clone().f_copy_(&exact.scale(&Tensor::f_eye(features, options)?, &factors))?;
        Ok(matrix)
    }

    pub fn matrix(&self) -> Tensor {
        let exact = self.in_double();
        let size = exact.readout.size();
        let (features, dimension) = (size[0], size[1]);
        let m = 2 + dimension + features;
        let one = Tensor::from_slice(&[1.0]);
        let identity = Tensor::eye(features, (Kind::Double, Device::Cpu));
        let block = exact.scale(
            &identity,
            &Factors { real: exact.growth().unsqueeze(0), imaginary: exact.frequency.unsqueeze(0) },
        );
        let matrix = Tensor::zeros([m, m], (Kind::Double, Device::Cpu));
        matrix.narrow(0, 0, 1).narrow(1, 1, 1).copy_(&one);
        matrix.narrow(0, 0, 2).narrow(1, 2, dimension).copy_(&exact.drift);
        matrix.narrow(0, 2 + dimension, features).narrow(1, 2, dimension).copy_(&exact.readout);
        matrix.narrow(0, 2 + dimension, features).narrow(1, 2 + dimension, features).copy_(&block);
        matrix
    }

    /// The eigenvalues are the parameters, and zero for the constant, time and state: `[m, 2]`.
    pub fn eigenvalues(&self) -> Tensor {
        let exact = self.in_double();
        let pairs = exact.pairs();
        let growth = exact.growth();
        let reals = growth.size()[0] - pairs;
        let still = Tensor::zeros([2 + exact.readout.size()[1], 2], (Kind::Double, Device::Cpu));
        let upper = Tensor::stack(&[growth.narrow(0, 0, pairs), exact.frequency.shallow_clone()], 1);
        let lower = Tensor::stack(&[growth.narrow(0, 0, pairs), -&exact.frequency], 1);
        let couples = Tensor::stack(&[upper, lower], 1).view([-1, 2]);
        let rest = growth.narrow(0, pairs, reals);
        Tensor::cat(&[still, couples, Tensor::stack(&[rest.shallow_clone(), rest.zeros_like()], 1)], 0)
    }

    pub fn shallow_clone(&self) -> Self {
        SpectralGenerator {
            raw_growth: self.raw_growth.shallow_clone(),
            frequency: self.frequency.shallow_clone(),
            readout: self.readout.shallow_clone(),
            drift: self.drift.shallow_clone(),
        }
    }
}
