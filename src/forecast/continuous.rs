//! Refinement of a generator that was fitted to approximate derivatives, for irregular times. The error with which
//! each row predicts the next one is regressed on the observables at the midpoint, and this is repeated (integral
//! matching by defect correction).

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::moments::{condition_of, standard_rows, Moments};
use super::solve::Normal;
use super::Forecaster;
use crate::data::Observed;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::chunks;

const ROUNDS: usize = 6;
const CHUNK_ROWS: i64 = 4096;
/// Relative decrease of the residual below which the rounds end.
const LITTLE: f64 = 1e-3;

/// Pairs of neighbouring rows without missing values.
struct Pairs {
    now: Tensor,
    next: Tensor,
    /// Times between the rows of each pair, `[P, 1]`.
    gaps: Tensor,
    condition: Option<Tensor>,
    inputs: Option<Tensor>,
}

impl Pairs {
    fn new(model: &Forecaster, data: &Observed, ranges: &[Range<usize>]) -> Result<Option<Self>> {
        let (mut now, mut next, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
        let (mut conditions, mut inputs) = (Vec::new(), Vec::new());
        for rows in ranges {
            let seen: Vec<usize> = rows.clone().filter(|row| data.seen_whole(*row)).collect();
            if seen.len() < 2 {
                continue;
            }
            let places: Vec<i64> = seen.iter().map(|row| (*row - rows.start) as i64).collect();
            let places = Tensor::from_slice(&places).to_device(model.device());
            let z = standard_rows(model, data, rows.clone()).f_index_select(0, &places)?;
            let pairs = z.size()[0] - 1;
            now.push(z.narrow(0, 0, pairs));
            next.push(z.narrow(0, 1, pairs));
            gaps.extend(seen.windows(2).map(|pair| data.times()[pair[1]] - data.times()[pair[0]]));
            conditions.extend(condition_of(model, data, data.path_of(rows.start), pairs));
            let own = data.inputs(rows.clone()).map(|u| u.to_device(model.device()));
            inputs.extend(own.map(|u| u.index_select(0, &places.narrow(0, 0, pairs))));
        }
        if now.is_empty() {
            return Ok(None);
        }
        let join = |parts: &[Tensor]| (!parts.is_empty()).then(|| Tensor::f_cat(parts, 0)).transpose();
        Ok(Some(Pairs {
            now: Tensor::f_cat(&now, 0)?,
            next: Tensor::f_cat(&next, 0)?,
            gaps: Tensor::from_slice(&gaps).unsqueeze(1).to_device(model.device()),
            condition: join(&conditions)?,
            inputs: join(&inputs)?,
        }))
    }

    fn part(&self, first: i64, rows: i64) -> Pairs {
        let part = |x: &Tensor| x.narrow(0, first, rows);
        Pairs {
            now: part(&self.now),
            next: part(&self.next),
            gaps: part(&self.gaps),
            condition: self.condition.as_ref().map(part),
            inputs: self.inputs.as_ref().map(part),
        }
    }
}

/// Refines the generator of a model for irregular times, and estimates the noise covariance of the state.
///
/// # Errors
/// Errors of libtorch or of the monitor.
pub fn polish(
    model: &mut Forecaster,
    data: &Observed,
    ranges: &[Range<usize>],
    ridge: f64,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let Some(pairs) = Pairs::new(model, data, ranges)?.filter(|_| model.sizes.rank.is_none()) else {
        return Ok(());
    };
    let mut known = f64::INFINITY;
    let mut before: Option<(Option<Tensor>, Option<Tensor>)> = None;
    for _ in 0..ROUNDS {
        let (moments, residual) = defects(model, &pairs, monitor)?;
        if !residual.is_finite() || residual >= known {
            // The previous round was better.
            if let Some((generator, drive)) = before {
                (model.evolution.generator, model.evolution.drive) = (generator, drive);
            }
            break;
        }
        let done = residual > known * (1.0 - LITTLE);
        known = residual;
        if done {
            break;
        }
        let change = Normal::new(&moments)?.regressed(ridge)?.to_device(model.device());
        let own = &mut model.evolution;
        before = Some((own.generator.as_ref().map(Tensor::copy), own.drive.as_ref().map(Tensor::copy)));
        let (m, d, u) = (model.sizes.all(), model.sizes.dimension(), model.sizes.inputs);
        if let Some(generator) = &own.generator {
            let _ = generator.narrow(1, 1, d).f_add_(&change.narrow(0, 0, m))?;
        }
        if let Some(drive) = &own.drive {
            let _ = drive.narrow(1, 1, d).f_add_(&change.narrow(0, m, u))?;
        }
    }
    rates_of_psi(model, &pairs, ridge, monitor)?;
    added(model, &pairs, monitor)
}

/// Estimates the noise covariance of the state over a typical step, for a model for irregular times.
///
/// # Errors
/// The errors of [`polish`].
pub fn learn_process(
    model: &mut Forecaster,
    data: &Observed,
    ranges: &[Range<usize>],
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let _guard = tch::no_grad_guard();
    match Pairs::new(model, data, ranges)? {
        Some(pairs) => added(model, &pairs, monitor),
        None => Ok(()),
    }
}

/// Moments of (the observables at the midpoint times the gap) with the prediction errors of the next rows, and the sum
/// of the squared errors.
fn defects(model: &Forecaster, pairs: &Pairs, monitor: &mut dyn Monitor) -> Result<(Moments, f64)> {
    let (m, d) = (model.sizes.all(), model.sizes.dimension());
    let mut moments = Moments::of(m + model.sizes.inputs, d);
    let mut square = 0.0;
    for (first, rows) in chunks(pairs.now.size()[0], CHUNK_ROWS) {
        monitor.tick()?;
        let part = pairs.part(first, rows);
        let (middle, end) = through(model, &part)?;
        let missed = &part.next - end;
        let g = model.encode_all(&middle, part.condition.as_ref())?;
        let g = match &part.inputs {
            Some(inputs) => Tensor::f_cat(&[&g, inputs], 1)?,
            None => g,
        } * &part.gaps;
        moments.gram += g.tr().f_matmul(&g)?.to_device(Device::Cpu);
        moments.cross += g.tr().f_matmul(&missed)?.to_device(Device::Cpu);
        moments.count += rows as f64;
        square += missed.square().sum(Kind::Double).double_value(&[]);
    }
    Ok((moments, square))
}

/// Predicted states at the midpoint and at the end of each gap.
fn through(model: &Forecaster, part: &Pairs) -> Result<(Tensor, Tensor)> {
    let driven = match (&part.inputs, &model.evolution.drive) {
        (Some(inputs), Some(drive)) => Some(inputs.f_matmul(drive)?),
        _ => None,
    };
    let half = &part.gaps * 0.5;
    let condition = part.condition.as_ref();
    let middle = model.advanced_each(&part.now, condition, driven.as_ref(), &half)?;
    let end = model.advanced_each(&middle, condition, driven.as_ref(), &half)?;
    Ok((middle, end))
}

/// Refits the columns of the generator that give the rates of psi, for the present vector field of the state.
fn rates_of_psi(model: &mut Forecaster, pairs: &Pairs, ridge: f64, monitor: &mut dyn Monitor) -> Result<()> {
    let (m, psi) = (model.sizes.all(), model.sizes.psi);
    if psi == 0 {
        return model.step_again();
    }
    let Some(generator) = model.evolution.generator.as_ref().map(Tensor::copy) else { return Ok(()) };
    let short = generator.f_matmul(&model.evolution.readout)?;
    let mut moments = Moments::of(m, psi);
    for (first, rows) in chunks(pairs.now.size()[0], CHUNK_ROWS) {
        monitor.tick()?;
        let part = pairs.part(first, rows);
        let condition = part.condition.as_ref();
        let g = model.encode_all(&part.now, condition)?;
        let rates = model.tangent_all(&part.now, &g.f_matmul(&short)?, condition)?.narrow(1, m - psi, psi);
        moments.gram += g.tr().f_matmul(&g)?.to_device(Device::Cpu);
        moments.cross += g.tr().f_matmul(&rates)?.to_device(Device::Cpu);
        moments.count += rows as f64;
    }
    let columns = Normal::new(&moments)?.regressed(ridge)?.to_device(model.device());
    generator.narrow(1, m - psi, psi).f_copy_(&columns)?;
    model.evolution.generator = Some(generator);
    model.step_again()
}

/// Estimates Q of the state: the covariance of the prediction errors, scaled to a typical step.
fn added(model: &mut Forecaster, pairs: &Pairs, monitor: &mut dyn Monitor) -> Result<()> {
    let d = model.sizes.dimension();
    let mut sum = Tensor::f_zeros([d, d], model.options())?;
    for (first, rows) in chunks(pairs.now.size()[0], CHUNK_ROWS) {
        monitor.tick()?;
        let part = pairs.part(first, rows);
        let missed = (&part.next - through(model, &part)?.1) / (&part.gaps / model.facts.step).sqrt();
        sum += missed.tr().f_matmul(&missed)?;
    }
    let block = model.evolution.covariance.narrow(0, 1, d).narrow(1, 1, d);
    block.shallow_clone().f_copy_(&(sum / pairs.now.size()[0] as f64))?;
    Ok(())
}

impl Forecaster {
    /// Recomputes the transition matrix K from the present generator.
    fn step_again(&mut self) -> Result<()> {
        let Some(generator) = &self.evolution.generator else {
            return Err(Error::Internal(anyhow::anyhow!("no generator")));
        };
        self.evolution.transition = (generator * self.facts.step).f_linalg_matrix_exp()?;
        Ok(())
    }
}
