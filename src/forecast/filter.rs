//! The Kalman filter and the smoother of Rauch, Tung and Striebel (AIAA Journal 3, 1965), for states or observables.
//! Vectors are rows: dm' = dm J.

use tch::{Kind, Tensor};

use super::Forecaster;
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// The dynamics between observations.
pub enum Dynamics<'a> {
    /// Stacks of states, which are encoded again at every step. This is the extended Kalman filter.
    States { model: &'a Forecaster, condition: Option<Tensor>, process: Tensor, short: Tensor },
    /// Observables, which evolve linearly. The filter is exact for the model.
    Observables { model: &'a Forecaster, condition: Option<Tensor> },
}

/// A batch of B Gaussian distributions.
pub struct Gaussian {
    /// Means `[B, n]`.
    pub mean: Tensor,
    /// Covariances `[B, n, n]`.
    pub covariance: Tensor,
}

impl Gaussian {
    fn handle(&self) -> Gaussian {
        Gaussian { mean: self.mean.shallow_clone(), covariance: self.covariance.shallow_clone() }
    }
}

impl<'a> Dynamics<'a> {
    /// The dynamics of states, with process noise of covariance `process` `[d, d]` in each step.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn states(model: &'a Forecaster, condition: Option<Tensor>, process: Tensor) -> Result<Self> {
        let own = &model.evolution;
        // The map from observables to the next state, or to its rate, computed once for all steps.
        let short = match (&own.generator, model.facts.continuous) {
            (Some(generator), true) => generator.f_matmul(&own.readout)?,
            _ => own.next_state()?.columns,
        };
        Ok(Dynamics::States { model, condition, process, short })
    }

    pub fn model(&self) -> &Forecaster {
        match self {
            Dynamics::States { model, .. } | Dynamics::Observables { model, .. } => model,
        }
    }

    /// The size n of what is filtered.
    pub fn size(&self) -> i64 {
        match self {
            Dynamics::States { model, .. } => model.sizes.stack(),
            Dynamics::Observables { model, .. } => model.evolution.transition.size()[0],
        }
    }

    /// The readout `[n, d]` of standardised states.
    pub fn readout(&self) -> Result<Tensor> {
        match self {
            Dynamics::Observables { model, .. } => Ok(model.evolution.readout.shallow_clone()),
            Dynamics::States { model, .. } => {
                let (n, d) = (model.sizes.stack(), model.sizes.dimension());
                Ok(Tensor::f_eye_m(n, d, model.options())?)
            }
        }
    }

    /// The distribution before any observation, which is that of the data.
    pub fn prior(&self, batch: i64) -> Result<Gaussian> {
        let many = |x: &Tensor| x.unsqueeze(0).repeat([&[batch], vec![1; x.dim()].as_slice()].concat());
        match self {
            Dynamics::Observables { model, condition } => {
                let (mean, spread) = (&model.evolution.mean, &model.evolution.spread);
                let all = Gaussian { mean: many(mean), covariance: many(spread) };
                let Some(condition) = condition else { return Ok(all) };
                if model.evolution.projection.is_some() {
                    let expected = "'auto' or a number of steps for a model with conditions and a rank";
                    return Err(Error::argument("re_encode", expected, "'never'"));
                }
                // The known conditions are treated as an observation without noise.
                let (m, c) = (mean.size()[0], model.sizes.conditions);
                let reads = Tensor::f_zeros([m, c], model.options())?;
                let block = reads.narrow(0, 1 + model.sizes.stack(), c);
                block.shallow_clone().f_copy_(&Tensor::f_eye(c, model.options())?)?;
                Ok(corrected(&all, condition, &reads, CERTAIN)?.0)
            }
            Dynamics::States { model, .. } => {
                let n = model.sizes.stack();
                let eye = Tensor::f_eye(n, model.options())?;
                Ok(Gaussian { mean: Tensor::f_zeros([batch, n], model.options())?, covariance: many(&eye) })
            }
        }
    }

    /// The prediction for a time `time` later, and the derivative of its mean, `[B, n, n]`.
    fn advance(&self, from: &Gaussian, time: f64) -> Result<(Gaussian, Tensor)> {
        let model = self.model();
        let step = model.facts.step;
        let steps = time / step;
        let whole = steps.round();
        let on_grid = (steps - whole).abs() < ON_GRID * steps.max(1.0);
        if model.facts.continuous || on_grid {
            let (count, length) = match model.facts.continuous {
                true => (steps.ceil().max(1.0), time / steps.ceil().max(1.0)),
                false => (whole, step),
            };
            let mut state = from.handle();
            let mut slope: Option<Tensor> = None;
            for _ in 0..count as u64 {
                let (next, own) = self.once(&state, length)?;
                slope = Some(match slope {
                    Some(slope) => slope.f_bmm(&own)?,
                    None => own,
                });
                state = next;
            }
            let slope = slope.map_or_else(
                || {
                    let eye = Tensor::f_eye(self.size(), model.options())?;
                    Ok::<_, Error>(eye.expand(from.covariance.size(), false))
                },
                Ok,
            )?;
            return Ok((state, slope));
        }
        let (Dynamics::Observables { .. }, Some(generator)) = (self, &model.evolution.generator) else {
            let expected = format!("differences that are multiples of the data's step {step}");
            return Err(Error::argument("times", expected, format!("a difference of {time}")));
        };
        let own = (generator * time).f_linalg_matrix_exp()?;
        // The noise of a step, spread evenly over its time.
        let added = &model.evolution.covariance * steps;
        linear(from, &own, &added)
    }

    fn once(&self, from: &Gaussian, time: f64) -> Result<(Gaussian, Tensor)> {
        match self {
            Dynamics::Observables { model, .. } if model.facts.continuous => {
                let Some(generator) = &model.evolution.generator else {
                    return Err(Error::Internal(anyhow::anyhow!("no generator")));
                };
                let share = time / model.facts.step;
                linear(
                    from,
                    &(generator * time).f_linalg_matrix_exp()?,
                    &(&model.evolution.covariance * share),
                )
            }
            Dynamics::Observables { model, .. } => {
                linear(from, &model.evolution.transition, &model.evolution.covariance)
            }
            Dynamics::States { model, condition, process, short } => {
                let d = model.sizes.dimension();
                let n = self.size();
                let slopes = model.slopes(&from.mean, condition.as_ref())?;
                let (newest, slope, share) = match model.facts.continuous {
                    true => {
                        let moved = model.advanced(&from.mean, condition.as_ref(), None, time)?;
                        let rate = slopes.f_matmul(short)?;
                        (moved, (rate * time).f_linalg_matrix_exp()?, time / model.facts.step)
                    }
                    false => {
                        let moved = model.encode(&from.mean, condition.as_ref())?.f_matmul(short)?;
                        (model.clipped(&moved), slopes.f_matmul(short)?, 1.0)
                    }
                };
                let mean = model.shifted(&from.mean, &newest);
                let batch = mean.size()[0];
                // The older rows of the stack are copied from the previous stack.
                let older = Tensor::f_eye_m(n, n - d, model.options())?;
                let slope = Tensor::f_cat(&[slope, older.expand([batch, n, n - d], false)], 2)?;
                let added = Tensor::f_zeros([n, n], model.options())?;
                added.narrow(0, 0, d).narrow(1, 0, d).f_copy_(&(process * share))?;
                let covariance = spread(&from.covariance, &slope)? + added;
                Ok((Gaussian { mean, covariance }, slope))
            }
        }
    }
}

/// The propagated covariance J^T P J.
fn spread(covariance: &Tensor, slope: &Tensor) -> Result<Tensor> {
    Ok(slope.transpose(1, 2).f_matmul(&covariance.f_matmul(slope)?)?)
}

fn linear(from: &Gaussian, own: &Tensor, added: &Tensor) -> Result<(Gaussian, Tensor)> {
    let slope = own.unsqueeze(0).expand([from.mean.size()[0], -1, -1], false);
    let covariance = spread(&from.covariance, &slope)? + added;
    Ok((Gaussian { mean: from.mean.f_matmul(own)?, covariance }, slope))
}

/// The observation at one time: standardised rows `[B, d]` with NaN for missing values, or `None` for no observation.
pub struct Seen {
    pub time: f64,
    pub rows: Option<Tensor>,
}

/// The results of the filter at one time that the smoother needs.
struct Visit {
    after: Gaussian,
    before: Gaussian,
    /// Derivative of the prediction with respect to the previous state.
    slope: Option<Tensor>,
}

/// Distance from the time grid, as a share of the step, below which a time counts as on the grid. It is this large
/// because times that count from 1970 are rounded.
const ON_GRID: f64 = 1e-5;
/// Variance of known values.
const CERTAIN: f64 = 1e-10;
/// Variance of missing values, in units of the data's variance.
const UNSEEN: f64 = 1e12;

/// Updates a prediction with an observation that has independent noise of variance `noise`. Returns the posterior and
/// the log-likelihood `[B]` of the observation.
fn corrected(before: &Gaussian, rows: &Tensor, readout: &Tensor, noise: f64) -> Result<(Gaussian, Tensor)> {
    let unseen = rows.isnan();
    let off = (rows - before.mean.f_matmul(readout)?).masked_fill(&unseen, 0.0);
    let variance = unseen.to_kind(Kind::Double) * UNSEEN + noise;
    let seen = before.covariance.f_matmul(readout)?;
    let own = readout.tr().f_matmul(&seen)? + Tensor::f_diag_embed(&variance, 0, 1, 2)?;
    // The gain, S^{-1} times the covariance of observation and state, [B, d, n].
    let gain = Tensor::f_linalg_solve(&own, &seen.transpose(1, 2), true)?;
    let mean = &before.mean + off.unsqueeze(1).f_matmul(&gain)?.squeeze_dim(1);
    // The Joseph form keeps the covariance positive.
    let n = before.mean.size()[1];
    let eye = Tensor::f_eye(n, (Kind::Double, rows.device()))?;
    let left = eye - readout.f_matmul(&gain)?;
    let added = gain.transpose(1, 2).f_matmul(&(&gain * variance.unsqueeze(2)))?;
    let covariance = spread(&before.covariance, &left)? + added;
    let solved = Tensor::f_linalg_solve(&own, &off.unsqueeze(2), true)?.squeeze_dim(2);
    let (_, logs) = Tensor::f_linalg_slogdet(&own)?;
    let blind = unseen.to_kind(Kind::Double) * UNSEEN.ln();
    let over = [1i64];
    let seen_count = unseen.logical_not().to_kind(Kind::Double);
    let constant = (seen_count * (2.0 * std::f64::consts::PI).ln() - blind).f_sum_dim_intlist(
        over.as_slice(),
        false,
        Kind::Double,
    )?;
    let square = (off * solved).f_sum_dim_intlist(over.as_slice(), false, Kind::Double)?;
    Ok((Gaussian { mean, covariance }, (square + logs + constant) * -0.5))
}

/// Runs the filter and, with `backwards`, the smoother. Returns the mean `[B, d]` and covariance `[B, d, d]` of
/// standardised states at every time, and the log-likelihood `[B]` of all observations.
///
/// # Errors
/// Errors naming `times`; [`Error::Divergence`] if the filter diverges; errors of the monitor.
pub fn run(
    dynamics: &Dynamics<'_>,
    seen: &[Seen],
    batch: i64,
    noise: f64,
    backwards: bool,
    monitor: &mut dyn Monitor,
) -> Result<(Vec<Gaussian>, Tensor)> {
    let _guard = tch::no_grad_guard();
    let readout = dynamics.readout()?;
    // Without any noise the covariance would be singular.
    let variance = noise.powi(2).max(1e-12);
    let mut likelihood = Tensor::f_zeros([batch], dynamics.model().options())?;
    let mut visits: Vec<Visit> = Vec::with_capacity(seen.len());
    let mut now: Option<f64> = None;
    for own in seen {
        monitor.tick()?;
        let (before, slope) = match (now, visits.last()) {
            (Some(now), Some(last)) => {
                let (before, slope) = dynamics.advance(&last.after, own.time - now)?;
                (before, Some(slope))
            }
            _ => (dynamics.prior(batch)?, None),
        };
        let after = match &own.rows {
            Some(rows) => {
                let (after, found) = corrected(&before, rows, &readout, variance)?;
                likelihood += found;
                after
            }
            None => before.handle(),
        };
        if !crate::tensor::all_finite(&after.mean) {
            return Err(Error::Divergence("the filter diverged: its states are not finite".into()));
        }
        visits.push(Visit { after, before, slope });
        now = Some(own.time);
    }
    let smoothed = match backwards {
        true => smoothed(&visits, monitor)?,
        false => visits.iter().map(|visit| visit.after.handle()).collect(),
    };
    let read = smoothed.into_iter().map(|own| {
        Ok(Gaussian {
            mean: own.mean.f_matmul(&readout)?,
            covariance: readout.tr().f_matmul(&own.covariance)?.f_matmul(&readout)?,
        })
    });
    Ok((read.collect::<Result<Vec<_>>>()?, likelihood))
}

fn smoothed(visits: &[Visit], monitor: &mut dyn Monitor) -> Result<Vec<Gaussian>> {
    let mut found: Vec<Gaussian> = Vec::with_capacity(visits.len());
    for (place, visit) in visits.iter().enumerate().rev() {
        monitor.tick()?;
        let own = &visit.after;
        let Some((next, later)) = visits.get(place + 1).zip(found.last()) else {
            found.push(own.handle());
            continue;
        };
        let Some(slope) = &next.slope else { continue };
        let n = own.mean.size()[1];
        // The covariance of observables is singular, because the constant has no variance.
        let level = next.before.covariance.diagonal(0, 1, 2).mean(Kind::Double).double_value(&[]);
        let eye = Tensor::f_eye(n, (Kind::Double, own.mean.device()))? * (1e-10 * level + f64::MIN_POSITIVE);
        let shared = own.covariance.f_matmul(slope)?;
        let gain = Tensor::f_linalg_solve(&(&next.before.covariance + eye), &shared.transpose(1, 2), true)?;
        let off = (&later.mean - &next.before.mean).unsqueeze(1);
        let mean = &own.mean + off.f_matmul(&gain)?.squeeze_dim(1);
        let change = &later.covariance - &next.before.covariance;
        let covariance = &own.covariance + gain.transpose(1, 2).f_matmul(&change.f_matmul(&gain)?)?;
        found.push(Gaussian { mean, covariance: (&covariance + covariance.transpose(1, 2)) * 0.5 });
    }
    found.reverse();
    Ok(found)
}
