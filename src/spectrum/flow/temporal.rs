//! What paths do in time: how many rates they share, which, and how sure that is.

use tch::{Kind, Tensor};

use super::components::resampled;
use super::displacements::Moved;
use super::rates::{both, Fit, Motion};
use super::reach::reach;
use super::time::Rate;
use crate::error::Result;
use crate::tensor::RandomSource;

/// The largest number of rates that is tried, and how many times less each further one must leave of a flow that
/// already is within the tolerance to be the flow's own.
const MOST_RATES: usize = 6;
const OWN: f64 = 100.0;

/// The share that the functions of modes may leave, in units of the tolerance: few rates can be told from one
/// flow to the next, but modes shall hold all that moves.
const FINER: f64 = 0.01;

/// Rates that leave so many times what the best leave are as good, even above the tolerance.
const NOT_WORSE: f64 = 2.0;

/// Below this share, what is left is rounding.
const EXACT: f64 = 1e-10;

/// Blocks of paths that the cloud of rates resamples, and the number of resamples.
const BLOCKS: i64 = 64;
pub(super) const CLOUD: u64 = 40;

/// What paths do in time, whatever they do in space.
pub(super) struct Temporal<'a> {
    pub times: &'a [f64],
    pub weights: &'a [f64],
    pub moved: &'a Moved,
    /// Paths in random order, so that classes that come in turn fall into all parts.
    pub order: &'a Tensor,
}

/// The rates that were chosen, those of two halves of the paths, and how well each number does on the others.
pub(super) struct Rates {
    pub chosen: Fit,
    /// Those of the functions that modes are sums of, and what they leave.
    pub basis: Vec<Rate>,
    pub unresolved: f64,
    pub candidates: Vec<Vec<Rate>>,
    pub halves: [Fit; 2],
    pub unexplained: Vec<f64>,
    /// What rates may leave to be as good as the chosen ones, and how far each of those can go by that.
    pub bound: f64,
    pub regions: Tensor,
}

impl Temporal<'_> {
    /// The motion of a covariance in the basis of time, `[q, q]`.
    fn motion(&self, square: &Tensor) -> Result<Motion> {
        let covariance = self.moved.basis.f_matmul(square)?.f_matmul(&self.moved.basis.tr())?;
        Motion::new(self.times, self.weights, &covariance)
    }

    /// The coefficients of one of `parts` parts of the paths.
    fn part(&self, first: i64, parts: i64) -> Result<Tensor> {
        Ok(self.moved.coefficients.f_index_select(0, &self.order.slice(0, first, None, parts))?)
    }

    /// Those of one half, about its own mean, of which the other half has no part.
    fn half(&self, first: i64) -> Result<Tensor> {
        let half = self.part(first, 2)?;
        let mean = half.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
        Ok(&half - mean.to_kind(half.kind()))
    }

    /// `number` rates, or as many as leave no more than `tolerance` of held-out paths: those of each half on the other.
    pub fn rates(&self, number: Option<usize>, tolerance: f64) -> Result<Rates> {
        let whole = Motion::new(self.times, self.weights, &self.moved.covariance)?;
        let halves =
            [self.motion(&second_moment(&self.half(0)?)?)?, self.motion(&second_moment(&self.half(1)?)?)?];
        let most = MOST_RATES.min(self.times.len() - 2).max(number.unwrap_or(1));
        let (mut fits, mut unexplained) = (Vec::new(), Vec::new());
        for count in 1..=most {
            let (a, b) = (halves[0].fit(count)?, halves[1].fit(count)?);
            unexplained.push((halves[1].unexplained(&a.rates) + halves[0].unexplained(&b.rates)) / 2.0);
            fits.push((a, b));
        }
        let (fewest, enough) = chosen(&unexplained, tolerance);
        let count = number.unwrap_or(fewest);
        let (a, b) = fits.swap_remove(count - 1);
        let mut best = (1..=most).map(|count| whole.fit(count)).collect::<Result<Vec<_>>>()?;
        let candidates = best.iter().map(|fit| fit.rates.clone()).collect();
        let all = chosen(&unexplained, tolerance * FINER).0.max(count);
        let (basis, unresolved) = (best[all - 1].rates.clone(), best[all - 1].unexplained);
        let chosen = best.swap_remove(count - 1);
        let bound = if number.is_none() { enough } else { tolerance }.max(NOT_WORSE * chosen.unexplained);
        let regions = reach(&whole, &chosen.rates, bound, self.times[self.times.len() - 1])?;
        Ok(Rates { chosen, basis, unresolved, candidates, halves: [a, b], unexplained, bound, regions })
    }

    /// Eigenvalues of resampled blocks of paths, `[CLOUD, r, 2]`.
    pub fn cloud(&self, rates: &[Rate], random: &RandomSource) -> Result<Tensor> {
        let blocks = BLOCKS.min(self.order.size()[0]);
        let each = (0..blocks).map(|first| second_moment(&self.part(first, blocks)?));
        let each = Tensor::f_stack(&each.collect::<Result<Vec<_>>>()?, 0)?;
        let mut cloud = Vec::new();
        for resample in 0..CLOUD {
            let drawn = resampled(blocks, &random.fork_numbered("blocks", resample)).reshape([-1, 1, 1]);
            let square = (&each * drawn).sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
            let fit = self.motion(&square)?.refit(rates)?;
            cloud.extend(fit.rates.iter().flat_map(both).flat_map(|(growth, frequency)| [growth, frequency]));
        }
        Ok(Tensor::from_slice(&cloud).f_reshape([CLOUD as i64, -1, 2])?)
    }
}

/// The fewest rates within the tolerance, or else the best; more while each one is worth it many times over, as in a
/// flow that has rates of its own. And what as many may leave to be chosen.
fn chosen(unexplained: &[f64], tolerance: f64) -> (usize, f64) {
    let best = (0..unexplained.len()).min_by(|a, b| unexplained[*a].total_cmp(&unexplained[*b])).unwrap_or(0);
    let mut place = unexplained.iter().position(|share| *share <= tolerance).unwrap_or(best);
    let mut bound = tolerance;
    while unexplained[place] > EXACT {
        let worth = |more: usize| {
            unexplained
                .get(place + more)
                .is_some_and(|share| *share * OWN.powi(more as i32) <= unexplained[place])
        };
        match [1, 2].into_iter().find(|more| worth(*more)) {
            Some(more) => {
                bound = unexplained[place] / OWN.powi(more as i32);
                place += more;
            }
            None => break,
        }
    }
    (place + 1, if unexplained[place] <= EXACT { EXACT } else { bound })
}

/// Mean of products over paths and dimensions, `[q, q]`, of coefficients `[n, q, d]`.
pub(super) fn second_moment(coefficients: &Tensor) -> Result<Tensor> {
    let (n, q) = (coefficients.size()[0], coefficients.size()[1]);
    let mut sum = Tensor::f_zeros([q, q], (Kind::Double, tch::Device::Cpu))?;
    // In float64, but not all at once.
    for part in coefficients.split(1024, 0) {
        let part = part.to_kind(Kind::Double);
        sum += part.f_matmul(&part.transpose(1, 2))?.sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
    }
    Ok(sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::{chosen, EXACT};

    #[test]
    fn the_number_of_rates_is_the_fewest_that_do_or_those_that_are_the_flows_own() {
        assert_eq!(chosen(&[3e-3, 2e-4, 4e-5, 8e-6, 3e-6], 1e-4).0, 3);
        assert_eq!(chosen(&[3e-2, 5e-5, 5e-12, 4e-12], 1e-4).0, 3);
        assert_eq!(chosen(&[5e-5, 4e-5, 1e-12, 1e-12], 1e-4).0, 3);
        assert_eq!(chosen(&[3e-3, 2e-4, 4e-5, 8e-6, 3e-6], 1e-4).1, 1e-4);
        assert!((chosen(&[3e-2, 5e-5, 5e-9, 4e-9], 1e-4).1 - 5e-7).abs() < 1e-12);
        assert_eq!(chosen(&[3e-2, 5e-5, 5e-12, 4e-12], 1e-4).1, EXACT);
        assert_eq!(chosen(&[1e-13, 1e-14], 1e-4).0, 1);
        assert_eq!(chosen(&[0.5, 0.3, 0.2, 0.21], 1e-4).0, 3);
    }
}
