//! From paths to the spectrum of their flow.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::affine::{take_affine, Affine};
use super::components::{groups, resampled, shuffled, Components};
use super::displacements::{Displacements, Moved};
use super::rates::{both, to_tensor, Fit, Motion};
use super::time::{count, functions, orthonormal, Rate};
use super::{Facts, FlowSpectrum};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::RandomSource;

/// How to read the spectrum of a flow.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reading {
    /// Number of rates, a conjugate pair counting as two; as few as `tolerance` allows where it is `None`.
    pub rates: Option<usize>,
    /// Share of the motion of held-out paths that rates may leave unexplained.
    pub tolerance: f64,
    /// Most components that are kept.
    pub components: i64,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Default for Reading {
    fn default() -> Self {
        Reading { rates: None, tolerance: 1e-3, components: 256, seed: 0 }
    }
}

/// The largest number of rates that is tried, and how many times less each further one must leave of a flow that
/// already is within the tolerance to be the flow's own.
const MOST_RATES: usize = 6;
const OWN: f64 = 100.0;

/// The share that the functions of modes may leave, in units of the tolerance: few rates can be told from one
/// flow to the next, but modes shall hold all that moves.
const FINER: f64 = 0.01;

/// Below this share, what is left is rounding.
const EXACT: f64 = 1e-10;

/// Blocks of paths that the cloud of rates resamples, and the number of resamples.
const BLOCKS: i64 = 64;
const CLOUD: u64 = 40;

/// Most axes of the affine part that are kept.
const AXES: i64 = 64;

impl Reading {
    fn check(&self, times: usize) -> Result<()> {
        let most = times - 2;
        if let Some(rates) = self.rates.filter(|rates| *rates < 1 || *rates > most) {
            return Err(Error::argument("rates", format!("an integer from 1 to {most}"), rates));
        }
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            return Err(Error::argument("tolerance", "a share in (0, 1)", self.tolerance));
        }
        if self.components < 1 {
            return Err(Error::argument("components", "at least 1", self.components));
        }
        Ok(())
    }
}

/// The spectrum of the flow of these paths.
///
/// # Errors
/// [`Error::Argument`] for options out of their range or fewer than 16 paths; [`Error::Divergence`] where all samples
/// move alike.
pub fn measure(paths: Displacements, reading: &Reading, monitor: &mut dyn Monitor) -> Result<FlowSpectrum> {
    let _guard = tch::no_grad_guard();
    reading.check(paths.times.len())?;
    let (event_shape, times, weights) =
        (paths.event_shape.clone(), paths.times.clone(), paths.weights.clone());
    let (n, random) = (paths.count, RandomSource::new(reading.seed).fork("spectrum of a flow"));
    let mut moved = paths.finish()?;
    let order = shuffled(n, &random.fork("order"));
    let temporal = Temporal { times: &times, weights: &weights, moved: &moved, order: &order };
    let rates = temporal.rates(reading)?;
    monitor.tick()?;
    let cloud = temporal.cloud(&rates.chosen.rates, &random)?;
    let halves = [rates.halves[0].rates.clone(), rates.halves[1].rates.clone()];
    monitor.tick()?;
    let Affine { map, freedom } = take_affine(&mut moved)?;
    monitor.tick()?;
    // Of the part left, in the basis of time; corrected for what the affine part took of it by chance.
    let left = second_moment(&moved.coefficients)?;
    let of_times = |square: &Tensor| -> Result<Tensor> {
        Ok(moved.basis.f_matmul(square)?.f_matmul(&moved.basis.tr())?)
    };
    let affine_motion = &moved.covariance - of_times(&left)?;
    let affine_rates = Motion::new(&times, &weights, &affine_motion)?.fit(count(&rates.chosen.rates))?;
    let left = of_times(&left)?.diagonal(0, 0, 1) * (n as f64 / (n as f64 - freedom));
    let total = moved.covariance.diagonal(0, 0, 1);
    let left = left.minimum(&total);
    let drift = moved.drift.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
    let shares = Tensor::f_stack(&[&drift, &(&total - &left).clamp_min(0.0), &left], 1)?;
    let over_time = Tensor::from_slice(&weights).f_matmul(&shares)?;
    let [drift, affine, nonlinear] = [0, 1, 2].map(|part| over_time.double_value(&[part]));
    let motion = affine + nonlinear;

    // The functions of time, orthonormal under the weights, and what takes the basis of time to them.
    let roots: Vec<f64> = weights.iter().map(|weight| weight.sqrt()).collect();
    let own = to_tensor(&functions(&rates.basis, &times))?;
    let rooted = functions(&rates.basis, &times) * ndarray::Array1::from(roots).insert_axis(ndarray::Axis(1));
    let mix = to_tensor(&orthonormal(&rooted).1)?;
    let weighted = &moved.basis * Tensor::from_slice(&weights).unsqueeze(1);
    let change = weighted.tr().f_matmul(&own.f_matmul(&mix)?)?;
    let (r, d) = (mix.size()[0], moved.noise.size()[1]);
    let map = change.tr().f_matmul(&map.f_reshape([-1, d * d])?)?.f_reshape([r, d, d])?;
    let z = change.tr().f_matmul(&moved.coefficients.to_kind(Kind::Double))?.f_reshape([n, r * d])?;
    moved.coefficients = Tensor::new();
    monitor.tick()?;
    let most = reading.components.min(n / 4).max(1);
    let found = Components::of(&z, freedom, (motion, moved.rounding), most, &order, &random)?;
    monitor.tick()?;
    let count = found.modes.size()[0];
    let axes = axes(&map, &z, &own.f_matmul(&mix)?.select(0, -1))?;
    let resolved =
        map.square().sum(Kind::Double).double_value(&[]) + found.energies.sum(Kind::Double).double_value(&[]);
    let facts = Facts {
        event_shape,
        paths: n,
        noise: format!("{:016x}", moved.digest),
        rates: rates.chosen.rates,
        basis: rates.basis,
        candidates: rates.candidates,
        halves,
        affine_rates: affine_rates.rates,
        unexplained: rates.unexplained,
        drift,
        motion,
        affine,
        nonlinear,
        unresolved: (motion - resolved).max(0.0).min(motion * rates.unresolved * 2.0),
        freedom,
        edge: found.edge,
        standing: found.standing,
        groups: found.groups,
        agreement: found.agreement,
        axis_groups: axes.groups,
        sizes: [times.len() as i64, CLOUD as i64, axes.values.size()[0], count, found.energies.size()[0]],
    };
    let arrays = vec![
        ("times", Tensor::from_slice(&times)),
        ("drift", moved.drift),
        ("shares", shares),
        ("covariance", moved.covariance),
        ("mix", mix),
        ("cloud", cloud),
        ("noise_mean", moved.noise_mean),
        ("affine", map),
        ("axes", axes.axes),
        ("axis_values", axes.values),
        ("axis_modes", axes.modes),
        ("energies", found.energies),
        ("interval", found.interval),
        ("modes", found.modes.f_reshape([count, r, d])?),
        ("amplitudes", found.amplitudes),
    ];
    FlowSpectrum::assemble(facts, arrays)
}

/// What paths do in time, whatever they do in space.
struct Temporal<'a> {
    times: &'a [f64],
    weights: &'a [f64],
    moved: &'a Moved,
    /// Paths in random order, so that classes that come in turn fall into all parts.
    order: &'a Tensor,
}

/// The rates that were chosen, those of two halves of the paths, and how well each number does on the others.
struct Rates {
    chosen: Fit,
    /// Those of the functions that modes are sums of, and what they leave.
    basis: Vec<Rate>,
    unresolved: f64,
    candidates: Vec<Vec<Rate>>,
    halves: [Fit; 2],
    unexplained: Vec<f64>,
}

impl Temporal<'_> {
    /// The motion of a covariance in the basis of time, `[q, q]`.
    fn motion(&self, square: &Tensor) -> Result<Motion> {
        let covariance = self.moved.basis.f_matmul(square)?.f_matmul(&self.moved.basis.tr())?;
        Motion::new(self.times, self.weights, &covariance)
    }

    /// The second moment of one of `parts` parts of the paths.
    fn part(&self, first: i64, parts: i64) -> Result<Tensor> {
        let rows = self.order.slice(0, first, None, parts);
        second_moment(&self.moved.coefficients.f_index_select(0, &rows)?)
    }

    /// The number of rates is chosen on held-out paths: those of each half on the other.
    fn rates(&self, reading: &Reading) -> Result<Rates> {
        let whole = Motion::new(self.times, self.weights, &self.moved.covariance)?;
        let half =
            |first: i64| self.motion(&second_moment(&self.moved.coefficients.slice(0, first, None, 2))?);
        let halves = [half(0)?, half(1)?];
        let most = MOST_RATES.min(self.times.len() - 2).max(reading.rates.unwrap_or(1));
        let (mut fits, mut unexplained) = (Vec::new(), Vec::new());
        for count in 1..=most {
            let (a, b) = (halves[0].fit(count)?, halves[1].fit(count)?);
            unexplained.push((halves[1].unexplained(&a.rates) + halves[0].unexplained(&b.rates)) / 2.0);
            fits.push((a, b));
        }
        let count = reading.rates.unwrap_or_else(|| chosen(&unexplained, reading.tolerance));
        let (a, b) = fits.swap_remove(count - 1);
        let mut best = (1..=most).map(|count| whole.fit(count)).collect::<Result<Vec<_>>>()?;
        let candidates = best.iter().map(|fit| fit.rates.clone()).collect();
        let all = chosen(&unexplained, reading.tolerance * FINER).max(count);
        let (basis, unresolved) = (best[all - 1].rates.clone(), best[all - 1].unexplained);
        let chosen = best.swap_remove(count - 1);
        Ok(Rates { chosen, basis, unresolved, candidates, halves: [a, b], unexplained })
    }

    /// Eigenvalues of resampled blocks of paths, `[CLOUD, r, 2]`.
    fn cloud(&self, rates: &[Rate], random: &RandomSource) -> Result<Tensor> {
        let blocks = BLOCKS.min(self.order.size()[0]);
        let each = (0..blocks).map(|first| self.part(first, blocks));
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
/// flow that has rates of its own.
fn chosen(unexplained: &[f64], tolerance: f64) -> usize {
    let best = (0..unexplained.len()).min_by(|a, b| unexplained[*a].total_cmp(&unexplained[*b])).unwrap_or(0);
    let mut place = unexplained.iter().position(|share| *share <= tolerance).unwrap_or(best);
    while unexplained[place] > EXACT {
        let worth = |more: usize| {
            unexplained
                .get(place + more)
                .is_some_and(|share| *share * OWN.powi(more as i32) <= unexplained[place])
        };
        match [1, 2].into_iter().find(|more| worth(*more)) {
            Some(more) => place += more,
            None => break,
        }
    }
    place + 1
}

/// Mean of products over paths and dimensions, `[q, q]`, of coefficients `[n, q, d]`.
fn second_moment(coefficients: &Tensor) -> Result<Tensor> {
    let (n, q) = (coefficients.size()[0], coefficients.size()[1]);
    let mut sum = Tensor::f_zeros([q, q], (Kind::Double, tch::Device::Cpu))?;
    // In float64, but not all at once.
    for part in coefficients.split(1024, 0) {
        let part = part.to_kind(Kind::Double);
        sum += part.f_matmul(&part.transpose(1, 2))?.sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
    }
    Ok(sum / n as f64)
}

/// The affine part at the last time taken apart: orthonormal axes of the noise `[A, d]`, what arrives of a unit along
/// each `[A]`, and their displacements `[A, r, d]`.
struct Axes {
    axes: Tensor,
    values: Tensor,
    modes: Tensor,
    groups: Vec<i64>,
}

/// Singular vectors of the affine map from noise to data, x0 (I + A(1)): those of a Gaussian's data are its principal
/// axes, and the values their deviations. `z` is what the map leaves, `[n, r d]`, and `end` the functions of time
/// at the end, `[r]`.
fn axes(map: &Tensor, z: &Tensor, end: &Tensor) -> Result<Axes> {
    let (n, r, d) = (z.size()[0], map.size()[0], map.size()[1]);
    let at = end.reshape([-1, 1, 1]);
    let arriving = (map * at).f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?
        + Tensor::f_eye(d, (Kind::Double, tch::Device::Cpu))?;
    let (squares, vectors) = arriving.f_matmul(&arriving.tr())?.f_linalg_eigh("L")?;
    let count = d.min(AXES);
    let values = squares.flip([0i64]).narrow(0, 0, count).clamp_min(0.0).sqrt();
    let axes = vectors.flip([1i64]).narrow(1, 0, count).tr().contiguous();
    let images = axes.f_matmul(&arriving)?;
    // An axis and its opposite are one.
    let sign = images.f_gather(1, &images.abs().f_argmax(1, true)?, false)?.sign();
    let (axes, images) = (axes * &sign, images * &sign);
    // An entry of the map is uncertain by the deviation of what is left over the root of n.
    let left = z.f_reshape([n, r, d])?.transpose(1, 2).f_matmul(end)?.f_matmul(&images.tr())?;
    let left = left.square().mean_dim([0i64].as_slice(), false, Kind::Double).sqrt();
    let error = left / values.clamp_min(1e-12) * (2.33 / (n as f64).sqrt());
    let groups = groups(&Tensor::f_stack(&[&values - &error, &values + &error], 1)?)?;
    let modes = Tensor::f_einsum("ad,rde->are", &[&axes, map], None::<i64>)?;
    Ok(Axes { axes, values, modes, groups })
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn the_number_of_rates_is_the_fewest_that_do_or_those_that_are_the_flows_own() {
        assert_eq!(chosen(&[3e-3, 2e-4, 4e-5, 8e-6, 3e-6], 1e-4), 3);
        assert_eq!(chosen(&[3e-2, 5e-5, 5e-12, 4e-12], 1e-4), 3);
        assert_eq!(chosen(&[5e-5, 4e-5, 1e-12, 1e-12], 1e-4), 3);
        assert_eq!(chosen(&[1e-13, 1e-14], 1e-4), 1);
        assert_eq!(chosen(&[0.5, 0.3, 0.2, 0.21], 1e-4), 3);
    }
}
