//! The Fréchet distance of Gaussians fitted to two sets of features.

use tch::{Kind, Tensor};

use super::{at_least_two, rows, CHUNK_ELEMENTS};
use crate::error::Result;
use crate::monitor::{Monitor, Silent};

/// Squared Fréchet distance ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) between the Gaussians fitted to two
/// sets of features (Heusel et al., arXiv 1706.08500, equation 6; covariances with divisor N - 1). For Inception
/// features it is the FID. Fewer samples than features are allowed. The value is biased upwards by about 1/N, and much
/// more unless N is well above the number of features, so compare equal numbers of samples.
///
/// The trace of the matrix root is computed without the root. With C1 = R^T R and C2 = S^T S it is the nuclear norm of
/// R S^T. This is real, and exact for singular covariances too, whose matrix root would contain roots of rounding
/// errors.
///
/// # Errors
/// [`crate::Error::Shape`], [`crate::Error::NonFinite`], [`crate::Error::Dtype`];
/// [`crate::Error::Argument`] for fewer than two samples in a set.
pub fn frechet_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    frechet_distance_watched(a, b, &mut Silent)
}

/// [`frechet_distance`] that `monitor.tick()` can stop between decompositions.
///
/// # Errors
/// Errors of [`frechet_distance`] and of the monitor.
pub fn frechet_distance_watched(a: &Tensor, b: &Tensor, monitor: &mut dyn Monitor) -> Result<f64> {
    let (a, b) = rows(("a", a), ("b", b))?;
    at_least_two(("a", &a))?;
    at_least_two(("b", &b))?;
    let (mean_a, factor_a) = moments(&a, monitor)?;
    let (mean_b, factor_b) = moments(&b, monitor)?;
    let square = |x: &Tensor| x.square().sum(Kind::Double).double_value(&[]);
    let (_, singular, _) = factor_a.f_matmul(&factor_b.tr())?.f_svd(true, false)?;
    let cross = singular.sum(Kind::Double).double_value(&[]);
    let covariances = square(&factor_a) + square(&factor_b) - 2.0 * cross;
    // Negative only by rounding.
    Ok(square(&(mean_a - mean_b)) + covariances.max(0.0))
}

/// The mean `[1, F]` and a factor R `[min(N, F), F]` of the covariance C = R^T R. R is updated chunk by chunk with QR
/// decompositions of the previous factor stacked on the next rows.
fn moments(features: &Tensor, monitor: &mut dyn Monitor) -> Result<(Tensor, Tensor)> {
    let (n, size) = (features.size()[0], features.size()[1]);
    let mean = features.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    let rows = (CHUNK_ELEMENTS / size).max(size);
    let mut factor = Tensor::zeros([0, size], (Kind::Double, features.device()));
    let mut first = 0;
    while first < n {
        let part = features.narrow(0, first, rows.min(n - first)).to_kind(Kind::Double) - &mean;
        factor = Tensor::f_linalg_qr(&Tensor::f_cat(&[factor, part], 0)?, "r")?.1;
        monitor.tick()?;
        first += rows;
    }
    Ok((mean, factor / ((n - 1) as f64).sqrt()))
}
