//! Probability paths x_t = a_t x1 + s_t x0 from noise x0 (t = 0) to data x1 (t = 1).

use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;
use tch::Tensor;

use crate::error::{Error, Result};
use crate::tensor::shape_text;

/// The path along which noise and data are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// a = t, s = 1 - t: straight lines (Lipman et al., arXiv 2210.02747; rectified flow).
    #[default]
    Linear,
    /// a = sin(pi t / 2), s = cos(pi t / 2): a^2 + s^2 = 1 (variance preserving).
    Vp,
}

/// The coefficients of a path at times t, each of the shape of t.
pub struct Coefficients {
    /// a_t, the weight of the data.
    pub a: Tensor,
    /// s_t, the weight of the noise.
    pub s: Tensor,
    /// da/dt.
    pub a_rate: Tensor,
    /// ds/dt.
    pub s_rate: Tensor,
}

impl Path {
    /// a_t, s_t and their derivatives for times of any shape, in the dtype of `t`.
    pub fn coefficients(self, t: &Tensor) -> Coefficients {
        match self {
            Path::Linear => Coefficients {
                a: t.shallow_clone(),
                s: 1.0 - t,
                a_rate: t.ones_like(),
                s_rate: -t.ones_like(),
            },
            Path::Vp => {
                let angle = t * FRAC_PI_2;
                let (a, s) = (angle.sin(), angle.cos());
                Coefficients { a_rate: &s * FRAC_PI_2, s_rate: &a * -FRAC_PI_2, a, s }
            }
        }
    }

    /// x_t = a_t x1 + s_t x0 for t `[B]` and `x0`, `x1` of the same shape `[B, *event]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not match.
    pub fn sample(self, t: &Tensor, x0: &Tensor, x1: &Tensor) -> Result<Tensor> {
        let c = self.coefficients(&column(t, x0, x1)?);
        Ok(c.a * x1 + c.s * x0)
    }

    /// The conditional velocity u = a'_t x1 + s'_t x0 = dx_t/dt, with shapes as in [`Path::sample`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not match.
    pub fn target(self, t: &Tensor, x0: &Tensor, x1: &Tensor) -> Result<Tensor> {
        let c = self.coefficients(&column(t, x0, x1)?);
        Ok(c.a_rate * x1 + c.s_rate * x0)
    }
}

/// `t` as `[B, 1, ...]`, which broadcasts over samples. Checks that the three shapes agree.
fn column(t: &Tensor, x0: &Tensor, x1: &Tensor) -> Result<Tensor> {
    let size = x1.size();
    if x0.size() != size {
        return Err(Error::shape("x0", shape_text(&size), shape_text(&x0.size())));
    }
    let batch = size.first().copied().unwrap_or(1);
    if t.size() != [batch] {
        return Err(Error::shape("t", shape_text(&[batch]), shape_text(&t.size())));
    }
    let mut shape = vec![1; size.len().max(1)];
    shape[0] = batch;
    Ok(t.f_view(shape.as_slice())?)
}
