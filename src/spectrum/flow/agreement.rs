//! Comparison of two flows: which groups of components of one occur in the other.

use rand::seq::SliceRandom;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::{time, FlowSpectrum};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::{shape_text, RandomSource};

/// Overlap of two groups, as a share of the smaller one, above which they are matched.
const SAME: f64 = 0.25;

/// Number of steps in the grid of times on which modes are compared.
const GRID: usize = 256;

/// Matched groups of two flows.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Components of each flow, in the order of their energies.
    pub first: Vec<i64>,
    pub second: Vec<i64>,
    /// Energy of the group as a share of that of all components of the first flow.
    pub energy: f64,
    /// Mean squared cosine of the principal angles between the spans in space and time, and its value by
    /// chance.
    pub cosine: f64,
    pub chance: f64,
    /// The same for the amplitudes of the same noise, its mean over shuffles of the noise, and the share of
    /// shuffles that reach it, the original order included; `None` if the noise differs.
    pub amplitude: Option<f64>,
    pub shuffled: Option<f64>,
    pub p: Option<f64>,
}

/// What two flows have in common.
pub struct Agreement {
    pub found: Vec<Found>,
    /// Share of the first flow's motion that its own rates leave unexplained, and the share that as many
    /// rates of the other flow leave.
    pub unexplained: [f64; 2],
    /// Cosines between all components in space and time, `[K, K']`.
    pub cosines: Tensor,
    /// Correlations between their amplitudes, `[K, K']`; `None` if the noise differs.
    pub correlations: Option<Tensor>,
}

impl FlowSpectrum {
    /// Compares two flows of the same events, with `permutations` shuffles of the noise.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `other` if its events have another shape.
    pub fn agreement(
        &self,
        other: &FlowSpectrum,
        permutations: u64,
        seed: u64,
        monitor: &mut dyn Monitor,
    ) -> Result<Agreement> {
        let _guard = tch::no_grad_guard();
        let (own, theirs) = (&self.facts, &other.facts);
        if own.event_shape != theirs.event_shape {
            let (expected, got) = (shape_text(&own.event_shape), shape_text(&theirs.event_shape));
            return Err(Error::shape("other", expected, got));
        }
        let cosines = self.cosines(other)?;
        let same = own.noise == theirs.noise && own.paths == theirs.paths;
        let amplitudes = if same { Some((unit(self)?, unit(other)?)) } else { None };
        let correlations = amplitudes.as_ref().map(|(a, b)| a.tr().f_matmul(b)).transpose()?;
        let mut found = self.matched(other, &cosines)?;
        if let (Some((a, b)), Some(seen)) = (&amplitudes, &correlations) {
            for group in &mut found {
                group.amplitude = Some(mean_cosine(seen, group)?);
            }
            let (mut reached, mut sums) = (vec![1u64; found.len()], vec![0.0; found.len()]);
            let mut order: Vec<i64> = (0..own.paths).collect();
            let random = RandomSource::new(seed).fork("shuffled noise");
            for permutation in 0..permutations {
                order.shuffle(&mut random.at(permutation));
                let shuffled = a.tr().f_matmul(&b.f_index_select(0, &Tensor::from_slice(&order))?)?;
                for (place, group) in found.iter().enumerate() {
                    let chance = mean_cosine(&shuffled, group)?;
                    sums[place] += chance;
                    reached[place] += u64::from(group.amplitude.is_some_and(|seen| chance >= seen));
                }
                monitor.tick()?;
            }
            for (place, group) in found.iter_mut().enumerate() {
                group.p = Some(reached[place] as f64 / (permutations + 1) as f64);
                group.shuffled = (permutations > 0).then(|| sums[place] / permutations as f64);
            }
        }
        let number = time::count(&own.rates).min(theirs.candidates.len());
        let candidates = [&own.candidates[number - 1], &theirs.candidates[number - 1]];
        let unexplained = [self.unexplained(candidates[0])?, self.unexplained(candidates[1])?];
        Ok(Agreement { found, unexplained, cosines, correlations })
    }

    /// Cosines between components in space and time: integrals over the common time of V_k(t) V'_l(t).
    fn cosines(&self, other: &FlowSpectrum) -> Result<Tensor> {
        let last = self.times[self.times.len() - 1];
        let end = other.times[other.times.len() - 1];
        if (last - end).abs() > 1e-9 * last {
            return Err(Error::argument("other", format!("paths up to time {last}"), format!("up to {end}")));
        }
        // If the flows were read at different times, a fine grid is used, on which the norm of modes is 1
        // only approximately.
        let grid: Vec<f64> = match self.times == other.times {
            true => self.times.clone(),
            false => (0..=GRID).map(|step| last * step as f64 / GRID as f64).collect(),
        };
        let weights = Tensor::from_slice(&time::trapezium(&grid)).unsqueeze(1);
        let (own, theirs) = (self.functions(&grid)?, other.functions(&grid)?);
        let products = |a: &FlowSpectrum, f: &Tensor, b: &FlowSpectrum, g: &Tensor| -> Result<Tensor> {
            let carried = (f * &weights).tr().f_matmul(g)?.tr().f_matmul(a.array("modes")?)?;
            let (right, count) = (b.flat_modes()?, a.facts.sizes[3]);
            Ok(carried.f_reshape([count, right.size()[1]])?.f_matmul(&right.tr())?)
        };
        let norms = |a: &FlowSpectrum, f: &Tensor| -> Result<Tensor> {
            Ok(products(a, f, a, f)?.diagonal(0, 0, 1).clamp_min(1e-300).sqrt())
        };
        let (rows, columns) = (norms(self, &own)?.unsqueeze(1), norms(other, &theirs)?.unsqueeze(0));
        Ok(products(self, &own, other, &theirs)? / rows / columns)
    }

    /// Matches groups that overlap, so that no matched group overlaps with one outside of its match.
    fn matched(&self, other: &FlowSpectrum, cosines: &Tensor) -> Result<Vec<Found>> {
        let (own, theirs) = (members(self), members(other));
        let squares = cosines.square();
        // Label propagation over the few groups: each takes the smallest label among those it overlaps with.
        let mut labels: Vec<usize> = (0..own.len() + theirs.len()).collect();
        let mut edges = Vec::new();
        for (a, first) in own.iter().enumerate() {
            for (b, second) in theirs.iter().enumerate() {
                let shared = block(&squares, first, second)?;
                if shared > SAME * first.len().min(second.len()) as f64 {
                    edges.push((a, own.len() + b));
                }
            }
        }
        let mut changed = true;
        while changed {
            changed = false;
            for (a, b) in &edges {
                let least = labels[*a].min(labels[*b]);
                changed |= labels[*a] != least || labels[*b] != least;
                (labels[*a], labels[*b]) = (least, least);
            }
        }
        let energies = Vec::<f64>::try_from(self.array("energies")?)?;
        let kept: f64 = energies[..self.facts.sizes[3] as usize].iter().sum();
        let dimension = self.facts.functions().max(other.facts.functions()) * self.dimension();
        let mut found: Vec<Found> = Vec::new();
        for label in 0..own.len() {
            let all = |groups: &[Vec<i64>], offset: usize| -> Vec<i64> {
                let chosen = groups.iter().enumerate().filter(|(place, _)| labels[offset + place] == label);
                chosen.flat_map(|(_, members)| members.clone()).collect()
            };
            let (first, second) = (all(&own, 0), all(&theirs, own.len()));
            if first.is_empty() {
                continue;
            }
            let energy = first.iter().map(|place| energies[*place as usize]).sum::<f64>() / kept.max(1e-300);
            let chance = first.len().min(second.len()) as f64 / dimension as f64;
            let mut group = Found {
                first,
                second,
                energy,
                cosine: 0.0,
                chance,
                amplitude: None,
                shuffled: None,
                p: None,
            };
            group.cosine = mean_cosine(cosines, &group)?;
            found.push(group);
        }
        Ok(found)
    }
}

/// The components of each group.
fn members(spectrum: &FlowSpectrum) -> Vec<Vec<i64>> {
    let (groups, count) = (&spectrum.facts.groups, spectrum.facts.sizes[3]);
    let ends = groups.iter().skip(1).chain([&count]);
    groups.iter().zip(ends).map(|(begin, end)| (*begin..*end).collect()).collect()
}

/// Centred amplitudes of norm 1 each: `[n, K]`.
fn unit(spectrum: &FlowSpectrum) -> Result<Tensor> {
    let amplitudes = spectrum.array("amplitudes")?;
    let centred = amplitudes - amplitudes.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    Ok(&centred / centred.f_norm_scalaropt_dim(2, [0i64], true)?.clamp_min(1e-300))
}

fn block(squares: &Tensor, first: &[i64], second: &[i64]) -> Result<f64> {
    let rows = squares.f_index_select(0, &Tensor::from_slice(first))?;
    Ok(rows.f_index_select(1, &Tensor::from_slice(second))?.sum(Kind::Double).double_value(&[]))
}

/// Mean squared cosine of two groups. The divisor is the size of the larger one, so that a match in many more
/// dimensions counts less.
fn mean_cosine(cosines: &Tensor, group: &Found) -> Result<f64> {
    let size = group.first.len().max(group.second.len()) as f64;
    Ok((block(&cosines.square(), &group.first, &group.second)? / size).min(1.0))
}
