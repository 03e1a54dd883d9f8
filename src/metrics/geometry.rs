//! The shape of each path: how far it bends away from its chord, its curvature and torsion, and in how many directions
//! it runs (Chen et al., "A geometric perspective on diffusion models", arXiv 2305.19947).
//!
//! A path is the polygon through its states. Turning angles at its corners over its length tend to the mean curvature
//! of a smooth path, and the angles between the planes of successive corners to its mean torsion.

use tch::{Device, Kind, Tensor};

use super::CHUNK_ELEMENTS;
use crate::error::{Error, Result};
use crate::tensor::{check_batch, chunks, event_size, shape_text};

/// A corner that turns by less, in radians, lies in no plane: its direction is that of rounding.
const STRAIGHT: f64 = 1e-4;

/// Number of principal directions.
const DIRECTIONS: i64 = 3;

/// Facts of each path, `[B]` in float64 on the CPU unless said otherwise.
#[derive(Debug)]
pub struct PathGeometry {
    /// Distance from the first state to the last.
    pub chord: Tensor,
    /// Length of the polygon.
    pub length: Tensor,
    /// Largest distance of a state from the line through the first and the last.
    pub deviation: Tensor,
    /// Turning angles over length, in radians per unit of x.
    pub curvature: Tensor,
    /// Angles between successive planes of curvature over length, without sign, in radians per unit of x.
    pub torsion: Tensor,
    /// Shares of the path's variance about its mean along its first principal directions, `[B, 3]`, falling.
    pub energy: Tensor,
}

/// The geometry of paths `[T, B, *event]`, at any times, with at least four states each; everything but the energy is
/// 0 for a path that stands still, whose energies are 0 too.
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
        return Err(Error::argument("paths", "at least 4 states of each path", count));
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

/// The six facts of paths `[rows, T, d]`, in the order of [`PathGeometry`].
fn facts(path: &Tensor) -> Result<[Tensor; 6]> {
    let count = path.size()[1];
    let pieces = path.narrow(1, 1, count - 1) - path.narrow(1, 0, count - 1);
    let lengths = norm(&pieces);
    let length = total(&lengths);
    let between = path.select(1, count - 1) - path.select(1, 0);
    let chord = norm(&between);
    // Of a closed path the chord is a point, and the distance from it counts.
    let along = &between / chord.clamp_min(f64::MIN_POSITIVE).unsqueeze(1);
    let offset = path - path.narrow(1, 0, 1);
    let shadow = offset.f_matmul(&along.unsqueeze(2))?;
    let deviation = norm(&(&offset - shadow * along.unsqueeze(1))).f_amax([1i64].as_slice(), false)?;
    // A piece of no length has no direction, and turns nowhere.
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
    // What leads into a piece and out of it, seen along the piece.
    let middle = part(1, 2);
    let across = |x: Tensor| -> Tensor { &x - dot(&x, &middle).unsqueeze(2) * &middle };
    let (before, after) = (across(part(0, 2)), across(part(2, 2)));
    let bends = turns.ge(STRAIGHT);
    let defined = bends.narrow(1, 0, count - 2).logical_and(&bends.narrow(1, 1, count - 2));
    let unit = |x: Tensor| &x / norm(&x).clamp_min(f64::MIN_POSITIVE).unsqueeze(2);
    let (before, after) = (unit(before), unit(after));
    // Planes have no sides: an inflection within one turns none.
    let opposite = dot(&before, &after).gt(0.0).unsqueeze(2);
    let planes = angle(&before, &after.where_self(&opposite, &after.neg()));
    Ok((turns, planes * defined))
}

/// Angles between unit vectors, exact for small ones (Kahan).
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

/// Lengths along the last axis.
fn norm(x: &Tensor) -> Tensor {
    x.square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Double).sqrt()
}

fn dot(a: &Tensor, b: &Tensor) -> Tensor {
    (a * b).sum_dim_intlist([-1i64].as_slice(), false, Kind::Double)
}

fn total(x: &Tensor) -> Tensor {
    x.sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
}
