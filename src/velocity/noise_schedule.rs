//! Noise schedules of diffusion models: z = alpha x1 + sigma x0 with data x1 and noise x0, and alpha and sigma as
//! functions of koopflow's time t, which is 0 at the noise and 1 at the data.
//!
//! koopflow's state is x = z / c. The scale c is chosen so that x starts as N(0, I) and ends as z:
//! - variance preserving (`vp`, `scaled_linear`, `cosine`): diffusion time r = 1 - t, alpha^2 = exp(-B(r)),
//!   sigma^2 = 1 - alpha^2, c = 1 (Song et al., arXiv 2011.13456, eq. 32);
//! - variance exploding (`ve`, `edm`): alpha = 1, c^2 = 1 + k (sigma^2 - sigma_min^2) with
//!   k = (sigma_max^2 - 1) / (sigma_max^2 - sigma_min^2), nearly 1 + sigma^2, so that c is sigma_max at t = 0
//!   and 1 at t = 1.
//!
//! Neither end is reached exactly, as in the models themselves. At t = 0 the marginal differs from N(0, I) by the
//! remaining weight of the data, alpha / c: 0.0066 for `vp`, 0.069 for `scaled_linear`, and 1 / sigma_max for `ve` and
//! `edm`. At t = 1 some noise remains: sigma_min for `ve` and `edm`, and sigma at the diffusion time `time_clip` for
//! the variance-preserving schedules (0.0105 for `vp`).
//!
//! Within `time_clip` of either end the schedule is constant, because sigma has an infinite slope at r = 0 and the
//! cosine schedule has no data left at r = 1.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// A noise schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum NoiseSchedule {
    /// B(r) = beta_min r + (beta_max - beta_min) r^2 / 2: beta increases linearly (DDPM, score SDE).
    Vp(LinearBeta),
    /// The square root of beta increases linearly (latent diffusion).
    ScaledLinear(ScaledBeta),
    /// alpha = cos(u(r)) / cos(u(0)), u(r) = (pi / 2) (r + offset) / (1 + offset) (Nichol and Dhariwal, arXiv
    /// 2102.09672, eq. 17).
    Cosine(Cosine),
    /// sigma = sigma_max (sigma_min / sigma_max)^t: geometric (score SDE, arXiv 2011.13456, eq. 30).
    Ve(Geometric),
    /// sigma^(1 / rho) is linear in t, from sigma_max to sigma_min (Karras et al., arXiv 2206.00364, eq. 5).
    Edm(Karras),
}

impl Default for NoiseSchedule {
    fn default() -> Self {
        NoiseSchedule::Vp(LinearBeta::default())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinearBeta {
    /// 0 < beta_min <= beta_max.
    pub beta_min: f64,
    pub beta_max: f64,
    /// Smallest distance of r from 0 and 1, in (0, 0.5): r is clipped to `time_clip` and 1 - `time_clip`.
    pub time_clip: f64,
}

impl Default for LinearBeta {
    fn default() -> Self {
        LinearBeta { beta_min: 0.1, beta_max: 20.0, time_clip: 1e-3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaledBeta {
    /// 0 < beta_min <= beta_max.
    pub beta_min: f64,
    pub beta_max: f64,
    /// Distance from both ends: see [`LinearBeta::time_clip`].
    pub time_clip: f64,
}

impl Default for ScaledBeta {
    fn default() -> Self {
        ScaledBeta { beta_min: 0.85, beta_max: 12.0, time_clip: 1e-3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cosine {
    /// Offset s of the cosine, in [0, 1].
    pub offset: f64,
    /// Distance from both ends: see [`LinearBeta::time_clip`].
    pub time_clip: f64,
}

impl Default for Cosine {
    fn default() -> Self {
        Cosine { offset: 0.008, time_clip: 1e-3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Geometric {
    /// 0 < sigma_min < sigma_max.
    pub sigma_min: f64,
    pub sigma_max: f64,
}

impl Default for Geometric {
    fn default() -> Self {
        Geometric { sigma_min: 0.01, sigma_max: 50.0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Karras {
    /// 0 < sigma_min < sigma_max.
    pub sigma_min: f64,
    pub sigma_max: f64,
    /// Exponent of the schedule, at least 1.
    pub rho: f64,
}

impl Default for Karras {
    fn default() -> Self {
        Karras { sigma_min: 0.002, sigma_max: 80.0, rho: 7.0 }
    }
}

/// The values of a schedule at times t. Each tensor has the shape of t and dtype float64. Rates are logarithmic
/// derivatives d log / dt.
pub struct NoiseLevel {
    /// The diffusion time r, 1 at the noise and 0 at the data.
    pub time: Tensor,
    pub alpha: Tensor,
    pub sigma: Tensor,
    /// The scale c.
    pub scale: Tensor,
    pub alpha_rate: Tensor,
    pub sigma_rate: Tensor,
    pub scale_rate: Tensor,
}

impl NoiseSchedule {
    /// # Errors
    /// [`Error::Argument`] naming the first number out of its range.
    pub fn check(&self) -> Result<()> {
        match *self {
            NoiseSchedule::Vp(LinearBeta { beta_min, beta_max, time_clip })
            | NoiseSchedule::ScaledLinear(ScaledBeta { beta_min, beta_max, time_clip }) => {
                ordered("beta_min, beta_max", beta_min, beta_max, beta_min <= beta_max)?;
                check_clip(time_clip)
            }
            NoiseSchedule::Cosine(Cosine { offset, time_clip }) => {
                if !(0.0..=1.0).contains(&offset) {
                    return Err(Error::argument("offset", "a number from 0 to 1", offset));
                }
                check_clip(time_clip)
            }
            NoiseSchedule::Ve(Geometric { sigma_min, sigma_max }) => {
                ordered("sigma_min, sigma_max", sigma_min, sigma_max, sigma_min < sigma_max)
            }
            NoiseSchedule::Edm(Karras { sigma_min, sigma_max, rho }) => {
                if !(rho >= 1.0 && rho.is_finite()) {
                    return Err(Error::argument("rho", "a finite number of at least 1", rho));
                }
                ordered("sigma_min, sigma_max", sigma_min, sigma_max, sigma_min < sigma_max)
            }
        }
    }

    /// Whether alpha^2 + sigma^2 = 1.
    pub fn preserves_variance(&self) -> bool {
        !matches!(self, NoiseSchedule::Ve(_) | NoiseSchedule::Edm(_))
    }

    /// The schedule at times `t`, which are clipped to the range where it is defined.
    pub fn level(&self, t: &Tensor) -> NoiseLevel {
        let t = t.to_kind(Kind::Double);
        match *self {
            NoiseSchedule::Vp(LinearBeta { beta_min, beta_max, time_clip }) => {
                let r = clipped(&t, time_clip);
                let beta = &r * (beta_max - beta_min) + beta_min;
                let integral = &r * (&r * ((beta_max - beta_min) / 2.0) + beta_min);
                preserving(r, &beta, &integral)
            }
            NoiseSchedule::ScaledLinear(ScaledBeta { beta_min, beta_max, time_clip }) => {
                let r = clipped(&t, time_clip);
                let (low, slope) = (beta_min.sqrt(), beta_max.sqrt() - beta_min.sqrt());
                let beta = (&r * slope + low).square();
                // The integral of (low + slope r)^2 without a division by the slope, which may be 0.
                let integral = &r * (&r * (&r * (slope * slope / 3.0) + low * slope) + low * low);
                preserving(r, &beta, &integral)
            }
            NoiseSchedule::Cosine(Cosine { offset, time_clip }) => {
                let r = clipped(&t, time_clip);
                let turn = PI / (2.0 * (1.0 + offset));
                let angle = (&r + offset) * turn;
                let beta = angle.tan() * (2.0 * turn);
                let integral = angle.cos().log() * -2.0 + 2.0 * (offset * turn).cos().ln();
                preserving(r, &beta, &integral)
            }
            NoiseSchedule::Ve(Geometric { sigma_min, sigma_max }) => {
                let t = t.clamp(0.0, 1.0);
                let rate = (sigma_min / sigma_max).ln();
                let sigma = (&t * rate).exp() * sigma_max;
                exploding(&t, sigma, t.full_like(rate), sigma_min, sigma_max)
            }
            NoiseSchedule::Edm(Karras { sigma_min, sigma_max, rho }) => {
                let t = t.clamp(0.0, 1.0);
                let (low, high) = (sigma_min.powf(1.0 / rho), sigma_max.powf(1.0 / rho));
                let root = &t * (low - high) + high;
                let rate = root.reciprocal() * (rho * (low - high));
                exploding(&t, root.pow_tensor_scalar(rho), rate, sigma_min, sigma_max)
            }
        }
    }
}

fn ordered(names: &str, low: f64, high: f64, in_order: bool) -> Result<()> {
    if low > 0.0 && in_order && high.is_finite() {
        return Ok(());
    }
    Err(Error::argument(
        names,
        "positive finite numbers, the first below the second",
        format!("{low}, {high}"),
    ))
}

fn check_clip(time_clip: f64) -> Result<()> {
    match time_clip > 0.0 && time_clip < 0.5 {
        true => Ok(()),
        false => Err(Error::argument("time_clip", "a number between 0 and 0.5", time_clip)),
    }
}

fn clipped(t: &Tensor, time_clip: f64) -> Tensor {
    (t.neg() + 1.0).clamp(time_clip, 1.0 - time_clip)
}

/// The noise level of a variance-preserving schedule at diffusion times r, from beta and its integral B.
fn preserving(r: Tensor, beta: &Tensor, integral: &Tensor) -> NoiseLevel {
    let alpha = (integral * -0.5).exp();
    let variance = integral.neg().expm1().neg();
    // Derivatives in t = 1 - r: (log alpha)' = beta / 2, (log sigma)' = -beta alpha^2 / (2 sigma^2).
    NoiseLevel {
        alpha_rate: beta * 0.5,
        sigma_rate: beta * alpha.square() / &variance * -0.5,
        scale_rate: r.zeros_like(),
        scale: r.ones_like(),
        sigma: variance.sqrt(),
        alpha,
        time: r,
    }
}

fn exploding(t: &Tensor, sigma: Tensor, sigma_rate: Tensor, sigma_min: f64, sigma_max: f64) -> NoiseLevel {
    let (low, high) = (sigma_min * sigma_min, sigma_max * sigma_max);
    let k = (high - 1.0) / (high - low);
    let variance = sigma.square();
    let scale_square = (&variance - low) * k + 1.0;
    NoiseLevel {
        time: t.neg() + 1.0,
        alpha: t.ones_like(),
        alpha_rate: t.zeros_like(),
        scale_rate: &sigma_rate * variance * k / &scale_square,
        scale: scale_square.sqrt(),
        sigma,
        sigma_rate,
    }
}
