//! The observation noise, and the process noise that remains after it is subtracted.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::filter::{run, Dynamics, Seen};
use super::moments::{condition_of, standard_rows, windows};
use super::solve::semidefinite;
use super::Forecaster;
use crate::data::{Observed, Segment};
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Candidate standard deviations of the observation noise, in standard deviations of the data. The first one counts as
/// no noise.
const LEVELS: [f64; 12] = [1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.35, 0.5];
/// Number of runs of rows over which likelihoods are computed, and their maximum length.
const RUNS: usize = 8;
const LENGTH: usize = 128;
/// Factor of the residual up to which noise is tried, because a fit underestimates the unexplained part.
const AMPLE: f64 = 1.5;
/// Maximum size of a stack that is filtered, because its covariance is a square matrix.
pub const LARGEST: i64 = 128;
/// Minimum deviation of the process noise, in units of the observation noise, because no model is exact.
const LEAST: f64 = 0.1;

/// Covariance `[d, d]` of the process noise of standardised states. The residuals of a fit also contain the
/// observation noise of both rows, so noise (1 + J^T J) is subtracted from their covariance. This is right for the
/// true step. A regression on noisy rows gives too small a step; with `wary` only the noise of the predicted row is
/// subtracted.
///
/// # Errors
/// Errors of libtorch.
pub fn process(model: &Forecaster, noise: f64, wary: bool) -> Result<Tensor> {
    let own = &model.evolution;
    let residual = own.next_state()?.covariance;
    let d = residual.size()[0];
    let eye = Tensor::f_eye(d, model.options())?;
    let less = match wary {
        true => eye * noise.powi(2),
        false => (&own.gain + eye) * noise.powi(2),
    };
    let (values, vectors) = semidefinite(&(&residual - less))?.f_linalg_eigh("L")?;
    let floor = (LEAST * noise).powi(2).max(1e-16);
    Ok((&vectors * values.clamp_min(floor)).f_matmul(&vectors.tr())?)
}

/// Mean of J^T J over a part of the data for the derivative J of a step, which tells how a step amplifies noise,
/// `[d, d]`. `None` for irregular times and for large stacks.
///
/// # Errors
/// Errors of libtorch.
pub fn gain(model: &Forecaster, data: &Observed, ranges: &[Range<usize>]) -> Result<Option<Tensor>> {
    let _guard = tch::no_grad_guard();
    if model.sizes.stack() > LARGEST || model.facts.continuous {
        return Ok(None);
    }
    let short = model.evolution.next_state()?.columns;
    let mut sums: Vec<Tensor> = Vec::new();
    for part in runs(model, data, ranges) {
        let rows = standard_rows(model, data, part.first..part.first + part.length);
        let stacks = windows(model, &rows)?;
        let condition = condition_of(model, data, part.path, stacks.size()[0]);
        let slopes = model.slopes(&stacks, condition.as_ref())?.f_matmul(&short)?;
        sums.push(slopes.transpose(1, 2).f_matmul(&slopes)?.f_mean_dim(
            [0i64].as_slice(),
            false,
            Kind::Double,
        )?);
    }
    match sums.is_empty() {
        true => Ok(None),
        false => Ok(Some(Tensor::f_stack(&sums, 0)?.f_mean_dim([0i64].as_slice(), false, Kind::Double)?)),
    }
}

fn runs(model: &Forecaster, data: &Observed, ranges: &[Range<usize>]) -> Vec<Segment> {
    let history = model.sizes.history as usize;
    let mut found = data.segments(ranges, history + 2);
    found.sort_by_key(|part| std::cmp::Reverse(part.length.min(LENGTH)));
    found.truncate(RUNS);
    found.iter().map(|part| Segment { length: part.length.min(LENGTH), ..*part }).collect()
}

/// The standard deviation of the observation noise that maximises the likelihood of rows; 0 if there is almost none.
/// `None` if it cannot be estimated.
///
/// # Errors
/// Errors of the monitor.
pub fn estimate(
    model: &Forecaster,
    data: &Observed,
    ranges: &[Range<usize>],
    monitor: &mut dyn Monitor,
) -> Result<Option<f64>> {
    if model.facts.continuous || model.sizes.stack() > LARGEST || model.sizes.inputs > 0 {
        return Ok(None);
    }
    let parts = runs(model, data, ranges);
    let mut best: Option<(f64, f64)> = None;
    // The residual of a step contains all observation noise of the predicted row, which bounds the noise.
    let residual = model.evolution.next_state()?.covariance;
    let most = AMPLE * residual.diagonal(0, 0, 1).mean(Kind::Double).double_value(&[]).max(0.0).sqrt();
    if most < LEVELS[0] {
        return Ok(Some(0.0));
    }
    for noise in LEVELS.into_iter().filter(|noise| *noise <= most) {
        let mut total = 0.0;
        for part in &parts {
            let rows = standard_rows(model, data, part.first..part.first + part.length);
            let seen: Vec<Seen> = (0..part.length as i64)
                .map(|row| Seen { time: row as f64 * model.facts.step, rows: Some(rows.narrow(0, row, 1)) })
                .collect();
            let condition = condition_of(model, data, part.path, 1);
            let dynamics = Dynamics::states(model, condition, process(model, noise, false)?)?;
            total += match run(&dynamics, &seen, 1, noise, false, monitor) {
                Ok((_, likelihood)) => likelihood.double_value(&[0]),
                Err(Error::Divergence(_) | Error::Torch(_)) => f64::NEG_INFINITY,
                Err(error) => return Err(error),
            };
        }
        if total.is_finite() && best.is_none_or(|(known, _)| total > known) {
            best = Some((total, noise));
        }
    }
    Ok(best.map(|(_, noise)| if noise > LEVELS[0] { noise } else { 0.0 }))
}
