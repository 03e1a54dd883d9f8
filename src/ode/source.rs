//! Samples and log-densities of the source of a flow. If the source is another flow, that flow is solved.

use tch::{Device, Kind, Tensor};

use super::{log_prob, solve_chunked, Chunks, DensityOptions, SolveOptions};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::{check_batch, in_chunks, log_standard_normal, shape_text, RandomSource};
use crate::velocity::{Conditioning, Source};

/// Number of samples that stand for a source which is not itself a set of rows. Training draws its pairs from
/// them.
pub const POOL: i64 = 16_384;

/// Largest number of distances between states and rows that are held in memory at once.
const DISTANCES: i64 = 1 << 22;

/// Draws `count` samples `[count, *event]` of a source, which are the same for the same state of `random`. If
/// the source is a conditional flow, `condition` has one entry per sample.
///
/// # Errors
/// An error naming `source` if its samples have another shape or are not finite, or `x0` if the source was a
/// function, which files do not store; any error of a flow, a sampler or the monitor.
pub fn draw(
    source: &Source,
    count: i64,
    event_shape: &[i64],
    random: &mut RandomSource,
    (kind, device): (Kind, Device),
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let shape: Vec<i64> = [&[count], event_shape].concat();
    let drawn = match source {
        Source::Normal => return random.normal(&shape, kind, device),
        Source::Rows { rows, noise } => {
            let places = random.integers(rows.size()[0], count, rows.device());
            noised(&rows.f_index_select(0, &places)?.to_kind(kind).to_device(device), *noise, random)?
        }
        Source::Flow(field) => {
            let condition = condition.filter(|_| field.conditioning() != Conditioning::None);
            let options = (field.dtype(), field.device());
            let below = field.source();
            let start = draw(&below, count, event_shape, random, options, condition, monitor)?;
            let (ends, chunks) = ([0.0, 1.0], Chunks::new("source"));
            let solve = SolveOptions::default();
            solve_chunked(&**field, &start, &ends, &solve, condition, chunks, monitor)?.endpoint()
        }
        Source::Sampler(sampler) => {
            let seed = random.integers(i64::MAX, 1, Device::Cpu).int64_value(&[0]);
            let drawn = sampler.draw(count, seed as u64, condition)?;
            if drawn.size() != shape {
                return Err(Error::shape("source", shape_text(&shape), shape_text(&drawn.size())));
            }
            check_batch("source", &drawn, event_shape)?;
            drawn
        }
        Source::Lost => {
            let expected = "samples to start from, since the source was a function, which files do not store";
            return Err(Error::argument("x0", expected, "none"));
        }
    };
    Ok(drawn.to_kind(kind).to_device(device))
}

/// Adds normal noise of standard deviation `noise` to samples; none for 0.
fn noised(samples: &Tensor, noise: f64, random: &mut RandomSource) -> Result<Tensor> {
    if noise == 0.0 {
        return Ok(samples.shallow_clone());
    }
    let drawn = random.normal(&samples.size(), samples.kind(), samples.device())?;
    Ok(samples.f_add(&(drawn * noise))?)
}

/// A fixed set of samples that stands for a source, `[.., *event]` in float32 on the CPU. For rows it holds
/// every row. For rows with noise each row is repeated equally often, for at least [`POOL`] samples in all.
/// For other sources it holds [`POOL`] samples.
///
/// # Errors
/// As [`draw`].
pub fn pool(
    source: &Source,
    event_shape: &[i64],
    random: &mut RandomSource,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let options = (Kind::Float, Device::Cpu);
    match source {
        Source::Rows { rows, noise } => {
            let rows = rows.to_kind(options.0).to_device(options.1);
            if *noise == 0.0 {
                return Ok(rows);
            }
            let copies = (POOL + rows.size()[0] - 1) / rows.size()[0];
            let mut repeats = vec![1; rows.dim()];
            repeats[0] = copies;
            noised(&rows.f_repeat(repeats.as_slice())?, *noise, random)
        }
        Source::Flow(field) if field.conditioning() != Conditioning::None => {
            let expected = "an unconditional flow, since its samples are paired with data of all conditions";
            Err(Error::argument("source", expected, "a conditional flow"))
        }
        _ => draw(source, POOL, event_shape, random, options, None, monitor),
    }
}

/// Log-density in nats, `[B]` in float64, of states `[B, *event]` under the source of a flow. `options` are
/// for a source that is another flow.
///
/// # Errors
/// [`Error::Argument`] naming `source` if it has no density; any error of a flow, a density or the monitor.
pub fn log_density(
    source: &Source,
    x: &Tensor,
    options: &DensityOptions,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let rows = x.size()[0];
    let known = match source {
        Source::Normal => return log_standard_normal(&x.f_reshape([rows, -1])?),
        Source::Flow(field) => {
            let condition = condition.filter(|_| field.conditioning() != Conditioning::None);
            Some(log_prob(&**field, x, options, condition, monitor)?)
        }
        Source::Sampler(sampler) => sampler.log_density(x)?,
        Source::Rows { rows, noise } if *noise > 0.0 => Some(log_kernel_density(rows, *noise, x)?),
        Source::Rows { .. } | Source::Lost => None,
    };
    let Some(found) = known else { return Err(without_density(source)) };
    if found.size() != [rows] {
        return Err(Error::shape("source", format!("log-densities ({rows},)"), shape_text(&found.size())));
    }
    Ok(found.to_kind(Kind::Double).to_device(x.device()))
}

/// log (1/N) sum_i N(x; r_i, noise^2 I), `[B]` in float64, of states `[B, *event]` and rows `[N, *event]`.
fn log_kernel_density(rows: &Tensor, noise: f64, x: &Tensor) -> Result<Tensor> {
    let flat = |x: &Tensor| x.to_device(rows.device()).to_kind(Kind::Double).f_flatten(1, -1);
    let (rows, x) = (flat(rows)?, flat(x)?);
    let (count, size) = rows.size2()?;
    let constant = (count as f64).ln() + size as f64 * (noise.ln() + 0.5 * std::f64::consts::TAU.ln());
    in_chunks(x.size()[0], DISTANCES / count, 0, |first, length| {
        // Computed from differences: a matrix product would lose precision far from zero.
        let distances = Tensor::f_cdist(&x.narrow(0, first, length), &rows, 2.0, 2)?;
        Ok((distances / noise).square().f_mul_scalar(-0.5)?.f_logsumexp([1_i64], false)? - constant)
    })
}

/// Refuses a source without a density, before anything is computed.
///
/// # Errors
/// [`Error::Argument`] naming `source`.
pub fn check_density(source: &Source) -> Result<()> {
    match source {
        Source::Rows { noise, .. } if *noise > 0.0 => Ok(()),
        Source::Rows { .. } | Source::Lost => Err(without_density(source)),
        Source::Flow(field) => check_density(&field.source()),
        Source::Normal | Source::Sampler(_) => Ok(()),
    }
}

fn without_density(source: &Source) -> Error {
    let expected =
        "one whose density is known: noise, rows with source_noise above 0, another flow, or a function \
                    with a log_prob";
    Error::argument("source", expected, format!("'{}'", source.name()))
}

/// [`draw`] with the random numbers of [`RandomSource::noise`]. Teachers, students and plots with the same
/// seed start from the same samples.
///
/// # Errors
/// As [`draw`].
pub fn starts(
    source: &Source,
    count: i64,
    event_shape: &[i64],
    seed: u64,
    options: (Kind, Device),
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    draw(source, count, event_shape, &mut RandomSource::noise(seed), options, condition, monitor)
}
