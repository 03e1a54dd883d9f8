//! The few rates that all paths of a flow share, by variable projection of their covariance in time.
//!
//! Displacements lie near the span of (e^{lambda_j t} - 1) / lambda_j. With C their covariance in time and F those
//! functions, the rates minimise tr((I - F F^+) C): amplitudes are projected out (Golub and Pereyra, SIAM J. Numer.
//! Anal. 10, 1973; Askham and Kutz, SIAM J. Appl. Dyn. Syst. 17, 2018, for dynamic mode decomposition).

use ndarray::{Array1, Array2, Axis};
use tch::{Kind, Tensor};

use super::time::{functions, orthonormal, turning, Rate};
use crate::error::Result;

/// Largest growth and frequency. Beyond it, functions on the unit interval of time are steps or noise.
const LARGEST: f64 = 80.0;

const MOST_STEPS: usize = 60;

/// A search counts as having found the lowest minimum if it leaves at most this many times what the best
/// functions of any kind would leave.
const NEAR: f64 = 1.5;

/// A covariance in time, prepared for fits of rates.
pub struct Motion {
    /// Times divided by the last one, so that a search does not depend on the unit of time.
    times: Vec<f64>,
    span: f64,
    /// Square roots of the weights of the times.
    scale: Array1<f64>,
    /// A root of the weighted covariance, of trace 1: `[T, k]`.
    root: Array2<f64>,
    /// Fixed functions of time that are part of every fit: `[T, f]`.
    given: Array2<f64>,
}

/// Rates, and the share of a motion that they leave unexplained.
#[derive(Debug, Clone)]
pub struct Fit {
    pub rates: Vec<Rate>,
    pub unexplained: f64,
}

/// The variables of the search: one real rate if the number of rates is odd, and the growth and squared
/// frequency of pairs. A negative square stands for two real rates.
#[derive(Clone)]
struct Point {
    odd: bool,
    values: Vec<f64>,
}

impl Motion {
    /// The motion of a covariance `[T, T]`, with the weights of the times.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn new(times: &[f64], weights: &[f64], covariance: &Tensor) -> Result<Self> {
        let scale: Array1<f64> = weights.iter().map(|weight| weight.sqrt()).collect();
        let by = Tensor::from_slice(&scale.to_vec());
        let weighted = covariance * by.unsqueeze(0) * by.unsqueeze(1);
        let (values, vectors) = weighted.f_linalg_eigh("L")?;
        let (values, vectors) = (values.flip([0i64]), vectors.flip([1i64]));
        let total = values.clamp_min(0.0).sum(Kind::Double).double_value(&[]).max(1e-300);
        let kept = values.gt(total * 1e-14).sum(Kind::Int64).int64_value(&[]).max(1);
        let root = vectors.narrow(1, 0, kept) * (values.narrow(0, 0, kept).clamp_min(0.0) / total).sqrt();
        let span = times[times.len() - 1];
        let times = times.iter().map(|time| time / span).collect();
        let given = Array2::zeros((scale.len(), 0));
        Ok(Motion { times, span, scale, root: to_array(&root)?, given })
    }

    /// The same motion, with `rate` as a part of every fit.
    pub fn beside(&self, rate: &Rate) -> Self {
        let own = functions(&self.inside(std::slice::from_ref(rate)), &self.times);
        let (times, scale, root) = (self.times.clone(), self.scale.clone(), self.root.clone());
        Motion { times, span: self.span, scale, root, given: joined(&self.given, &own) }
    }

    /// The best `count` rates, where a conjugate pair counts as two.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn fit(&self, count: usize) -> Result<Fit> {
        let mut best: Option<(Point, f64)> = None;
        // The share that the best functions of any kind leave unexplained.
        let least: f64 =
            self.root.slice(ndarray::s![.., count.min(self.root.ncols())..]).mapv(|x| x * x).sum();
        for start in self.starts(count)? {
            if best.as_ref().is_some_and(|(_, cost)| *cost <= NEAR * least + 1e-13) {
                break;
            }
            let found = self.refine(start)?;
            if best.as_ref().is_none_or(|(_, cost)| found.1 < *cost) {
                best = Some(found);
            }
        }
        let (point, unexplained) = best.unwrap_or((Point { odd: false, values: vec![] }, 1.0));
        Ok(Fit { rates: self.outside(point.rates()), unexplained })
    }

    /// The rates near `rates` that fit this motion best.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn refit(&self, rates: &[Rate]) -> Result<Fit> {
        let eigenvalues: Vec<_> = self.inside(rates).iter().flat_map(both).collect();
        let (point, unexplained) = self.refine(Point::of(eigenvalues))?;
        Ok(Fit { rates: self.outside(point.rates()), unexplained })
    }

    /// The share that `rates` leave unexplained.
    pub fn unexplained(&self, rates: &[Rate]) -> f64 {
        self.residual(&functions(&self.inside(rates), &self.times)).mapv(|value| value * value).sum()
    }

    /// Rates in the unit of [`Motion::times`], and back.
    fn inside(&self, rates: &[Rate]) -> Vec<Rate> {
        rates.iter().map(|rate| rate.scaled(self.span)).collect()
    }

    fn outside(&self, rates: Vec<Rate>) -> Vec<Rate> {
        rates.iter().map(|rate| rate.scaled(self.span.recip())).collect()
    }

    /// The motion without its part in the span of `values`, `[T, k]`.
    fn residual(&self, values: &Array2<f64>) -> Array2<f64> {
        let every = joined(&self.given, values);
        let (basis, _) = orthonormal(&(every * self.scale.view().insert_axis(Axis(1))));
        &self.root - &basis.dot(&basis.t().dot(&self.root))
    }

    /// Starting points of the search. The first is a least-squares estimate: functions U of time in that span
    /// obey U = (integral of U) M + t c, where the rates are the eigenvalues of M, and U are the leading
    /// functions of the motion. The others are spread out, since a search may end in a local minimum.
    fn starts(&self, count: usize) -> Result<Vec<Point>> {
        let known = count.min(self.root.ncols());
        let mut found = self.leading_rates(known)?;
        // If there are more rates than the motion has dimensions, the others are real.
        found.extend((known..count).map(|place| (-1.5 * (place + 1 - known) as f64, 0.0)));
        let mut starts = vec![Point::of(found)];
        for (growth, slow) in [(-0.5, 1.0), (-0.5, 3.0), (1.5, 2.0), (-3.0, 5.0), (4.0, 4.0)] {
            let pairs = (0..count / 2).flat_map(|pair| {
                let frequency = slow * (pair + 1) as f64;
                [(growth, frequency), (growth, -frequency)]
            });
            starts.push(Point::of(pairs.chain((count % 2 == 1).then_some((growth, 0.0))).collect()));
        }
        for step in [1.0, 2.0, 6.0] {
            // -1, 1, -2, 2, ... times the step.
            let real = (0..count).map(|place| {
                let size = step * (place / 2 + 1) as f64;
                (if place % 2 == 0 { -size } else { size }, 0.0)
            });
            starts.push(Point::of(real.clone().collect()));
            starts.push(Point::of(real.map(|(growth, zero)| (-growth, zero)).collect()));
        }
        // Rates that are far apart, as in a flow that nearly blows up.
        for (first, ratio) in [(1.0, 4.0), (-1.0, 4.0), (6.0, 8.0), (-6.0, 8.0)] {
            let real =
                (0..count).map(|place| ((first * f64::powi(ratio, place as i32)).clamp(-60.0, 60.0), 0.0));
            starts.push(Point::of(real.collect()));
        }
        Ok(starts)
    }

    /// Eigenvalues (growth, frequency) of M for the first `count` functions.
    fn leading_rates(&self, count: usize) -> Result<Vec<(f64, f64)>> {
        let by = self.scale.view().insert_axis(Axis(1)).to_owned();
        let leading = &self.root.slice(ndarray::s![.., ..count]) / &by;
        let mut known = Array2::zeros((self.times.len(), count + 1));
        for row in 1..self.times.len() {
            let step = self.times[row] - self.times[row - 1];
            known[[row, count]] = self.times[row];
            for column in 0..count {
                let both = leading[[row, column]] + leading[[row - 1, column]];
                known[[row, column]] = known[[row - 1, column]] + both * step / 2.0;
            }
        }
        let (known, wanted) = (to_tensor(&(&known * &by))?, to_tensor(&(&leading * &by))?);
        let solved = known.f_pinverse(1e-12)?.f_matmul(&wanted)?.narrow(0, 0, count as i64);
        if solved.isfinite().all().int64_value(&[]) == 0 {
            return Ok((0..count).map(|place| (-1.0 - place as f64, 0.0)).collect());
        }
        let found = to_array(&solved.f_linalg_eigvals()?.f_view_as_real()?)?;
        // LAPACK's pairs are exact conjugates.
        Ok(found
            .rows()
            .into_iter()
            .map(|row| (row[0].clamp(-50.0, 50.0), row[1].clamp(-50.0, 50.0)))
            .collect())
    }

    fn cost(&self, point: &Point) -> Option<(Array1<f64>, f64)> {
        let growth = point.odd.then(|| point.values[0]).into_iter().chain(point.pairs().map(|pair| pair.0));
        let inside = growth.into_iter().all(|value| value.abs() <= LARGEST)
            && point.pairs().all(|(_, square)| square.abs() <= LARGEST * LARGEST);
        if !inside {
            return None;
        }
        let residual = self.residual(&point.functions(&self.times));
        let cost = residual.iter().map(|value| value * value).sum::<f64>();
        cost.is_finite().then(|| (residual.into_iter().collect(), cost))
    }

    /// Levenberg-Marquardt steps until they no longer lower the cost.
    fn refine(&self, mut point: Point) -> Result<(Point, f64)> {
        let Some((mut residual, mut cost)) = self.cost(&point) else { return Ok((point, 1.0)) };
        let mut damping = 1e-3;
        for _ in 0..MOST_STEPS {
            let mut columns = Array2::zeros((residual.len(), point.values.len()));
            for place in 0..point.values.len() {
                let step = 1e-6 * (1.0 + point.values[place].abs());
                let moved = |by: f64| {
                    let mut other = point.clone();
                    other.values[place] += by;
                    self.cost(&other).map(|(residual, _)| residual)
                };
                if let (Some(up), Some(down)) = (moved(step), moved(-step)) {
                    columns.column_mut(place).assign(&((up - down) / (2.0 * step)));
                }
            }
            let (square, slope) = (columns.t().dot(&columns), columns.t().dot(&residual));
            let before = cost;
            while damping < 1e10 {
                let mut damped = square.clone();
                for place in 0..point.values.len() {
                    damped[[place, place]] += damping * square[[place, place]].max(1e-12);
                }
                let right = Tensor::from_slice(&slope.to_vec());
                let step = to_tensor(&damped)?.f_pinverse(1e-15)?.f_mv(&right)?;
                let step = Vec::<f64>::try_from(step)?;
                let mut other = point.clone();
                other.values.iter_mut().zip(&step).for_each(|(value, step)| *value -= step);
                match self.cost(&other) {
                    Some((found, lower)) if lower < cost => {
                        (point, residual, cost) = (other, found, lower);
                        damping = (damping / 10.0).max(1e-12);
                        break;
                    }
                    _ => damping *= 10.0,
                }
            }
            if before - cost <= 1e-9 * before || cost < 1e-26 {
                break;
            }
        }
        Ok((point, cost))
    }
}

impl Point {
    /// The point of eigenvalues (growth, frequency) that come in conjugate pairs. Real ones are combined in
    /// twos.
    fn of(eigenvalues: Vec<(f64, f64)>) -> Point {
        let mut real: Vec<f64> =
            eigenvalues.iter().filter(|value| value.1 == 0.0).map(|value| value.0).collect();
        real.sort_by(f64::total_cmp);
        let odd = real.len() % 2 == 1;
        let mut values: Vec<f64> = odd.then(|| real.remove(real.len() / 2)).into_iter().collect();
        for two in real.chunks(2) {
            values.extend([(two[0] + two[1]) / 2.0, -((two[1] - two[0]) / 2.0).powi(2)]);
        }
        let turning = eigenvalues.iter().filter(|value| value.1 > 0.0);
        values.extend(turning.flat_map(|value| [value.0, value.1.powi(2)]));
        Point { odd, values }
    }

    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.values[usize::from(self.odd)..].chunks(2).map(|pair| (pair[0], pair[1]))
    }

    fn functions(&self, times: &[f64]) -> Array2<f64> {
        let mut values = Array2::zeros((times.len(), self.values.len()));
        for (row, t) in times.iter().enumerate() {
            let single = self.odd.then(|| Rate { growth: self.values[0], frequency: 0.0 }.at(*t)[0]);
            let pairs = self.pairs().flat_map(|(growth, square)| turning(growth, square, *t));
            single
                .into_iter()
                .chain(pairs)
                .enumerate()
                .for_each(|(place, value)| values[[row, place]] = value);
        }
        values
    }

    /// The rates, slowest first.
    fn rates(&self) -> Vec<Rate> {
        let mut rates: Vec<Rate> = Vec::new();
        rates.extend(self.odd.then(|| Rate { growth: self.values[0], frequency: 0.0 }));
        for (growth, square) in self.pairs() {
            let apart = square.abs().sqrt();
            match square > 0.0 {
                true => rates.push(Rate { growth, frequency: apart }),
                false => rates
                    .extend([growth - apart, growth + apart].map(|growth| Rate { growth, frequency: 0.0 })),
            }
        }
        let modulus = |rate: &Rate| rate.growth.hypot(rate.frequency);
        rates.sort_by(|a, b| modulus(a).total_cmp(&modulus(b)));
        rates
    }
}

/// Columns of both, side by side.
fn joined(first: &Array2<f64>, second: &Array2<f64>) -> Array2<f64> {
    let mut both = Array2::zeros((second.nrows(), first.ncols() + second.ncols()));
    both.slice_mut(ndarray::s![.., ..first.ncols()]).assign(first);
    both.slice_mut(ndarray::s![.., first.ncols()..]).assign(second);
    both
}

/// The eigenvalues of a rate: one, or two for a conjugate pair.
pub fn both(rate: &Rate) -> Vec<(f64, f64)> {
    let Rate { growth, frequency } = *rate;
    if frequency > 0.0 {
        vec![(growth, frequency), (growth, -frequency)]
    } else {
        vec![(growth, 0.0)]
    }
}

/// A float64 matrix on the CPU as an array.
pub fn to_array(tensor: &Tensor) -> Result<Array2<f64>> {
    let size = tensor.size();
    let values = Vec::<f64>::try_from(tensor.contiguous().reshape([-1]))?;
    Array2::from_shape_vec((size[0] as usize, size[1] as usize), values)
        .map_err(|error| anyhow::Error::from(error).into())
}

pub fn to_tensor(array: &Array2<f64>) -> Result<Tensor> {
    let shape = [array.nrows() as i64, array.ncols() as i64];
    Ok(Tensor::from_slice(&array.iter().copied().collect::<Vec<_>>()).f_reshape(shape)?)
}
