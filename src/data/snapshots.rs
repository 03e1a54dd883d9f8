//! Points on curves through snapshots of a population. Each curve goes through a chain of rows, one of each
//! snapshot.

use rand::seq::{index, SliceRandom};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use super::coupling::{assign_until, Stop};
use super::interpolant::Curve;
use super::prefetch::Batches;
use super::stream::{exchange, stratified, values};
use super::{Interpolant, Plan};
use crate::error::{Error, Result};
use crate::tensor::{check_finite, shape_text, RandomSource};

/// The pairing of the rows of one snapshot with those of the next.
#[derive(Debug, Clone)]
pub enum Chaining {
    /// Independent rows.
    Independent,
    /// The exact assignment of least squared distance in each minibatch, of at most `size` rows at once.
    Ot { size: usize },
    /// A transport plan for each interval between snapshots.
    Plans(Vec<Plan>),
}

/// Sets of states at increasing times, and the way in which they are joined.
pub struct Snapshots {
    /// Rows of each snapshot, `[N_k, *event]`.
    sets: Vec<Tensor>,
    /// Times, scaled to run from 0 to 1.
    times: Vec<f64>,
    pub interpolant: Interpolant,
    chaining: Chaining,
    /// Logarithm of the ratio of population sizes at the end and at the start of each interval.
    growth: Option<Vec<f64>>,
}

impl Snapshots {
    /// Snapshots `[N_k, *event]` at `times` of any unit, with straight lines and independent chaining.
    ///
    /// # Errors
    /// An error that names `snapshots` if there is only one, if one has fewer than two rows or values that
    /// are not finite, or if shapes differ; an error that names `times` if there is not one for each
    /// snapshot, or if they do not increase.
    pub fn new(sets: Vec<Tensor>, times: &[f64]) -> Result<Self> {
        if sets.len() < 2 {
            return Err(Error::argument("snapshots", "at least two snapshots", sets.len()));
        }
        let event = sets[0].size().get(1..).unwrap_or_default().to_vec();
        for (number, set) in sets.iter().enumerate() {
            let (name, size) = (format!("snapshots[{number}]"), set.size());
            if size.len() < 2 || size[1..] != event[..] || size[1..].contains(&0) {
                let expected =
                    format!("(N, {}), as the first one", shape_text(&event).trim_matches(['(', ')', ',']));
                return Err(Error::shape(&name, expected, shape_text(&size)));
            }
            if size[0] < 2 {
                return Err(Error::argument(&name, "at least two rows", size[0]));
            }
            check_finite(&name, set)?;
        }
        if times.len() != sets.len() {
            let expected = format!("one time for each of {} snapshots", sets.len());
            return Err(Error::argument("times", expected, times.len()));
        }
        let rises =
            times.windows(2).all(|pair| pair[1] > pair[0]) && times.iter().all(|time| time.is_finite());
        let (first, span) = (times[0], times[times.len() - 1] - times[0]);
        if !rises || !span.is_finite() {
            return Err(Error::argument("times", "finite increasing numbers", format!("{times:?}")));
        }
        let times = times.iter().map(|time| (time - first) / span).collect();
        let (interpolant, chaining) = (Interpolant::default(), Chaining::Independent);
        Ok(Snapshots { sets, times, interpolant, chaining, growth: None })
    }

    pub fn joined_by(self, interpolant: Interpolant, chaining: Chaining) -> Self {
        Snapshots { interpolant, chaining, ..self }
    }

    /// The same snapshots, joined by transport plans with masses `[N_k, N_{k + 1}]`.
    ///
    /// # Errors
    /// As [`Plan::new`]; an error that names `coupling` if there is not one plan for each interval.
    pub fn planned(self, masses: &[Tensor]) -> Result<Self> {
        let intervals = self.sets.len() - 1;
        if masses.len() != intervals {
            return Err(Error::argument("coupling", format!("{intervals} plans"), masses.len()));
        }
        let rows = |number: usize| self.sets[number].size()[0];
        let plans = masses.iter().enumerate().map(|(k, masses)| Plan::new(masses, rows(k), rows(k + 1)));
        let chaining = Chaining::Plans(plans.collect::<Result<_>>()?);
        Ok(Snapshots { chaining, ..self })
    }

    /// The same snapshots of a population that grows. `sizes` are its sizes at the snapshots, in any unit.
    /// The teacher then learns rates of growth too.
    ///
    /// # Errors
    /// An error that names `growth` if there is not one size for each snapshot, or if a size is not finite
    /// and positive.
    pub fn growing(self, sizes: &[f64]) -> Result<Self> {
        if sizes.len() != self.sets.len() {
            let expected = format!("a size for each of {} snapshots", self.sets.len());
            return Err(Error::argument("growth", expected, sizes.len()));
        }
        if let Some(size) = sizes.iter().find(|size| !(size.is_finite() && **size > 0.0)) {
            return Err(Error::argument("growth", "finite sizes above 0", size));
        }
        let growth = sizes.windows(2).map(|pair| (pair[1] / pair[0]).ln()).collect();
        Ok(Snapshots { growth: Some(growth), ..self })
    }

    pub fn sets(&self) -> &[Tensor] {
        &self.sets
    }

    pub fn grows(&self) -> bool {
        self.growth.is_some()
    }

    pub fn event_shape(&self) -> Vec<i64> {
        self.sets[0].size()[1..].to_vec()
    }

    /// Rows of all snapshots, `[sum of N_k, *event]`.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn all_rows(&self) -> Result<Tensor> {
        let kind = self.sets[0].kind();
        let sets: Vec<_> = self.sets.iter().map(|set| set.to_kind(kind)).collect();
        Ok(Tensor::f_cat(&sets, 0)?)
    }

    /// Rates of growth that occur in training, `[.., 1]`: one for each row with descendants, or one for each
    /// interval without plans.
    pub fn rates(&self) -> Option<Tensor> {
        let growth = self.growth.as_ref()?;
        let mut rates = Vec::new();
        for (interval, log) in growth.iter().enumerate() {
            let length = self.times[interval + 1] - self.times[interval];
            match &self.chaining {
                Chaining::Plans(plans) => {
                    rates.extend(plans[interval].ratios().map(|ratio| (ratio.ln() + log) / length));
                }
                _ => rates.push(log / length),
            }
        }
        Some(Tensor::from_slice(&rates).unsqueeze(1))
    }

    /// The source of training batches for a teacher.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn chains(&self, batch_size: usize, random: RandomSource) -> Result<Chains> {
        let count = |set: &Tensor| set.size()[0] as usize;
        Ok(Chains {
            rows: self.sets.iter().map(values).collect::<Result<_>>()?,
            counts: self.sets.iter().map(count).collect(),
            dim: self.sets[0].numel() / count(&self.sets[0]),
            curve: Curve::new(self.interpolant, &self.times),
            chaining: self.chaining.clone(),
            growth: self.growth.clone(),
            batch_size,
            random,
        })
    }
}

/// One minibatch of B points on curves.
#[derive(Debug, Clone, PartialEq)]
pub struct PointBatch {
    /// Times `[B]` in [0, 1), one in each of B equal intervals.
    pub times: Vec<f32>,
    /// States of the curves, `[B, dim]`, row-major.
    pub x: Vec<f32>,
    /// Velocities of the curves, `[B, dim]`, row-major.
    pub u: Vec<f32>,
    /// Mass of each curve, `[B]`, about 1; empty without growth.
    pub masses: Vec<f32>,
    /// Growth rate of each curve, `[B]`; empty without growth.
    pub rates: Vec<f32>,
}

/// Source of points on curves through one row of each snapshot. Batch `step` depends only on the seed and
/// `step`.
///
/// Plans are followed as a Markov chain. It begins at the snapshot before a point's time, whose rows are
/// equally likely, and goes on to the last snapshot and back to the first. So the rows of each snapshot are
/// equally frequent there, regardless of growth before.
pub struct Chains {
    rows: Vec<Vec<f32>>,
    counts: Vec<usize>,
    dim: usize,
    curve: Curve,
    chaining: Chaining,
    growth: Option<Vec<f64>>,
    batch_size: usize,
    random: RandomSource,
}

impl Chains {
    /// Batch number `step`.
    ///
    /// # Errors
    /// [`Error::Internal`] if an assignment fails.
    pub fn batch(&self, step: u64) -> Result<PointBatch> {
        self.batch_until(step, &Stop::default())?
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("a batch was cancelled unexpectedly")))
    }

    fn row(&self, snapshot: usize, row: usize) -> &[f32] {
        &self.rows[snapshot][row * self.dim..][..self.dim]
    }

    /// `batch_size` rows of a snapshot in random order. Their frequencies differ by at most one.
    fn draw(&self, snapshot: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let count = self.counts[snapshot];
        let mut chosen: Vec<usize> = Vec::with_capacity(self.batch_size);
        (0..self.batch_size / count).for_each(|_| chosen.extend(0..count));
        chosen.extend(index::sample(rng, count, self.batch_size % count));
        chosen.shuffle(rng);
        chosen
    }

    /// Chains `[K + 1][B]` of rows; `None` if `stop` was raised.
    fn chains(&self, times: &[f32], rng: &mut ChaCha8Rng, stop: &Stop) -> Result<Option<Vec<Vec<usize>>>> {
        let snapshots = self.rows.len();
        if let Chaining::Plans(plans) = &self.chaining {
            let mut chains = vec![vec![0; times.len()]; snapshots];
            for (place, &time) in times.iter().enumerate() {
                let (interval, _) = self.curve.place(f64::from(time));
                chains[interval][place] = plans[interval].start(rng);
                for k in interval..snapshots - 1 {
                    chains[k + 1][place] = plans[k].descendant(chains[k][place], rng);
                }
                for k in (0..interval).rev() {
                    chains[k][place] = plans[k].ancestor(chains[k + 1][place], rng);
                }
            }
            return Ok(Some(chains));
        }
        let mut chains: Vec<Vec<usize>> = (0..snapshots).map(|k| self.draw(k, rng)).collect();
        let Chaining::Ot { size } = self.chaining else { return Ok(Some(chains)) };
        let places: Vec<usize> = (0..times.len()).collect();
        for k in 0..snapshots - 1 {
            for members in places.chunks(size) {
                let states = |k: usize, chains: &[Vec<usize>]| -> Vec<f32> {
                    members.iter().flat_map(|&m| self.row(k, chains[k][m])).copied().collect()
                };
                let (before, after) = (states(k, &chains), states(k + 1, &chains));
                let Some(partner) = assign_until(&before, &after, self.dim, stop)? else { return Ok(None) };
                exchange(&mut chains[k + 1], members, &partner);
            }
        }
        Ok(Some(chains))
    }

    /// Mass and growth rate of a curve. Mass grows exponentially from one snapshot to the next.
    fn growth(&self, time: f32, chain: impl Fn(usize) -> usize) -> Option<(f32, f32)> {
        let growth = self.growth.as_ref()?;
        let (interval, behind) = self.curve.place(f64::from(time));
        let log = match &self.chaining {
            Chaining::Plans(plans) => plans[interval].ratio(chain(interval)).ln(),
            _ => 0.0,
        };
        // Growth that all curves share is left out of the mass: it would only give late times more weight.
        let rate = (log + growth[interval]) / self.curve.length(interval);
        Some(((log * behind).exp() as f32, rate as f32))
    }
}

impl Batches for Chains {
    type Batch = PointBatch;

    fn batch_until(&self, step: u64, stop: &Stop) -> Result<Option<PointBatch>> {
        if stop.is_raised() {
            return Ok(None);
        }
        let mut rng = self.random.at(step);
        let times = stratified(self.batch_size, &mut rng);
        let Some(chains) = self.chains(&times, &mut rng, stop)? else { return Ok(None) };
        let values = || Vec::with_capacity(times.len() * self.dim);
        let (mut x, mut u) = (values(), values());
        let (mut masses, mut rates) = (Vec::new(), Vec::new());
        for (place, &time) in times.iter().enumerate() {
            let weights = self.curve.weights(f64::from(time));
            let sum = |weights: &[f64], value: usize| -> f32 {
                let parts = weights.iter().enumerate().filter(|(_, &weight)| weight != 0.0);
                parts.map(|(k, weight)| weight * f64::from(self.row(k, chains[k][place])[value])).sum::<f64>()
                    as f32
            };
            x.extend((0..self.dim).map(|value| sum(&weights.state, value)));
            u.extend((0..self.dim).map(|value| sum(&weights.velocity, value)));
            if let Some((mass, rate)) = self.growth(time, |k| chains[k][place]) {
                masses.push(mass);
                rates.push(rate);
            }
        }
        Ok(Some(PointBatch { times, x, u, masses, rates }))
    }
}
