//! Initial weights, drawn from a seeded source.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::tensor::RandomSource;

/// Weights uniform in ±1/sqrt(fan_in), PyTorch's default for linear layers.
pub fn linear_uniform(
    shape: &[i64],
    fan_in: i64,
    kind: Kind,
    device: Device,
    random: &mut RandomSource,
) -> Result<Tensor> {
    let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
    Ok((random.uniform(shape, kind, device)? * 2.0 - 1.0) * bound)
}
