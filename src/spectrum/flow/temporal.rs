//! The motion of paths in time: how many rates they share, which ones, and how certain they are.

use tch::{Kind, Tensor};

use super::components::resampled;
use super::displacements::Moved;
use super::rates::{both, Fit, Motion};
use super::reach::reach;
use super::time::Rate;
use crate::error::Result;
use crate::tensor::RandomSource;

/// Largest number of rates that is tried.
const MOST_RATES: usize = 6;
/// Once the unexplained share is within the tolerance, a further rate is added only if it divides the share by this.
const OWN: f64 = 100.0;

/// Share that the functions of modes may leave unexplained, in units of the tolerance. Only few rates can be
/// compared between flows, but modes should contain all of the motion.
const FINER: f64 = 0.01;

/// Rates that leave at most this many times what the best ones leave count as equally good, even above the
/// tolerance.
const NOT_WORSE: f64 = 2.0;

/// An unexplained share below this is rounding error.
const EXACT: f64 = 1e-10;

/// Number of blocks of paths that are resampled for the cloud of rates.
const BLOCKS: i64 = 64;
/// Number of resamples in the cloud of rates.
pub(super) const CLOUD: u64 = 40;

/// The motion of paths in time, for all dimensions together.
pub(super) struct Temporal<'a> {
    pub times: &'a [f64],
    pub weights: &'a [f64],
    pub moved: &'a Moved,
    /// Paths in random order, so that all classes fall into every part.
    pub order: &'a Tensor,
}

/// The chosen rates, those of two halves of the paths, and how well each number of rates fits held-out paths.
pub(super) struct Rates {
    pub chosen: Fit,
    /// Rates of the functions in which modes are expressed, and the share that they leave unexplained.
    pub basis: Vec<Rate>,
    pub unresolved: f64,
    pub candidates: Vec<Vec<Rate>>,
    pub halves: [Fit; 2],
    pub unexplained: Vec<f64>,
    /// Unexplained share up to which rates count as equally good, and how far each chosen rate can move
    /// within it.
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

    /// The coefficients of one half, minus its own mean, which does not depend on the other half.
    fn half(&self, first: i64) -> Result<Tensor> {
        let half = self.part(first, 2)?;
        let mean = half.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
        Ok(&half - mean.to_kind(half.kind()))
    }

    /// Fits `number` rates, or the smallest number that leaves at most `tolerance` of held-out paths
    /// unexplained. Rates of each half of the paths are tested on the other half.
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

/// The number of rates, and the unexplained share up to which this number would still be chosen. It is the
/// smallest number within the tolerance, or else the best one. Further rates are added while each divides the
/// share by [`OWN`], as in a flow whose motion is exactly a sum of few exponentials.
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
    // In float64, but in parts to bound memory.
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
