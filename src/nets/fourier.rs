//! Random Fourier features (Rahimi & Recht, 2007): cos(w · z + b) with random w and b.

use std::f64::consts::PI;

use tch::Tensor;

use super::{Dual, Network, Parameters};
use crate::error::Result;
use crate::tensor::{shared, RandomSource};

/// A map from `[B, inputs]` to `[B, outputs]`. Frequencies and phases are parameters, so files store them and gradient
/// training changes them. A closed-form solve keeps their random initial values.
pub struct FourierFeatures {
    frequencies: Tensor, // [outputs, inputs]
    phases: Tensor,      // [outputs]
}

/// Range of the lengths of w, in units of the inverse size of a typical input. A range need not be tuned to the data
/// set, unlike a single kernel width.
const NARROWEST: f64 = 0.3;
const WIDEST: f64 = 3.0;

impl FourierFeatures {
    /// Registers its parameters under `name`.
    pub fn new(
        name: &str,
        inputs: i64,
        outputs: i64,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        Self::with_lengths(name, (NARROWEST, WIDEST), inputs, outputs, parameters, random)
    }

    /// [`FourierFeatures::new`] with the smallest and the largest length of w.
    pub fn with_lengths(
        name: &str,
        (least, largest): (f64, f64),
        inputs: i64,
        outputs: i64,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let (kind, device) = (parameters.kind(), parameters.device());
        let lengths = Tensor::linspace(least.ln(), largest.ln(), outputs, (kind, device)).exp();
        let directions = random.normal(&[outputs, inputs], kind, device)? / (inputs as f64).sqrt();
        let phases = random.uniform(&[outputs], kind, device)? * (2.0 * PI);
        Ok(FourierFeatures {
            frequencies: parameters.add(format!("{name}.frequencies"), directions * lengths.unsqueeze(1)),
            phases: parameters.add(format!("{name}.phases"), phases),
        })
    }
}

shared!(FourierFeatures { frequencies, phases });

impl Network for FourierFeatures {
    fn forward(&self, input: &Tensor) -> Tensor {
        input.linear(&self.frequencies, Some(&self.phases)).cos()
    }

    fn forward_with_tangent(&self, input: &Dual) -> Dual {
        let angle = input.primal.linear(&self.frequencies, Some(&self.phases));
        let rate = input.tangent.matmul(&self.frequencies.tr());
        Dual::new(angle.cos(), angle.sin().neg() * rate)
    }
}
