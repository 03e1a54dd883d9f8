//! The distribution of training times.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// The distribution of the time t of a training pair, in (0, 1). It is sampled by its quantiles: a batch
/// draws one time from each of B equally likely intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TimeSampler {
    #[default]
    Uniform,
    /// The logistic function of a normal number (Esser et al., arXiv 2403.03206, section 3.1). Most times are
    /// near the logistic function of `mean`, and few near 0 and 1.
    LogitNormal {
        #[serde(default)]
        mean: f64,
        #[serde(default = "one")]
        deviation: f64,
    },
    /// Density (p + 1) t^p with `exponent` p above -1. Most times are near the data for p > 0 and near the
    /// noise for p < 0.
    Power {
        #[serde(default = "one")]
        exponent: f64,
    },
}

fn one() -> f64 {
    1.0
}

impl TimeSampler {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Argument`] for an option out of range.
    pub fn check(&self) -> Result<()> {
        let refuse = |expected: &str, got: f64| Err(Error::argument("time_sampler", expected, got));
        match *self {
            TimeSampler::LogitNormal { mean, .. } if !mean.is_finite() => {
                refuse("a logit_normal with a finite mean", mean)
            }
            TimeSampler::LogitNormal { deviation, .. } if !(deviation > 0.0 && deviation.is_finite()) => {
                refuse("a logit_normal with a deviation above 0", deviation)
            }
            TimeSampler::Power { exponent } if !(exponent > -1.0 && exponent.is_finite()) => {
                refuse("a power with an exponent above -1", exponent)
            }
            _ => Ok(()),
        }
    }

    /// Times `[B]` from uniform numbers `[B]` in [0, 1), in the same dtype.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn times(&self, uniform: &Tensor) -> Result<Tensor> {
        let quantile = match *self {
            TimeSampler::Uniform => return Ok(uniform.shallow_clone()),
            TimeSampler::LogitNormal { mean, deviation } => {
                // The clamp keeps the normal quantiles finite and the times apart from 0 and 1 in single
                // precision.
                let inner = uniform.to_kind(Kind::Double).f_clamp(1e-7, 1.0 - 1e-7)?;
                let normal = (inner * 2.0 - 1.0).f_erfinv()? * std::f64::consts::SQRT_2;
                (normal * deviation + mean).f_sigmoid()?
            }
            TimeSampler::Power { exponent } => {
                uniform.to_kind(Kind::Double).f_pow_tensor_scalar(1.0 / (exponent + 1.0))?
            }
        };
        // Like uniform times, these never reach 1.
        let last = 1.0 - f64::from(f32::EPSILON);
        Ok(quantile.f_clamp_max(last)?.to_kind(uniform.kind()))
    }
}
