//! The geometry of paths: deviation from the chord, curvature, torsion, and the variance along principal directions
//! (Chen et al., "A geometric perspective on diffusion models", arXiv 2305.19947).
//!
//! A path is the polygon through its states. The sum of the turning angles at its corners, divided by its length,
//! approximates the mean curvature of a smooth path. The sum of the angles between the planes of successive corners,
//! divided by its length, approximates the mean torsion.

use tch::{Device, Kind, Tensor};

use super::CHUNK_ELEMENTS;
use crate::error::{Error, Result};
use crate::tensor::{check_batch, chunks, event_size, shape_text};

/// Turning angle, in radians, below which the plane of a corner is not defined, because it would depend on rounding.
const STRAIGHT: f64 = 1e-4;

/// Number of principal directions.
const DIRECTIONS: i64 = 3;

/// Geometric properties of each path, `[B]` in float64 on the CPU unless stated otherwise.
#[derive(Debug)]
pub struct PathGeometry {
    /// Distance from the first state to the last.
    pub chord: Tensor,
    /// Length of the polygon.
    pub length: Tensor,
    /// Largest distance of a state from the line through the first and the last.
    pub deviation: Tensor,
    /// Sum of the turning angles divided by the length, in radians per unit of x.
    pub curvature: Tensor,
    /// Sum of the unsigned angles between successive planes of curvature divided by the length, in radians per unit
    /// of x.
    pub torsion: Tensor,
    /// Shares of the path's variance along its first three principal directions, `[B, 3]`, in descending order.
    pub energy: Tensor,
}

/// The geometry of paths `[T, B, *event]` at any times, with at least four states each. All values are 0 for a path
/// that does not move.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`] or [`Error::Dtype`] naming `paths`; [`Error::Argument`] for fewer than four
/// states.
pub fn path_geometry(paths: &Tensor) -> Result<PathGeometry> {
    let shape = paths.size();
    if shape.len() < 3 || shape[1..].contains(&0) {
        return Err(Error::shape("paths", "(T, B, *event)", shape_text(&shape)));
    }
    let count = check_batch("paths", paths, &shape[1..])?;
    if count < 4 {
        return Err(Error::argument("paths", "at least 4 states in each path", count));
    }
    let flat = paths.detach().f_reshape([count, shape[1], event_size(&shape[2..])])?;
    let rows = (CHUNK_ELEMENTS / (count * (flat.size()[2] + count))).max(1);
    let mut parts: [Vec<Tensor>; 6] = Default::default();
    for (first, length) in chunks(shape[1], rows) {
        // [rows, T, d]
        let part = flat.narrow(1, first, length).transpose(0, 1).to_kind(Kind::Double);
        for (all, fact) in parts.iter_mut().zip(facts(&part)?) {
            all.push(fact.f_to_device(Device::Cpu)?);
        }
    }
    let [chord, length, deviation, curvature, torsion, energy] = parts.map(|part| Tensor::cat(&part, 0));
    Ok(PathGeometry { chord, length, deviation, curvature, torsion, energy })
}

/// The six properties of paths `[rows, T, d]`, in the order of [`PathGeometry`].
fn facts(path: &Tensor) -> Result<[Tensor; 6]> {
    let count = path.size()[1];
    let pieces = path.narrow(1, 1, count - 1) - path.narrow(1, 0, count - 1);
    let lengths = norm(&pieces);
    let length = total(&lengths);
    let between = path.select(1, count - 1) - path.select(1, 0);
    let chord = norm(&between);
    // The chord of a closed path is a point, from which the distance is measured.
    let along = &between / chord.clamp_min(f64::MIN_POSITIVE).unsqueeze(1);
    let offset = path - path.narrow(1, 0, 1);
    let shadow = offset.f_matmul(&along.unsqueeze(2))?;
    let deviation = norm(&(&offset - shadow * along.unsqueeze(1))).f_amax([1i64].as_slice(), false)?;
    // A segment of length 0 has no direction and does not turn.
    let directions = &pieces / lengths.clamp_min(f64::MIN_POSITIVE).unsqueeze(2);
    let (turns, planes) = corners(&directions)?;
    let over_length = |angles: Tensor| total(&angles) / length.clamp_min(f64::MIN_POSITIVE);
    Ok([chord, length.shallow_clone(), deviation, over_length(turns), over_length(planes), energies(path)?])
}

/// Angles between successive directions `[rows, n, d]`, and between the planes of successive corners.
fn corners(directions: &Tensor) -> Result<(Tensor, Tensor)> {
    let count = directions.size()[1];
    let part = |from: i64, less: i64| directions.narrow(1, from, count - less);
    let turns = angle(&part(0, 1), &part(1, 1));
    // The directions before and after a segment, projected onto the complement of the segment.
    let middle = part(1, 2);
    let across = |x: Tensor| -> Tensor { &x - dot(&x, &middle).unsqueeze(2) * &middle };
    let (before, after) = (across(part(0, 2)), across(part(2, 2)));
    let bends = turns.ge(STRAIGHT);
    let defined = bends.narrow(1, 0, count - 2).logical_and(&bends.narrow(1, 1, count - 2));
    let unit = |x: Tensor| &x / norm(&x).clamp_min(f64::MIN_POSITIVE).unsqueeze(2);
    let (before, after) = (unit(before), unit(after));
    // Planes have no orientation, so an inflection within a plane does not count as torsion.
    let opposite = dot(&before, &after).gt(0.0).unsqueeze(2);
    let planes = angle(&before, &after.where_self(&opposite, &after.neg()));
    Ok((turns, planes * defined))
}

/// Angles between unit vectors, by a formula that is accurate for small angles (Kahan).
fn angle(a: &Tensor, b: &Tensor) -> Tensor {
    norm(&(a - b)).atan2(&norm(&(a + b))) * 2.0
}

/// Shares of variance along principal directions, `[rows, 3]`.
fn energies(path: &Tensor) -> Result<Tensor> {
    let centred = path - path.f_mean_dim([1i64].as_slice(), true, Kind::Double)?;
    let gram = match path.size()[1] <= path.size()[2] {
        true => centred.f_matmul(&centred.transpose(1, 2))?,
        false => centred.transpose(1, 2).f_matmul(&centred)?,
    };
    let values = gram.f_linalg_eigvalsh("L")?.f_flip([1i64])?.clamp_min(0.0);
    let shares = &values / total(&values).clamp_min(f64::MIN_POSITIVE).unsqueeze(1);
    let kept = DIRECTIONS.min(shares.size()[1]);
    Ok(shares.narrow(1, 0, kept).f_constant_pad_nd([0, DIRECTIONS - kept])?)
}

/// Euclidean norms along the last axis.
fn norm(x: &Tensor) -> Tensor {
    x.square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Double).sqrt()
}

fn dot(a: &Tensor, b: &Tensor) -> Tensor {
    (a * b).sum_dim_intlist([-1i64].as_slice(), false, Kind::Double)
}

fn total(x: &Tensor) -> Tensor {
    x.sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
}
