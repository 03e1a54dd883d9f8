//! Sampling with students of successive time segments: one evaluation for each segment.

use tch::{Device, Tensor};

use super::invert::{check_polish, norms};
use super::{invert, invert_polished, sample, sample_path, Inversion, Polish};
use crate::error::{Error, Result};
use crate::koopman::Segments;
use crate::monitor::Monitor;
use crate::ode;

/// Data for states of the source `[B, *event]`.
///
/// # Errors
/// As [`sample`].
pub fn sample_segments(
    segments: &Segments,
    x0: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let mut x = x0.shallow_clone();
    for student in segments.students() {
        x = sample(student, &x, condition, 1, monitor)?;
    }
    Ok(x)
}

/// `count` states of the source, `[count, *event]` on the CPU.
///
/// # Errors
/// As [`ode::starts`].
pub fn starts_of_segments(
    segments: &Segments,
    count: i64,
    seed: u64,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let first = segments.first();
    let (shape, options) = (&first.config().event_shape, (first.kind(), Device::Cpu));
    ode::starts(first.source(), count, shape, seed, options, condition, monitor)
}

/// States at each of `times`, in any order, from one encoding at the beginning of each segment: `[T, B, *event]`.
///
/// # Errors
/// As [`sample_path`].
pub fn path_of_segments(
    segments: &Segments,
    x0: &Tensor,
    times: &[f64],
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    if times.is_empty() || times.iter().any(|time| !time.is_finite()) {
        return Err(Error::argument("times", "one or more finite times", format!("{times:?}")));
    }
    let places: Vec<(usize, f64)> = times.iter().map(|time| segments.place(*time)).collect();
    let last = places.iter().map(|(place, _)| *place).max().unwrap_or(0);
    let mut found: Vec<Option<Tensor>> = times.iter().map(|_| None).collect();
    let mut x = x0.shallow_clone();
    for (place, student) in segments.students().iter().enumerate().take(last + 1) {
        let asked: Vec<usize> = (0..times.len()).filter(|index| places[*index].0 == place).collect();
        // The end of the segment is read from the same encoding.
        let mut own: Vec<f64> = asked.iter().map(|index| places[*index].1).collect();
        own.push(1.0);
        let path = sample_path(student, &x, &own, condition, monitor)?;
        for (row, index) in asked.iter().enumerate() {
            found[*index] = Some(path.select(0, row as i64));
        }
        x = path.select(0, asked.len() as i64);
    }
    let states: Option<Vec<Tensor>> = found.into_iter().collect();
    Ok(Tensor::f_stack(&states.unwrap_or_default(), 0)?)
}

/// States of the source that lead to data `[B, *event]`: each student's own inverse, the last one first.
///
/// # Errors
/// As [`invert`].
pub fn invert_segments(
    segments: &Segments,
    x1: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let mut x = x1.shallow_clone();
    for student in segments.students().iter().rev() {
        x = invert(student, &x, condition, monitor)?;
    }
    Ok(x)
}

/// As [`invert_segments`], with each student's inverse polished by [`invert_polished`] against its own
/// forward map. The residuals are ||F(x0) - x1|| of each sample, where F is the map of all students together.
///
/// # Errors
/// As [`invert_polished`].
pub fn invert_segments_polished(
    segments: &Segments,
    x1: &Tensor,
    condition: Option<&Tensor>,
    method: Polish,
    polish: i64,
    damping: f64,
    monitor: &mut dyn Monitor,
) -> Result<Inversion> {
    let _guard = tch::no_grad_guard();
    let first = segments.first();
    check_polish(first, method, polish, damping)?;
    let mut noise = x1.shallow_clone();
    for student in segments.students().iter().rev() {
        noise = match polish {
            0 => invert(student, &noise, condition, monitor)?,
            _ => invert_polished(student, &noise, condition, method, polish, damping, monitor)?.noise,
        };
    }
    let reached = sample_segments(segments, &noise, condition, monitor)?;
    let residuals = norms(&(first.flatten("x0", &reached)? - first.flatten("x", x1)?));
    Ok(Inversion { noise, residuals })
}
