//! Principal components in space and time of the motion that is not affine, and which of them can be
//! distinguished.
//!
//! Principal components are the same for other paths only if their energies differ: those of nearly equal
//! energy mix arbitrarily. The bootstrap shows which ones do, and these form one group.

use rand::seq::SliceRandom;
use rand::Rng;
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::tensor::RandomSource;

/// Share of the energy that is kept as components.
const KEPT: f64 = 0.999;

/// Share of all motion below which a remainder counts as the error of solvers and of float32.
const NOTHING: f64 = 1e-8;

/// Number of bootstrap resamples.
const RESAMPLES: u64 = 128;
/// Quantiles of the energies over resamples. Components are distinguished if the intervals between them are disjoint.
const QUANTILES: [f64; 2] = [0.01, 0.99];

/// Components of remainders `[n, p]`, all in float64 on the CPU.
pub(super) struct Components {
    /// Energies of all components in descending order; at most as many as paths.
    pub energies: Tensor,
    /// The first K components as orthonormal rows, `[K, p]`.
    pub modes: Tensor,
    /// `[n, K]`.
    pub amplitudes: Tensor,
    /// Quantiles of the energies over resampled paths, `[K, 2]`.
    pub interval: Tensor,
    /// Indices at which groups begin, the first at 0.
    pub groups: Vec<i64>,
    /// Mean squared cosine between each group in two halves of the paths.
    pub agreement: Vec<f64>,
    /// Energy that the largest of as many components of noise would have, and the number of components above
    /// it.
    pub edge: f64,
    pub standing: i64,
}

impl Components {
    /// At most `most` components of remainders `z`. A fit of `freedom` parameters left these remainders of a
    /// motion of energy `total`, of which `rounding` may be rounding error. `order` holds the paths in random
    /// order.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn of(
        z: &Tensor,
        freedom: f64,
        (total, rounding): (f64, f64),
        most: i64,
        order: &Tensor,
        random: &RandomSource,
    ) -> Result<Components> {
        let (n, p) = (z.size()[0], z.size()[1]);
        let scale = 1.0 / (n as f64 - freedom);
        let (values, vectors, dual) = match p <= n {
            true => {
                let (values, vectors) = (z.tr().f_matmul(z)? * scale).f_linalg_eigh("L")?;
                (values, vectors, false)
            }
            false => {
                let (values, vectors) = (z.f_matmul(&z.tr())? * scale).f_linalg_eigh("L")?;
                (values, vectors, true)
            }
        };
        let energies = values.flip([0i64]).clamp_min(0.0);
        let all = Vec::<f64>::try_from(&energies)?;
        let sum = all.iter().sum::<f64>();
        let count = if sum <= (NOTHING * total).max(4.0 * rounding) { 0 } else { kept(&all, sum).min(most) };
        let leading = vectors.flip([1i64]).narrow(1, 0, count);
        let modes = match dual {
            false => leading.tr(),
            true => leading.tr().f_matmul(z)? * (scale / energies.narrow(0, 0, count)).sqrt().unsqueeze(1),
        };
        let modes = signed(&modes)?;
        let amplitudes = z.f_matmul(&modes.tr())?;
        let (edge, standing) = edge(&all, n as f64 - freedom);
        let interval = intervals(&amplitudes, scale, random)?;
        let groups = groups(&interval)?;
        let agreement = agreement(&amplitudes, &groups, order)?;
        let standing = standing.min(count);
        Ok(Components { energies, modes, amplitudes, interval, groups, agreement, edge, standing })
    }
}

/// The smallest number of components that hold the share [`KEPT`] of the energy.
fn kept(energies: &[f64], sum: f64) -> i64 {
    let mut held = 0.0;
    let enough = energies.iter().position(|energy| {
        held += energy;
        held >= KEPT * sum
    });
    enough.map_or(energies.len(), |place| place + 1) as i64
}

/// Makes the largest entry of each row positive, since the sign of a component is arbitrary.
fn signed(modes: &Tensor) -> Result<Tensor> {
    if modes.size()[0] == 0 {
        return Ok(modes.copy());
    }
    let largest = modes.f_gather(1, &modes.abs().f_argmax(1, true)?, false)?;
    Ok((modes * largest.sign()).contiguous())
}

/// The upper edge of the Marchenko-Pastur law, and the number of components above it (Kritchman and Nadler,
/// Chemom. Intell. Lab. Syst. 94, 2008). The energy of the noise is estimated as the mean of the components
/// that are not above.
pub(super) fn edge(energies: &[f64], n: f64) -> (f64, i64) {
    let positive = energies.iter().take_while(|energy| **energy > 1e-12 * energies[0]).count();
    let mut rest: f64 = energies[..positive].iter().sum();
    let mut edge = 0.0;
    for (place, energy) in energies[..positive].iter().enumerate() {
        let left = (positive - place) as f64;
        edge = rest / left * (1.0 + (left / n).sqrt()).powi(2);
        if *energy <= edge {
            return (edge, place as i64);
        }
        rest -= energy;
    }
    (edge, positive as i64)
}

/// Quantiles of energies over resampled paths, `[K, 2]`.
fn intervals(amplitudes: &Tensor, scale: f64, random: &RandomSource) -> Result<Tensor> {
    let (n, count) = (amplitudes.size()[0], amplitudes.size()[1]);
    if count == 0 {
        return Ok(Tensor::f_zeros([0, 2], (Kind::Double, tch::Device::Cpu))?);
    }
    let mut drawn = Vec::new();
    for resample in 0..RESAMPLES {
        let weights = resampled(n, &random.fork_numbered("paths", resample));
        let second = (amplitudes * weights.unsqueeze(1)).tr().f_matmul(amplitudes)? * scale;
        drawn.push(second.f_linalg_eigvalsh("L")?.flip([0i64]));
    }
    let drawn = Tensor::f_stack(&drawn, 0)?.f_reshape([RESAMPLES as i64, count])?;
    let at = Tensor::from_slice(&QUANTILES);
    Ok(drawn.f_quantile(&at, 0, false, "linear")?.tr().contiguous())
}

/// How often each of n paths is drawn when n are drawn with replacement: `[n]`.
pub(super) fn resampled(n: i64, random: &RandomSource) -> Tensor {
    let mut rng = random.at(0);
    let mut weights = vec![0.0f64; n as usize];
    for _ in 0..n {
        weights[rng.random_range(0..n as usize)] += 1.0;
    }
    Tensor::from_slice(&weights)
}

/// The numbers below n in random order, `[n]`.
pub(super) fn shuffled(n: i64, random: &RandomSource) -> Tensor {
    let mut order: Vec<i64> = (0..n).collect();
    order.shuffle(&mut random.at(0));
    Tensor::from_slice(&order)
}

/// Indices at which groups begin. A component begins a group if its interval lies below that of the previous
/// one.
pub(super) fn groups(interval: &Tensor) -> Result<Vec<i64>> {
    let count = interval.size()[0];
    let (low, high) = (interval.select(1, 0), interval.select(1, 1));
    let (low, high) = (Vec::<f64>::try_from(low.contiguous())?, Vec::<f64>::try_from(high.contiguous())?);
    Ok((0..count).filter(|place| *place == 0 || low[*place as usize - 1] > high[*place as usize]).collect())
}

/// Mean squared cosine, for each group, between its components in the two halves of the paths.
fn agreement(amplitudes: &Tensor, groups: &[i64], order: &Tensor) -> Result<Vec<f64>> {
    let count = amplitudes.size()[1];
    if count == 0 {
        return Ok(vec![]);
    }
    let axes = |first: i64| -> Result<Tensor> {
        let half = amplitudes.f_index_select(0, &order.slice(0, first, None, 2))?;
        Ok(half.tr().f_matmul(&half)?.f_linalg_eigh("L")?.1.flip([1i64]))
    };
    let squares = axes(0)?.tr().f_matmul(&axes(1)?)?.square();
    let ends = groups.iter().skip(1).chain([&count]);
    let mean = |(begin, end): (&i64, &i64)| {
        let block = squares.narrow(0, *begin, end - begin).narrow(1, *begin, end - begin);
        block.sum(Kind::Double).double_value(&[]) / (end - begin) as f64
    };
    Ok(groups.iter().zip(ends).map(mean).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_parts_a_signal_from_noise() {
        let (n, p) = (2000i64, 300i64);
        let mut random = RandomSource::new(3);
        let noise = random.normal(&[n, p], Kind::Double, tch::Device::Cpu).unwrap();
        let strong = Tensor::f_ones([n, p], (Kind::Double, tch::Device::Cpu)).unwrap();
        let _ = strong.narrow(1, 0, 4).fill_(3.0);
        let values = (noise * strong).svd(true, false).1.square() / n as f64;
        let (edge, standing) = edge(&Vec::<f64>::try_from(values).unwrap(), n as f64);
        assert_eq!(standing, 4);
        // (1 + sqrt(296 / 2000))² = 1.917.
        assert!((edge - 1.917).abs() < 0.05, "{edge}");
    }
}
