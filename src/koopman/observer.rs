//! Several encodings along a path, made into one estimate of the observables.
//! Observables evolve linearly, so earlier encodings are carried along and a later one is averaged in, as a
//! linear observer does. Going on from the latest encoding alone makes samples worse with every step: its
//! error adds to those of the states it was made of, and the encodings before it are forgotten.

use super::Observables;

/// How many votes the encoding of the noise has for each step of the sampler. A later encoding has one: it is
/// of a state that is only estimated. At 3 no student measured became worse by more steps, including those
/// that never saw their own states in training; at 2, one by 1.17 times in two steps.
const VOTES_OF_NOISE: f64 = 3.0;

/// The weight of the encoding made after `step` of `steps` equal steps, against the estimate carried there.
pub fn weight_of_encoding(step: i64, steps: i64) -> f64 {
    1.0 / (VOTES_OF_NOISE * steps as f64 + step as f64)
}

impl Observables {
    /// The estimate, `weight` of the way to `fresh`.
    pub fn blend(&self, fresh: &Observables, weight: f64) -> Observables {
        Observables {
            t: self.t.lerp(&fresh.t, weight),
            x: self.x.lerp(&fresh.x, weight),
            features: self.features.lerp(&fresh.features, weight),
        }
    }
}
