//! The mixture x_t = a x1 + s x0 of noise and data that the states of a field are, and two consequences: the time in
//! which the path of a pair is straight, and the conditional expectations of noise and data given a state.
//!
//! With m = a + s and tau = a / m, x_t / m = tau x1 + (1 - tau) x0 is a straight line in tau for every a and s. Let
//! W = a' s - a s' be the Wronskian. Then dtau/dt = W / m^2, and the two equations v = a' E[x1|x] + s' E[x0|x] and
//! x = a E[x1|x] + s E[x0|x] (Lipman et al., arXiv 2210.02747) have the solution
//!
//! E[x1|x] = (s v - s' x) / W and E[x0|x] = (a' x - a v) / W.

use serde::{Deserialize, Serialize};
use std::str::FromStr;
use tch::{Kind, Tensor};

use super::{Coefficients, NoiseSchedule, Path, VelocityField};
use crate::error::{Error, Result};
use crate::tensor::{check_batch, expand_time};

/// The source of the coefficients a and s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    Path(Path),
    /// The noise schedule of a diffusion model, whose states are scaled: a = alpha / c, s = sigma / c.
    Schedule(NoiseSchedule),
}

/// The member of the pair (x0, x1) whose expectation given a state is taken.
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
    /// a, s and their derivatives at times of any shape, in float64. Closer than a schedule's `time_clip` to either
    /// end, they keep their values at that distance, like the coefficients of the field itself.
    pub fn coefficients(&self, t: &Tensor) -> Coefficients {
        self.known(t).0
    }

    /// The same, but extrapolated linearly where a schedule is clipped. a and s are then the integrals of their
    /// derivatives everywhere, which a change of coordinates needs.
    pub fn extended(&self, t: &Tensor) -> Coefficients {
        let (c, beyond) = self.known(t);
        Coefficients { a: c.a + &c.a_rate * &beyond, s: c.s + &c.s_rate * beyond, ..c }
    }

    /// The coefficients at clipped times, and the difference of `t` from these times.
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

    /// The conditional expectation given states `x` `[B, *event]` at times `t` `[B]` whose velocity is `velocity`, in
    /// the dtype of `x`. On the linear and variance-preserving paths, that of the data is x if s = 0, and that of the
    /// noise is x if a = 0.
    ///
    /// # Errors
    /// Errors of libtorch.
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
    /// E[x1|x_t = x] or E[x0|x_t = x], `[B, *event]`, by one evaluation, for the unchecked arguments that
    /// [`checked_velocity`](#method.checked_velocity) takes too. For a guided field it is the guided estimate. For a
    /// window of a flow it refers to the noise and data of the whole flow. For a reversed flow, the data are the
    /// end of that flow, which is the noise of the original one.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `teacher` if the field's states are no such mixture; the errors of
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
        // In float64 instead of the field's dtype: coefficients are sensitive near the ends of a path.
        let t = t.to_device(device).to_kind(Kind::Double);
        self.expectation(of, &t, &x, condition.as_ref())?.ok_or_else(|| {
            let got = format!("one of kind '{}', whose states are not", self.kind_name());
            Error::argument("teacher", "a field whose states are x_t = a x1 + s x0 at every time", got)
        })
    }
}
