//! The fit of a forecaster.

use std::ops::Range;
use std::time::Instant;

use tch::Device;

use super::fitting::{Fitting, Parts};
use super::solve::logarithm;
use super::start::sizes;
use super::{gradient, noise, refine};
use super::{Forecaster, ForecasterConfig, ForecasterHistory, Method};
use crate::data::Observed;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::RandomSource;

/// Fits the observables of `config` and their evolution to `data`, whose rows are events of shape `event_shape`.
///
/// The same data, options and device give the same model. An interrupt ends the gradient steps of [`Method::Gradient`]
/// or the rounds of [`Method::Refine`] and keeps the best model so far. If there is none yet, it is an error. Progress
/// is reported under the stages `"choose"`, `"fit"`, `"refine"` and `"forecaster"`.
///
/// # Errors
/// Errors naming an option out of its range, or `paths` if there are too few or they are too short;
/// [`Error::Divergence`] if observables are not finite.
pub fn fit(
    config: &ForecasterConfig,
    data: &Observed,
    event_shape: &[i64],
    monitor: &mut dyn Monitor,
) -> Result<(Forecaster, ForecasterHistory)> {
    let begun = Instant::now();
    config.check()?;
    let sizes = sizes(config, data, event_shape)?;
    if data.spacing().is_none() && config.history > 1 {
        let got = format!("{} with irregular times", config.history);
        return Err(Error::argument("history", "1 for irregular times", got));
    }
    let random = RandomSource::new(config.training.seed);
    let least = config.history as usize + 1;
    // Called first, so that coordinates that were never observed are reported before other problems.
    data.statistics()?;
    let [train, held] = data.split(config.held_out, least, &mut random.fork("held-out paths"));
    let tells = |ranges: &[Range<usize>]| match data.spacing() {
        Some(_) => !data.segments(ranges, least).is_empty(),
        None => ranges.iter().any(|rows| rows.clone().filter(|row| data.seen_whole(*row)).count() > 2),
    };
    // Nothing is held out if the remaining rows are not enough for a fit.
    let parts = match tells(&train) {
        true => Parts { train, held },
        false => Parts { train: data.ranges(), held: Vec::new() },
    };
    let mut history = ForecasterHistory {
        paths: data.paths(),
        rows: data.rows(),
        held_out_rows: parts.held.iter().map(Range::len).sum(),
        stopped: "completed".into(),
        ..ForecasterHistory::default()
    };
    let mut fitting =
        Fitting { config: config.clone(), sizes, data, parts, history: &mut history, monitor, begun };
    let mut model = fitting.closed_form()?;
    match config.method {
        Method::ClosedForm => {}
        Method::Refine => model = refine::refine(model, &mut fitting)?,
        Method::Gradient => model = gradient::train(model, &mut fitting)?,
    }
    finish(&mut fitting, &mut model)?;
    history.seconds = begun.elapsed().as_secs_f64();
    Ok((model, history))
}

/// The last steps of a fit: the generator, the gain and the noise.
fn finish(fitting: &mut Fitting<'_>, model: &mut Forecaster) -> Result<()> {
    if !model.facts.continuous {
        match logarithm(&model.evolution.transition.to_device(Device::Cpu), model.facts.step)? {
            Ok(generator) => {
                model.evolution.generator = Some(generator.to_device(model.device()));
                fitting.history.generator = None;
            }
            Err(why) => fitting.history.generator = Some(why),
        }
    }
    if fitting.config.method != Method::Refine {
        model.learn_gain(fitting.data, &fitting.data.ranges())?;
    }
    if fitting.config.noise.is_none() && model.facts.noise == 0.0 {
        let ranges = match fitting.parts.held.is_empty() {
            true => &fitting.parts.train,
            false => &fitting.parts.held,
        };
        let found = noise::estimate(model, fitting.data, ranges, fitting.monitor)?;
        (model.facts.noise, fitting.history.noise) = (found.unwrap_or(0.0), found);
    } else {
        fitting.history.noise = Some(model.facts.noise);
    }
    Ok(())
}
