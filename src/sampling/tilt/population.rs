//! Sequential Monte Carlo in noise space (Del Moral, Doucet and Jasra, J. R. Stat. Soc. B 68, 2006).
//! Particles move under N(z) exp(temperature l(z)), and are reweighted as the temperature rises from 0 (the
//! prior) to 1 (the target).

use std::str::FromStr;

use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::reference::Reference;
use super::weights::{log_mean, next_temperature, systematic, tempered};
use crate::error::{Error, Result};
use crate::tensor::{exact, shape_text, RandomSource};

/// The Markov move of the particles. If l is constant, both moves leave N(z) invariant, in any number of
/// dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// sqrt(1 - s^2) z + s xi, whose acceptance depends on l only (pCN; Cotter et al., Statistical Science
    /// 28, 2013).
    CrankNicolson,
    /// The same with a drift along the gradient of l (pCNL in that paper): MALA with an implicit step for the
    /// prior.
    Langevin,
}

impl FromStr for Move {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "pcn" => Ok(Move::CrankNicolson),
            "mala" => Ok(Move::Langevin),
            _ => Err(Error::argument("move", "'pcn' or 'mala'", format!("{name:?}"))),
        }
    }
}

impl Move {
    /// Acceptance rate to aim for. That of pCN lies between the optimum in high dimensions, 0.234, and that
    /// in one dimension. That of MALA is its optimum.
    fn wanted(self) -> f64 {
        match self {
            Move::CrankNicolson => 0.3,
            Move::Langevin => 0.57,
        }
    }

    /// Longest useful step. Its proposal depends on the present position only through the drift, if there is
    /// one.
    fn longest(self) -> f64 {
        match self {
            Move::CrankNicolson => 1.0,
            Move::Langevin => 2.0,
        }
    }
}

/// Shortest step.
const SHORTEST: f64 = 1e-4;

/// N particles in islands of equal size. Islands are independent of one another, except that they share the
/// temperatures.
pub struct Population {
    /// `[N, d]`, float64 on the CPU.
    noise: Tensor,
    /// S(noise), `[N, ...]`, as given by the caller.
    samples: Tensor,
    /// l(noise), `[N]`, finite or minus infinity.
    values: Vec<f64>,
    /// dl/dz, `[N, d]`.
    slopes: Option<Tensor>,
    log_weights: Vec<f64>,
    /// Log-evidence that each island has accumulated.
    log_evidence: Vec<f64>,
    temperature: f64,
    kind: Move,
    /// The Gaussian that moves are relative to.
    reference: Reference,
    step: f64,
    /// Number of moves since the temperature changed. Adaptation of the step slows down with it.
    moves: u64,
    random: RandomSource,
    draws: u64,
    proposed: Option<Tensor>,
}

/// Samples, values and slopes at the same noise.
pub struct Evaluated {
    pub samples: Tensor,
    pub values: Vec<f64>,
    pub slopes: Option<Tensor>,
}

impl Evaluated {
    fn check(&self, count: i64, dimension: i64, slopes: bool) -> Result<()> {
        if self.values.len() as i64 != count || self.samples.size().first() != Some(&count) {
            let got = format!("({},) and {}", self.values.len(), shape_text(&self.samples.size()));
            let expected = format!("({count},) with samples of shape ({count}, ...)");
            return Err(Error::shape("values", expected, got));
        }
        if self.values.iter().any(|value| value.is_nan() || *value == f64::INFINITY) {
            let message = "expected log-weights that are finite or minus infinity".into();
            return Err(Error::NonFinite { argument: "values".into(), message });
        }
        match &self.slopes {
            Some(own) if own.size() != [count, dimension] => {
                Err(Error::shape("slopes", shape_text(&[count, dimension]), shape_text(&own.size())))
            }
            None if slopes => Err(Error::argument("slopes", "a gradient for each particle", "none")),
            _ => Ok(()),
        }
    }
}

impl Population {
    /// Particles with equal weights at `temperature`: 0 is the prior, 1 is the target.
    ///
    /// # Errors
    /// An error naming `noise`, `islands`, `temperature`, `values` or `slopes`.
    pub fn new(
        noise: &Tensor,
        at: Evaluated,
        islands: usize,
        temperature: f64,
        kind: Move,
        seed: u64,
    ) -> Result<Self> {
        if noise.dim() != 2 || noise.size()[0] < 1 {
            return Err(Error::shape("noise", "(N, d)", shape_text(&noise.size())));
        }
        let (count, dimension) = noise.size2()?;
        if islands < 1 || count % islands as i64 != 0 {
            return Err(Error::argument("islands", format!("a divisor of {count}"), islands));
        }
        if !(0.0..=1.0).contains(&temperature) {
            return Err(Error::argument("temperature", "a number in [0, 1]", temperature));
        }
        at.check(count, dimension, kind == Move::Langevin)?;
        Ok(Population {
            noise: exact(noise),
            samples: at.samples.copy(),
            values: at.values,
            slopes: at.slopes.map(|slopes| finite(&exact(&slopes))),
            log_weights: vec![0.0; count as usize],
            log_evidence: vec![0.0; islands],
            temperature,
            kind,
            reference: Reference::prior(),
            step: match kind {
                Move::CrankNicolson => 0.5,
                Move::Langevin => 0.2,
            },
            moves: 0,
            random: RandomSource::new(seed).fork("population"),
            draws: 0,
            proposed: None,
        })
    }

    pub fn noise(&self) -> &Tensor {
        &self.noise
    }

    pub fn samples(&self) -> &Tensor {
        &self.samples
    }

    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Log-weights of particles: within their islands, plus the log-evidence of the islands. The exponentials
    /// are unbiased, up to the adaptation of steps and temperatures.
    pub fn log_weights(&self) -> Vec<f64> {
        let each = self.log_weights.len() / self.log_evidence.len();
        self.log_weights
            .iter()
            .enumerate()
            .map(|(place, weight)| weight + self.log_evidence[place / each])
            .collect()
    }

    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    pub fn step(&self) -> f64 {
        self.step
    }

    /// Raises the temperature as far as the effective sample size stays at `share` of its present value, and
    /// updates the weights. Returns the new temperature.
    pub fn warm(&mut self, share: f64) -> f64 {
        let to = next_temperature(&self.log_weights, &self.values, self.temperature, share);
        for (weight, value) in self.log_weights.iter_mut().zip(&self.values) {
            *weight += tempered(to - self.temperature, *value);
        }
        (self.temperature, self.moves) = (to, 0);
        to
    }

    /// Makes moves relative to the Gaussian of particles `[M, d]` of the same target, if there are enough of
    /// them.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `noise`.
    pub fn refer(&mut self, noise: &Tensor) -> Result<()> {
        if noise.dim() != 2 || noise.size()[1] != self.noise.size()[1] {
            let expected = format!("(M, {})", self.noise.size()[1]);
            return Err(Error::shape("noise", expected, shape_text(&noise.size())));
        }
        self.reference = Reference::of(&exact(noise))?;
        Ok(())
    }

    /// Resamples every island in proportion to its weights, which are equal afterwards. The mean weight is
    /// multiplied into the island's evidence. Moves are then relative to the Gaussian of the resampled
    /// particles.
    ///
    /// # Errors
    /// [`Error::Divergence`] if no particle has a weight above zero.
    pub fn resample(&mut self) -> Result<()> {
        let each = self.log_weights.len() / self.log_evidence.len();
        let mut places = Vec::with_capacity(self.log_weights.len());
        if log_mean(&self.log_weights) == f64::NEG_INFINITY {
            return Err(Error::Divergence("no sample of the model has a weight above zero".into()));
        }
        for (island, evidence) in self.log_evidence.iter_mut().enumerate() {
            let own = &self.log_weights[island * each..(island + 1) * each];
            let uniform: f64 = self.random.at(self.draws).random();
            self.draws += 1;
            places.extend(systematic(own, each, uniform).iter().map(|place| place + (island * each) as i64));
            *evidence += log_mean(own);
        }
        let order = Tensor::from_slice(&places);
        self.noise = self.noise.f_index_select(0, &order)?;
        self.samples = self.samples.f_index_select(0, &order.to_device(self.samples.device()))?;
        self.values = places.iter().map(|place| self.values[*place as usize]).collect();
        self.slopes = self.slopes.as_ref().map(|slopes| slopes.f_index_select(0, &order)).transpose()?;
        self.log_weights.fill(0.0);
        self.reference = Reference::of(&self.noise)?;
        Ok(())
    }

    /// Proposals: noise `[N, d]` that the particles may move to.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn propose(&mut self) -> Result<Tensor> {
        let fresh = self.random.normal(&self.noise.size(), Kind::Double, Device::Cpu)?;
        let inside = self.reference.inside(&self.noise)?;
        let moved = match self.kind {
            Move::CrankNicolson => inside * (1.0 - self.step * self.step).max(0.0).sqrt() + fresh * self.step,
            Move::Langevin => {
                let delta = self.step;
                let slopes = self.drift(&self.noise, &inside, self.slope()?)? * (2.0 * delta);
                (inside * (2.0 - delta) + slopes + fresh * (8.0 * delta).sqrt()) / (2.0 + delta)
            }
        };
        let proposed = self.reference.outside(&moved)?;
        self.proposed = Some(proposed.shallow_clone());
        Ok(proposed)
    }

    /// Moves the particles whose proposals are accepted by the Metropolis-Hastings rule, and returns the
    /// share of them. With `adapt`, the step is adapted to that share.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `propose` if there are no proposals; an error naming `values` or `slopes`.
    pub fn decide(&mut self, at: Evaluated, adapt: bool) -> Result<f64> {
        let (count, dimension) = self.noise.size2()?;
        let Some(proposed) = self.proposed.take() else {
            return Err(Error::argument("propose", "a call before each call of decide", "none"));
        };
        at.check(count, dimension, self.kind == Move::Langevin)?;
        if at.samples.size() != self.samples.size() {
            let (expected, got) = (self.samples.size(), at.samples.size());
            return Err(Error::shape("samples", shape_text(&expected), shape_text(&got)));
        }
        let slopes = at.slopes.as_ref().map(|slopes| finite(&exact(slopes)));
        let logs = self.log_acceptance(&proposed, &at.values, slopes.as_ref())?;
        let mut rng = self.random.at(self.draws);
        self.draws += 1;
        let accepted: Vec<bool> = logs.iter().map(|log| rng.random::<f64>().ln() < *log).collect();
        let rows = Tensor::from_slice(&accepted).unsqueeze(1);
        self.noise = proposed.where_self(&rows, &self.noise);
        let mut wide = vec![1; self.samples.dim()];
        wide[0] = count;
        let mask = rows.reshape(wide).to_device(self.samples.device());
        self.samples = at.samples.to_kind(self.samples.kind()).where_self(&mask, &self.samples);
        if let (Some(own), Some(new)) = (&self.slopes, &slopes) {
            self.slopes = Some(new.where_self(&rows, own));
        }
        for (place, accepted) in accepted.iter().enumerate() {
            if *accepted {
                self.values[place] = at.values[place];
            }
        }
        let share = accepted.iter().filter(|accepted| **accepted).count() as f64 / count as f64;
        if adapt {
            // Robbins-Monro steps on the logarithm of the step.
            self.moves += 1;
            let gain = 2.0 / (self.moves as f64).sqrt();
            let step = self.step * (gain * (share - self.kind.wanted())).exp();
            self.step = step.clamp(SHORTEST, self.kind.longest());
        }
        Ok(share)
    }

    fn slope(&self) -> Result<&Tensor> {
        self.slopes.as_ref().ok_or_else(|| Error::argument("slopes", "a gradient for each particle", "none"))
    }

    /// Log of the acceptance ratio of each proposal, `[N]`; minus infinity for proposals of zero weight.
    fn log_acceptance(&self, proposed: &Tensor, values: &[f64], slopes: Option<&Tensor>) -> Result<Vec<f64>> {
        let moved = |from: f64, to: f64| match to == f64::NEG_INFINITY && self.temperature > 0.0 {
            true => f64::NEG_INFINITY,
            // A particle of zero weight accepts any proposal of positive weight.
            false if from == f64::NEG_INFINITY && self.temperature > 0.0 => 0.0,
            false => tempered(self.temperature, to) - tempered(self.temperature, from),
        };
        let (inside, outside) = (self.reference.inside(&self.noise)?, self.reference.inside(proposed)?);
        let ratio = |z: &Tensor, u: &Tensor| self.reference.log_ratio(z, u);
        let mut more = ratio(proposed, &outside)? - ratio(&self.noise, &inside)?;
        if let (Move::Langevin, Some(slopes)) = (self.kind, slopes) {
            // rho(u, v) of Cotter et al., without the values, where D Phi is minus the drift.
            let rho = |from: &Tensor, to: &Tensor, drift: &Tensor| {
                let along = |x: Tensor| (x * drift).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
                let both = along(drift.shallow_clone()) - along(from + to);
                along(from - to) * 0.5 + both * (self.step / 4.0)
            };
            let there = rho(&inside, &outside, &self.drift(&self.noise, &inside, self.slope()?)?);
            let back = rho(&outside, &inside, &self.drift(proposed, &outside, slopes)?);
            more += there - back;
        }
        let more = Vec::<f64>::try_from(more)?;
        Ok(self
            .values
            .iter()
            .zip(values)
            .zip(more)
            .map(|((own, new), more)| moved(*own, *new) + more)
            .collect())
    }

    /// Gradient of the log-ratio of target to reference, in the reference's coordinates.
    fn drift(&self, noise: &Tensor, inside: &Tensor, slopes: &Tensor) -> Result<Tensor> {
        self.reference.slopes(noise, inside, &(slopes * self.temperature))
    }
}

/// Replaces slopes that are not finite by zero. They occur where a weight is zero or has a kink.
fn finite(slopes: &Tensor) -> Tensor {
    slopes.nan_to_num(0.0, 0.0, 0.0)
}
