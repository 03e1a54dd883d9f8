//! How far sets of samples are apart, `[N, *event]` against `[M, *event]`, each sample flattened; how far
//! two models are apart on the same noise; how straight paths are, and of what shape. Everything is computed in float64 on the
//! device of the first argument, in bounded memory.

mod energy;
mod errors;
mod frechet;
mod geometry;
mod mmd;
mod neighbours;
mod wasserstein;

use tch::{Device, Kind, Tensor};

pub use energy::{energy_distance, energy_distance_watched};
pub use errors::{
    endpoint_error, inversion_error, path_error, rms_length, round_trip_error, straightness, total_std,
    Errors, Statistic, Straightness,
};
pub use frechet::{frechet_distance, frechet_distance_watched};
pub use geometry::{path_geometry, PathGeometry};
pub use mmd::{median_bandwidths, mmd, mmd_watched, MEDIAN_SAMPLES};
pub use neighbours::{precision_recall, precision_recall_watched, PrecisionRecall};
pub use wasserstein::{
    sliced_wasserstein, sliced_wasserstein_along, wasserstein2, wasserstein2_watched, ASSIGNMENT_LIMIT,
};

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::{check_batch, event_size, shape_text};

/// Values formed at once by the chunked loops (float64: 32 MB).
const CHUNK_ELEMENTS: i64 = 1 << 22;

/// A set of samples and the name of the argument that it came as.
type Named<'a> = (&'a str, &'a Tensor);

/// Checks a pair of sets and flattens both to rows, in their own dtypes on the device of the first.
fn rows(a: Named, b: Named) -> Result<(Tensor, Tensor)> {
    let (shape, device) = (a.1.size(), a.1.device());
    if shape.len() < 2 || shape[1..].contains(&0) {
        return Err(Error::shape(a.0, "(N, *event)", shape_text(&shape)));
    }
    Ok((flat(a, &shape[1..], device)?, flat(b, &shape[1..], device)?))
}

fn flat((name, x): Named, event: &[i64], device: Device) -> Result<Tensor> {
    let count = check_batch(name, x, event)?;
    Ok(x.detach().to_device(device).f_reshape([count, event_size(event)])?)
}

/// One set as rows in float64.
fn single((name, x): Named) -> Result<Tensor> {
    let shape = x.size();
    if shape.len() < 2 || shape[1..].contains(&0) {
        return Err(Error::shape(name, "(N, *event)", shape_text(&shape)));
    }
    Ok(flat((name, x), &shape[1..], x.device())?.to_kind(Kind::Double))
}

/// [`rows`] in float64.
fn pair(a: Named, b: Named) -> Result<(Tensor, Tensor)> {
    let (a, b) = rows(a, b)?;
    Ok((a.to_kind(Kind::Double), b.to_kind(Kind::Double)))
}

fn same_count(a: Named, b: Named) -> Result<i64> {
    let (n, m) = (a.1.size()[0], b.1.size()[0]);
    if n != m {
        return Err(Error::argument(b.0, format!("{n} samples, as many as in {}", a.0), m));
    }
    Ok(n)
}

fn at_least_two((name, samples): Named) -> Result<()> {
    match samples.size()[0] {
        count if count < 2 => Err(Error::argument(name, "at least two samples", count)),
        _ => Ok(()),
    }
}

/// Dimensions up to which distances are formed from differences, exactly: ties stay ties. Beyond, from
/// products, which is much faster; their error is about 1e-8 of the sets' extent for coinciding points.
const DIRECT_LIMIT: i64 = 16;

/// Sets that [`each_distance`] can take products of, about the mean of the first: far from the origin
/// these would cancel.
fn centred(a: Tensor, b: Tensor) -> Result<(Tensor, Tensor)> {
    if a.size()[1] <= DIRECT_LIMIT {
        return Ok((a, b));
    }
    let centre = a.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    Ok((a - &centre, b - &centre))
}

/// Hands on the distances `[rows, M]` of one chunk of a's samples after another to all of b's.
fn each_distance(
    a: &Tensor,
    b: &Tensor,
    monitor: &mut dyn Monitor,
    mut take: impl FnMut(Tensor) -> Result<()>,
) -> Result<()> {
    let (n, rows) = (a.size()[0], (CHUNK_ELEMENTS / b.size()[0]).max(1));
    // libtorch's codes for products and for differences.
    let mode = if a.size()[1] > DIRECT_LIMIT { 1 } else { 2 };
    let mut first = 0;
    while first < n {
        let part = a.narrow(0, first, rows.min(n - first));
        take(Tensor::f_cdist(&part, b, 2.0, mode)?)?;
        monitor.tick()?;
        first += rows;
    }
    Ok(())
}
