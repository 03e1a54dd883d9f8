//! Conditional flow matching: regression of v(t, x_t) on the velocity of the pair that x_t lies
//! between (Lipman et al., arXiv 2210.02747; with coupled pairs Tong et al., arXiv 2302.00482).

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::data::{PairBatch, PairSource, PairStream};
use crate::error::{Error, Result};
use crate::flow::config::TeacherConfig;
use crate::flow::history::TeacherHistory;
use crate::flow::objective::Pairs;
use crate::flow::resume::{Resumed, Snapshot, TrainingFiles};
use crate::monitor::{Monitor, Progress};
use crate::nets::dropout;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::{at_home, check_finite, parse_device, shape_text, RandomSource};
use crate::training::{clip_norm, Adam, Average, Budget, LossLog, Schedule, ScheduleKind, Stopped};
use crate::velocity::{Conditioning, NetworkField};

const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// Trains a velocity field on `data` `[N, *event]`; `condition` as `config.conditioning` says.
///
/// The field holds the averaged weights. An [`Error::Interrupted`] from the monitor and the end of
/// `max_seconds` stop training and still return the field. On a CPU, and without `max_seconds`, the
/// same configuration and data give the same field bit for bit.
///
/// # Errors
/// Names an option out of its range or an argument of a wrong shape, dtype or with values that are
/// not finite; [`Error::Divergence`] where the loss stops being finite; any other error of the
/// monitor.
pub fn train(
    config: &TeacherConfig,
    data: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<(NetworkField, TeacherHistory)> {
    train_with_files(config, data, None, condition, &TrainingFiles::default(), monitor)
}

/// [`train`] that writes its state into a file, or goes on from one: on a CPU bit for bit as if it had
/// never been cut. `noise` `[N, *event]` is that of each row, for [`crate::data::Coupling::Given`].
///
/// # Errors
/// As [`train`] and [`crate::data::Coupling::check_noise`]; [`Error::Checkpoint`] or [`Error::Io`] for a bad file,
/// [`Error::Argument`] for options or data that are not those of the resumed one.
pub fn train_with_files(
    config: &TeacherConfig,
    data: &Tensor,
    noise: Option<&Tensor>,
    condition: Option<&Tensor>,
    files: &TrainingFiles,
    monitor: &mut dyn Monitor,
) -> Result<(NetworkField, TeacherHistory)> {
    config.check()?;
    let device = parse_device(&config.device)?;
    let size = data.size();
    if size.len() < 2 || data.numel() == 0 {
        return Err(Error::shape("data", "(N, *event) with N at least 1", shape_text(&size)));
    }
    check_finite("data", data)?;
    config.coupling.check_noise(data, noise, config.flip)?;
    let config = config.resolve(&size[1..]);
    let (steps, peak) = match (config.steps, config.learning_rate) {
        (Some(steps), Some(rate)) => (steps, rate),
        _ => return Err(Error::Internal(anyhow::anyhow!("an option was left open"))),
    };
    let random = RandomSource::new(config.seed);
    let network = config.network(&size[1..]);
    let field = NetworkField::new(network, data, condition, device, &mut random.fork("teacher weights"))?;
    let hidden = random.fork("hidden labels");
    let random = random.fork("teacher pairs");
    let mut pairs =
        PairSource::new(data, condition, config.coupling, config.batch_size, config.coupling_size, random)?;
    if config.flip {
        pairs = pairs.with_flips(&size[1..])?;
    }
    let resumed = files.resume.as_ref().map(|path| Resumed::read(path, &config)).transpose()?;
    let mut step = resumed.as_ref().map_or(0, |resumed| resumed.ledger.step);
    let stream = PairStream::new(pairs, step, steps)?;
    let _threads =
        IntraOpThreads::for_work(field.parameters().count(), config.batch_size as i64 * field.reuse());

    let parameters = field.parameters();
    let dtype = parameters.kind();
    let data = at_home(data, dtype, device);
    let noise = noise.map(|noise| at_home(noise, dtype, device));
    let condition = condition.map(|c| c.detach().to_device(device));
    let mut optimizer = Adam::new(parameters, config.optimizer, config.weight_decay)?;
    let mut average = Average::new(parameters, config.ema_decay)?;
    let objective = config.objective.over(&field)?;
    let schedule = Schedule::new(ScheduleKind::Cosine, peak, config.warmup_steps);
    let spent = resumed.as_ref().map_or(0.0, |resumed| resumed.ledger.seconds);
    let budget = Budget::new(steps, config.max_seconds).resumed(spent);
    let mut log = LossLog::new("the teacher", config.log_every);
    if let Some(resumed) = resumed {
        log.restore(resumed.ledger.loss.clone());
        resumed.restore(&field, &mut optimizer, &mut average)?;
    }
    let mut written = spent;
    let mut reported = Instant::now();
    let mut stopped = Stopped::Completed;
    for batch in stream {
        let mut pairs = to_pairs(&batch?, &data, noise.as_ref(), condition.as_ref(), device)?;
        let labels = pairs.condition.take();
        pairs.condition =
            labels.map(|labels| hide(labels, &config, &mut hidden.fork_numbered("", step))).transpose()?;
        let mask = || dropout::Training::with(config.seed, step);
        let done = step as f64 / steps as f64;
        let loss = tch::with_grad(|| objective.loss(&pairs, config.path, average.value(), done, mask))?;
        let mut gradient = parameters.gradient(&loss)?;
        let _ = clip_norm(&mut gradient, config.clip_norm)?;
        let rate = schedule.rate(step, budget.done(step));
        optimizer.step(parameters, &gradient, rate)?;
        average.update(parameters)?;
        log.push(&loss)?;
        step += 1;

        let mut watched = monitor.tick();
        if watched.is_ok() && (reported.elapsed() >= REPORT_INTERVAL || step == steps) {
            reported = Instant::now();
            let loss = log.since_report()?;
            watched = monitor.report(&Progress {
                stage: "teacher",
                step,
                total: steps,
                seconds: budget.seconds(),
                values: vec![("loss".into(), loss), ("learning_rate".into(), rate)],
            });
        }
        match watched {
            Ok(()) => {}
            Err(Error::Interrupted(_)) => {
                stopped = Stopped::Interrupted;
                break;
            }
            Err(error) => return Err(error),
        }
        if step < steps && budget.exhausted() {
            stopped = Stopped::Budget;
            break;
        }
        if let Some(plan) = files.checkpoint.as_ref().filter(|p| p.due(step, budget.seconds() - written)) {
            let (loss, seconds) = (log.state()?, budget.seconds());
            let (config, field, optimizer, average) = (&config, &field, &optimizer, &average);
            let snapshot = Snapshot { config, field, optimizer, average, step, seconds, loss };
            // A file that is read later tells of a run that was cut.
            snapshot.save(plan, Stopped::Interrupted)?;
            written = budget.seconds();
        }
    }
    if let Some(plan) = &files.checkpoint {
        let (loss, seconds) = (log.state()?, budget.seconds());
        let (config, field, optimizer, average) = (&config, &field, &optimizer, &average);
        Snapshot { config, field, optimizer, average, step, seconds, loss }.save(plan, stopped)?;
    }
    let losses = log.close()?;
    tch::no_grad(|| parameters.flat()?.f_copy_(average.value()).map_err(Error::from))?;
    check_finite("teacher weights", &parameters.flat()?)
        .map_err(|error| Error::Divergence(error.to_string()))?;
    field.freeze();
    let history = TeacherHistory { steps: step, seconds: budget.seconds(), stopped, loss: losses, config };
    Ok((field, history))
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
