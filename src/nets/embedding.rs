//! The time embedding of perceptrons.

use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use super::Dual;
use crate::tensor::shared;

/// [t, sin(pi 2^j t), cos(pi 2^j t)] for j = 0, 1, ...: `[B] -> [B, 1 + 2 frequencies]`.
#[derive(Debug)]
pub struct TimeEmbedding {
    frequencies: Tensor,
}

impl TimeEmbedding {
    pub fn new(frequencies: i64, kind: Kind, device: Device) -> Self {
        let exponents = Tensor::arange(frequencies, (kind, device));
        TimeEmbedding { frequencies: exponents.exp2() * PI }
    }

    /// Number of features.
    pub fn size(&self) -> i64 {
        1 + 2 * self.frequencies.size()[0]
    }

    pub fn forward(&self, t: &Tensor) -> Tensor {
        let t = t.unsqueeze(1);
        let phase = &t * &self.frequencies;
        Tensor::cat(&[t, phase.sin(), phase.cos()], 1)
    }

    pub fn forward_with_tangent(&self, t: &Dual) -> Dual {
        let (value, rate) = (t.primal.unsqueeze(1), t.tangent.unsqueeze(1));
        let phase = &value * &self.frequencies;
        let phase_rate = &rate * &self.frequencies;
        let (sine, cosine) = (phase.sin(), phase.cos());
        let tangent = Tensor::cat(&[rate, &cosine * &phase_rate, -(&sine * &phase_rate)], 1);
        Dual::new(Tensor::cat(&[value, sine, cosine], 1), tangent)
    }
}

shared!(TimeEmbedding { frequencies });
