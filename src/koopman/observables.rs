//! Batches of observables, and the average of several encodings along a path. Observables evolve linearly, so
//! earlier encodings are carried along and a later one is averaged in, as in a linear observer. Continuing
//! from the latest encoding alone makes samples worse with every step: its error adds to that of the state
//! that it encodes, and the encodings before it are forgotten.

use crate::tensor::shared;
use tch::Tensor;

/// Weight of the encoding of the noise, per step of the sampler. A later encoding has weight 1, since the
/// state that it encodes is only an estimate. With 3, no student that was measured became worse with more
/// steps, including those that never encoded their own states in training. With 2, the error of one student
/// grew by a factor of 1.17 in two steps.
const VOTES_OF_NOISE: f64 = 3.0;

/// The weight of the encoding made after `step` of `steps` equal steps, against the estimate carried there.
pub fn weight_of_encoding(step: i64, steps: i64) -> f64 {
    1.0 / (VOTES_OF_NOISE * steps as f64 + step as f64)
}

/// A batch of observables in its parts; `m = 2 + d + k`.
#[derive(Debug)]
pub struct Observables {
    /// `[B]`.
    pub t: Tensor,
    /// `[B, d]`; `[B, 0]` if the state is not among the observables.
    pub x: Tensor,
    /// phi: `[B, k]`.
    pub features: Tensor,
}

impl Observables {
    /// g = [1, t, x, phi]: `[B, m]`.
    pub fn assemble(&self) -> Tensor {
        let t = self.t.unsqueeze(1);
        Tensor::cat(&[t.ones_like(), t, self.x.shallow_clone(), self.features.shallow_clone()], 1)
    }

    /// The parts of `g`, `[B, m]`, whose first coordinate is assumed to be 1.
    pub fn split(g: &Tensor, dimension: i64) -> Observables {
        let features = g.size()[1] - 2 - dimension;
        Observables {
            t: g.select(1, 1),
            x: g.narrow(1, 2, dimension),
            features: g.narrow(1, 2 + dimension, features),
        }
    }

    /// The rows of several batches, in order.
    pub fn cat(batches: &[&Observables]) -> Observables {
        let join = |part: fn(&Observables) -> &Tensor| {
            Tensor::cat(&batches.iter().map(|g| part(g)).collect::<Vec<_>>(), 0)
        };
        Observables { t: join(|g| &g.t), x: join(|g| &g.x), features: join(|g| &g.features) }
    }

    /// Rows `start .. start + length`.
    pub fn rows(&self, start: i64, length: i64) -> Observables {
        Observables {
            t: self.t.narrow(0, start, length),
            x: self.x.narrow(0, start, length),
            features: self.features.narrow(0, start, length),
        }
    }

    /// The rows in parts of these lengths.
    pub fn split_rows(&self, lengths: &[i64]) -> Vec<Observables> {
        let [t, x, features] =
            [&self.t, &self.x, &self.features].map(|part| part.split_with_sizes(lengths, 0).into_iter());
        let parts = t.zip(x).zip(features);
        parts.map(|((t, x), features)| Observables { t, x, features }).collect()
    }

    /// Interpolates from this estimate (`weight` 0) to `fresh` (`weight` 1).
    pub fn blend(&self, fresh: &Observables, weight: f64) -> Observables {
        Observables {
            t: self.t.lerp(&fresh.t, weight),
            x: self.x.lerp(&fresh.x, weight),
            features: self.features.lerp(&fresh.features, weight),
        }
    }
}

shared!(Observables { t, x, features });
