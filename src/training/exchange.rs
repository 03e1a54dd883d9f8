//! The exchange between ranks after every training step: the gradient, and the outcome of the step on each
//! rank.
//!
//! Every exchange of a training is one sum over tensors of the same size. A rank that fails, is interrupted
//! or runs out of time anywhere can therefore join the exchange in which the others wait, and tell them why
//! it leaves.

use std::cell::Cell;

use tch::{Device, Kind, Tensor};

use super::Gradient;
use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::world::World;

/// Room for the numbers that go with a gradient: losses or held-out errors.
const NUMBERS: i64 = 96;

/// The outcome of a step on one rank. The largest outcome of all ranks counts for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Taken,
    NotFinite,
    OutOfTime,
    Interrupted,
    Failed,
}

impl Outcome {
    fn of<T>(attempt: &Result<T>) -> Self {
        match attempt {
            Ok(_) => Outcome::Taken,
            Err(Error::Divergence(_) | Error::NotFiniteAnswer(_)) => Outcome::NotFinite,
            Err(Error::OutOfTime) => Outcome::OutOfTime,
            Err(Error::Interrupted(_)) => Outcome::Interrupted,
            Err(_) => Outcome::Failed,
        }
    }

    fn from_code(code: f64) -> Self {
        let known = [Outcome::Taken, Outcome::NotFinite, Outcome::OutOfTime, Outcome::Interrupted];
        known.into_iter().find(|outcome| *outcome as i64 as f64 == code).unwrap_or(Outcome::Failed)
    }
}

/// One rank's part in the exchanges of a training. With a single rank it does nothing.
pub struct Exchange {
    world: World,
    kind: Kind,
    device: Device,
    /// Number of trainable values.
    count: i64,
    /// Whether the other ranks may still wait for this one.
    open: Cell<bool>,
}

/// The result of one exchange.
struct Round {
    flat: Tensor,
    outcomes: Vec<Outcome>,
    /// Elapsed seconds on the leading rank.
    seconds: f64,
    numbers: Tensor,
}

impl Exchange {
    pub fn new(world: &World, parameters: &Parameters) -> Self {
        let (kind, device) = (parameters.kind(), parameters.device());
        let open = Cell::new(!world.is_alone());
        Exchange { world: world.clone(), kind, device, count: parameters.count(), open }
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// Checks that the sum over ranks works and that all ranks begin with the same weights. Returns the
    /// elapsed seconds of the leading rank. It must be called before any other exchange.
    ///
    /// # Errors
    /// [`Error::Distributed`] if a check fails or a rank has exited.
    pub(super) fn begin(&self, parameters: &Parameters, seconds: f64) -> Result<f64> {
        if self.world.is_alone() {
            return Ok(seconds);
        }
        let size = self.world.size() as f64;
        let own = [self.world.rank() as f64 + 1.0];
        let round = self.round(None, Outcome::Taken, seconds, &Tensor::from_slice(&own))?;
        self.settle::<()>(&round, Ok(()))??;
        let (sum, expected) = (round.numbers.double_value(&[0]), size * (size + 1.0) / 2.0);
        if sum != expected {
            return Err(Error::Distributed(format!(
                "the sum over ranks is wrong: the numbers 1 to {size} gave {sum} instead of {expected}"
            )));
        }
        self.add_up(parameters, seconds, &[]).map(|_| round.seconds)
    }

    /// The sum of all ranks' gradients, and the elapsed seconds of the leading rank. A step that is not
    /// finite on one rank is skipped on all. An error that ends training on one rank ends it on all.
    ///
    /// # Errors
    /// This rank's own error, or an error that says that another rank was interrupted, ran out of time,
    /// failed or exited.
    pub(super) fn gradient(
        &self,
        attempt: Result<Gradient>,
        seconds: f64,
    ) -> Result<(Result<Gradient>, f64)> {
        if self.world.is_alone() {
            return Ok((attempt, seconds));
        }
        let outcome = Outcome::of(&attempt);
        let (flat, losses) = match &attempt {
            Ok(Gradient { flat, losses }) => (Some(flat), losses.as_slice()),
            Err(_) => (None, [].as_slice()),
        };
        let numbers: Vec<Tensor> = losses.iter().map(|loss| loss.view([1])).collect();
        let numbers = match numbers.is_empty() {
            true => Tensor::from_slice::<f64>(&[]),
            false => Tensor::f_cat(&numbers, 0)?,
        };
        let round = self.round(flat, outcome, seconds, &numbers)?;
        let attempt = self.settle(&round, attempt)?;
        let gradient = attempt.map(|Gradient { losses, .. }| Gradient {
            flat: round.flat.shallow_clone(),
            losses: (0..losses.len() as i64).map(|place| round.numbers.get(place)).collect(),
        });
        Ok((gradient, round.seconds))
    }

    /// The sums of `numbers` over all ranks, after a check that all have the same weights.
    ///
    /// # Errors
    /// [`Error::Distributed`] on every rank if a rank has different weights; otherwise as
    /// [`Exchange::gradient`].
    pub fn add_up(&self, parameters: &Parameters, seconds: f64, numbers: &[f64]) -> Result<Vec<f64>> {
        if self.world.is_alone() {
            return Ok(numbers.to_vec());
        }
        let (size, own) = (self.world.size() as usize, self.world.rank() as usize);
        // A fingerprint of each rank's weights precedes the numbers, in separate places.
        let mut prints = vec![0.0; 2 * size];
        prints[2 * own..2 * own + 2].copy_from_slice(&fingerprint(&parameters.flat()?)?);
        let mut sums = Vec::with_capacity(numbers.len());
        // Without numbers there is still one exchange, for the check.
        let mut parts: Vec<&[f64]> = numbers.chunks(NUMBERS as usize).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for part in parts {
            let told = Tensor::from_slice(&[prints.as_slice(), part].concat());
            let round = self.round(None, Outcome::Taken, seconds, &told)?;
            self.settle::<()>(&round, Ok(()))??;
            let told = round.numbers.to_device(Device::Cpu).to_kind(Kind::Double);
            let told = Vec::<f64>::try_from(&told)?;
            if let Some(rank) = (1..size).find(|rank| told[2 * rank..2 * rank + 2] != told[..2]) {
                self.open.set(false);
                return Err(Error::Distributed(format!(
                    "rank {rank} has other weights than rank 0: all ranks must begin with the same weights and sum \
                     their gradients"
                )));
            }
            sums.extend_from_slice(&told[2 * size..2 * size + part.len()]);
        }
        Ok(sums)
    }

    /// The last exchange, in which an error of one rank ends training on all.
    ///
    /// # Errors
    /// The error of `outcome`, if it is one; [`Error::Distributed`] if another rank failed.
    pub(super) fn close<T>(&self, outcome: Result<T>, seconds: f64) -> Result<T> {
        if !self.open.get() {
            return outcome;
        }
        let round = self.round(None, Outcome::of(&outcome), seconds, &Tensor::from_slice::<f64>(&[]));
        self.open.set(false);
        let failed = match &round {
            Ok(round) => round.outcomes.contains(&Outcome::Failed),
            Err(_) => true,
        };
        // A finished rank keeps its model if the others were only interrupted or out of time.
        match outcome {
            Ok(_) if failed => {
                Err(round.and_then(|round| self.settle::<()>(&round, Ok(()))).err().unwrap_or(gone()))
            }
            outcome => outcome,
        }
    }

    /// [`Exchange::close`] if `outcome`, from before the first step, is an error. Otherwise exchanges go on.
    ///
    /// # Errors
    /// The error of `outcome`.
    pub fn close_failed<T>(&self, outcome: Result<T>, seconds: f64) -> Result<T> {
        match outcome {
            Ok(_) => outcome,
            Err(_) => self.close(outcome, seconds),
        }
    }

    /// Runs one exchange.
    fn round(
        &self,
        flat: Option<&Tensor>,
        outcome: Outcome,
        seconds: f64,
        numbers: &Tensor,
    ) -> Result<Round> {
        let options = (self.kind, self.device);
        let (size, given) = (self.world.size(), numbers.numel() as i64);
        // `add_up` also exchanges the fingerprints of all ranks' weights.
        let room = NUMBERS + 2 * size;
        if given > room {
            return Err(Error::Internal(anyhow::anyhow!("{given} numbers in an exchange of {room}")));
        }
        let mut head = vec![0.0; size as usize + 1];
        head[self.world.rank() as usize] = outcome as i64 as f64;
        head[size as usize] = if self.world.leads() { seconds } else { 0.0 };
        let zeros = |count: i64| Tensor::f_zeros([count], options);
        let flat = match flat {
            Some(flat) => flat.detach(),
            None => zeros(self.count)?,
        };
        let home = |x: &Tensor| x.to_device(self.device).to_kind(self.kind);
        let whole = Tensor::f_cat(
            &[flat, home(&Tensor::from_slice(&head)), home(&numbers.detach()), zeros(room - given)?],
            0,
        )?;
        self.world.add_up(&whole).inspect_err(|_| self.open.set(false))?;
        let head = whole.narrow(0, self.count, size + 1).to_device(Device::Cpu).to_kind(Kind::Double);
        let head = Vec::<f64>::try_from(&head)?;
        Ok(Round {
            flat: whole.narrow(0, 0, self.count),
            outcomes: head[..size as usize].iter().map(|code| Outcome::from_code(*code)).collect(),
            seconds: head[size as usize],
            numbers: whole.narrow(0, self.count + size + 1, room),
        })
    }

    /// The result of this rank's `attempt` in view of the other ranks' outcomes. The outer error ends
    /// training on all ranks.
    fn settle<T>(&self, round: &Round, attempt: Result<T>) -> Result<Result<T>> {
        let worst = round.outcomes.iter().copied().max().unwrap_or(Outcome::Taken);
        let rank = round.outcomes.iter().position(|outcome| *outcome == worst).unwrap_or(0);
        if worst > Outcome::NotFinite {
            self.open.set(false);
        }
        let mine = Outcome::of(&attempt) == worst;
        Ok(match worst {
            Outcome::Taken => attempt,
            Outcome::NotFinite if mine => attempt,
            Outcome::NotFinite => Err(Error::Divergence(format!("not finite on rank {rank}"))),
            _ if mine => return Err(attempt.err().unwrap_or(gone())),
            Outcome::OutOfTime => return Err(Error::OutOfTime),
            Outcome::Interrupted => {
                return Err(Error::Interrupted(format!("rank {rank} was interrupted").into()));
            }
            Outcome::Failed => {
                let size = self.world.size();
                let message = format!("rank {rank} of {size} failed; its own error says why");
                return Err(Error::Distributed(message));
            }
        })
    }
}

/// A fingerprint of the weights: two numbers that almost surely differ between ranks whose weights differ in
/// any bit. They are below 2^23, so that float32 holds them exactly.
fn fingerprint(weights: &Tensor) -> Result<[f64; 2]> {
    /// The largest prime below 2^23. A power of two would overlook signs and exponents.
    const MODULUS: i64 = 8_388_593;
    let bits = match weights.kind() {
        Kind::Double => weights.detach().f_view_dtype(Kind::Int64)?,
        _ => weights.detach().f_view_dtype(Kind::Int)?.f_to_kind(Kind::Int64)?,
    };
    let places = Tensor::f_arange(bits.numel() as i64, (Kind::Int64, bits.device()))?;
    // Positions as factors tell swapped weights apart. Integer overflow wraps around, in the same way on all ranks.
    let of = |x: &Tensor| -> Result<f64> {
        Ok(x.f_sum(Kind::Int64)?.f_remainder(MODULUS)?.f_int64_value(&[])? as f64)
    };
    Ok([of(&bits)?, of(&(bits.shallow_clone() * places))?])
}

fn gone() -> Error {
    Error::Distributed("another rank is gone".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::RandomSource;

    #[test]
    fn fingerprints_tell_weights_apart_that_differ_in_one_bit_or_in_order() {
        for kind in [Kind::Float, Kind::Double] {
            let weights = RandomSource::new(3).normal(&[3000], kind, Device::Cpu).unwrap();
            let own = fingerprint(&weights).unwrap();
            assert_eq!(own, fingerprint(&weights.copy()).unwrap());
            let changed = |change: fn(&Tensor)| {
                let other = weights.copy();
                change(&other);
                fingerprint(&other).unwrap()
            };
            let doubled = |x: &Tensor| drop(x.get(7).f_mul_scalar_(2.0).unwrap());
            let negated = |x: &Tensor| drop(x.get(7).f_neg_().unwrap());
            let swapped = |x: &Tensor| {
                let first = x.get(5).copy();
                x.get(5).copy_(&x.get(5 + 1021));
                x.get(5 + 1021).copy_(&first);
            };
            let next = |x: &Tensor| drop(x.get(0).f_mul_scalar_(1.0 + 2.5e-7).unwrap());
            for other in [changed(doubled), changed(negated), changed(swapped), changed(next)] {
                assert!(other != own && other.iter().all(|part| (0.0..8388608.0).contains(part)));
            }
        }
    }
}
