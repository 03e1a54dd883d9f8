//! The closed-form fit: choices on held-out paths, followed by one regression on all paths.

use std::ops::Range;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::basis::{FOURIER_LENGTHS, KERNEL_LENGTHS};
use super::continuous::{learn_process, polish};
use super::exponentials::refit;
use super::model::NextState;
use super::moments::{of_rates, of_steps, Moments};
use super::score::Check;
use super::solve::{Normal, Solution, Structure, SQUARED};
use super::start::{slice, start};
use super::{BasisKind, Evolution, Forecaster, ForecasterConfig, ForecasterHistory, Method, ReEncode};
use crate::data::Observed;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};

/// Maximum number of rows in the fits that choices are based on. More rows would not change the choices.
const ROWS_TO_CHOOSE: usize = 30_000;
const RIDGES: [f64; 8] = [1e-26, 1e-20, 1e-16, 1e-12, 1e-9, 1e-6, 1e-4, 1e-2];
/// Smallest ridge, in units of the variance of the observation noise.
const SMOOTHED: f64 = 1e-8;
/// Ridge that is used if nothing is held out.
const RIDGE: f64 = 1e-8;
/// Candidate numbers of steps between encodings.
const STEPS: [u64; 5] = [2, 4, 8, 16, 32];
/// Factor by which the error must decrease for fewer encodings or a smaller ridge to be preferred.
const BETTER: f64 = 0.99;

/// The rows of the training paths and of the held-out paths.
pub struct Parts {
    pub train: Vec<Range<usize>>,
    pub held: Vec<Range<usize>>,
}

/// The state of a fit.
pub struct Fitting<'a> {
    pub config: ForecasterConfig,
    pub sizes: super::model::Sizes,
    pub data: &'a Observed,
    pub parts: Parts,
    pub history: &'a mut ForecasterHistory,
    pub monitor: &'a mut dyn Monitor,
    pub begun: Instant,
}

impl Fitting<'_> {
    pub fn report(&mut self, stage: &'static str, step: u64, total: u64, error: Option<f64>) -> Result<()> {
        let values = error.map(|error| ("error".to_string(), error)).into_iter().collect();
        let seconds = self.begun.elapsed().as_secs_f64();
        self.monitor.report(&Progress { stage, step, total, seconds, values })
    }

    /// The held-out check of a model; `None` if there are no held-out rows that are long enough.
    pub fn check(&self, model: &Forecaster) -> Result<Option<Check>> {
        Check::new(model, self.data, &self.parts.held)
    }

    /// The same fit for other rows of the same paths.
    pub fn of<'b>(&'b mut self, data: &'b Observed) -> Fitting<'b> {
        let own = self.data;
        let map = |ranges: &[Range<usize>]| -> Vec<Range<usize>> {
            ranges
                .iter()
                .map(|rows| {
                    let path = own.path_of(rows.start);
                    let (old, new) = (own.range(path), data.range(path));
                    // A range may be a part of a path, if there is only one path.
                    let place = |row: usize| new.start + (row - old.start) * new.len() / old.len();
                    place(rows.start)..place(rows.end)
                })
                .collect()
        };
        Fitting {
            config: self.config.clone(),
            sizes: self.sizes.clone(),
            data,
            parts: Parts { train: map(&self.parts.train), held: map(&self.parts.held) },
            history: self.history,
            monitor: self.monitor,
            begun: self.begun,
        }
    }

    /// Chooses the lengths and the ridge of a model again, as in the first fit.
    pub fn choose_again(&mut self, model: &mut Forecaster) -> Result<f64> {
        let check = self.check(model)?;
        let few = spread(self.parts.train.clone(), ROWS_TO_CHOOSE);
        let noise = model.facts.noise;
        let ridge = self.choose(model, check.as_ref(), &few)?;
        model.facts.noise = noise;
        Ok(ridge)
    }

    pub fn closed_form(&mut self) -> Result<Forecaster> {
        let least = self.config.history as usize + 1;
        let train = self.data.segments(&self.parts.train, least);
        if train.is_empty() && self.data.spacing().is_some() {
            let expected = format!("{least} neighbouring rows without missing values in some training path");
            return Err(Error::argument("paths", expected, "none"));
        }
        let mut model = start(&self.config, &self.sizes, self.data, &train)?;
        let check = self.check(&model)?;
        if check.is_none() && self.config.held_out > 0.0 {
            self.history.note(
                "no held-out path is long enough, so ridge and lengths were not chosen and no error is known",
            );
        }
        self.history.horizon = check.as_ref().map_or(0.0, |check| check.horizon(model.facts.step));
        let few = spread(self.parts.train.clone(), ROWS_TO_CHOOSE);
        let ridge = self.choose(&mut model, check.as_ref(), &few)?;
        let all = self.rows_to_fit(&model);
        self.report("fit", 0, 1, None)?;
        solve_all(&mut model, self.data, &all, ridge, self.history, self.monitor)?;
        self.choose_steps(&mut model, check.as_ref())?;
        if model.facts.continuous || self.config.method == Method::Refine {
            self.by_exponentials(&mut model, check.as_ref())?;
        }
        self.report("fit", 1, 1, self.history.error)?;
        Ok(model)
    }

    /// Replaces the model by the exponentials that fit whole paths, if their held-out error is smaller.
    fn by_exponentials(&mut self, model: &mut Forecaster, check: Option<&Check>) -> Result<()> {
        let Some(found) = refit(model, self.data, &self.data.ranges(), self.monitor)? else { return Ok(()) };
        let Some(check) = check else { return Ok(()) };
        let error = check.error(&found, model.facts.re_encode, self.monitor)?;
        self.history.tried("exponentials", "of whole paths", error);
        if self.history.error.is_none_or(|known| error < known) {
            (*model, self.history.error) = (found, Some(error));
            // The noise covariance of the new evolution.
            match model.facts.continuous {
                true => learn_process(model, self.data, &self.data.ranges(), self.monitor)?,
                false => {
                    let segments = self.data.segments(&self.data.ranges(), self.config.history as usize + 1);
                    let moments = of_steps(model, self.data, &segments, self.monitor)?;
                    let matrix = model.evolution.transition.to_device(Device::Cpu);
                    let own = Solution { matrix, drive: None };
                    let covariance = Normal::new(&moments)?.covariance(&own)?;
                    model.evolution.covariance = covariance.to_device(model.device());
                }
            }
        }
        Ok(())
    }

    /// The rows of the final regression: all rows, or a part of them if there are very many.
    fn rows_to_fit(&mut self, model: &Forecaster) -> Vec<Range<usize>> {
        let (all, most) = (self.data.rows(), self.config.most_rows(model.sizes.all()));
        if all > most {
            self.history.note(format!(
                "fitted to about {most} of {all} rows, spread over all paths; set max_rows to use more"
            ));
        }
        spread(self.data.ranges(), most)
    }

    /// Chooses the lengths and the ridge, and puts the chosen basis into `model`.
    fn choose(&mut self, model: &mut Forecaster, check: Option<&Check>, few: &[Range<usize>]) -> Result<f64> {
        let lengths: Vec<Option<(f64, f64)>> = match (self.config.lengths, self.config.basis, check) {
            (Some(given), ..) => vec![Some(given)],
            (None, BasisKind::Fourier, Some(_)) => FOURIER_LENGTHS.iter().copied().map(Some).collect(),
            (None, BasisKind::Kernel, Some(_)) => KERNEL_LENGTHS.iter().copied().map(Some).collect(),
            _ => vec![None],
        };
        let ridges: Vec<f64> = match (self.config.ridge, check) {
            (Some(given), _) => vec![given],
            (None, None) => vec![RIDGE],
            // Smaller ridges would fit digits that smoothed rows do not have.
            (None, Some(_)) => {
                let least = SMOOTHED * model.facts.noise.powi(2);
                RIDGES.into_iter().filter(|ridge| *ridge >= least).collect()
            }
        };
        if lengths.len() * ridges.len() == 1 {
            if let [Some(one)] = lengths.as_slice() {
                self.with_lengths(model, *one)?;
            }
            return Ok(ridges[0]);
        }
        let Some(check) = check else { return Ok(ridges[0]) };
        let segments = self.data.segments(few, self.config.history as usize + 1);
        let total = (lengths.len() * ridges.len()) as u64;
        let mut best: Option<(f64, f64, Forecaster)> = None;
        for (place, lengths) in lengths.iter().enumerate() {
            if let Some(lengths) = lengths {
                self.with_lengths(model, *lengths)?;
            }
            let moments = match model.facts.continuous {
                true => of_rates(model, self.data, few, self.monitor)?,
                false => of_steps(model, self.data, &segments, self.monitor)?,
            };
            let normal = Normal::new(&moments)?;
            let mut own = f64::INFINITY;
            // The largest ridge first: a smaller one must have a smaller error.
            for (index, ridge) in ridges.iter().rev().enumerate() {
                let mut tried = model.shallow_clone();
                set(&mut tried, &normal, &moments, *ridge, false)?;
                let error = check.error(&tried, Some(1), self.monitor)?;
                own = own.min(error);
                self.history.tried("ridge", format!("{ridge:e} of lengths {lengths:?}"), error);
                if best.as_ref().is_none_or(|(known, ..)| error < known * BETTER) {
                    best = Some((error, *ridge, tried));
                }
                self.report("choose", (place * ridges.len() + index + 1) as u64, total, Some(own))?;
            }
        }
        let Some((_, ridge, chosen)) = best else { return Ok(RIDGE) };
        *model = chosen;
        Ok(ridge)
    }

    /// Chooses the ridge for the present basis.
    pub fn choose_ridge(&mut self, model: &mut Forecaster, check: Option<&Check>) -> Result<f64> {
        let (Some(check), None) = (check, self.config.ridge) else {
            return Ok(self.config.ridge.unwrap_or(RIDGE));
        };
        let few = spread(self.parts.train.clone(), ROWS_TO_CHOOSE);
        let segments = self.data.segments(&few, self.config.history as usize + 1);
        let moments = of_steps(model, self.data, &segments, self.monitor)?;
        let normal = Normal::new(&moments)?;
        let mut best = (f64::INFINITY, RIDGE);
        for ridge in RIDGES.iter().rev() {
            set(model, &normal, &moments, *ridge, false)?;
            let error = check.error(model, Some(1), self.monitor)?;
            if error < best.0 * BETTER {
                best = (error, *ridge);
            }
        }
        Ok(best.1)
    }

    /// Solves the regression on all rows.
    pub fn solve(&mut self, model: &mut Forecaster, ridge: f64) -> Result<()> {
        let rows = spread(self.data.ranges(), self.config.most_rows(model.sizes.all()));
        solve_all(model, self.data, &rows, ridge, self.history, self.monitor)
    }

    fn with_lengths(&mut self, model: &mut Forecaster, lengths: (f64, f64)) -> Result<()> {
        let config = ForecasterConfig { lengths: Some(lengths), ..self.config.clone() };
        let segments = self.data.segments(&self.parts.train, self.config.history as usize + 1);
        *model = start(&config, &self.sizes, self.data, &segments)?;
        Ok(())
    }

    /// Chooses the number of steps between encodings.
    pub fn choose_steps(&mut self, model: &mut Forecaster, check: Option<&Check>) -> Result<()> {
        let linear = model.sizes.psi == 0 && model.sizes.rank.is_none();
        let asked = match (self.config.re_encode, check) {
            (ReEncode::Never, _) => Some(None),
            (ReEncode::Every(steps), _) => Some(Some(steps)),
            // The observables are the state itself, so encoding it again changes nothing.
            (ReEncode::Auto, _) if linear => Some(None),
            (ReEncode::Auto, None) => Some(Some(1)),
            (ReEncode::Auto, Some(_)) if model.facts.continuous => Some(Some(1)),
            _ => None,
        };
        let Some(check) = check else {
            model.facts.re_encode = asked.flatten();
            return Ok(());
        };
        let tried: Vec<Option<u64>> = match asked {
            Some(one) => vec![one],
            None => std::iter::once(1).chain(STEPS).map(Some).chain([None]).collect(),
        };
        let mut best: Option<(f64, Option<u64>)> = None;
        for steps in tried {
            let error = check.error(model, steps, self.monitor)?;
            let name = steps.map_or("never".to_string(), |steps| steps.to_string());
            self.history.tried("re_encode", name, error);
            if best.is_none_or(|(known, _)| error < known * BETTER) {
                best = Some((error, steps));
            }
        }
        if let Some((error, steps)) = best {
            (model.facts.re_encode, self.history.error) = (steps, Some(error));
        }
        Ok(())
    }
}

/// Selects evenly spread ranges with about `most` rows in total, or all ranges if they have no more.
pub fn spread(ranges: Vec<Range<usize>>, most: usize) -> Vec<Range<usize>> {
    let total: usize = ranges.iter().map(Range::len).sum();
    if total <= most {
        return ranges;
    }
    let (mut found, mut passed, mut taken) = (Vec::new(), 0usize, 0usize);
    for rows in ranges {
        passed += rows.len();
        // The selected share of the rows so far equals the share of all rows.
        let due = (most as f64 * passed as f64 / total as f64) as usize;
        if due > taken {
            let length = rows.len().min(most - taken);
            taken += length;
            found.push(rows.start..rows.start + length);
        }
    }
    found
}

/// Solves the regression on all rows of `ranges`, and puts the evolution into `model`.
///
/// # Errors
/// The errors of [`super::fit()`].
pub fn solve_all(
    model: &mut Forecaster,
    data: &Observed,
    ranges: &[Range<usize>],
    ridge: f64,
    history: &mut ForecasterHistory,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let moments = match model.facts.continuous {
        true => of_rates(model, data, ranges, monitor)?,
        false => {
            let segments = data.segments(ranges, model.sizes.history as usize + 1);
            of_steps(model, data, &segments, monitor)?
        }
    };
    history.pairs = moments.count as i64;
    model.config.ridge = Some(ridge);
    set(model, &Normal::new(&moments)?, &moments, ridge, true)?;
    match model.facts.continuous {
        true => polish(model, data, ranges, ridge, monitor),
        false => Ok(()),
    }
}

/// Puts the evolution for a given ridge into `model`. The noise covariance is computed only for the `last` fit,
/// because forecasts without noise do not need it.
fn set(model: &mut Forecaster, normal: &Normal<'_>, moments: &Moments, ridge: f64, last: bool) -> Result<()> {
    let continuous = model.facts.continuous;
    let (m, d, device) = (model.sizes.all(), model.sizes.dimension(), model.device());
    let structure = Structure { sizes: &model.sizes, rates: continuous };
    let gram = moments.gram.narrow(0, 0, m).narrow(1, 0, m);
    let combined;
    let mut finer = None;
    let (solution, moments, readout, projection, covariance) = match model.sizes.rank {
        None => {
            // A linear model has only the columns of the state, so it may use the smaller ridge.
            let one = if model.sizes.psi > 0 { ridge.max(SQUARED) } else { ridge };
            if one > ridge {
                finer = normal.finer(ridge, &structure)?;
            }
            let solution = normal.solve(one, &structure)?;
            let covariance = (last && !continuous).then(|| normal.covariance(&solution)).transpose()?;
            (solution, moments, slice(m, d, Device::Cpu)?, None, covariance)
        }
        Some(rank) => {
            let projection = normal.combinations(ridge, rank, &model.sizes)?;
            combined = moments.combined(&projection)?;
            let own = Normal::new(&combined)?;
            let solution = own.solve_combined(ridge, rank + 1, continuous)?;
            let covariance = (last && !continuous).then(|| own.covariance(&solution)).transpose()?;
            let readout = own.readout(&projection, &gram, d)?;
            (solution, &combined, readout, Some(projection), covariance)
        }
    };
    let r = solution.matrix.size()[0];
    let mean = &moments.sum / moments.count;
    let own = moments.gram.narrow(0, 0, r).narrow(1, 0, r) / moments.count;
    let spread = own - mean.unsqueeze(1).f_matmul(&mean.unsqueeze(0))?;
    let (transition, generator) = match continuous {
        true => ((&solution.matrix * model.facts.step).f_linalg_matrix_exp()?, Some(solution.matrix)),
        false => (solution.matrix, None),
    };
    let covariance = match covariance {
        Some(covariance) => covariance,
        None => Tensor::f_zeros([r, r], (Kind::Double, Device::Cpu))?,
    };
    let home = |x: Tensor| x.to_device(device);
    model.evolution = Evolution {
        transition: home(transition),
        finer: finer.map(|own| NextState {
            columns: home(own.columns),
            drive: own.drive.map(home),
            covariance: home(own.covariance),
        }),
        generator: generator.map(home),
        drive: solution.drive.map(home),
        readout: home(readout),
        covariance: home(covariance),
        gain: Tensor::f_eye(d, model.options())?,
        mean: home(mean),
        spread: home(spread),
        projection: projection.map(home),
    };
    Ok(())
}
