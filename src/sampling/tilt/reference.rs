//! The Gaussian that moves are relative to. If a target is narrow in some directions and wide in others,
//! steps scaled by its covariance suit both (Rudolf and Sprungk, Found. Comput. Math. 18, 2018).

use tch::{Kind, Tensor};

use crate::error::Result;

/// Least number of particles per dimension from which a covariance is estimated.
const ENOUGH: i64 = 4;

/// N(mean, C) with R = C^{1/2}; `None` is the prior N(0, I).
pub(super) struct Reference(Option<Fitted>);

struct Fitted {
    mean: Tensor,
    root: Tensor,
    inverse: Tensor,
}

impl Reference {
    pub fn prior() -> Self {
        Reference(None)
    }

    /// The Gaussian of particles `[N, d]`, with the covariance shrunk towards the identity. With too few
    /// particles, the prior.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn of(noise: &Tensor) -> Result<Self> {
        let (count, d) = noise.size2()?;
        if count < ENOUGH * d || count < 2 {
            return Ok(Reference::prior());
        }
        let mean = noise.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
        let away = noise - &mean;
        let share = d as f64 / (count + d) as f64;
        let eye = Tensor::f_eye(d, (Kind::Double, noise.device()))?;
        let covariance = away.tr().f_matmul(&away)? * ((1.0 - share) / (count - 1) as f64) + eye * share;
        let (values, vectors) = covariance.f_linalg_eigh("L")?;
        let roots = values.clamp_min(1e-12).sqrt();
        let root = (&vectors * &roots).f_matmul(&vectors.tr())?;
        let inverse = (&vectors / &roots).f_matmul(&vectors.tr())?;
        Ok(Reference(Some(Fitted { mean, root, inverse })))
    }

    /// u = (z - mean) R^{-1}, standard normal under the reference.
    pub fn inside(&self, z: &Tensor) -> Result<Tensor> {
        Ok(match &self.0 {
            None => z.shallow_clone(),
            Some(own) => (z - &own.mean).f_matmul(&own.inverse)?,
        })
    }

    /// z = mean + u R.
    pub fn outside(&self, u: &Tensor) -> Result<Tensor> {
        Ok(match &self.0 {
            None => u.shallow_clone(),
            Some(own) => u.f_matmul(&own.root)? + &own.mean,
        })
    }

    /// log N(z; 0, I) - log N(z; mean, C) up to a constant, `[N]`.
    pub fn log_ratio(&self, z: &Tensor, u: &Tensor) -> Result<Tensor> {
        let squares = |x: &Tensor| x.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        Ok((squares(u)? - squares(z)?) * 0.5)
    }

    /// Gradient with respect to u of the sum of that ratio and a function whose gradient with respect to z is
    /// `slopes`.
    pub fn slopes(&self, z: &Tensor, u: &Tensor, slopes: &Tensor) -> Result<Tensor> {
        Ok(match &self.0 {
            None => slopes.shallow_clone(),
            Some(own) => (slopes - z).f_matmul(&own.root)? + u,
        })
    }
}
