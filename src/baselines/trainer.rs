//! The loop that all baselines share: trajectories, gradient steps, the averaged weights in the end.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Baseline, BaselineConfig, Source};
use crate::data::{Inputs, TrajectoryPlan};
use crate::distill::DistillConfig;
use crate::distill::{check_inputs, stored_trajectories};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::{check_finite, parse_device, parse_dtype, RandomSource};
use crate::training::{
    clip_norm, Adam, Average, Budget, LossLog, Optimizer, Schedule, ScheduleKind, Stopped,
};
use crate::velocity::VelocityField;

/// What happened while a baseline was fitted.
#[derive(Debug, Clone, Serialize)]
pub struct BaselineHistory {
    /// Steps taken.
    pub steps: u64,
    /// Of the whole fit.
    pub seconds: f64,
    pub trajectory_seconds: f64,
    /// Stored trajectories.
    pub trajectories: i64,
    pub teacher_evaluations: u64,
    pub stopped: Stopped,
    /// (steps done, mean loss over the steps since the entry before).
    pub loss: Vec<(u64, f64)>,
}

const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// Steps that one entry of the history averages over.
const LOG_EVERY: u64 = 50;

/// Distils `teacher`: solves its trajectories, or takes those of the inputs' file, and trains the networks of
/// `config.method` on them. Of `inputs`, conditions and the trajectory file are used.
///
/// The result holds the averaged weights. An interrupt after training began and the end of `max_seconds` still
/// return it; the learning rate follows the clock where that is ahead of the steps. On a CPU, and without
/// `max_seconds`, the same configuration and teacher give the same weights bit for bit.
///
/// # Errors
/// Names an option or input out of its range; [`Error::Divergence`] where the loss stops being finite;
/// [`Error::Checkpoint`] or [`Error::Io`] for a bad trajectory file; whatever the teacher or the monitor raises.
pub fn fit(
    teacher: &dyn VelocityField,
    config: &BaselineConfig,
    inputs: &Inputs,
    monitor: &mut dyn Monitor,
) -> Result<(Baseline, BaselineHistory)> {
    let started = Instant::now();
    let (event_shape, conditioning) = (teacher.event_shape(), teacher.conditioning());
    let config = config.with_defaults(event_shape, conditioning)?;
    let model = config.model(event_shape, conditioning)?;
    let (Some(count), Some(path_steps), Some(peak)) =
        (config.trajectories, config.path_steps, config.learning_rate)
    else {
        return Err(Error::Internal(anyhow::anyhow!("an option was left open")));
    };
    let (kind, device) = (parse_dtype(&config.dtype)?, parse_device(&config.device)?);
    let evaluations_before = teacher.evaluations();
    check_inputs(teacher, inputs)?;
    let (seed, max_seconds) = (config.seed, config.max_seconds);
    let plan = TrajectoryPlan { count, path_steps, seed, kind, device, max_seconds };
    let memory = DistillConfig::default().trajectory_memory;
    let trajectories = stored_trajectories(teacher, plan, memory, inputs, monitor)?;
    let trajectory_seconds = started.elapsed().as_secs_f64();

    let mut student = Baseline::new(model, seed, device)?;
    student.set_coordinates(trajectories.coordinates(None)?);
    let parameters = student.parameters();
    let random = RandomSource::new(seed).fork("baseline batches");
    let source = Source { teacher, trajectories: &trajectories, config: &config, random };
    // The schedule follows what trajectories have left of the clock.
    let steps = config.steps.unwrap_or(u64::MAX);
    let budget = Budget::new(steps, max_seconds.map(|limit| (limit - trajectory_seconds).max(1e-9)));
    let schedule = Schedule::new(ScheduleKind::Cosine, peak, config.warmup_steps);
    let mut optimizer = Adam::new(parameters, Optimizer::Adam, 0.0)?;
    let mut average = Average::new(parameters, config.ema_decay)?;
    let mut log = LossLog::new("the student", LOG_EVERY);
    let _threads = IntraOpThreads::for_work(parameters.count(), config.batch_size);
    let (mut step, mut reported) = (0, Instant::now());
    let stopped = loop {
        let loss = tch::with_grad(|| student.networks().loss(student.space(), &source, step))?;
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
            watched = monitor.report(&Progress {
                stage: "student",
                step,
                // Where only the clock counts, as many as it will probably allow.
                total: config.steps.unwrap_or((step as f64 / budget.done(step)) as u64).max(step),
                seconds: budget.seconds(),
                values: vec![("loss".into(), log.since_report()?), ("learning_rate".into(), rate)],
            });
        }
        match watched {
            Ok(()) => {}
            Err(Error::Interrupted(_)) => break Stopped::Interrupted,
            Err(error) => return Err(error),
        }
        if step == steps {
            break Stopped::Completed;
        }
        if budget.exhausted() {
            break Stopped::Budget;
        }
    };
    let loss = log.close()?;
    tch::no_grad(|| parameters.flat()?.f_copy_(average.value()).map_err(Error::from))?;
    check_finite("weights", &parameters.flat()?).map_err(|error| Error::Divergence(error.to_string()))?;
    let history = BaselineHistory {
        steps: step,
        seconds: started.elapsed().as_secs_f64(),
        trajectory_seconds,
        trajectories: trajectories.states().size()[0],
        teacher_evaluations: teacher.evaluations() - evaluations_before,
        stopped,
        loss,
    };
    Ok((student, history))
}
