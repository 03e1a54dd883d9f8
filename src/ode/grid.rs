//! Grids of fixed steps. A grid is uniform in a coordinate: in t itself, in tau = a / (a + s) of the path
//! x_t = a x1 + s x0, or in the log-SNR 2 log(tau / (1 - tau)). Alternatively its times are given.
//!
//! The log-SNR is infinite at the ends of most paths. If it were cut off at some limit, more steps would not
//! shorten the pieces at the ends, and methods would lose their order. Steps are therefore equal in
//! log((tau + p) / (1 - tau + q)), which follows the log-SNR in the middle and tau at the ends.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Along, SolveOptions, Solver};
use crate::error::{Error, Result};
use crate::velocity::{Coefficients, Mixing, Path, Units};

/// p and q: the shares of data and of noise above which a grid follows the log-SNR. p is the larger one,
/// since less happens next to the noise than next to the data, whose detail is decided last.
const SHARES: (f64, f64) = (0.1, 0.02);

/// Where fixed steps begin and end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grid {
    /// Equal in t.
    Uniform,
    /// Equal in tau, in which the lines from noise to data are straight; on the linear path tau is t.
    Tau,
    /// Equal in the log-SNR, except near the ends (see the module).
    LogSnr,
    /// At these increasing times and at the requested times. They must span all requested times.
    #[serde(untagged)]
    Times(Vec<f64>),
}

impl FromStr for Grid {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "uniform" => Ok(Grid::Uniform),
            "tau" => Ok(Grid::Tau),
            "log_snr" => Ok(Grid::LogSnr),
            _ => {
                let expected = "'uniform', 'tau', 'log_snr' or increasing times";
                Err(Error::argument("grid", expected, format!("{name:?}")))
            }
        }
    }
}

impl Grid {
    /// # Errors
    /// [`Error::Argument`] naming `grid` for times that are not increasing and finite.
    pub fn check(&self) -> Result<()> {
        let Grid::Times(times) = self else { return Ok(()) };
        let rises = times.windows(2).all(|pair| pair[0] < pair[1]);
        match times.len() >= 2 && rises && times.iter().all(|t| t.is_finite()) {
            true => Ok(()),
            false => {
                Err(Error::argument("grid", "two or more increasing finite times", format!("{times:?}")))
            }
        }
    }

    /// The same grid in the time of standard coordinates.
    pub fn in_units(&self, units: &Units) -> Grid {
        match self {
            Grid::Times(times) => Grid::Times(times.iter().map(|t| units.time(*t)).collect()),
            named => named.clone(),
        }
    }
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub start: f64,
    pub end: f64,
    /// end - start; for equal steps exactly the same number.
    pub length: f64,
    /// Whether the step ends at a requested time.
    pub requested: bool,
}

/// The fixed steps through `times`, which have been checked.
pub(super) fn steps(times: &[f64], options: &SolveOptions, along: &Along) -> Result<Vec<Step>> {
    let named = match (&options.grid, options.solver, along) {
        (Some(Grid::Times(given)), ..) => return through(times, given),
        (Some(named), ..) => named,
        (None, Solver::Ab2 | Solver::Ab3 | Solver::Dpm2m, Along::States(_) | Along::Augmented(_)) => {
            &Grid::LogSnr
        }
        (None, ..) => &Grid::Uniform,
    };
    let position = match (named, along.mixing()) {
        (Grid::Uniform | Grid::Times(_), _) => None,
        (Grid::Tau, Some(Mixing::Path(Path::Linear))) => None,
        (Grid::Tau, Some(mixing)) => Some(Position { mixing, log: false }),
        (Grid::LogSnr, Some(mixing)) => Some(Position { mixing, log: true }),
        (Grid::Tau | Grid::LogSnr, None) => {
            let expected =
                "'uniform' or given times, since the states are not known to be mixtures a x1 + s x0 of data \
                 x1 and noise x0, or some times are outside of [0, 1]";
            return Err(Error::argument("grid", expected, format!("{named:?}").to_lowercase()));
        }
    };
    match position {
        None => Ok(equal(times, options.steps)),
        Some(position) => position.equal(times, options.steps),
    }
}

/// Number of steps for each interval between positions, in proportion to its length and at least one. Running
/// totals are rounded, so that the numbers add up to `steps`.
pub(super) fn share_steps(positions: &[f64], steps: u64) -> Vec<u64> {
    let (start, span) = (positions[0], positions[positions.len() - 1] - positions[0]);
    let mut done = 0;
    positions[1..]
        .iter()
        .map(|place| {
            let target = ((place - start) / span * steps as f64).round() as u64;
            let share = target.saturating_sub(done).max(1);
            done += share;
            share
        })
        .collect()
}

/// Steps that are equal in t within each interval.
fn equal(times: &[f64], steps: u64) -> Vec<Step> {
    let mut made = Vec::new();
    for (ends, share) in times.windows(2).zip(share_steps(times, steps)) {
        let length = (ends[1] - ends[0]) / share as f64;
        made.extend((0..share).map(|step| {
            let start = ends[0] + length * step as f64;
            let requested = step + 1 == share;
            Step { start, length, end: if requested { ends[1] } else { start + length }, requested }
        }));
    }
    made
}

/// Steps from each node to the next.
fn between(nodes: &[(f64, bool)]) -> Vec<Step> {
    let step = |pair: &[(f64, bool)]| {
        let ((start, _), (end, requested)) = (pair[0], pair[1]);
        Step { start, end, length: end - start, requested }
    };
    nodes.windows(2).map(step).collect()
}

/// Steps between the increasing times `given` and the requested `times`.
fn through(times: &[f64], given: &[f64]) -> Result<Vec<Step>> {
    let (first, last) = (times[0], times[times.len() - 1]);
    let (low, high) = (first.min(last), first.max(last));
    if given[0] > low || given[given.len() - 1] < high {
        let expected = format!("times that reach from {low} to {high}");
        return Err(Error::argument("grid", expected, format!("{given:?}")));
    }
    let inside = given.iter().filter(|t| **t > low && **t < high && !times.contains(t)).map(|t| (*t, false));
    let mut nodes: Vec<(f64, bool)> = times.iter().map(|t| (*t, true)).chain(inside).collect();
    nodes.sort_by(|a, b| if last >= first { a.0.total_cmp(&b.0) } else { b.0.total_cmp(&a.0) });
    Ok(between(&nodes))
}

/// The coordinate in which a grid is uniform: tau, or half the log-SNR, modified to be finite at the ends.
struct Position {
    mixing: Mixing,
    log: bool,
}

impl Position {
    fn of(&self, t: &Tensor) -> Tensor {
        let Coefficients { a, s, .. } = self.mixing.extended(t);
        let tau = &a / (&a + s);
        match self.log {
            true => (&tau + SHARES.0).log() - (1.0 + SHARES.1 - tau).log(),
            false => tau,
        }
    }

    /// Steps that are equal in this position within each interval.
    fn equal(&self, times: &[f64], steps: u64) -> Result<Vec<Step>> {
        let places = Vec::<f64>::try_from(&self.of(&Tensor::from_slice(times)))?;
        let (mut nodes, mut targets, mut ends) = (vec![(times[0], true)], Vec::new(), Vec::new());
        for (index, share) in share_steps(&places, steps).into_iter().enumerate() {
            let (from, to) = (places[index], places[index + 1]);
            for step in 1..share {
                nodes.push((f64::NAN, false));
                targets.push(from + (to - from) * step as f64 / share as f64);
                ends.push((times[index], times[index + 1]));
            }
            nodes.push((times[index + 1], true));
        }
        let mut found = self.times_at(&targets, &ends)?.into_iter();
        for node in nodes.iter_mut().filter(|node| node.0.is_nan()) {
            node.0 = found.next().unwrap_or(f64::NAN);
        }
        Ok(between(&nodes))
    }

    /// The times at which the position has the values `targets`, each between its own `ends`. The position
    /// increases with time. Each search narrows an interval to one of its 64 parts.
    fn times_at(&self, targets: &[f64], ends: &[(f64, f64)]) -> Result<Vec<f64>> {
        const PARTS: i64 = 64;
        const SEARCHES: i32 = 9;
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let column = |values: Vec<f64>| Tensor::from_slice(&values).unsqueeze(1);
        let targets = column(targets.to_vec());
        let mut low = column(ends.iter().map(|(a, b)| a.min(*b)).collect());
        let mut width = column(ends.iter().map(|(a, b)| (a - b).abs()).collect());
        let parts = Tensor::arange(PARTS, (Kind::Double, tch::Device::Cpu)).unsqueeze(0);
        for _ in 0..SEARCHES {
            width /= PARTS as f64;
            let reached = self.of(&(&low + &width * &parts)).le_tensor(&targets);
            let passed = reached.sum_dim_intlist([1i64].as_slice(), true, Kind::Double) - 1.0;
            low += passed.clamp_min(0.0) * &width;
        }
        Ok(Vec::<f64>::try_from(&(low + width * 0.5).squeeze_dim(1))?)
    }
}
