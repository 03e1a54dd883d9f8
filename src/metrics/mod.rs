//! Metrics: distances between sets of samples `[N, *event]` and `[M, *event]`, errors of two models on the same noise,
//! and the straightness and geometry of paths. Everything is computed in float64 on the device of the first argument,
//! in bounded memory.

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

/// Maximum number of values in memory at once in chunked loops (float64: 32 MB).
const CHUNK_ELEMENTS: i64 = 1 << 22;

/// A set of samples with the name of its argument.
type Named<'a> = (&'a str, &'a Tensor);

/// Checks two sets and flattens their samples to rows, in their own dtypes and on the device of the first.
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

/// Checks one set and returns its samples as rows in float64.
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
        return Err(Error::argument(b.0, format!("{n} samples like {}", a.0), m));
    }
    Ok(n)
}

fn at_least_two((name, samples): Named) -> Result<()> {
    match samples.size()[0] {
        count if count < 2 => Err(Error::argument(name, "at least two samples", count)),
        _ => Ok(()),
    }
}

/// Dimension up to which distances are computed from differences. These are exact, so ties stay ties. Above it they
/// are computed from products, which is much faster; the error for coinciding points is about 1e-8 of the sets'
/// extent.
const DIRECT_LIMIT: i64 = 16;

/// Centres both sets at the mean of the first if [`each_distance`] uses products, which would suffer cancellation far
/// from the origin.
fn centred(a: Tensor, b: Tensor) -> Result<(Tensor, Tensor)> {
    if a.size()[1] <= DIRECT_LIMIT {
        return Ok((a, b));
    }
    let centre = a.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    Ok((a - &centre, b - &centre))
}

/// Calls `take` with the distances `[rows, M]` of each chunk of the samples of `a` to all samples of `b`.
fn each_distance(
    a: &Tensor,
    b: &Tensor,
    monitor: &mut dyn Monitor,
    mut take: impl FnMut(Tensor) -> Result<()>,
) -> Result<()> {
    let (n, rows) = (a.size()[0], (CHUNK_ELEMENTS / b.size()[0]).max(1));
    // Codes of libtorch: 1 uses products, 2 uses differences.
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
