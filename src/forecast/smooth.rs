//! Filtering and smoothing: the posterior of paths given observations of them.

use tch::{Kind, Tensor};

use super::filter::{run, Dynamics, Seen};
use super::noise::{process, LARGEST};
use super::{Forecaster, Method};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::{chunks, shape_text};

/// The observations of B paths.
pub struct Observations<'a> {
    /// Rows `[B, T, D]`, with NaN for missing values.
    pub values: &'a Tensor,
    /// Increasing times, `[T]`.
    pub times: &'a [f64],
    pub condition: Option<&'a Tensor>,
    /// Standard deviation of the observation noise, in standard deviations of the data.
    pub noise: f64,
    /// Whether the model encodes again at every step, instead of evolving one encoding.
    pub re_encode: bool,
}

/// The posterior of states, in the data's units.
pub struct Smoothed {
    /// Means, `[T, B, D]`.
    pub mean: Tensor,
    /// Standard deviations, `[T, B, D]`.
    pub deviation: Tensor,
    /// Log-likelihood of the observations in nats, as a density of standardised states, `[B]`.
    pub log_likelihood: Tensor,
}

/// Maximum number of values that all steps of the filter keep in memory.
const KEPT: i64 = 1 << 26;
/// Maximum number of observables that are filtered.
const MOST: i64 = 512;

/// Means and standard deviations at `wanted` times, in the given order. With `backwards` they are given all
/// observations, otherwise only those up to each time.
///
/// # Errors
/// Errors naming `times`, `observations` or `condition`; [`Error::Argument`] naming `rank` or `history` if the model
/// has too many observables or too large a stack to be filtered.
pub fn smooth(
    model: &Forecaster,
    seen: &Observations<'_>,
    wanted: &[f64],
    backwards: bool,
    monitor: &mut dyn Monitor,
) -> Result<Smoothed> {
    let size = seen.values.size();
    let (d, count) = (model.sizes.event_size(), seen.times.len() as i64);
    if size.len() != 3 || size[1] != count || size[2] != d || size[0] == 0 || count == 0 {
        return Err(Error::shape("observations", format!("(B, {count}, {d})"), shape_text(&size)));
    }
    let falling = seen.times.windows(2).find(|pair| pair[1] <= pair[0]);
    if falling.is_some() || seen.times.iter().any(|t| !t.is_finite()) {
        let got =
            falling.map_or("infinite or NaN times".into(), |pair| format!("{} after {}", pair[1], pair[0]));
        return Err(Error::argument("times", "finite and increasing times", got));
    }
    if model.sizes.inputs > 0 {
        let got = "those of a model with inputs";
        return Err(Error::argument("observations", "those of a model without inputs", got));
    }
    let infinite = seen.values.isinf().sum(Kind::Int64).int64_value(&[]);
    if infinite > 0 {
        let message =
            format!("expected finite values, or NaN for missing ones; got {infinite} infinite values");
        return Err(Error::NonFinite { argument: "observations".into(), message });
    }
    // Every time once, with the index of its observation.
    let mut schedule: Vec<(f64, Option<i64>)> =
        seen.times.iter().enumerate().map(|(place, time)| (*time, Some(place as i64))).collect();
    // Tolerance for equal times: a share of the step, and the rounding of float64.
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * model.facts.step + 4.0 * f64::EPSILON * b.abs();
    let known = |time: f64| seen.times.iter().any(|own| near(*own, time));
    schedule.extend(wanted.iter().filter(|time| !known(**time)).map(|time| (*time, None)));
    schedule.sort_by(|a, b| a.0.total_cmp(&b.0));
    schedule.dedup_by(|later, first| later.1.is_none() && near(later.0, first.0));
    let values = model.standard(&seen.values.to_device(model.device()).to_kind(Kind::Double));
    let condition = model.check_condition(seen.condition, size[0])?;
    let m = if seen.re_encode { model.sizes.stack() } else { model.evolution.transition.size()[0] };
    let (most, name) = if seen.re_encode { (LARGEST, "history") } else { (MOST, "rank") };
    if m > most {
        let expected = format!("a model whose filter has at most {most} numbers");
        return Err(Error::argument(name, expected, format!("{m} numbers")));
    }
    // A regression on noisy rows underestimates the step. Smoothed rows and whole paths do not have this problem.
    let wary = !model.facts.continuous && model.config.method != Method::Refine;
    let at_once = (KEPT / (3 * m * m * schedule.len() as i64)).max(1);
    let (mut means, mut deviations, mut logs) = (Vec::new(), Vec::new(), Vec::new());
    for (first, rows) in chunks(size[0], at_once) {
        let part = values.narrow(0, first, rows);
        let own: Vec<Seen> = schedule
            .iter()
            .map(|(time, place)| Seen { time: *time, rows: place.map(|place| part.select(1, place)) })
            .collect();
        let dynamics = match seen.re_encode {
            true => {
                let condition = condition.as_ref().map(|c| c.narrow(0, first, rows));
                Dynamics::states(model, condition, process(model, seen.noise, wary)?)?
            }
            false => Dynamics::Observables {
                model,
                condition: condition.as_ref().map(|c| c.narrow(0, first, rows)),
            },
        };
        let (found, log) = run(&dynamics, &own, rows, seen.noise, backwards, monitor)?;
        let nearest = |time: f64| {
            let gap = |place: &usize| (schedule[*place].0 - time).abs();
            (0..schedule.len()).min_by(|a, b| gap(a).total_cmp(&gap(b))).unwrap_or(0)
        };
        let chosen: Vec<usize> = wanted.iter().map(|time| nearest(*time)).collect();
        let mean: Vec<Tensor> = chosen.iter().map(|place| model.original(&found[*place].mean)).collect();
        let deviation: Vec<Tensor> =
            chosen.iter().map(|place| model.deviations(&found[*place].covariance)).collect();
        means.push(Tensor::f_stack(&mean, 0)?);
        deviations.push(Tensor::f_stack(&deviation, 0)?);
        logs.push(log);
    }
    Ok(Smoothed {
        mean: Tensor::f_cat(&means, 1)?,
        deviation: Tensor::f_cat(&deviations, 1)?,
        log_likelihood: Tensor::f_cat(&logs, 0)?,
    })
}
