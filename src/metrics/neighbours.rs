//! Precision and recall by nearest neighbours.

use tch::{Kind, Tensor};

use super::{centred, each_distance, pair};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};

/// The results of [`precision_recall`], both in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// Share of samples that lie where data do: the quality of the samples.
    pub precision: f64,
    /// Share of data that lie where samples do: the coverage of the data.
    pub recall: f64,
}

/// Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991, equations 1 and 2). Each point of a set is
/// the centre of a ball that reaches to its `k`-th nearest neighbour in the set. Precision is the share of samples in
/// the balls of the data, and recall the share of data in the balls of the samples.
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
/// Errors of [`precision_recall`] and of the monitor.
pub fn precision_recall_watched(
    samples: &Tensor,
    data: &Tensor,
    k: i64,
    monitor: &mut dyn Monitor,
) -> Result<PrecisionRecall> {
    let (samples, data) = pair(("samples", samples), ("data", data))?;
    let fewest = samples.size()[0].min(data.size()[0]);
    if k < 1 || k >= fewest {
        return Err(Error::argument(
            "k",
            format!("an integer of at least 1 and below {fewest}, the size of the smaller set"),
            k,
        ));
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
        // The nearest point is the point itself.
        found.push(distances.f_kthvalue(k + 1, 1, false)?.0);
        Ok(())
    })?;
    Ok(Tensor::f_cat(&found, 0)?)
}

/// The share of points that lie in at least one ball.
fn covered(points: &Tensor, centres: &Tensor, radii: &Tensor, monitor: &mut dyn Monitor) -> Result<f64> {
    let mut inside = 0.0;
    each_distance(points, centres, monitor, |distances| {
        let hits = distances.f_le_tensor(radii)?.f_any_dim(1, false)?;
        inside += hits.sum(Kind::Double).double_value(&[]);
        Ok(())
    })?;
    Ok(inside / points.size()[0] as f64)
}
