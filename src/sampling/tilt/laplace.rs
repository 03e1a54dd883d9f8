//! Laplace approximation: Gaussians about the modes of a posterior in noise space. With residuals r(z) =
//! (A(S(z)) - y) / sigma and their derivative G, the posterior is proportional to exp(-|z|^2 / 2 - |r(z)|^2 /
//! 2). Near a mode it is close to a Gaussian of covariance (I + G^T G)^{-1}. Draws of the mixture of these
//! Gaussians are proposals, whose importance weights are exact.

use std::f64::consts::PI;

use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::weights::log_mean;
use crate::error::{Error, Result};
use crate::tensor::{exact, shape_text, RandomSource};

/// Share of draws from the prior, which bounds the weights.
const FROM_PRIOR: f64 = 0.05;
/// Share of draws from wider Gaussians, for posteriors with tails that are heavier than a Gaussian's.
const FROM_WIDE: f64 = 0.1;
/// Factor of the standard deviation of wider Gaussians.
const WIDER: f64 = 1.5;

/// Modes that are nearer than this, in standard deviations of their Gaussian, count as one.
const SAME: f64 = 0.5;

/// One Levenberg-Marquardt step towards a mode, row by row: z - (I + G^T G + damping I)^{-1} (z + G^T r).
/// Takes noise `[K, d]`, residuals `[K, k]`, their derivatives `[K, k, d]` and damping `[K]`, all in float64.
/// The system is solved in the smaller of the two spaces.
///
/// # Errors
/// [`Error::Shape`] naming `jacobians`.
pub fn gauss_newton_step(
    noise: &Tensor,
    residuals: &Tensor,
    jacobians: &Tensor,
    damping: &Tensor,
) -> Result<Tensor> {
    let ((modes, d), k) = (noise.size2()?, residuals.size()[1]);
    check(jacobians, &[modes, k, d])?;
    let transposed = jacobians.transpose(1, 2);
    let slope = noise + transposed.f_bmm(&residuals.unsqueeze(2))?.squeeze_dim(2);
    let scale = (damping + 1.0).view([-1, 1]);
    if k >= d {
        let eye = Tensor::f_eye(d, (Kind::Double, noise.device()))?;
        let system = transposed.f_bmm(jacobians)? + scale.unsqueeze(2) * eye;
        let (solved, _) = Tensor::f_linalg_solve_ex(&system, &slope.unsqueeze(2), true, false)?;
        return Ok(noise - solved.squeeze_dim(2));
    }
    // (c I + G^T G)^{-1} b = (b - G^T (c I + G G^T)^{-1} G b) / c.
    let eye = Tensor::f_eye(k, (Kind::Double, noise.device()))?;
    let system = jacobians.f_bmm(&transposed)? + scale.unsqueeze(2) * eye;
    let right = jacobians.f_bmm(&slope.unsqueeze(2))?;
    let (solved, _) = Tensor::f_linalg_solve_ex(&system, &right, true, false)?;
    Ok(noise - (&slope - transposed.f_bmm(&solved)?.squeeze_dim(2)) / scale)
}

/// One Gaussian, with mean `[d]` and precision I + V^T diag(s^2) V.
struct Mode {
    mean: Tensor,
    /// Squares of singular values of G, `[p]`.
    squares: Tensor,
    /// Right singular vectors, `[p, d]`.
    vectors: Tensor,
    log_determinant: f64,
    log_weight: f64,
}

/// The mixture of Gaussians about modes.
pub struct Laplace {
    modes: Vec<Mode>,
    dimension: i64,
}

impl Laplace {
    /// The mixture about modes `[K, d]`, with derivatives `[K, k, d]` of the residuals and `objectives`
    /// (|z|^2 + |r|^2) / 2 there. The weight of each Gaussian is its integral. Modes that occur several times
    /// count once.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `jacobians`; [`Error::Divergence`] if no mode is finite.
    pub fn new(means: &Tensor, jacobians: &Tensor, objectives: &[f64]) -> Result<Self> {
        let ((count, dimension), k) = (means.size2()?, jacobians.size().get(1).copied().unwrap_or(0));
        check(jacobians, &[count, k, dimension])?;
        let mut order: Vec<usize> =
            (0..objectives.len()).filter(|place| objectives[*place].is_finite()).collect();
        order.sort_by(|a, b| objectives[*a].total_cmp(&objectives[*b]));
        let mut modes: Vec<Mode> = Vec::new();
        for place in order {
            let mean = exact(&means.select(0, place as i64));
            let again =
                modes.iter().map(|mode| mode.distance(&mean.unsqueeze(0))).collect::<Result<Vec<_>>>()?;
            if again.iter().any(|distance| distance.double_value(&[0]) < SAME * SAME) {
                continue;
            }
            let own = exact(&jacobians.select(0, place as i64));
            let (_, values, vectors) = own.f_svd(true, true)?;
            let (squares, vectors) = (values.square(), vectors.tr());
            let log_determinant = -squares.log1p().sum(Kind::Double).double_value(&[]);
            let log_weight = -objectives[place] + 0.5 * log_determinant;
            modes.push(Mode { mean, squares, vectors, log_determinant, log_weight });
        }
        if modes.is_empty() {
            return Err(Error::Divergence("no mode of the posterior is finite".into()));
        }
        let whole = log_mean(&modes.iter().map(|mode| mode.log_weight).collect::<Vec<_>>())
            + (modes.len() as f64).ln();
        modes.iter_mut().for_each(|mode| mode.log_weight -= whole);
        Ok(Laplace { modes, dimension })
    }

    pub fn count(&self) -> usize {
        self.modes.len()
    }

    /// Means of the Gaussians, `[K, d]`, and their weights.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn means(&self) -> Result<(Tensor, Vec<f64>)> {
        let means: Vec<&Tensor> = self.modes.iter().map(|mode| &mode.mean).collect();
        Ok((Tensor::f_stack(&means, 0)?, self.modes.iter().map(|mode| mode.log_weight.exp()).collect()))
    }

    /// `count` draws `[count, d]` in float64.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn draw(&self, count: i64, seed: u64) -> Result<Tensor> {
        let mut random = RandomSource::new(seed).fork("laplace");
        let fresh = random.normal(&[count, self.dimension], Kind::Double, Device::Cpu)?;
        let mut rng = random.fork("modes").at(0);
        let mut rows: Vec<Vec<i64>> = vec![vec![]; 2 * self.modes.len()];
        for row in 0..count {
            let which: f64 = rng.random();
            let mut left: f64 = rng.random();
            let found = self.modes.iter().position(|mode| {
                left -= mode.log_weight.exp();
                left < 0.0
            });
            let mode = found.unwrap_or(self.modes.len() - 1);
            if which >= FROM_PRIOR {
                rows[2 * mode + usize::from(which < FROM_PRIOR + FROM_WIDE)].push(row);
            }
        }
        // Rows without a mode remain draws of the prior.
        let drawn = fresh.copy();
        for (place, own) in rows.iter().enumerate().filter(|(_, own)| !own.is_empty()) {
            let (index, scale) = (Tensor::from_slice(own), if place % 2 == 1 { WIDER } else { 1.0 });
            let mode = &self.modes[place / 2];
            let moved = &mode.mean + mode.scaled(&fresh.f_index_select(0, &index)?)? * scale;
            let _ = drawn.shallow_clone().f_index_copy_(0, &index, &moved)?;
        }
        Ok(drawn)
    }

    /// Log-density of noise `[B, d]` under the mixture, `[B]` in float64.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn log_density(&self, noise: &Tensor) -> Result<Tensor> {
        let (noise, d) = (exact(noise), self.dimension as f64);
        let constant = -0.5 * d * (2.0 * PI).ln();
        let squares = noise.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        let mut parts = vec![squares * -0.5 + (constant + FROM_PRIOR.ln())];
        for mode in &self.modes {
            let distance = mode.distance(&noise)?;
            for (share, scale) in [(1.0 - FROM_PRIOR - FROM_WIDE, 1.0), (FROM_WIDE, WIDER)] {
                let offset =
                    constant + share.ln() + mode.log_weight - 0.5 * mode.log_determinant - d * scale.ln();
                parts.push(&distance * (-0.5 / (scale * scale)) + offset);
            }
        }
        Ok(Tensor::f_stack(&parts, 0)?.f_logsumexp([0i64].as_slice(), false)?)
    }
}

impl Mode {
    /// Squared distance of noise `[B, d]` from the mean, in standard deviations of the Gaussian: `[B]`.
    fn distance(&self, noise: &Tensor) -> Result<Tensor> {
        let away = noise - &self.mean;
        let along = away.f_matmul(&self.vectors.tr())?.square() * &self.squares;
        let sum = |x: Tensor| x.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        Ok(sum(away.square())? + sum(along)?)
    }

    /// Turns standard normal rows into rows of this covariance and mean zero, by I - V^T (1 - 1 / sqrt(1 +
    /// s^2)) V.
    fn scaled(&self, fresh: &Tensor) -> Result<Tensor> {
        let less: Tensor = 1.0 - (&self.squares + 1.0).rsqrt();
        Ok(fresh - (fresh.f_matmul(&self.vectors.tr())? * less).f_matmul(&self.vectors)?)
    }
}

fn check(jacobians: &Tensor, expected: &[i64]) -> Result<()> {
    match jacobians.size() == expected {
        true => Ok(()),
        false => Err(Error::shape("jacobians", shape_text(expected), shape_text(&jacobians.size()))),
    }
}
