//! Conditional flow matching: regression of v(t, x_t) on the velocity of the pair that x_t lies
//! between (Lipman et al., arXiv 2210.02747; with coupled pairs Tong et al., arXiv 2302.00482).

use tch::{Device, Kind, Tensor};

use crate::data::{PairBatch, PairSource, PairStream, Portions};
use crate::error::{Error, Result};
use crate::flow::config::TeacherConfig;
use crate::flow::given::Given;
use crate::flow::history::{Ledger, TeacherHistory};
use crate::flow::objective::{Loss, Objective, Pairs};
use crate::flow::resume::{Resumed, Snapshot, TrainingFiles};
use crate::flow::warm_start::begin_with;
use crate::monitor::{Monitor, Until};
use crate::nets::dropout;
use crate::ode;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::{at_home, check_finite, shape_text, RandomSource};
use crate::training;
use crate::training::{
    decided, Adam, Average, Budget, Checkpointing, Gradient, Loop, LossLog, Schedule, ScheduleKind, State,
    Step, Stopped,
};
use crate::velocity::{Conditioning, Moments, NetworkField, Units};

/// Trains a velocity field on `data` `[N, *event]`; `condition` as `config.conditioning` says.
///
/// The field holds the averaged weights. A step whose loss or gradient is not finite is skipped; ten in a row go
/// back to the last good weights, at half the learning rate. An [`Error::Interrupted`] from the monitor, the end of
/// `max_seconds` and too many such returns ([`crate::training::Stopped::Diverged`], which callers may want to treat
/// as an error) stop training and still return the field. On a CPU, and without `max_seconds`, the
/// same configuration and data give the same field bit for bit.
///
/// # Errors
/// Names an option out of its range or an argument of a wrong shape, dtype or with values that are
/// not finite; any other error of the monitor.
pub fn train(
    config: &TeacherConfig,
    data: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<(NetworkField, TeacherHistory)> {
    train_with_files(config, Given::new(data, condition), &TrainingFiles::default(), monitor)
}

/// [`train`] that writes its state into a file, or goes on from one: on a CPU bit for bit as if it had
/// never been cut.
///
/// # Errors
/// As [`train`], for an initial teacher of another shape, [`crate::ode::draw`] and [`crate::data::Coupling::check_noise`]; [`Error::Checkpoint`] or [`Error::Io`] for a bad file,
/// [`Error::Argument`] for options or data that are not those of the resumed one.
pub fn train_with_files(
    config: &TeacherConfig,
    given: Given<'_>,
    files: &TrainingFiles,
    monitor: &mut dyn Monitor,
) -> Result<(NetworkField, TeacherHistory)> {
    let Given { data, condition, source, noise, portions, initial } = given;
    config.check()?;
    check_data(config, data, noise)?;
    let event_shape = &data.size()[1..];
    let config = config.resolve(event_shape);
    let device = config.training.place()?.1;
    let random = RandomSource::new(config.training.seed);
    let resumed = files.resume.as_ref().map(|path| Resumed::read(path, &config)).transpose()?;
    let pool = match source.is_normal() {
        true => None,
        false => Some(ode::pool(&source, event_shape, &mut random.fork("source"), monitor)?),
    };
    // Standard coordinates are those of lines between noise and data.
    let straight = pool.is_none() && config.objective != Objective::Acceleration;
    let standardise = config.standardise && straight && resumed.as_ref().is_none_or(Resumed::has_units);
    let units = match standardise {
        true => Units::far(config.path, &Moments::of(data)?)?,
        false => None,
    };
    let standard = units.as_ref().map(|units| units.standard_data(data)).transpose()?;
    let data = standard.as_ref().unwrap_or(data);
    let network = config.network(event_shape);
    let mut field = NetworkField::new(network, data, condition, device, &mut random.fork("teacher weights"))?;
    if let Some(units) = &units {
        field = field.in_units(units);
    }
    if let Some(pool) = &pool {
        field = field.starting_from(source, pool)?;
    }
    if let Some(initial) = initial {
        begin_with(&field, &*initial)?;
    }
    let (step, spent) = resumed.as_ref().map_or((0, 0.0), |resumed| {
        let run = &resumed.ledger.run;
        (run.step, run.seconds)
    });
    let stream = pair_stream(&config, data, condition, pool.as_ref(), step, random.fork("teacher pairs"))?;
    let mut state = begin(&config, &field, spent)?;
    let mut log = LossLog::new(config.log_every);
    if let Some(resumed) = resumed {
        resumed.restore(&field, &mut state, &mut log)?;
    }
    let batch_size = decided("batch_size", config.training.batch_size)?;
    let _threads = IntraOpThreads::for_work(field.parameters().count(), batch_size * field.reuse());
    let dtype = field.parameters().kind();
    let teaching = Teaching {
        config: &config,
        field: &field,
        objective: config.objective.over(&field)?,
        stream,
        left: portions.as_ref().map_or(u64::MAX, |_| batches(data, batch_size)),
        portions,
        pool,
        units: units.as_ref(),
        random: random.clone(),
        data: at_home(data, dtype, device),
        noise: noise.map(|noise| at_home(noise, dtype, device)),
        condition: condition.map(|c| c.detach().to_device(device)),
        hidden: random.fork("hidden labels"),
        log,
    };
    let mut run = Loop::new(teaching, state, &config.training, files.checkpoint.as_ref())?;
    let stopped = run.train(monitor)?;
    let Loop { step: mut teaching, state, .. } = run;
    let ledger = Ledger { run: state.closed_ledger(), loss: teaching.log.state()? };
    state.keep_average()?;
    let history = ledger.history(stopped, &config);
    drop(teaching);
    field.freeze();
    Ok((field, history))
}

fn check_data(config: &TeacherConfig, data: &Tensor, noise: Option<&Tensor>) -> Result<()> {
    let size = data.size();
    if size.len() < 2 || data.numel() == 0 {
        return Err(Error::shape("data", "(N, *event) with N at least 1", shape_text(&size)));
    }
    check_finite("data", data)?;
    config.coupling.check_noise(data, noise, config.flip)
}

/// The coupled rows of every step from `step` on.
fn pair_stream(
    config: &TeacherConfig,
    data: &Tensor,
    condition: Option<&Tensor>,
    pool: Option<&Tensor>,
    step: u64,
    random: RandomSource,
) -> Result<PairStream> {
    let batch_size = decided("batch_size", config.training.batch_size)? as usize;
    let mut pairs =
        PairSource::new(data, condition, config.coupling, batch_size, config.coupling_size, random)?;
    if let Some(pool) = pool {
        pairs = pairs.starting_from(pool)?;
    }
    if config.flip {
        pairs = pairs.with_flips(&data.size()[1..])?;
    }
    PairStream::new(pairs, step, decided("steps", config.training.steps)?)
}

/// The state of a run that begins now, but for `spent` seconds.
fn begin<'a>(config: &TeacherConfig, field: &'a NetworkField, spent: f64) -> Result<State<'a>> {
    let options = &config.training;
    let peak = decided("learning_rate", options.learning_rate)?;
    let schedule = Schedule::new(ScheduleKind::Cosine, peak, options.warmup_steps);
    let parameters = field.parameters();
    Ok(State {
        parameters,
        optimiser: Adam::new(parameters, options.optimizer, options.weight_decay)?,
        average: Some(Average::new(parameters, options.ema_decay)?),
        best: parameters.flat()?.copy(),
        ledger: training::Ledger::new(schedule),
        budget: Budget::new(decided("steps", options.steps)?, options.max_seconds).resumed(spent),
    })
}

/// What the loop trains.
struct Teaching<'a> {
    /// Options with every default filled in.
    config: &'a TeacherConfig,
    field: &'a NetworkField,
    objective: Loss<'a>,
    stream: PairStream,
    /// Batches of the stream before the next portion of the data.
    left: u64,
    portions: Option<Box<dyn Portions>>,
    /// What a source other than noise is drawn from.
    pool: Option<Tensor>,
    /// Those that the data are learnt in.
    units: Option<&'a Units>,
    random: RandomSource,
    /// `[N, *event]`, in the field's dtype.
    data: Tensor,
    noise: Option<Tensor>,
    condition: Option<Tensor>,
    /// Decides which labels are hidden.
    hidden: RandomSource,
    log: LossLog,
}

impl Teaching<'_> {
    /// Puts the next portion in the place of the data; batches count on from `step`.
    fn refill(&mut self, step: u64) -> Result<()> {
        let Some(portions) = &mut self.portions else { return Ok(()) };
        let (data, condition) = portions.portion()?;
        let (size, known) = (data.size(), self.data.size());
        if size.get(1..) != known.get(1..) {
            return Err(Error::shape(
                "data",
                format!("samples as in {}", shape_text(&known)),
                shape_text(&size),
            ));
        }
        check_data(self.config, &data, None)?;
        self.config.conditioning.check(condition.as_ref(), size[0])?;
        let standard = self.units.map(|units| units.standard_data(&data)).transpose()?;
        let data = standard.unwrap_or(data);
        let pairs = self.random.fork("teacher pairs");
        let pool = self.pool.as_ref();
        self.stream = pair_stream(self.config, &data, condition.as_ref(), pool, step, pairs)?;
        self.left = batches(&data, decided("batch_size", self.config.training.batch_size)?);
        let device = self.data.device();
        self.data = at_home(&data, self.data.kind(), device);
        self.condition = condition.map(|c| c.detach().to_device(device));
        Ok(())
    }
}

/// Number of batches of one pass over `data`.
fn batches(data: &Tensor, batch_size: i64) -> u64 {
    (data.size()[0] as u64).div_ceil(batch_size as u64)
}

impl Step for Teaching<'_> {
    const STAGE: &'static str = "teacher";
    const MEASURED: bool = false;

    fn gradient(&mut self, state: &mut State<'_>, monitor: &mut dyn Monitor) -> Result<Gradient> {
        if self.left == 0 {
            self.refill(state.ledger.step)?;
        }
        self.left -= 1;
        let deadline = state.budget.deadline();
        let Some(batch) = self.stream.watched(&mut Until::new(monitor, deadline)).transpose()? else {
            return Err(Error::Internal(anyhow::anyhow!("pairs ran out before the steps did")));
        };
        let step = state.ledger.step;
        let device = self.field.parameters().device();
        let mut pairs = to_pairs(&batch, &self.data, self.noise.as_ref(), self.condition.as_ref(), device)?;
        let labels = pairs.condition.take();
        pairs.condition = labels
            .map(|labels| hide(labels, self.config, &mut self.hidden.fork_numbered("", step)))
            .transpose()?;
        let mask = || dropout::Training::with(self.config.training.seed, step);
        let average = state.current()?;
        let loss =
            tch::with_grad(|| self.objective.loss(&pairs, self.config.path, &average, state.done(), mask))?;
        let flat = self.field.parameters().gradient(&loss)?;
        Ok(Gradient { flat, losses: vec![loss.detach()] })
    }

    fn losses(&mut self) -> Option<&mut LossLog> {
        Some(&mut self.log)
    }

    fn save(&mut self, state: &State<'_>, plan: &Checkpointing, stopped: Stopped) -> Result<()> {
        let (config, field, loss) = (self.config, self.field, self.log.state()?);
        Snapshot { config, field, state, loss }.save(plan, stopped)
    }
}

/// Some of the labels replaced by the null label, the number of classes; vectors as they are.
fn hide(condition: Tensor, config: &TeacherConfig, random: &mut RandomSource) -> Result<Tensor> {
    let Conditioning::Labels { classes } = config.conditioning else { return Ok(condition) };
    if config.label_dropout == 0.0 {
        return Ok(condition);
    }
    let draw = random.uniform(&condition.size(), Kind::Float, condition.device())?;
    Ok(condition.f_masked_fill(&draw.f_lt(config.label_dropout)?, classes)?)
}

/// A batch in the dtype of the data and on `device`.
fn to_pairs(
    batch: &PairBatch,
    data: &Tensor,
    noise: Option<&Tensor>,
    condition: Option<&Tensor>,
    device: Device,
) -> Result<Pairs> {
    let x1 = batch.rows(data)?.to_device(device);
    let x0 = batch.noise_for(&x1, noise)?;
    let t = Tensor::from_slice(&batch.times).to_device(device).to_kind(x1.kind());
    let condition = condition.map(|c| batch.conditions(c)).transpose()?;
    Ok(Pairs { t, x0, x1, condition })
}
