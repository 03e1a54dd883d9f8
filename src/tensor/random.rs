//! Seeded random numbers without global state.

use std::f64::consts::PI;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::{shape_text, threads};
use crate::error::{Error, Result};

/// Seeded random numbers, the same on every device and for any number of threads. Its state is two integers.
/// Every draw uses new streams of a counter-based cipher (ChaCha8).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RandomSource {
    seed: u64,
    stream: u64,
}

/// Number of values drawn from one stream, which is the unit of parallel work.
const STREAM_LENGTH: usize = 1 << 15;

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a hash that continues from `start`. Unlike the standard library's hasher it is stable across builds.
pub(crate) fn hash(start: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl RandomSource {
    pub fn new(seed: u64) -> Self {
        RandomSource { seed, stream: 0 }
    }

    /// The source of noise to sample from: the same for teachers and students, so that equal seeds start
    /// from equal noise.
    pub fn noise(seed: u64) -> Self {
        RandomSource::new(seed).fork("noise")
    }

    /// A number of rows near `rows`, each of `width` values, whose draws fill whole streams. Drawing in
    /// pieces of that many rows gives the same numbers as drawing all rows at once.
    pub fn aligned_rows(rows: i64, width: i64) -> i64 {
        let stream = STREAM_LENGTH as i64;
        // The greatest common divisor of `width` and a power of two is a power of two.
        let shared = 1i64 << width.trailing_zeros().min(stream.trailing_zeros());
        let grain = stream / shared;
        (rows / grain).max(1) * grain
    }

    /// An independent source for a named purpose, so that adding draws to one part of a program does not
    /// change those of the others.
    pub fn fork(&self, purpose: &str) -> Self {
        self.fork_by(hash(FNV_OFFSET, purpose.bytes()))
    }

    /// [`RandomSource::fork`] for `purpose` followed by a number in decimal digits, without allocating that
    /// text. Meant for the steps of a loop.
    pub fn fork_numbered(&self, purpose: &str, number: u64) -> Self {
        let mut digits = [0; 20];
        let mut first = digits.len();
        let mut rest = number;
        while rest > 0 || first == digits.len() {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.fork_by(hash(hash(FNV_OFFSET, purpose.bytes()), digits[first..].iter().copied()))
    }

    fn fork_by(&self, hash: u64) -> Self {
        RandomSource::new(self.seed.rotate_left(17) ^ hash)
    }

    /// A generator for one step of a loop, independent of all draws made so far.
    pub fn at(&self, step: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((1 << 63) | step);
        rng
    }

    fn fill<F>(&mut self, count: usize, draw: F) -> Result<Vec<f32>>
    where
        F: Fn(&mut ChaCha8Rng) -> f32 + Sync,
    {
        let (seed, first) = (self.seed, self.stream);
        self.stream += count.div_ceil(STREAM_LENGTH) as u64;
        let mut values = zeros(count)?;
        let fill_chunk = |(index, chunk): (usize, &mut [f32])| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(first + index as u64);
            chunk.iter_mut().for_each(|value| *value = draw(&mut rng));
        };
        if count <= STREAM_LENGTH {
            values.chunks_mut(STREAM_LENGTH).enumerate().for_each(fill_chunk);
        } else {
            threads::pool()?
                .install(|| values.par_chunks_mut(STREAM_LENGTH).enumerate().for_each(fill_chunk));
        }
        Ok(values)
    }

    /// Standard normal values.
    pub fn normal(&mut self, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        let values = self.fill(count_of(shape)?, |rng| rng.sample(StandardNormal))?;
        Ok(Tensor::from_slice(&values).view(shape).to_device(device).to_kind(kind))
    }

    /// Uniform values in `[0, 1)`.
    pub fn uniform(&mut self, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        let values = self.fill(count_of(shape)?, |rng| rng.random())?;
        Ok(Tensor::from_slice(&values).view(shape).to_device(device).to_kind(kind))
    }

    /// `count` integers in `[0, high)`.
    pub fn integers(&mut self, high: i64, count: i64, device: Device) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.stream);
        self.stream += 1;
        let values: Vec<i64> = (0..count).map(|_| rng.random_range(0..high)).collect();
        Tensor::from_slice(&values).to_device(device)
    }

    /// A random order of `0..count`.
    pub fn permutation(&mut self, count: i64, device: Device) -> Tensor {
        use rand::seq::SliceRandom;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.stream);
        self.stream += 1;
        let mut values: Vec<i64> = (0..count).collect();
        values.shuffle(&mut rng);
        Tensor::from_slice(&values).to_device(device)
    }
}

/// Log-density in nats of standard normal noise: `[B]` in float64 for `[B, d]`.
///
/// # Errors
/// Any error of libtorch.
pub fn log_standard_normal(noise: &Tensor) -> Result<Tensor> {
    // In float64, since sums of squares over many dimensions are large compared with their differences.
    let squares = noise.f_to_kind(Kind::Double)?.f_square()?.f_sum_dim_intlist(
        [1i64].as_slice(),
        false,
        Kind::Double,
    )?;
    Ok((squares + noise.size2()?.1 as f64 * (2.0 * PI).ln()) * -0.5)
}

/// Number of values of a shape. The shape may come from a user.
fn count_of(shape: &[i64]) -> Result<usize> {
    let count = shape.iter().try_fold(1i64, |count, size| count.checked_mul(*size));
    // No memory holds 2^60 values of four bytes. Beyond that, libtorch's count of bytes overflows.
    count.filter(|count| (0..1 << 60).contains(count)).map(|count| count as usize).ok_or_else(|| {
        Error::OutOfMemory(format!("out of memory for random values of shape {}", shape_text(shape)))
    })
}

/// A buffer of `count` zeros. A large one is reserved with `try_reserve_exact`, since a vector that fails to
/// allocate aborts the process.
fn zeros(count: usize) -> Result<Vec<f32>> {
    if count < 1 << 24 {
        return Ok(vec![0.0; count]);
    }
    let mut values = Vec::new();
    let failed = |_| Error::OutOfMemory(format!("out of memory for {count} random values"));
    values.try_reserve_exact(count).map_err(failed)?;
    values.resize(count, 0.0);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_forked_by_its_digits() {
        let source = RandomSource::new(7);
        for number in [0, 7, 10, 90_210, u64::MAX] {
            assert_eq!(source.fork_numbered("", number), source.fork(&number.to_string()));
            assert_eq!(source.fork_numbered("chunk ", number), source.fork(&format!("chunk {number}")));
        }
        assert_ne!(source.fork_numbered("", 1), source.fork_numbered("", 2));
    }
}
