//! How the states of a field mix noise and data, x_t = a x1 + s x0, and what follows for every field of that path:
//! the time in which each such line is straight, and the expectations behind a velocity.
//!
//! With m = a + s and tau = a / m, x_t / m = tau x1 + (1 - tau) x0 is straight in tau, whatever a and s are. With the
//! Wronskian W = a' s - a s', dtau/dt = W / m^2, and v = a' E[x1|x] + s' E[x0|x] and x = a E[x1|x] + s E[x0|x] (Lipman
//! et al., arXiv 2210.02747) solve to
//!
//! E[x1|x] = (s v - s' x) / W and E[x0|x] = (a' x - a v) / W.

use serde::{Deserialize, Serialize};
use std::str::FromStr;
use tch::{Kind, Tensor};

use super::{Coefficients, NoiseSchedule, Path, VelocityField};
use crate::error::{Error, Result};
use crate::tensor::{check_batch, expand_time};

/// Where a and s come from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    Path(Path),
    /// That of a diffusion model, whose states are scaled: a = alpha / c, s = sigma / c.
    Schedule(NoiseSchedule),
}

/// What is expected of the pair behind a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// E[x1|x].
    Data,
    /// E[x0|x].
    Noise,
}

impl FromStr for Expectation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "data" => Ok(Expectation::Data),
            "noise" => Ok(Expectation::Noise),
            _ => Err(Error::argument("of", "'data' or 'noise'", format!("{name:?}"))),
        }
    }
}

impl Mixing {
    /// a, s and their derivatives at times of any shape, in float64. Within a schedule's `time_clip` of either end they
    /// are those at that distance, as the field's own are.
    pub fn coefficients(&self, t: &Tensor) -> Coefficients {
        self.known(t).0
    }

    /// The same, going on in straight lines where a schedule stands still: a and s are then the integrals of their
    /// derivatives everywhere, as a change of coordinates needs them.
    pub fn extended(&self, t: &Tensor) -> Coefficients {
        let (c, beyond) = self.known(t);
        Coefficients { a: c.a + &c.a_rate * &beyond, s: c.s + &c.s_rate * beyond, ..c }
    }

    /// The coefficients, and how far beyond the times that they are of `t` is.
    fn known(&self, t: &Tensor) -> (Coefficients, Tensor) {
        let t = t.to_kind(Kind::Double);
        match self {
            Mixing::Path(path) => (path.coefficients(&t), t.zeros_like()),
            Mixing::Schedule(schedule) => {
                let level = schedule.level(&t);
                let (a, s) = (level.alpha / &level.scale, level.sigma / &level.scale);
                let (a_rate, s_rate) = (
                    &a * (level.alpha_rate - &level.scale_rate),
                    &s * (level.sigma_rate - &level.scale_rate),
                );
                (Coefficients { a, s, a_rate, s_rate }, t + level.time - 1.0)
            }
        }
    }

    /// The expectation behind states `x` `[B, *event]` at times `t` `[B]` whose velocity is `velocity`, in the dtype
    /// of `x`. Where s = 0 that of the data is x, where a = 0 that of the noise is.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    pub fn expectation(&self, of: Expectation, t: &Tensor, x: &Tensor, velocity: &Tensor) -> Result<Tensor> {
        let Coefficients { a, s, a_rate, s_rate } = self.coefficients(t);
        let wronskian = &a_rate * &s - &a * &s_rate;
        let (of_x, of_v) = match of {
            Expectation::Data => (-s_rate / &wronskian, s / wronskian),
            Expectation::Noise => (a_rate / &wronskian, -a / wronskian),
        };
        let mut shape = vec![1; x.dim()];
        shape[0] = -1;
        let column = |weight: Tensor| weight.to_kind(x.kind()).f_reshape(shape.as_slice());
        Ok(x.f_mul(&column(of_x)?)?.f_add(&velocity.f_mul(&column(of_v)?)?)?)
    }
}

impl dyn VelocityField + '_ {
    /// E[x1|x_t = x], or that of the noise, for arguments from outside, as
    /// [`checked_velocity`](#method.checked_velocity) takes them: `[B, *event]`, by one evaluation. Of a guided field
    /// it is the guided estimate, of a part of a flow that of the pair behind the whole flow, and of a flow that is
    /// reversed the data are what it leads to: the other one's noise.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `teacher` where the field's states are no such mixture; as
    /// [`checked_velocity`](#method.checked_velocity).
    pub fn denoise(
        &self,
        t: &Tensor,
        x: &Tensor,
        of: Expectation,
        condition: Option<&Tensor>,
    ) -> Result<Tensor> {
        let batch = check_batch("x", x, self.event_shape())?;
        let t = expand_time("t", t, batch)?;
        self.conditioning().check(condition, batch)?;
        let (device, dtype) = (self.device(), self.dtype());
        let x = x.to_device(device).to_kind(dtype);
        let condition = condition.map(|c| c.to_device(device));
        // Not in the field's own dtype: coefficients near the ends of a path are sensitive.
        let t = t.to_device(device).to_kind(Kind::Double);
        self.expectation(of, &t, &x, condition.as_ref())?.ok_or_else(|| {
            let got = format!("one of kind '{}', whose states are not", self.kind_name());
            Error::argument("teacher", "a field whose states are x_t = a x1 + s x0 at every time", got)
        })
    }
}
