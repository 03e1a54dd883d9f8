//! Errors of models on the same noise: endpoint, path, inversion and round-trip errors, the total standard deviation
//! that is their unit, and the straightness of paths. All callers use these definitions.
//!
//! Each error is a [`Statistic`] of independent samples, so that the bootstrap can compute it on resamples.

use tch::{Device, Kind, Tensor};

use super::{pair, same_count, single, Named};
use crate::error::{Error, Result};
use crate::tensor::{check_batch, event_size, shape_text};

/// A statistic of N independent samples, which can also be computed on a resample of them.
pub trait Statistic {
    /// The number of samples, N.
    fn samples(&self) -> i64;

    /// The statistic of all samples.
    fn value(&self) -> f64;

    /// The statistic of the samples at the indices `rows`, int64 `[R]` on the CPU. Repeated indices count repeatedly.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no indices, or if one is outside `0..N`.
    fn value_of(&self, rows: &Tensor) -> Result<f64>;
}

/// Total standard deviation: the square root of the sum of the variances (divisor N) of all dimensions.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`] or [`Error::Dtype`].
pub fn total_std(data: &Tensor) -> Result<f64> {
    let rows = single(("data", data))?;
    let centred = &rows - rows.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    Ok((centred.square().sum(Kind::Double).double_value(&[]) / rows.size()[0] as f64).sqrt())
}

/// RMS length of rows `[N, d]`, computed in float64. NaN if one of the rows is NaN.
pub fn rms_length(rows: &Tensor) -> f64 {
    let squares = rows.to_kind(Kind::Double).square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
    mean_of_roots(&squares.unsqueeze(1))
}

/// An error of paired samples: the RMS of their distances, averaged over times and divided by a scale.
#[derive(Debug)]
pub struct Errors {
    /// Squared distances `[N, T]`, in float64 on the CPU, where resamples are drawn. T is 1 for a single time.
    squares: Tensor,
    scale: f64,
}

impl Errors {
    fn new(pairs: &[(Tensor, Tensor)], scale: f64, names: [&str; 2]) -> Result<Self> {
        let columns = pairs.iter().map(|(a, b)| squared_distances((names[0], a), (names[1], b)));
        let squares = Tensor::f_stack(&columns.collect::<Result<Vec<_>>>()?, 1)?.f_to_device(Device::Cpu)?;
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(Error::argument("scale", "a finite number above 0", scale));
        }
        Ok(Errors { squares, scale })
    }
}

impl Statistic for Errors {
    fn samples(&self) -> i64 {
        self.squares.size()[0]
    }

    fn value(&self) -> f64 {
        mean_of_roots(&self.squares) / self.scale
    }

    fn value_of(&self, rows: &Tensor) -> Result<f64> {
        check_rows(rows, self.samples())?;
        Ok(mean_of_roots(&self.squares.f_index_select(0, rows)?) / self.scale)
    }
}

/// The mean over columns of the square root of each column's mean.
fn mean_of_roots(squares: &Tensor) -> f64 {
    let means = squares.mean_dim([0i64].as_slice(), false, Kind::Double);
    means.sqrt().mean(Kind::Double).double_value(&[])
}

/// Endpoint error: the RMS of ||samples - ends|| divided by `scale`, which is usually the [`total_std`] of the data.
/// `samples` and `ends` are `[N, *event]`; each pair of rows starts from the same noise.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`] or [`Error::Dtype`]; [`Error::Argument`] for sets of different sizes,
/// or for a scale that is not positive and finite.
pub fn endpoint_error(samples: &Tensor, ends: &Tensor, scale: f64) -> Result<Errors> {
    Errors::new(&[(samples.shallow_clone(), ends.shallow_clone())], scale, ["samples", "ends"])
}

/// Path error: the [`endpoint_error`] of the states at each time, averaged over times. Both paths are
/// `[T, N, *event]`.
///
/// # Errors
/// Errors of [`endpoint_error`].
pub fn path_error(path: &Tensor, exact: &Tensor, scale: f64) -> Result<Errors> {
    let (shape, wanted) = (path.size(), exact.size());
    if shape.len() < 3 || shape[0] == 0 || shape[0] != wanted[0] {
        let expected = format!("(T, N, *event) with T = {} as in exact", wanted.first().unwrap_or(&0));
        return Err(Error::shape("path", expected, shape_text(&shape)));
    }
    let states: Vec<_> = (0..shape[0]).map(|time| (path.get(time), exact.get(time))).collect();
    Errors::new(&states, scale, ["path", "exact"])
}

/// Inversion error: the RMS of ||recovered - noise|| divided by the RMS norm of the noise, both `[N, *event]`.
///
/// # Errors
/// Errors of [`endpoint_error`].
pub fn inversion_error(recovered: &Tensor, noise: &Tensor) -> Result<Errors> {
    let norm = rms_length(&single(("noise", noise))?);
    Errors::new(&[(recovered.shallow_clone(), noise.shallow_clone())], norm, ["recovered", "noise"])
}

/// Round-trip error: the RMS of ||again - data|| divided by `scale`, which is usually the [`total_std`] of the data.
/// `again` `[N, *event]` are the samples from the noise that the data were inverted to.
///
/// # Errors
/// Errors of [`endpoint_error`].
pub fn round_trip_error(again: &Tensor, data: &Tensor, scale: f64) -> Result<Errors> {
    Errors::new(&[(again.shallow_clone(), data.shallow_clone())], scale, ["again", "data"])
}

/// The deviation of each path from a straight line at constant speed; see [`straightness`].
#[derive(Debug)]
pub struct Straightness {
    /// The integral of ||dx/ds - (x1 - x0)||^2 over s from 0 to 1, `[B]` in float64 on the CPU.
    pub bend: Tensor,
    /// ||x1 - x0||^2, `[B]` in float64 on the CPU.
    pub displacement: Tensor,
}

impl Statistic for Straightness {
    fn samples(&self) -> i64 {
        self.bend.size()[0]
    }

    /// The mean bend divided by the mean squared displacement. 0 if every path is straight; NaN if no path moves.
    fn value(&self) -> f64 {
        let mean = |x: &Tensor| x.mean(Kind::Double).double_value(&[]);
        mean(&self.bend) / mean(&self.displacement)
    }

    fn value_of(&self, rows: &Tensor) -> Result<f64> {
        check_rows(rows, self.samples())?;
        let pick = |x: &Tensor| x.f_index_select(0, rows);
        Ok(Straightness { bend: pick(&self.bend)?, displacement: pick(&self.displacement)? }.value())
    }
}

/// Straightness S = E[integral of ||(x1 - x0) - dx/ds||^2 ds] (Liu et al., arXiv 2209.03003) of paths
/// `[T, B, *event]` at the given times. The unit of the time s is the span of the times. A path is taken as straight
/// between two times, so S is that of a polygon. It is smaller than the value of the smooth path, by an amount of the
/// order of the squared gaps between times.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for fewer than three times, for a
/// number of times that differs from that of the path, or for times that are not monotone.
pub fn straightness(path: &Tensor, times: &[f64]) -> Result<Straightness> {
    let shape = path.size();
    if shape.len() < 3 || shape[1..].contains(&0) {
        return Err(Error::shape("path", "(T, B, *event)", shape_text(&shape)));
    }
    let count = check_batch("path", path, &shape[1..])?;
    if count < 3 || times.len() as i64 != count {
        let expected = format!("one time for each of the path's {count} states, and at least 3 times");
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
    let (bend, displacement) =
        (bend.f_to_device(Device::Cpu)?, squared_lengths(&line)?.f_to_device(Device::Cpu)?);
    Ok(Straightness { bend, displacement })
}

/// ||a - b||^2 of each pair of rows, `[N]` in float64.
fn squared_distances(a: Named, b: Named) -> Result<Tensor> {
    let names = (a.0, b.0);
    let (a, b) = pair(a, b)?;
    same_count((names.0, &a), (names.1, &b))?;
    squared_lengths(&(a - b))
}

/// ||x||^2 of each row.
fn squared_lengths(rows: &Tensor) -> Result<Tensor> {
    Ok(rows.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?)
}

fn check_rows(rows: &Tensor, count: i64) -> Result<()> {
    let expected = || format!("one or more int64 indices from 0 to {}", count - 1);
    if rows.kind() != Kind::Int64 || rows.dim() != 1 || rows.numel() == 0 {
        return Err(Error::argument("rows", expected(), format!("{:?} {:?}", rows.kind(), rows.size())));
    }
    let (low, high) = (rows.min().int64_value(&[]), rows.max().int64_value(&[]));
    if low < 0 || high >= count {
        return Err(Error::argument("rows", expected(), format!("indices from {low} to {high}")));
    }
    Ok(())
}
