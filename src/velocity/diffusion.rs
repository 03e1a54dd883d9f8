//! Diffusion models as velocity fields: the probability-flow ODE (Song et al., arXiv 2011.13456, eq. 13) of a
//! model that predicts the noise, the score, the data or a mixture of them.
//!
//! Along any Gaussian path x_t = a x1 + s x0 the marginal velocity is v = a' E[x1|x] + s' E[x0|x] (Lipman et
//! al., arXiv 2210.02747), and x = a E[x1|x] + s E[x0|x]. Eliminating one expectation by the other, with
//! logarithmic rates A = a' / a, S = s' / s and K = S - A,
//!
//! v = A x + s K E[x0|x] = S x - a K E[x1|x],
//!
//! which does not divide by a or s. Every prediction is linear in x and one of the expectations, so that
//! v = (linear) x + (weight) prediction with two coefficients per time.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::noise_schedule::{NoiseLevel, NoiseSchedule};
use super::{FieldState, Mixing, VelocityField};
use crate::error::{Error, Result};

/// What the model predicts, for its own state z = alpha x1 + sigma x0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Parametrisation {
    /// The noise x0 (Ho et al., arXiv 2006.11239).
    #[default]
    #[serde(rename = "eps")]
    Eps,
    /// The gradient of log p(z), which is -x0 / sigma.
    #[serde(rename = "score")]
    Score,
    /// The data x1: a denoiser, such as a preconditioned EDM network.
    #[serde(rename = "x0")]
    X0,
    /// (alpha x0 - sigma x1) / sqrt(alpha^2 + sigma^2) (Salimans and Ho, arXiv 2202.00512).
    #[serde(rename = "v")]
    V,
    /// The network F of Karras et al. (arXiv 2206.00364, eq. 7) before preconditioning: with y = z / alpha and
    /// q = sigma / alpha, x1 = c_skip y + c_out F(c_in y), for data of standard deviation `sigma_data`.
    #[serde(rename = "F")]
    F,
}

/// The number that tells the model the noise level of z; r is the diffusion time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseArgument {
    /// r, 1 at the noise and 0 at the data.
    Time,
    /// (num_timesteps - 1) r.
    Timestep,
    /// The timestep rounded to int64, for models with a table of embeddings. v then jumps at each half step.
    Index,
    /// sigma / alpha.
    Sigma,
    /// log(sigma / alpha) / 4 (Karras et al., Table 1).
    CNoise,
    /// log(alpha^2 / sigma^2).
    LogSnr,
}

/// How a [`DiffusionField`] interprets its model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    pub parametrisation: Parametrisation,
    pub schedule: NoiseSchedule,
    /// Noise argument of the model. `None` means [`NoiseArgument::CNoise`] for F, otherwise [`NoiseArgument::Time`]
    /// for a variance-preserving schedule and [`NoiseArgument::Sigma`] for the others.
    pub noise_argument: Option<NoiseArgument>,
    /// Number of training timesteps of the model, at least 2.
    pub num_timesteps: i64,
    /// Standard deviation of the data, positive; used only by [`Parametrisation::F`].
    pub sigma_data: f64,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        DiffusionConfig {
            parametrisation: Parametrisation::default(),
            schedule: NoiseSchedule::default(),
            noise_argument: None,
            num_timesteps: 1000,
            sigma_data: 0.5,
        }
    }
}

impl DiffusionConfig {
    /// # Errors
    /// [`Error::Argument`] naming the first option out of its range.
    pub fn check(&self) -> Result<()> {
        self.schedule.check()?;
        if self.num_timesteps < 2 {
            return Err(Error::argument("num_timesteps", "at least 2", self.num_timesteps));
        }
        if !(self.sigma_data > 0.0 && self.sigma_data.is_finite()) {
            return Err(Error::argument("sigma_data", "a positive finite number", self.sigma_data));
        }
        Ok(())
    }

    fn argument(&self, level: &NoiseLevel, kind: Kind) -> Tensor {
        let steps = || &level.time * (self.num_timesteps - 1) as f64;
        let log_noise = || level.sigma.log() - level.alpha.log();
        let natural = match self.parametrisation {
            Parametrisation::F => NoiseArgument::CNoise,
            _ if self.schedule.preserves_variance() => NoiseArgument::Time,
            _ => NoiseArgument::Sigma,
        };
        let number = match self.noise_argument.unwrap_or(natural) {
            NoiseArgument::Time => level.time.shallow_clone(),
            NoiseArgument::Timestep => steps(),
            NoiseArgument::Index => return steps().round().to_kind(Kind::Int64),
            NoiseArgument::Sigma => &level.sigma / &level.alpha,
            NoiseArgument::CNoise => log_noise() * 0.25,
            NoiseArgument::LogSnr => log_noise() * -2.0,
        };
        number.to_kind(kind)
    }

    /// The coefficients of the model's input and output at times `t` `[B]`, for states with `axes` axes.
    fn reading(&self, t: &Tensor, axes: usize) -> Reading {
        let level = self.schedule.level(t);
        let NoiseLevel { alpha, sigma, scale, alpha_rate, sigma_rate, scale_rate, .. } = &level;
        let (a, s) = (alpha / scale, sigma / scale);
        let (data_rate, noise_rate) = (alpha_rate - scale_rate, sigma_rate - scale_rate);
        let gap = sigma_rate - alpha_rate;
        let (linear, weight, input) = match self.parametrisation {
            Parametrisation::Eps => (data_rate, s * gap, scale.shallow_clone()),
            Parametrisation::Score => (data_rate, s * gap * sigma.neg(), scale.shallow_clone()),
            Parametrisation::X0 => (noise_rate, a * gap.neg(), scale.shallow_clone()),
            Parametrisation::V => {
                let square = alpha.square() + sigma.square();
                let linear = data_rate + &gap * sigma.square() / &square;
                (linear, s * gap * alpha / square.sqrt(), scale.shallow_clone())
            }
            Parametrisation::F => {
                let noise = sigma / alpha;
                let square = noise.square() + self.sigma_data * self.sigma_data;
                let skip = square.reciprocal() * (self.sigma_data * self.sigma_data);
                let out = noise * self.sigma_data / square.sqrt();
                (noise_rate - &gap * skip, a * gap.neg() * out, scale / alpha / square.sqrt())
            }
        };
        let mut shape = vec![1; axes];
        shape[0] = -1;
        let column = |x: Tensor| x.to_kind(t.kind()).view(shape.as_slice());
        Reading {
            argument: self.argument(&level, t.kind()),
            input: column(input),
            linear: column(linear),
            weight: column(weight),
        }
    }
}

/// The coefficients of v = linear x + weight model(argument, input x) at given times.
struct Reading {
    /// Noise argument of the model, `[B]`.
    argument: Tensor,
    /// This and the following have shape `[B, 1, ...]`.
    input: Tensor,
    linear: Tensor,
    weight: Tensor,
}

/// The probability-flow ODE of a diffusion model. The wrapped field is called with the noise argument as its
/// time and z as its state, and returns the raw prediction.
pub struct DiffusionField {
    model: Box<dyn VelocityField>,
    config: DiffusionConfig,
}

impl DiffusionField {
    /// # Errors
    /// As [`DiffusionConfig::check`].
    pub fn new(model: Box<dyn VelocityField>, config: DiffusionConfig) -> Result<Self> {
        config.check()?;
        Ok(DiffusionField { model, config })
    }
}

impl VelocityField for DiffusionField {
    answers_as!(model);

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let Reading { argument, input, linear, weight } = self.config.reading(t, x.dim());
        let prediction = self.model.velocity(&argument, &x.f_mul(&input)?, condition)?;
        Ok(x.f_mul(&linear)?.f_add(&prediction.f_mul(&weight)?)?)
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let Reading { argument, input, linear, weight } = self.config.reading(t, x.dim());
        let (z, along) = (x.f_mul(&input)?, cotangent.f_mul(&weight)?);
        let (prediction, product) = self.model.velocity_and_vjp(&argument, &z, &along, condition)?;
        let v = x.f_mul(&linear)?.f_add(&prediction.f_mul(&weight)?)?;
        Ok((v, cotangent.f_mul(&linear)?.f_add(&product.f_mul(&input)?)?))
    }

    fn work(&self) -> Result<Option<f64>> {
        self.model.work()
    }

    fn mixing(&self) -> Option<Mixing> {
        Some(Mixing::Schedule(self.config.schedule))
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(DiffusionField { model: self.model.shallow_clone(), config: self.config.clone() })
    }

    fn kind_name(&self) -> &'static str {
        "diffusion"
    }

    /// None, because diffusion models come from code that koopflow does not own.
    fn state(&self) -> Option<FieldState> {
        None
    }
}
