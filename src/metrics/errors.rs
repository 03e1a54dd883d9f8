//! Errors of each sample against what it should be, their scale, and how straight paths are.

use tch::{Kind, Tensor};

use super::{pair, same_count};
use crate::error::{Error, Result};
use crate::tensor::{check_batch, event_size, shape_text};

/// Total standard deviation: the root of the summed variances (divisor N) of the dimensions.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`] or [`Error::Dtype`].
pub fn total_std(data: &Tensor) -> Result<f64> {
    let (rows, _) = pair(("a", data), ("b", data))?;
    let centred = &rows - rows.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    Ok((centred.square().sum(Kind::Double).double_value(&[]) / rows.size()[0] as f64).sqrt())
}

/// ||a - b||^2 of each sample, row by row, `[N]` in float64.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for sets of different
/// sizes.
pub fn squared_errors(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = pair(("a", a), ("b", b))?;
    same_count(&a, &b)?;
    squared_lengths(&(a - b))
}

/// Endpoint error: the root mean square over samples of ||a - b||, divided by `data_std`, the data's
/// [`total_std`]. `a` and `b` start from the same noise, row by row.
///
/// # Errors
/// As [`squared_errors`]; [`Error::Argument`] for a `data_std` that is not positive and finite.
pub fn endpoint_error(a: &Tensor, b: &Tensor, data_std: f64) -> Result<f64> {
    let squares = squared_errors(a, b)?;
    if !(data_std > 0.0 && data_std.is_finite()) {
        return Err(Error::argument("data_std", "a finite number above 0", data_std));
    }
    Ok(squares.mean(Kind::Double).double_value(&[]).sqrt() / data_std)
}

/// How far each path is from a straight line travelled at constant speed, see [`straightness`].
#[derive(Debug)]
pub struct Straightness {
    /// The integral of ||dx/ds - (x1 - x0)||^2 over s from 0 to 1, `[B]` in float64.
    pub bend: Tensor,
    /// ||x1 - x0||^2, `[B]` in float64.
    pub displacement: Tensor,
}

impl Straightness {
    /// The mean bend over the mean squared displacement: 0 where every path is straight. Not a number where
    /// nothing moves.
    pub fn ratio(&self) -> f64 {
        let mean = |x: &Tensor| x.mean(Kind::Double).double_value(&[]);
        mean(&self.bend) / mean(&self.displacement)
    }
}

/// S = E of the integral of ||(x1 - x0) - dx/ds||^2 ds (Liu et al., arXiv 2209.03003) of paths
/// `[T, B, *event]` at the given times, whose span is taken as the unit of time s. Between two times the path
/// is taken as straight: S is that of a polygon, which falls short of the path's own with the square of the
/// gaps between times.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for fewer than three times, a
/// number of times that is not the path's, or times that neither rise nor fall throughout.
pub fn straightness(path: &Tensor, times: &[f64]) -> Result<Straightness> {
    let shape = path.size();
    if shape.len() < 3 || shape[1..].contains(&0) {
        return Err(Error::shape("path", "(T, B, *event)", shape_text(&shape)));
    }
    let count = check_batch("path", path, &shape[1..])?;
    if count < 3 || times.len() as i64 != count {
        let expected = format!("the times of the path's {count} states, of which there must be at least 3");
        return Err(Error::argument("times", expected, times.len()));
    }
    let span = times[times.len() - 1] - times[0];
    let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) / span).collect();
    if gaps.iter().any(|gap| !(gap.is_finite() && *gap > 0.0)) {
        return Err(Error::argument("times", "rising or falling finite times", format!("{times:?}")));
    }
    let size = event_size(&shape[2..]);
    let state = |index: i64| path.get(index).detach().reshape([shape[1], size]).to_kind(Kind::Double);
    let line = state(count - 1) - state(0);
    let mut bend = Tensor::zeros([shape[1]], (Kind::Double, path.device()));
    for (index, gap) in gaps.iter().enumerate() {
        let rate = (state(index as i64 + 1) - state(index as i64)) / *gap;
        bend += squared_lengths(&(rate - &line))? * *gap;
    }
    Ok(Straightness { bend, displacement: squared_lengths(&line)? })
}

/// ||x||^2 of each row.
fn squared_lengths(rows: &Tensor) -> Result<Tensor> {
    Ok(rows.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?)
}
