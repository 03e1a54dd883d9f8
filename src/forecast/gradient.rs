//! Gradient descent on the errors of forecasts over several steps, for the basis and the evolution together.
//! Afterwards the closed form for the trained basis is used if its held-out error is smaller.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use super::fitting::Fitting;
use super::model::{NextState, Sizes};
use super::moments::standard_rows;
use super::score::Check;
use super::{Basis, BasisKind, Evolution, Forecaster};
use crate::data::Observed;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::nets::Parameters;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::RandomSource;
use crate::training::{
    Adam, Averages, Budget, Checkpointing, Exchange, Gradient, Ledger, Look, Loop, Schedule, ScheduleKind,
    State, Step, Stopped,
};

const STEPS: u64 = 2000;
const BATCH: i64 = 128;
const RATE: f64 = 1e-3;
/// Number of evaluations on held-out rows.
const LOOKS: u64 = 20;
/// Weight of the errors of a network's observables, in units of their variance. Without this term, the loss would not
/// require that they evolve linearly. For fixed bases the loss contains only the state.
const CONSISTENCY: f64 = 0.1;

/// Trains a model. Returns the initial model if its held-out error is smaller.
///
/// # Errors
/// [`Error::Argument`] naming `method` for irregular times, a rank, or a model without nonlinear observables; errors
/// of the monitor except an interrupt.
pub fn train(model: Forecaster, fitting: &mut Fitting<'_>) -> Result<Forecaster> {
    if model.facts.continuous || model.sizes.rank.is_some() || model.sizes.psi == 0 {
        let expected = "'closed_form' for irregular times, a rank, or a model without nonlinear observables";
        return Err(Error::argument("method", expected, "'gradient'"));
    }
    let data = fitting.data;
    let options = model.config.training.clone();
    let random = RandomSource::new(options.seed);
    let bank = Bank::new(&model, data, fitting)?;
    let check = fitting.check(&model)?;
    let (trained, parameters) = trainable(&model)?;
    let steps = options.steps.unwrap_or(STEPS);
    let schedule =
        Schedule::new(ScheduleKind::Cosine, options.learning_rate.unwrap_or(RATE), options.warmup_steps);
    let state = State {
        parameters: &parameters,
        optimiser: Adam::new(&parameters, options.optimizer, options.weight_decay)?,
        averages: Averages::new(&parameters, &[options.ema_decay])?,
        best: parameters.flat()?.copy(),
        ledger: Ledger::new(schedule),
        budget: Budget::new(steps, options.max_seconds),
        exchange: Exchange::new(fitting.monitor.world(), &parameters),
    };
    let batch = options.batch_size.unwrap_or(BATCH);
    let _threads = IntraOpThreads::for_work(parameters.count(), batch * bank.ahead);
    let training = Training {
        model: &trained,
        parameters: &parameters,
        drive: trained.evolution.next_state()?.drive,
        bank,
        check: check.as_ref(),
        random: random.fork("forecaster batches"),
        batch,
        share: fitting.monitor.world().share_of_batch(batch, 2)?,
        every: (steps / LOOKS).max(1),
    };
    let mut run = Loop::new(training, state, &options, None)?;
    let stopped = run.train(fitting.monitor)?;
    let Loop { state, .. } = run;
    let ledger = state.closed_ledger();
    let best = match ledger.best {
        Some(_) => state.best.shallow_clone(),
        None => state.current()?,
    };
    tch::no_grad(|| parameters.flat()?.f_copy_(&best).map_err(Error::from))?;
    drop(state);
    let history = &mut *fitting.history;
    (history.steps, history.stopped) = (ledger.step, stopped_name(stopped)?);
    history.notes.extend(ledger.notes);
    chosen(model, &trained, &parameters, check.as_ref(), fitting)
}

fn stopped_name(stopped: Stopped) -> Result<String> {
    let value = serde_json::to_value(stopped).map_err(|error| Error::Internal(error.into()))?;
    Ok(value.as_str().unwrap_or("completed").to_string())
}

/// Name of the trained columns of K, which are those of the state and of psi.
const COLUMNS: &str = "evolution";

/// A copy of the model whose basis has its own parameters, and all trainable parameters.
fn trainable(model: &Forecaster) -> Result<(Forecaster, Parameters)> {
    let (sizes, config) = (&model.sizes, &model.config);
    let mut parameters = Parameters::new(Kind::Double, model.device());
    let mut random = RandomSource::new(0);
    let basis = Basis::new(config, sizes.basis_inputs(), sizes.psi, &mut parameters, &mut random)?;
    let columns = learnt(&model.evolution, sizes)?;
    let _leaf = parameters.add(COLUMNS, columns);
    parameters.pack();
    let mut known: HashMap<String, Tensor> = model.parameters.named().into_iter().collect();
    known.insert(COLUMNS.into(), learnt(&model.evolution, sizes)?);
    parameters.restore(|name| {
        known.remove(name).ok_or_else(|| Error::Internal(anyhow::anyhow!("no parameter {name}")))
    })?;
    let mut trained = model.shallow_clone();
    trained.basis = basis;
    Ok((trained, parameters))
}

/// The columns of K for the newest state and for psi, `[m, d + k]`.
fn learnt(evolution: &Evolution, sizes: &Sizes) -> Result<Tensor> {
    let psi = evolution.transition.narrow(1, sizes.all() - sizes.psi, sizes.psi);
    Ok(Tensor::f_cat(&[evolution.next_state()?.columns, psi], 1)?)
}

/// The model with the smallest held-out error among the trained model, the closed form for its basis, and the model
/// before training.
fn chosen(
    before: Forecaster,
    trained: &Forecaster,
    parameters: &Parameters,
    check: Option<&Check>,
    fitting: &mut Fitting<'_>,
) -> Result<Forecaster> {
    let _guard = tch::no_grad_guard();
    // Only the parameters of the basis are kept, without the columns of K.
    let mut own = Parameters::new(Kind::Double, before.device());
    let (sizes, config) = (&before.sizes, &before.config);
    let basis = Basis::new(config, sizes.basis_inputs(), sizes.psi, &mut own, &mut RandomSource::new(0))?;
    own.pack();
    let mut known: HashMap<String, Tensor> = parameters.named().into_iter().collect();
    let columns = known.remove(COLUMNS);
    own.restore(|name| {
        known.remove(name).ok_or_else(|| Error::Internal(anyhow::anyhow!("no parameter {name}")))
    })?;
    let mut solved = trained.shallow_clone();
    (solved.basis, solved.parameters) = (basis, own);
    let ridge = fitting.choose_ridge(&mut solved, check)?;
    fitting.solve(&mut solved, ridge)?;
    let mut descended = solved.shallow_clone();
    if let Some(columns) = columns {
        let (d, k) = (sizes.dimension(), sizes.psi);
        let state = columns.narrow(1, 0, d);
        if config.basis == BasisKind::Network {
            // The network and its columns of K were trained together.
            let transition = solved.evolution.transition.copy();
            transition.narrow(1, 1, d).f_copy_(&state)?;
            transition.narrow(1, sizes.all() - k, k).f_copy_(&columns.narrow(1, d, k))?;
            descended.evolution.transition = transition;
        }
        let own = solved.evolution.next_state()?;
        descended.evolution.finer = Some(NextState { columns: state.copy(), ..own });
    }
    let mut best: Option<(f64, Forecaster)> = None;
    for (name, mut model) in
        [("closed form of the trained basis", solved), ("trained", descended), ("before", before)]
    {
        fitting.choose_steps(&mut model, check)?;
        let error = fitting.history.error.unwrap_or(0.0);
        fitting.history.tried("steps", name, error);
        if best.as_ref().is_none_or(|(known, _)| error < *known) {
            best = Some((error, model));
        }
    }
    let Some((error, model)) = best else {
        return Err(Error::Internal(anyhow::anyhow!("nothing was trained")));
    };
    fitting.history.error = check.map(|_| error);
    Ok(model)
}

/// The windows of the training rows.
struct Bank {
    /// Standardised rows, `[R, d]`.
    rows: Tensor,
    /// Conditions of each row, `[R, c]`.
    conditions: Option<Tensor>,
    inputs: Option<Tensor>,
    /// Indices of the first rows of windows.
    starts: Tensor,
    ahead: i64,
    /// Mean square displacement of the state in 1, 2, ... steps, which is the unit of errors.
    moved: Tensor,
}

impl Bank {
    fn new(model: &Forecaster, data: &Observed, fitting: &Fitting<'_>) -> Result<Self> {
        let history = model.sizes.history as usize;
        let segments = data.segments(&fitting.parts.train, history + 1);
        let longest = segments.iter().map(|part| part.length).max().unwrap_or(0);
        let ahead = (model.config.unroll as usize).min(longest - history);
        let mut starts: Vec<i64> = Vec::new();
        for part in segments.iter().filter(|part| part.length >= history + ahead) {
            starts.extend((part.first..=part.first + part.length - history - ahead).map(|row| row as i64));
        }
        let device = model.device();
        let rows = standard_rows(model, data, 0..data.rows());
        let conditions = (model.sizes.conditions > 0).then(|| {
            let each = (0..data.paths()).filter_map(|path| {
                let own = data.condition(path)?.to_device(device);
                Some(own.unsqueeze(0).expand([data.range(path).len() as i64, -1], false))
            });
            Tensor::f_cat(&each.collect::<Vec<_>>(), 0)
        });
        let starts = Tensor::from_slice(&starts).to_device(device);
        let last = &starts + (history as i64 - 1);
        let now = rows.f_index_select(0, &last)?;
        let moved: Vec<Tensor> = (1..=ahead as i64)
            .map(|step| {
                let then = rows.f_index_select(0, &(&last + step))?;
                Ok((then - &now).square().mean(Kind::Double))
            })
            .collect::<Result<_>>()?;
        Ok(Bank {
            rows,
            conditions: conditions.transpose()?,
            inputs: data.inputs(0..data.rows()).map(|inputs| inputs.to_device(device)),
            starts,
            ahead: ahead as i64,
            moved: Tensor::f_stack(&moved, 0)?.clamp_min(1e-12),
        })
    }
}

struct Training<'a> {
    model: &'a Forecaster,
    parameters: &'a Parameters,
    /// Effect of the inputs on the state, `[u, d]`.
    drive: Option<Tensor>,
    bank: Bank,
    check: Option<&'a Check>,
    random: RandomSource,
    batch: i64,
    /// The windows of a batch that belong to this rank: index of the first one and their number.
    share: (i64, i64),
    every: u64,
}

impl Training<'_> {
    fn columns(&self) -> Tensor {
        // The columns were added last.
        self.parameters.tensors()[self.parameters.tensors().len() - 1].shallow_clone()
    }

    fn loss(&self, step: u64) -> Result<Tensor> {
        let (model, bank) = (self.model, &self.bank);
        let (history, d) = (model.sizes.history, model.sizes.dimension());
        let mut random = self.random.fork_numbered("", step);
        let (first, count) = self.share;
        let draw = random.uniform(&[self.batch], Kind::Double, bank.starts.device())?.narrow(0, first, count);
        let places = (draw * bank.starts.size()[0]).floor().to_kind(Kind::Int64);
        let first = bank.starts.f_index_select(0, &places.clamp_max(bank.starts.size()[0] - 1))?;
        let row = |offset: i64| bank.rows.f_index_select(0, &(&first + offset));
        let begin: Vec<Tensor> = (0..history).map(row).collect::<std::result::Result<_, _>>()?;
        let mut stack = model.stack(&Tensor::f_stack(&begin, 1)?);
        let condition = bank.conditions.as_ref().map(|c| c.f_index_select(0, &first)).transpose()?;
        let columns = self.columns();
        let short = columns.narrow(1, 0, d);
        let network = model.config.basis == BasisKind::Network;
        let mut total = Tensor::f_zeros([1], model.options())?;
        let mut weights = 0.0;
        for ahead in 1..=bank.ahead {
            let g = model.encode_all(&stack, condition.as_ref())?;
            let mut next = g.f_matmul(&short)?;
            if let (Some(inputs), Some(drive)) = (&bank.inputs, &self.drive) {
                let own = inputs.f_index_select(0, &(&first + (history + ahead - 2)))?;
                next += own.f_matmul(drive)?;
            }
            let truth = row(history + ahead - 1)?;
            let weight = 1.0 / ahead as f64;
            total += (&next - &truth).square().mean(Kind::Double) / bank.moved.get(ahead - 1) * weight;
            weights += weight;
            if network && ahead == 1 {
                let k = model.sizes.psi;
                let real = model.shifted(&stack, &truth);
                let after = model.encode_all(&real, condition.as_ref())?.narrow(1, g.size()[1] - k, k);
                let linear = g.f_matmul(&columns.narrow(1, d, k))?;
                let spread = after.f_var_dim([0i64].as_slice(), false, false)?.mean(Kind::Double) + 1e-6;
                total += (after - linear).square().mean(Kind::Double) / spread * CONSISTENCY;
            }
            stack = model.shifted(&stack, &next);
        }
        Ok((total / weights).squeeze())
    }
}

impl Step for Training<'_> {
    const STAGE: &'static str = "forecaster";
    const MEASURED: bool = true;

    fn gradient(&mut self, state: &mut State<'_>, _: &mut dyn Monitor) -> Result<Gradient> {
        let part = self.share.1 as f64 / self.batch as f64;
        let loss = tch::with_grad(|| self.loss(state.ledger.step))? * part;
        let flat = self.parameters.gradient(&loss)?;
        Ok(Gradient { flat, losses: vec![loss.detach()] })
    }

    fn stepped(&mut self, _: &[Tensor]) -> Result<()> {
        Ok(())
    }

    fn due(&mut self, state: &State<'_>, last: bool) -> bool {
        last || state.ledger.step % self.every == 0
    }

    fn look(&mut self, state: &State<'_>, rate: f64, monitor: &mut dyn Monitor) -> Result<Look> {
        let Some(check) = self.check else {
            return Ok(Look { values: vec![("learning_rate".into(), rate)], ..Look::default() });
        };
        let average = state.current()?;
        let error = self.parameters.with(&average, || {
            let _guard = tch::no_grad_guard();
            let mut model = self.model.shallow_clone();
            let columns = self.columns().narrow(1, 0, model.sizes.dimension());
            let own = model.evolution.next_state()?;
            model.evolution.finer = Some(NextState { columns, ..own });
            check.error(&model, Some(1), monitor)
        })?;
        // The leading rank's counts.
        let told = if state.exchange.world().leads() { error } else { 0.0 };
        let error = state.add_up(&[told])?[0];
        Ok(Look {
            metric: Some(error),
            name: "error of forecasts".into(),
            values: vec![("error".into(), error), ("learning_rate".into(), rate)],
            ..Look::default()
        })
    }

    fn save(&mut self, _: &State<'_>, _: &Checkpointing, _: Stopped) -> Result<()> {
        Err(Error::Internal(anyhow::anyhow!("forecasters write no checkpoints")))
    }
}
