//! Precision and recall by nearest neighbours.

use tch::{Kind, Tensor};

use super::{centred, each_distance, pair};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};

/// The two shares of [`precision_recall`], in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// Samples that lie where data do: how good they are.
    pub precision: f64,
    /// Data that lie where samples do: how much of the data they cover.
    pub recall: f64,
}

/// Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991, equations 1 and 2). Each set stands
/// for the union of balls around its points that reach to their `k`-th nearest neighbour in the set; precision
/// is the share of samples in the balls of the data, recall the share of data in the balls of the samples.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for a `k` below 1 or not below
/// the number of points in each set.
pub fn precision_recall(samples: &Tensor, data: &Tensor, k: i64) -> Result<PrecisionRecall> {
    precision_recall_watched(samples, data, k, &mut Silent)
}

/// [`precision_recall`] that `monitor.tick()` can stop between chunks.
///
/// # Errors
/// As [`precision_recall`], and the monitor's own.
pub fn precision_recall_watched(
    samples: &Tensor,
    data: &Tensor,
    k: i64,
    monitor: &mut dyn Monitor,
) -> Result<PrecisionRecall> {
    let (samples, data) = pair(("samples", samples), ("data", data))?;
    let fewest = samples.size()[0].min(data.size()[0]);
    if k < 1 || k >= fewest {
        return Err(Error::argument("k", format!("at least 1 and below {fewest}, the smaller set"), k));
    }
    let (samples, data) = centred(samples, data)?;
    Ok(PrecisionRecall {
        precision: covered(&samples, &data, &radii(&data, k, monitor)?, monitor)?,
        recall: covered(&data, &samples, &radii(&samples, k, monitor)?, monitor)?,
    })
}

/// The distance of each point to its `k`-th nearest neighbour among the others, `[N]`.
fn radii(points: &Tensor, k: i64, monitor: &mut dyn Monitor) -> Result<Tensor> {
    let mut found = Vec::new();
    each_distance(points, points, monitor, |distances| {
        // The nearest is the point itself.
        found.push(distances.f_kthvalue(k + 1, 1, false)?.0);
        Ok(())
    })?;
    Ok(Tensor::f_cat(&found, 0)?)
}

/// The share of points in the ball of any centre.
fn covered(points: &Tensor, centres: &Tensor, radii: &Tensor, monitor: &mut dyn Monitor) -> Result<f64> {
    let mut inside = 0.0;
    each_distance(points, centres, monitor, |distances| {
        let hits = distances.f_le_tensor(radii)?.f_any_dim(1, false)?;
        inside += hits.sum(Kind::Double).double_value(&[]);
        Ok(())
    })?;
    Ok(inside / points.size()[0] as f64)
}
