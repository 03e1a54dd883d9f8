//! Samples of a student in one step or in a few re-encoding steps, paths at many times, and inversion.

use tch::{Device, Kind, Tensor};

use super::chunks::{chunk_rows, threads, Chunk, Samples, CACHE_VALUES};
use crate::error::{Error, Result};
use crate::koopman::{weight_of_encoding, Direction, Horizon, Motion, Propagator, Student};
use crate::monitor::Monitor;
use crate::ode;
use crate::spectrum::{Change, Edit, LevelSpectrum, Spectrum};
use crate::tensor::{chunks, finite_or_divergence, RandomSource};

/// Equal steps from one time to another, prepared once for all chunks.
pub(super) struct Stride {
    from: f64,
    tau: f64,
    steps: i64,
    direction: Direction,
    /// Propagation over the last step, which computes only x.
    horizon: Horizon,
    /// Propagation of all observables over each step before the last; `None` for a single step.
    motion: Option<Motion>,
}

impl Stride {
    pub(super) fn new(student: &Student, from: f64, to: f64, steps: i64) -> Result<Self> {
        let tau = (to - from) / steps as f64;
        let direction = if to >= from { Direction::Forward } else { Direction::Backward };
        let motion = (steps > 1).then(|| Motion::new(student.generator(), tau)).transpose()?;
        Ok(Stride { from, tau, steps, direction, horizon: student.horizon(tau)?, motion })
    }

    /// Carries a chunk over all steps; the result is flat. Each step but the first encodes the state reached
    /// so far and averages it into the observables carried along (see [`weight_of_encoding`]).
    pub(super) fn carry(&self, student: &Student, chunk: &Chunk) -> Result<Tensor> {
        let encode = |x: &Tensor, step: i64| {
            chunk.encode(student, self.from + self.tau * step as f64, x, self.direction)
        };
        let mut g = encode(&chunk.x, 0);
        if let Some(motion) = &self.motion {
            for step in 1..self.steps {
                let carried = motion.apply(&g)?;
                let fresh = encode(&student.decode(&carried), step);
                g = carried.blend(&fresh, weight_of_encoding(step, self.steps));
            }
        }
        self.horizon.apply(&g)
    }

    /// As [`Stride::carry`], but an error if any value is not finite.
    pub(super) fn advance(&self, student: &Student, chunk: &Chunk) -> Result<Tensor> {
        let x = self.carry(student, chunk)?;
        finite_or_divergence(&x, "samples")?;
        Ok(x)
    }
}

fn check_steps(steps: i64) -> Result<()> {
    if !(1..=10_000).contains(&steps) {
        return Err(Error::argument("steps", "an integer from 1 to 10000", steps));
    }
    Ok(())
}

/// Carries `x` over `span` (from, to, steps) chunk by chunk.
fn stride_over(
    student: &Student,
    argument: &str,
    x: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
    span: (f64, f64, i64),
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    check_steps(span.2)?;
    let samples = match span.0 > 0.0 {
        true => Samples::of_data(student, argument, x, condition)?,
        false => Samples::new(student, argument, x, condition)?,
    };
    let stride = Stride::new(student, span.0, span.1, span.2)?;
    let moved = samples.map(0, monitor, |chunk| student.states(span.1, &stride.advance(student, chunk)?))?;
    Ok(student.unflatten(&moved))
}

/// Samples for noise `[B, *event]`. Each of `steps` takes one evaluation of the lift and one thin matrix
/// product.
pub fn sample(
    student: &Student,
    x0: &Tensor,
    condition: Option<&Tensor>,
    steps: i64,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    stride_over(student, "x0", x0, condition, monitor, (0.0, 1.0, steps))
}

/// `count` new samples on the CPU, where `condition` has one entry per sample. Noise is drawn and conditions
/// are encoded chunk by chunk, so that memory is bounded by the result.
pub fn sample_count(
    student: &Student,
    count: i64,
    seed: u64,
    condition: Option<&Tensor>,
    steps: i64,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    check_steps(steps)?;
    if count < 1 {
        return Err(Error::argument("n", "at least one sample", count));
    }
    student.config().conditioning.check(condition, count)?;
    if !student.source().is_normal() {
        let (shape, options) = (&student.config().event_shape, (student.kind(), Device::Cpu));
        let x0 = ode::starts(student.source(), count, shape, seed, options, condition, monitor)?;
        return Ok(sample(student, &x0, condition, steps, monitor)?.to_device(Device::Cpu));
    }
    let dimension = student.config().dimension();
    let stride = Stride::new(student, 0.0, 1.0, steps)?;
    let mut random = RandomSource::noise(seed);
    let output = Tensor::f_empty([count, dimension], (student.kind(), Device::Cpu))?;
    let rows = RandomSource::aligned_rows(chunk_rows(student, 1), dimension);
    let _threads = threads(student, rows.min(count));
    for (start, length) in chunks(count, rows) {
        let x = random.normal(&[length, dimension], student.kind(), student.device())?;
        let condition = condition.map(|c| c.narrow(0, start, length));
        let condition = student.encode_condition(condition.as_ref());
        let moved = student.states(1.0, &stride.advance(student, &Chunk { start, x, condition })?)?;
        output.narrow(0, start, length).f_copy_(&moved)?;
        monitor.tick()?;
    }
    Ok(student.unflatten(&output))
}

/// x at each of `times` for noise `[B, *event]`: `[T, B, *event]`, from one encoding at time 0.
pub fn sample_path(
    student: &Student,
    x0: &Tensor,
    times: &[f64],
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    check_times(times)?;
    let times = own_times(student, times);
    let horizons = times.iter().map(|time| student.horizon(*time)).collect::<Result<Vec<_>>>()?;
    read_path(student, x0, (&times, &horizons), None, condition, monitor)
}

/// As [`sample_path`], but only the kept modes of a spectrum move. `keep` has one entry per eigenvalue. If
/// one of a conjugate pair is kept, so is the other.
pub fn sample_modes(
    student: &Student,
    spectrum: &Spectrum,
    x0: &Tensor,
    times: &[f64],
    keep: &[bool],
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    check_times(times)?;
    let times = own_times(student, times);
    let horizons =
        times.iter().map(|time| spectrum.horizon(student, *time, keep)).collect::<Result<Vec<_>>>()?;
    read_path(student, x0, (&times, &horizons), None, condition, monitor)
}

fn check_times(times: &[f64]) -> Result<()> {
    if times.is_empty() || times.iter().any(|time| !time.is_finite()) {
        return Err(Error::argument("times", "one or more finite times", format!("{times:?}")));
    }
    Ok(())
}

fn own_times(student: &Student, times: &[f64]) -> Vec<f64> {
    times.iter().map(|time| student.own_time(*time)).collect()
}

/// As [`sample_path`] for a hierarchy, with only the kept eigenfunctions of its feature maps. `keep` has one
/// entry for each eigenfunction of all maps. The others take their mean over noise at each time, which is the
/// same for all samples. If they stayed at their initial values, as modes do in [`sample_modes`], the decoder
/// would see values that did not occur in its training.
pub fn sample_maps(
    student: &Student,
    spectrum: &LevelSpectrum,
    x0: &Tensor,
    times: &[f64],
    keep: &[bool],
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    check_times(times)?;
    let gains: Vec<f64> = keep.iter().map(|kept| f64::from(u8::from(*kept))).collect();
    let gains = Tensor::from_slice(&gains).f_to_kind(Kind::ComplexDouble)?;
    let change = Edit::of_maps(spectrum, &gains, &gains.f_zeros_like()?, 0.0)?.change(student, 0.0)?;
    let times = own_times(student, times);
    let horizons = times.iter().map(|time| student.horizon(*time)).collect::<Result<Vec<_>>>()?;
    read_path(student, x0, (&times, &horizons), Some(&change), condition, monitor)
}

/// States that `horizons` read from the encoding of noise at time 0, after an optional change of that
/// encoding. The horizons end at `times`, which are the student's own.
fn read_path(
    student: &Student,
    x0: &Tensor,
    (times, horizons): (&[f64], &[Horizon]),
    change: Option<&Change>,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let count = horizons.len() as i64;
    let samples = Samples::new(student, "x0", x0, condition)?.held(count);
    let mut shape = vec![count, samples.count()];
    shape.extend(&student.config().event_shape);
    if let (Some(parts), None, None) = (side_by_side(student, horizons), student.units(), change) {
        let options = (student.kind(), student.device());
        let path = Tensor::f_empty([count, samples.count(), student.config().dimension()], options)?;
        samples.each(monitor, |chunk| {
            let g = chunk.encode(student, 0.0, &chunk.x, Direction::Forward);
            for (first, length, joined) in &parts {
                let rows = chunk.x.size()[0];
                let piece = path.f_narrow(0, *first, *length)?.f_narrow(1, chunk.start, rows)?;
                joined.apply_into(&g, &piece)?;
                finite_or_divergence(&piece, "paths")?;
            }
            Ok(())
        })?;
        return Ok(path.reshape(shape));
    }
    let path = samples.map(1, monitor, |chunk| {
        let mut g = chunk.encode(student, 0.0, &chunk.x, Direction::Forward);
        if let Some(change) = change {
            g = change.apply(&g, &g, chunk.start);
        }
        let piece = Horizon::apply_many(horizons, &g)?;
        finite_or_divergence(&piece, "paths")?;
        if student.units().is_none() {
            return Ok(piece);
        }
        let states = times.iter().zip(piece.unbind(0)).map(|(time, x)| student.states(*time, &x));
        Ok(Tensor::f_stack(&states.collect::<Result<Vec<_>>>()?, 0)?)
    })?;
    Ok(path.reshape(shape))
}

/// Joint propagators of several times at once, each with the index of its first time and the number of times.
/// On a CPU, the states of one of them fit into the processor's cache. `None` if a network decodes x.
fn side_by_side(student: &Student, horizons: &[Horizon]) -> Option<Vec<(i64, i64, Propagator)>> {
    let (count, values) = (horizons.len() as i64, student.config().dimension() * chunk_rows(student, 1));
    let most = match student.device() {
        Device::Cpu => CACHE_VALUES * i64::from(tch::get_num_threads()) / values.max(1),
        _ => count,
    };
    let parts = chunks(count, most).map(|(first, length)| {
        Some((first, length, Horizon::joined(&horizons[first as usize..(first + length) as usize])?))
    });
    parts.collect()
}

/// The noise that generates data `[B, *event]`, by the flow from 1 back to 0 in one step.
pub fn invert(
    student: &Student,
    x1: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    stride_over(student, "x", x1, condition, monitor, (1.0, 0.0, 1))
}
