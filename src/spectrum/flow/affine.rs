//! The part of a flow that is affine in its noise: regression of displacements on noise.
//!
//! In d dimensions, n paths determine d² numbers for each function of time, so plain least squares would
//! explain a share d / n of any motion. The map is therefore shrunk towards a multiple of the identity, which
//! is the map that merely removes noise. Generalised cross-validation chooses by how much (Golub, Heath and
//! Wahba, Technometrics 21, 1979). Shares are corrected for the degrees of freedom of the map.

use tch::{Kind, Tensor};

use super::components::groups;
use super::displacements::Moved;
use crate::error::Result;

/// The affine map in the basis of time, and its degrees of freedom.
pub(super) struct Affine {
    /// `[q, d, d]`: the displacement is `x0 @ map[q]` in each function of time.
    pub map: Tensor,
    /// Degrees of freedom, out of n.
    pub freedom: f64,
}

/// Largest number of axes of the affine part that are kept.
const AXES: i64 = 64;

/// Ridge parameters that are tried, in units of the noise's mean second moment.
const RIDGES: [f64; 16] =
    [0.0, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e3];

/// Fits the map, and subtracts what it explains from the coefficients.
///
/// # Errors
/// Any error of libtorch.
pub(super) fn take_affine(moved: &mut Moved) -> Result<Affine> {
    let x = &moved.noise;
    let (n, d, q) = (x.size()[0], x.size()[1], moved.coefficients.size()[1]);
    let (gains, axes) = x.tr().f_matmul(x)?.f_linalg_eigh("L")?;
    let gains = gains.clamp_min(0.0);
    let total = gains.sum(Kind::Double).double_value(&[]).max(1e-300);
    // The regression on the noise beyond a multiple of the identity, for each function of time, along the
    // principal axes of the noise.
    let (mut sides, mut identity) = (Vec::new(), Vec::new());
    let (mut left, mut along) = (0.0, gains.zeros_like());
    for function in 0..q {
        let y = moved.coefficients.select(1, function).to_kind(Kind::Double);
        let product = x.tr().f_matmul(&y)?;
        let multiple = product.trace().double_value(&[]) / total;
        let side = axes.tr().f_matmul(&product)? - axes.tr() * gains.unsqueeze(1) * multiple;
        // ||y - multiple x||².
        left += y.square().sum(Kind::Double).double_value(&[]) - multiple * multiple * total;
        along += side.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        sides.push(side);
        identity.push(multiple);
    }
    let unit = total / d as f64;
    let mut best: Option<(f64, Tensor, f64)> = None;
    for ridge in RIDGES.map(|ridge| ridge * unit) {
        let inverse = (&gains + ridge.max(1e-12 * unit)).reciprocal();
        let freedom = 2.0 + (&gains * &inverse).sum(Kind::Double).double_value(&[]);
        // If the map has half as many parameters as there are paths, or more, its remainder says nothing:
        // near n = d it would explain any motion completely.
        if freedom > 0.5 * n as f64 && ridge < 1e3 * unit {
            continue;
        }
        // Ridge regression reduces the sum of squares along each axis by b² (2 / (g + r) - g / (g + r)²).
        let gained =
            (&along * (&inverse * 2.0 - &gains * inverse.square())).sum(Kind::Double).double_value(&[]);
        let rest = (left - gained).max(0.0);
        let score = rest / (1.0 - (freedom / n as f64).min(0.999)).powi(2);
        if best.as_ref().is_none_or(|(least, _, _)| score < *least) {
            best = Some((score, inverse, freedom));
        }
    }
    let Some((_, inverse, freedom)) = best else { return Ok(Affine { map: x.zeros_like(), freedom: 0.0 }) };
    let mut maps = Vec::new();
    for (function, (side, multiple)) in sides.into_iter().zip(identity).enumerate() {
        let map = axes.f_matmul(&(side * inverse.unsqueeze(1)))?;
        let map = map + Tensor::f_eye(d, (Kind::Double, tch::Device::Cpu))? * multiple;
        let explained = x.f_matmul(&map)?;
        let mut own = moved.coefficients.select(1, function as i64);
        own -= explained.to_kind(own.kind());
        maps.push(map);
    }
    Ok(Affine { map: Tensor::f_stack(&maps, 0)?, freedom: freedom.min(0.999 * n as f64) })
}

/// Decomposition of the affine part at the last time: orthonormal axes of the noise `[A, d]`, the lengths of
/// their images `[A]`, and their displacements `[A, r, d]`.
pub(super) struct Axes {
    pub axes: Tensor,
    pub values: Tensor,
    pub modes: Tensor,
    pub groups: Vec<i64>,
}

/// Singular vectors and values of the affine map from noise to data, x0 (I + A(1)). For Gaussian data they
/// are the principal axes and their standard deviations. `z` `[n, r d]` is the remainder of the map, and
/// `end` `[r]` the functions of time at the end.
pub(super) fn axes(map: &Tensor, z: &Tensor, end: &Tensor) -> Result<Axes> {
    let (n, r, d) = (z.size()[0], map.size()[0], map.size()[1]);
    let at = end.reshape([-1, 1, 1]);
    let arriving = (map * at).f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?
        + Tensor::f_eye(d, (Kind::Double, tch::Device::Cpu))?;
    let (squares, vectors) = arriving.f_matmul(&arriving.tr())?.f_linalg_eigh("L")?;
    let count = d.min(AXES);
    let values = squares.flip([0i64]).narrow(0, 0, count).clamp_min(0.0).sqrt();
    let axes = vectors.flip([1i64]).narrow(1, 0, count).tr().contiguous();
    let images = axes.f_matmul(&arriving)?;
    // The sign of an axis is arbitrary: the largest entry of its image is made positive.
    let sign = images.f_gather(1, &images.abs().f_argmax(1, true)?, false)?.sign();
    let (axes, images) = (axes * &sign, images * &sign);
    // The standard error of an entry of the map is the standard deviation of the remainder, divided by the
    // root of n.
    let left = z.f_reshape([n, r, d])?.transpose(1, 2).f_matmul(end)?.f_matmul(&images.tr())?;
    let left = left.square().mean_dim([0i64].as_slice(), false, Kind::Double).sqrt();
    let error = left / values.clamp_min(1e-12) * (2.33 / (n as f64).sqrt());
    let groups = groups(&Tensor::f_stack(&[&values - &error, &values + &error], 1)?)?;
    let modes = Tensor::f_einsum("ad,rde->are", &[&axes, map], None::<i64>)?;
    Ok(Axes { axes, values, modes, groups })
}
