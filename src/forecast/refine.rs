//! Refinement for noisy paths with gaps, which alternates between smoothing the paths with the model and fitting the
//! model to the smoothed paths. This is expectation maximisation without the posterior covariance (Ghahramani and
//! Roweis, Neural Information Processing Systems 11, 1999).

use tch::{Kind, Tensor};

use super::filter::{run, Dynamics, Seen};
use super::fitting::{solve_all, spread, Fitting};
use super::moments::condition_of;
use super::noise::{estimate, process, LARGEST};
use super::Forecaster;
use crate::data::Observed;
use crate::error::{Error, Result};

/// Factor by which the held-out error may increase in a round that is still accepted.
const ALIKE: f64 = 1.05;

/// Maximum number of values in memory for paths of equal length that are smoothed together.
const KEPT: i64 = 1 << 26;

/// Refines a model. Returns the best of the model and its refinements on the original held-out rows.
///
/// # Errors
/// [`Error::Argument`] naming `method` if paths cannot be smoothed; errors of the monitor except an interrupt.
pub fn refine(model: Forecaster, fitting: &mut Fitting<'_>) -> Result<Forecaster> {
    let data = fitting.data;
    if model.facts.continuous || model.sizes.stack() > LARGEST || model.sizes.inputs > 0 {
        let expected = format!(
            "'closed_form' or 'gradient' for irregular times, inputs, or states of more than {LARGEST} numbers"
        );
        return Err(Error::argument("method", expected, "'refine'"));
    }
    if model.sizes.psi == 0 && model.sizes.history == 1 {
        // The exponentials of whole paths are not biased by noise, so no refinement is needed.
        let mut model = model;
        model.learn_gain(data, &fitting.data.ranges())?;
        return Ok(model);
    }
    let mut model = model;
    model.learn_gain(data, &fitting.data.ranges())?;
    let noise = match model.config.noise {
        Some(noise) => noise,
        None => estimate(&model, data, &fitting.data.ranges(), fitting.monitor)?.unwrap_or(0.0),
    };
    model.facts.noise = noise;
    let gaps = (0..data.rows()).any(|row| !data.seen_whole(row));
    if noise == 0.0 && !gaps {
        fitting
            .history
            .note("no refinement: the observations have no noise that smoothing could remove, and no gaps");
        return Ok(model);
    }
    let check = fitting.check(&model)?;
    let mut best = (fitting.history.error.unwrap_or(f64::INFINITY), model.shallow_clone());
    let total = fitting.config.rounds;
    let mut ridge = model.config.ridge.unwrap_or_default();
    for round in 1..=total {
        let outcome = smoothed(&model, data, noise, fitting).and_then(|paths| {
            let mut next = model.shallow_clone();
            if round == 1 {
                // Lengths and ridge are chosen again on smoothed paths, because noise makes the first choice
                // unreliable.
                ridge = fitting.of(&paths).choose_again(&mut next)?;
            }
            let rows = spread(paths.ranges(), next.config.most_rows(next.sizes.all()));
            solve_all(&mut next, &paths, &rows, ridge, fitting.history, fitting.monitor)?;
            next.allow(noise)?;
            next.learn_gain(&paths, &paths.ranges())?;
            Ok(next)
        });
        let judged = outcome.and_then(|mut next| {
            next.facts.re_encode = Some(1);
            let error = match &check {
                Some(check) => check.error(&next, Some(1), fitting.monitor)?,
                None => 0.0,
            };
            fitting.history.tried("round", round, error);
            fitting.report("refine", round, total, Some(error))?;
            Ok((next, error))
        });
        let (next, error) = match judged {
            Err(Error::Interrupted(_)) => {
                fitting.history.stopped = "interrupted".into();
                break;
            }
            Err(Error::Divergence(why) | Error::Torch(why)) => {
                fitting.history.note(format!("round {round} of smoothing failed: {why}"));
                break;
            }
            other => other?,
        };
        // A later round is accepted if its error is about as small, because held-out rows are still noisy and their
        // errors depend little on the model.
        if check.is_none() || error <= best.0 * ALIKE {
            best = (error.min(best.0), next.shallow_clone());
        }
        model = next;
    }
    let mut best = best.1;
    fitting.choose_steps(&mut best, check.as_ref())?;
    Ok(best)
}

impl Forecaster {
    /// Adds process noise to the state, because the residuals of a fit to smoothed paths are too small.
    fn allow(&mut self, noise: f64) -> Result<()> {
        let added = process(self, noise, false)?;
        match self.evolution.projection {
            None => self.evolution.add_to_state(&added),
            Some(_) => Ok(()),
        }
    }

    /// Estimates [`super::Evolution::gain`], which tells how a step amplifies noise.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub(super) fn learn_gain(&mut self, data: &Observed, ranges: &[std::ops::Range<usize>]) -> Result<()> {
        if let Some(gain) = super::noise::gain(self, data, ranges)? {
            self.evolution.gain = gain;
        }
        Ok(())
    }
}

/// All paths smoothed by the model, without gaps.
fn smoothed(model: &Forecaster, data: &Observed, noise: f64, fitting: &mut Fitting<'_>) -> Result<Observed> {
    let n = model.sizes.stack();
    let step = model.facts.step;
    let process = process(model, noise, false)?;
    let mut values = Vec::new();
    let mut lengths = Vec::new();
    let mut conditions = Vec::new();
    let mut path = 0;
    while path < data.paths() {
        // Successive paths of equal length are smoothed together.
        let rows = rows_on_grid(data, path, step);
        let at_once = (KEPT / (3 * n * n * rows.len() as i64)).max(1) as usize;
        let end = (path + 1..data.paths())
            .take(at_once - 1)
            .take_while(|other| rows_on_grid(data, *other, step).len() == rows.len())
            .last()
            .map_or(path + 1, |last| last + 1);
        let group: Vec<Tensor> =
            (path..end).map(|own| gridded(model, data, own, step)).collect::<Result<_>>()?;
        let all = Tensor::f_stack(&group, 0)?;
        let seen: Vec<Seen> = (0..rows.len() as i64)
            .map(|row| Seen { time: row as f64 * step, rows: Some(all.select(1, row)) })
            .collect();
        let each: Vec<Tensor> = (path..end).filter_map(|own| condition_of(model, data, own, 1)).collect();
        let condition = (!each.is_empty()).then(|| Tensor::f_cat(&each, 0)).transpose()?;
        conditions.extend(each);
        let dynamics = Dynamics::states(model, condition, process.shallow_clone())?;
        let batch = (end - path) as i64;
        let (found, _) = run(&dynamics, &seen, batch, noise, true, fitting.monitor)?;
        let means: Vec<Tensor> = found.into_iter().map(|own| own.mean).collect();
        let means = model.original(&Tensor::f_stack(&means, 1)?);
        values.push(means.reshape([-1, model.sizes.event_size()]));
        lengths.extend(std::iter::repeat_n(rows.len(), end - path));
        path = end;
    }
    let times: Vec<f64> = lengths.iter().flat_map(|n| (0..*n).map(|row| row as f64 * step)).collect();
    let conditions = (!conditions.is_empty()).then(|| Tensor::f_cat(&conditions, 0)).transpose()?;
    Observed::new(&Tensor::f_cat(&values, 0)?, &lengths, Some(times), None, conditions.as_ref())
}

/// The index of the data's row at each point of a path's time grid; `None` if there is none.
fn rows_on_grid(data: &Observed, path: usize, step: f64) -> Vec<Option<usize>> {
    let range = data.range(path);
    let begin = data.times()[range.start];
    let place = |row: usize| ((data.times()[row] - begin) / step).round() as usize;
    let mut rows = vec![None; place(range.end - 1) + 1];
    for row in range {
        rows[place(row)] = Some(row);
    }
    rows
}

/// Standardised rows `[T, d]` of a path on its time grid, with NaN for missing rows and values.
fn gridded(model: &Forecaster, data: &Observed, path: usize, step: f64) -> Result<Tensor> {
    let range = data.range(path);
    let own = model.standard(&data.values(range.clone()).to_device(model.device()));
    let rows = rows_on_grid(data, path, step);
    let none = Tensor::f_full([1, own.size()[1]], f64::NAN, (Kind::Double, model.device()))?;
    let with_none = Tensor::f_cat(&[own, none], 0)?;
    let places: Vec<i64> =
        rows.iter().map(|row| row.map_or(range.len(), |row| row - range.start) as i64).collect();
    Ok(with_none.f_index_select(0, &Tensor::from_slice(&places).to_device(model.device()))?)
}
