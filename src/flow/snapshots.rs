//! Teachers of snapshots: flows that carry a population through snapshots of it (Huguet et al., "Manifold
//! interpolating optimal-transport flows for trajectory inference", arXiv 2206.14928). They are trained by
//! regression (Tong et al., arXiv 2302.00482, for two snapshots). Curves connect the rows of the snapshots
//! along the plans, and the velocity at x_t is the mean velocity of the curves through x_t. If mass grows,
//! means are weighted by mass, and the growth rate is such a mean too (Wang et al., "Joint velocity-growth
//! flow matching", arXiv 2505.13413).

use super::config::TeacherConfig;
use super::feed::{Feed, PointFeed};
use super::history::TeacherHistory;
use super::resume::{Resumed, TrainingFiles};
use super::times::TimeSampler;
use super::trainer::teach;
use super::Objective;
use crate::data::{Prefetch, Snapshots};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::RandomSource;
use crate::training::decided;
use crate::velocity::{Conditioning, NetworkField, NetworkFieldConfig, Path, Source};

/// Trains a velocity field from the first snapshot, at time 0, to the last, at time 1.
///
/// # Errors
/// An error that names an option out of range or not supported for snapshots; otherwise as
/// [`super::train_with_files`].
pub fn train_on_snapshots(
    config: &TeacherConfig,
    snapshots: &Snapshots,
    files: &TrainingFiles,
    monitor: &mut dyn Monitor,
) -> Result<(NetworkField, TeacherHistory)> {
    config.check()?;
    check(config)?;
    let event_shape = snapshots.event_shape();
    let config = config.resolve(&event_shape);
    let home = config.training.place()?;
    let random = RandomSource::new(config.training.seed);
    let resumed = files.resume.as_ref().map(|path| Resumed::read(path, &config)).transpose()?;
    // Both ends use the moments of all snapshots, because a population may be wider between its ends.
    let all = snapshots.all_rows()?;
    let (curves, growth) = (true, snapshots.grows());
    let network = NetworkFieldConfig { curves, growth, ..config.network(&event_shape) };
    let mut field = NetworkField::new(network, &all, None, home.1, &mut random.fork("teacher weights"))?
        .starting_from(Source::rows(&snapshots.sets()[0], &event_shape)?, &all)?;
    if let Some(rates) = snapshots.rates() {
        field = field.growing_like(&rates);
    }
    let step = resumed.as_ref().map_or(0, |resumed| resumed.ledger.run.step);
    let batch_size = decided("batch_size", config.training.batch_size)? as usize;
    let chains = snapshots.chains(batch_size, random.fork("teacher chains"))?;
    let stream = Prefetch::new(chains, step, decided("steps", config.training.steps)?)?;
    let feed = Feed::Points(PointFeed { stream, event_shape, home, world: monitor.world().clone() });
    teach(&config, field, feed, resumed, files, monitor)
}

/// Checks the options that the snapshots fix.
fn check(config: &TeacherConfig) -> Result<()> {
    if config.path != Path::Linear {
        return Err(Error::argument("path", "'linear' for snapshots", format!("{:?}", config.path)));
    }
    if config.objective != Objective::FlowMatching {
        let got = format!("{:?}", config.objective);
        return Err(Error::argument("objective", "flow matching for snapshots", got));
    }
    if config.conditioning != Conditioning::None {
        return Err(Error::argument("conditioning", "none for snapshots", "labels or vectors"));
    }
    if config.time_sampler != TimeSampler::Uniform {
        let got = format!("{:?}", config.time_sampler);
        return Err(Error::argument("time_sampler", "'uniform' for snapshots", got));
    }
    if config.flip {
        return Err(Error::argument("flip", "false for snapshots", true));
    }
    if config.augment > 0.0 {
        return Err(Error::argument("augment", "0 for snapshots", config.augment));
    }
    Ok(())
}
