//! Errors of forecasts on held-out rows, on which all choices are based.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::moments::{standard_rows, windows};
use super::rollout::{driven_exponential, forecast, Request};
use super::Forecaster;
use crate::data::Observed;
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Maximum number of starts of forecasts.
const STARTS: usize = 64;
/// The golden ratio, whose multiples modulo 1 are spread evenly over [0, 1) for any number of them.
const GOLDEN: f64 = 0.618_033_988_749_895;
/// Maximum number of steps of the default horizon.
const LONGEST: usize = 256;

/// Starts of forecasts in held-out rows, and the rows that followed them.
pub struct Check {
    stack: Tensor,
    condition: Option<Tensor>,
    /// Standardised rows that followed, `[N, S, d]` for N steps and S starts.
    truth: Tensor,
    /// Inputs, `[N, S, u]`.
    inputs: Option<Tensor>,
    /// Times since the previous rows, `[N, S, 1]`, for irregular times.
    gaps: Option<Tensor>,
}

impl Check {
    /// Selects the starts. `None` if no held-out run of rows is long enough. The horizon is in steps of the data, or
    /// in rows for irregular times.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn new(model: &Forecaster, data: &Observed, ranges: &[Range<usize>]) -> Result<Option<Self>> {
        let history = model.sizes.history as usize;
        let runs: Vec<Range<usize>> = match model.facts.continuous {
            false => data
                .segments(ranges, history + 1)
                .iter()
                .map(|segment| segment.first..segment.first + segment.length)
                .collect(),
            true => ranges.to_vec(),
        };
        let runs: Vec<Vec<usize>> =
            runs.into_iter().map(|run| run.filter(|row| data.seen_whole(*row)).collect()).collect();
        let longest = runs.iter().map(Vec::len).max().unwrap_or(0);
        if longest <= history {
            return Ok(None);
        }
        let step = if model.facts.continuous { data.typical_spacing() } else { model.facts.step };
        let horizon = match model.config.horizon {
            Some(time) => ((time / step).round() as usize).max(1),
            // Half of the longest run, so that there is more than one start.
            None => ((longest - history) / 2).clamp(1, LONGEST),
        };
        let horizon = horizon.min(longest - history);
        let fitting: Vec<&Vec<usize>> = runs.iter().filter(|run| run.len() >= history + horizon).collect();
        let each = STARTS.div_ceil(fitting.len().max(1));
        let mut check = Parts::default();
        // If there are very many runs, they are sampled evenly.
        let every = fitting.len().div_ceil(STARTS).max(1);
        for (place, run) in fitting.iter().step_by(every).enumerate() {
            let free = run.len() - history - horizon;
            let count = each.min(free / horizon.div_ceil(4).max(1) + 1);
            for start in 0..count {
                // A single start is somewhere in the run, because the beginnings of paths may be alike.
                let first = match count {
                    1 => ((place as f64 * GOLDEN).fract() * (free + 1) as f64) as usize,
                    _ => start * free / (count - 1),
                };
                check.add(model, data, &run[first..first + history + horizon])?;
            }
        }
        check.join().map(Some)
    }

    /// The longest lead time, in units of time; its mean for irregular times.
    pub fn horizon(&self, step: f64) -> f64 {
        match &self.gaps {
            Some(gaps) => gaps.sum(Kind::Double).double_value(&[]) / gaps.size()[1] as f64,
            None => self.truth.size()[0] as f64 * step,
        }
    }

    /// Mean of the RMS errors over the logarithm of lead times. Errors are in standard deviations of the data and at
    /// most 1 each. Short and long lead times count equally, because chaos makes every long forecast wrong. A
    /// forecast that overflows has error 1.
    ///
    /// # Errors
    /// Errors of the monitor.
    pub fn error(
        &self,
        model: &Forecaster,
        re_encode: Option<u64>,
        monitor: &mut dyn Monitor,
    ) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let found = match &self.gaps {
            Some(gaps) => self.along_rows(model, gaps, re_encode),
            None => {
                let times: Vec<f64> =
                    (1..=self.truth.size()[0]).map(|step| step as f64 * model.facts.step).collect();
                let request = Request {
                    stack: &self.stack,
                    condition: self.condition.as_ref(),
                    times: &times,
                    re_encode,
                    inputs: self.inputs.as_ref(),
                    members: 0,
                    seed: 0,
                };
                forecast(model, &request, monitor)
            }
        };
        match found {
            Ok(found) => relative(&found, &self.truth),
            Err(Error::Divergence(_)) => Ok(1.0),
            Err(error) => Err(error),
        }
    }

    fn along_rows(&self, model: &Forecaster, gaps: &Tensor, re_encode: Option<u64>) -> Result<Tensor> {
        let mut z = self.stack.shallow_clone();
        let mut found = Vec::new();
        let rows = gaps.size()[0];
        let mut evolved =
            re_encode.is_none().then(|| model.encode(&z, self.condition.as_ref())).transpose()?;
        for row in 0..rows {
            let (gap, inputs) = (gaps.select(0, row), self.inputs.as_ref().map(|u| u.select(0, row)));
            let driven = match (&inputs, &model.evolution.drive) {
                (Some(inputs), Some(drive)) => Some(inputs.f_matmul(drive)?),
                _ => None,
            };
            z = match (&mut evolved, &model.evolution.generator) {
                (Some(g), Some(generator)) => {
                    // exp(gap L) with a separate gap for each row.
                    let drive = model.evolution.drive.as_ref();
                    let each = driven_exponential(generator, drive, &gap.unsqueeze(2))?;
                    let both = match (drive, &inputs) {
                        (Some(_), Some(inputs)) => Tensor::f_cat(&[&*g, inputs], 1)?,
                        _ => g.shallow_clone(),
                    };
                    let m = generator.size()[0];
                    *g = both.unsqueeze(1).f_bmm(&each)?.squeeze_dim(1).narrow(1, 0, m);
                    g.f_matmul(&model.evolution.readout)?
                }
                _ => model.advanced_each(&z, self.condition.as_ref(), driven.as_ref(), &gap)?,
            };
            found.push(z.shallow_clone());
        }
        Ok(Tensor::f_stack(&found, 0)?)
    }
}

/// The mean of RMS errors, at most 1 each, weighted by the inverse of the lead time.
fn relative(found: &Tensor, truth: &Tensor) -> Result<f64> {
    let square = (found - truth).f_square()?.f_mean_dim([1i64, 2].as_slice(), false, Kind::Double)?;
    let errors = square.sqrt().nan_to_num(1.0, 1.0, 1.0).clamp_max(1.0);
    let leads = Tensor::f_arange_start(1, errors.size()[0] + 1, (Kind::Double, errors.device()))?;
    let weights = leads.reciprocal();
    Ok(((errors * &weights).sum(Kind::Double) / weights.sum(Kind::Double)).double_value(&[]))
}

#[derive(Default)]
struct Parts {
    stacks: Vec<Tensor>,
    conditions: Vec<Tensor>,
    truths: Vec<Tensor>,
    inputs: Vec<Tensor>,
    gaps: Vec<Tensor>,
}

impl Parts {
    /// Adds a start. `rows` are the rows that one encoding reads, followed by the rows to forecast.
    fn add(&mut self, model: &Forecaster, data: &Observed, rows: &[usize]) -> Result<()> {
        let (history, first) = (model.sizes.history, rows[0]);
        let places: Vec<i64> = rows.iter().map(|row| (*row - first) as i64).collect();
        let places = Tensor::from_slice(&places);
        let span = first..rows[rows.len() - 1] + 1;
        let z =
            standard_rows(model, data, span.clone()).f_index_select(0, &places.to_device(model.device()))?;
        let ahead = z.size()[0] - history;
        self.stacks.push(windows(model, &z.narrow(0, 0, history))?);
        self.truths.push(z.narrow(0, history, ahead));
        self.conditions
            .extend(data.condition(data.path_of(first)).map(|c| c.to_device(model.device()).unsqueeze(0)));
        let inputs = data.inputs(span).map(|u| u.index_select(0, &places).narrow(0, history - 1, ahead));
        self.inputs.extend(inputs.map(|u| u.to_device(model.device())));
        if model.facts.continuous {
            let times: Vec<f64> = rows.iter().map(|row| data.times()[*row]).collect();
            let gaps: Vec<f64> =
                times[history as usize - 1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
            self.gaps.push(Tensor::from_slice(&gaps).unsqueeze(1).to_device(model.device()));
        }
        Ok(())
    }

    fn join(self) -> Result<Check> {
        let stack = |parts: &[Tensor]| (!parts.is_empty()).then(|| Tensor::f_stack(parts, 1)).transpose();
        let join = |parts: &[Tensor]| (!parts.is_empty()).then(|| Tensor::f_cat(parts, 0)).transpose();
        Ok(Check {
            stack: Tensor::f_cat(&self.stacks, 0)?,
            condition: join(&self.conditions)?,
            truth: Tensor::f_stack(&self.truths, 1)?,
            inputs: stack(&self.inputs)?,
            gaps: stack(&self.gaps)?,
        })
    }
}
