//! The energy distance.

use tch::{Kind, Tensor};

use super::mmd::discrepancy;
use super::pair;
use crate::error::Result;
use crate::monitor::{Monitor, Silent};

/// Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely and Rizzo, 2013), without a square root. It is the
/// unbiased U-statistic, which leaves out pairs of a sample with itself. Two sets of the same distribution give values
/// around 0, some of them negative.
///
/// # Errors
/// [`crate::Error::Shape`], [`crate::Error::NonFinite`], [`crate::Error::Dtype`];
/// [`crate::Error::Argument`] for fewer than two samples in a set.
pub fn energy_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    energy_distance_watched(a, b, &mut Silent)
}

/// [`energy_distance`] that `monitor.tick()` can stop between chunks.
///
/// # Errors
/// Errors of [`energy_distance`] and of the monitor.
pub fn energy_distance_watched(a: &Tensor, b: &Tensor, monitor: &mut dyn Monitor) -> Result<f64> {
    let (rows_a, rows_b) = pair(("a", a), ("b", b))?;
    // The kernel -|x - y| makes the discrepancy the energy distance (Sejdinovic et al., 2013).
    let kernel = |distances: Tensor| Ok(-distances.sum(Kind::Double).double_value(&[]));
    discrepancy(("a", &rows_a), ("b", &rows_b), 0.0, kernel, monitor)
}
