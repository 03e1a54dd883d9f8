//! Conditional flow matching: regression of v(t, x_t) on the velocity of the pair whose path goes through x_t
//! (Lipman et al., arXiv 2210.02747; with coupled pairs Tong et al., arXiv 2302.00482).

use tch::Tensor;

use crate::error::Result;
use crate::flow::config::TeacherConfig;
use crate::flow::feed::{Feed, PairFeed};
use crate::flow::given::{check_data, Given};
use crate::flow::history::{Ledger, TeacherHistory};
use crate::flow::objective::{Loss, Objective};
use crate::flow::resume::{Resumed, Snapshot, TrainingFiles};
use crate::flow::warm_start::begin_with;
use crate::monitor::{Monitor, Until};
use crate::nets::dropout;
use crate::ode;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::RandomSource;
use crate::training;
use crate::training::{
    decided, Adam, Averages, Budget, Checkpointing, Exchange, Gradient, Loop, LossLog, Schedule,
    ScheduleKind, State, Step, Stopped,
};
use crate::velocity::{Moments, NetworkField, Units};
use crate::world::World;

/// Trains a velocity field on `data` `[N, *event]`, with a `condition` of the kind in `config.conditioning`.
///
/// The field holds the averaged weights. A step whose loss or gradient is not finite is skipped. After ten
/// such steps in a row, training returns to the last good weights and halves the learning rate. An
/// [`Error::Interrupted`] from the monitor, the end of `max_seconds` and too many restarts
/// ([`crate::training::Stopped::Diverged`], which callers may want to treat as an error) stop training and
/// still return the field. On a CPU and without `max_seconds`, the same configuration and data give the same
/// field bit for bit.
///
/// # Errors
/// An error that names an option out of range, or an argument of a wrong shape or dtype or with values that
/// are not finite; any error of the monitor except an interrupt.
pub fn train(
    config: &TeacherConfig,
    data: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<(NetworkField, TeacherHistory)> {
    train_with_files(config, Given::new(data, condition), &TrainingFiles::default(), monitor)
}

/// [`train`] with checkpoints, or resumed from one. On a CPU a resumed run gives the same field as an
/// uninterrupted one, bit for bit.
///
/// # Errors
/// As [`train`], [`crate::ode::draw`] and [`crate::data::Coupling::check_noise`]; [`Error::Argument`] for an
/// initial teacher of another shape, or for options or data that differ from those of the resumed run;
/// [`Error::Checkpoint`] or [`Error::Io`] for a bad file.
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
    // Standard coordinates exist only for paths between standard normal noise and data.
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
    let step = resumed.as_ref().map_or(0, |resumed| resumed.ledger.run.step);
    let world = monitor.world().clone();
    let pairs = PairFeed::new(
        &config,
        (data, condition, noise),
        portions,
        pool,
        units.as_ref(),
        &random,
        (step, world),
    )?;
    teach(&config, field, Feed::Pairs(Box::new(pairs)), resumed, files, monitor)
}

/// Trains `field`. `config` must have every default filled in.
pub(super) fn teach(
    config: &TeacherConfig,
    field: NetworkField,
    feed: Feed<'_>,
    resumed: Option<Resumed>,
    files: &TrainingFiles,
    monitor: &mut dyn Monitor,
) -> Result<(NetworkField, TeacherHistory)> {
    let spent = resumed.as_ref().map_or(0.0, |resumed| resumed.ledger.run.seconds);
    let world = monitor.world().clone();
    let mut state = begin(config, &field, spent, &world)?;
    let mut log = LossLog::new(config.log_every);
    if let Some(resumed) = resumed {
        resumed.restore(&field, &mut state, &mut log)?;
    }
    let batch_size = decided("batch_size", config.training.batch_size)?;
    let _threads = IntraOpThreads::for_work(field.parameters().count(), batch_size * field.reuse());
    let share = world.share_of_batch(batch_size, 1)?;
    let objective = config.objective.over(&field)?;
    let part = share.1 as f64 / batch_size as f64;
    let teaching = Teaching { config, field: &field, objective, feed, log, part };
    let mut run = Loop::new(teaching, state, &config.training, files.checkpoint.as_ref())?;
    let stopped = run.train(monitor)?;
    let Loop { step: mut teaching, state, .. } = run;
    let ledger = Ledger { run: state.closed_ledger(), loss: teaching.log.state()? };
    state.keep_average()?;
    let history = ledger.history(stopped, config);
    drop(teaching);
    let field = field.without_augmentation()?;
    field.freeze();
    Ok((field, history))
}

/// The state of a new run, `spent` seconds of whose budget are already spent.
fn begin<'a>(
    config: &TeacherConfig,
    field: &'a NetworkField,
    spent: f64,
    world: &World,
) -> Result<State<'a>> {
    let options = &config.training;
    let peak = decided("learning_rate", options.learning_rate)?;
    let schedule = Schedule::new(ScheduleKind::Cosine, peak, options.warmup_steps);
    let parameters = field.parameters();
    Ok(State {
        parameters,
        optimiser: Adam::new(parameters, options.optimizer, options.weight_decay)?,
        averages: Averages::new(parameters, &[options.ema_decay])?,
        best: parameters.flat()?.copy(),
        ledger: training::Ledger::new(schedule),
        budget: Budget::new(decided("steps", options.steps)?, options.max_seconds).resumed(spent),
        exchange: Exchange::new(world, parameters),
    })
}

/// The trainer of teachers, as the training loop sees it.
struct Teaching<'a> {
    /// Options with every default filled in.
    config: &'a TeacherConfig,
    field: &'a NetworkField,
    objective: Loss<'a>,
    feed: Feed<'a>,
    log: LossLog,
    /// This rank's share of a batch, in (0, 1].
    part: f64,
}

impl Step for Teaching<'_> {
    const STAGE: &'static str = "teacher";
    const MEASURED: bool = false;

    fn gradient(&mut self, state: &mut State<'_>, monitor: &mut dyn Monitor) -> Result<Gradient> {
        let (step, deadline) = (state.ledger.step, state.budget.deadline());
        let batch = self.feed.batch(step, &mut Until::new(monitor, deadline))?;
        let world = state.exchange.world();
        let masks = step * world.size() as u64 + world.rank() as u64;
        let mask = || dropout::Training::with(self.config.training.seed, masks);
        let average = state.current()?;
        let loss =
            tch::with_grad(|| self.objective.loss(&batch, self.config.path, &average, state.done(), mask))?;
        // The ranks' losses add up to the mean over all rows.
        let loss = if self.part == 1.0 { loss } else { loss * self.part };
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
