//! Points of the teacher's own probability path, x_t = a_t x1 + s_t x0, with noise and data paired as in the
//! teacher's training. They need no ODE solver, and their marginals are those of the flow.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use super::{Coupling, PairBatch, PairSource, PairStream, Points};
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};
use crate::nets::InputCoordinates;
use crate::ode;
use crate::tensor::{at_home, check_batch, RandomSource, Share};
use crate::velocity::{Path, VelocityField};

/// Options for drawing points of a path.
#[derive(Debug, Clone, Copy)]
pub struct PathPlan {
    pub coupling: Coupling,
    pub path: Path,
    /// Largest number of pairs in one assignment. A smaller batch is one assignment.
    pub coupling_size: usize,
    /// Whether each row of the data is mirrored with probability one half, as in the teacher's training. Only
    /// for images.
    pub flip: bool,
    pub seed: u64,
    /// Dtype and device of the points.
    pub kind: Kind,
    pub device: Device,
}

/// At most one in eight data rows, and at most 512, are held out.
const HELD_OUT_SHARE: i64 = 8;
const HELD_OUT_ROWS: i64 = 512;
/// Number of held-out points, and of points at each time of the table of input coordinates.
const HELD_OUT_POINTS: usize = 512;
const TABLE_POINTS: usize = 4096;
const TABLE_COUPLING: usize = 256;

/// Data `[N, *event]` with their conditions and with their noise, if it is given. `pool` holds samples of the
/// source of a flow that does not start from standard normal noise.
#[derive(Debug)]
struct Rows {
    data: Tensor,
    noise: Option<Tensor>,
    pool: Option<Tensor>,
    condition: Option<Tensor>,
}

impl Rows {
    fn pick(&self, index: &Tensor) -> Rows {
        let pick = |x: &Tensor| x.index_select(0, &index.to_device(x.device()));
        Rows {
            data: pick(&self.data),
            noise: self.noise.as_ref().map(pick),
            pool: self.pool.shallow_clone(),
            condition: self.condition.as_ref().map(pick),
        }
    }
}

/// Batches that are prepared ahead, and the steps for which they are prepared.
struct Ahead {
    random: RandomSource,
    batch_size: i64,
    next: u64,
    stream: PairStream,
}

/// Source of points of the teacher's probability path.
pub struct PathPoints {
    plan: PathPlan,
    conditioning: Conditioning,
    training: Rows,
    held_out: Rows,
    ahead: RefCell<Option<Ahead>>,
}

impl PathPoints {
    /// Points between noise and `data` `[N, *event]` for `teacher`. `noise` is the noise of each row, for a
    /// teacher that was trained on given pairs. `condition` is the condition of each row, for a conditional
    /// teacher. An eighth of the rows, at most 512, is held out for [`PathPoints::held_out`]. With fewer than
    /// 16 rows none is held out; held-out points then differ from training points only in noise and times.
    ///
    /// # Errors
    /// An error that names `data`, `noise` or `condition` if they do not fit the teacher or each other.
    pub fn new(
        teacher: &dyn VelocityField,
        data: &Tensor,
        noise: Option<&Tensor>,
        condition: Option<&Tensor>,
        plan: PathPlan,
    ) -> Result<Self> {
        let count = check_batch("data", data, teacher.event_shape())?;
        if plan.coupling == Coupling::Given && noise.is_none() {
            let expected = "none for a teacher of given pairs, unless noise is given too";
            return Err(Error::argument("data", expected, "an array"));
        }
        plan.coupling.check_noise(data, noise, plan.flip)?;
        let conditioning = teacher.conditioning();
        conditioning.check(condition, count)?;
        let data = at_home(data, plan.kind, plan.device);
        let noise = noise.map(|noise| at_home(noise, plan.kind, plan.device));
        let start = teacher.source();
        let pool = match start.is_normal() {
            true => None,
            false => {
                let mut random = RandomSource::new(plan.seed).fork("source");
                Some(ode::pool(&start, teacher.event_shape(), &mut random, &mut Silent)?)
            }
        };
        let all = Rows { data, noise, pool, condition: condition.map(|c| c.detach().to_device(plan.device)) };
        let order = RandomSource::new(plan.seed).fork("held-out data").permutation(count, plan.device);
        let kept = if count < 16 { 0 } else { (count / HELD_OUT_SHARE).min(HELD_OUT_ROWS) };
        let training = all.pick(&order.narrow(0, kept, count - kept));
        let held_out = if kept == 0 { all } else { all.pick(&order.narrow(0, 0, kept)) };
        Ok(PathPoints { plan, conditioning, training, held_out, ahead: RefCell::new(None) })
    }

    /// The points of one step, at times spread evenly over [0, 1). They are a pure function of the source's
    /// seed, the step and the batch size. Batches of later steps are prepared in the background. The monitor
    /// is called while this batch is awaited.
    pub fn batch(
        &self,
        random: &RandomSource,
        step: u64,
        batch_size: i64,
        monitor: &mut dyn Monitor,
    ) -> Result<Points> {
        let mut ahead = self.ahead.borrow_mut();
        let fits =
            |ahead: &Ahead| (&ahead.random, ahead.batch_size, ahead.next) == (random, batch_size, step);
        let mut current = match ahead.take().filter(fits) {
            Some(current) => current,
            None => {
                let source =
                    source(&self.plan, &self.training, batch_size as usize, random.fork("path points"))?;
                let stream = PairStream::new(source, step, u64::MAX)?;
                Ahead { random: random.clone(), batch_size, next: step, stream }
            }
        };
        let lost = || Error::Internal(anyhow::anyhow!("the stream of pairs ended"));
        let pairs = current.stream.watched(monitor).ok_or_else(lost)??;
        current.next += 1;
        *ahead = Some(current);
        let t = Tensor::from_slice(&pairs.times).to_kind(self.plan.kind).to_device(self.plan.device);
        self.points(&self.training, &pairs, t)
    }

    /// Held-out points: data, noise and times that training does not use. They are the same at every call.
    pub fn held_out(&self) -> Result<Points> {
        let random = RandomSource::new(self.plan.seed).fork("held-out points");
        let pairs = source(&self.plan, &self.held_out, HELD_OUT_POINTS, random)?.batch(0)?;
        let t = Tensor::from_slice(&pairs.times).to_kind(self.plan.kind).to_device(self.plan.device);
        self.points(&self.held_out, &pairs, t)
    }

    /// The table of input coordinates, measured on a few thousand points at each of its `times`.
    pub fn coordinates(&self, times: i64, images: Option<&[i64]>) -> Result<InputCoordinates> {
        let random = RandomSource::new(self.plan.seed).fork("input coordinates");
        // A table of means needs no larger assignments.
        let plan = PathPlan { coupling_size: self.plan.coupling_size.min(TABLE_COUPLING), ..self.plan };
        let pairs = source(&plan, &self.training, TABLE_POINTS, random)?.batch(0)?;
        let PathPlan { kind, device, .. } = self.plan;
        let at = |index: i64| {
            let t = index as f64 / (times - 1).max(1) as f64;
            let t = Tensor::full([TABLE_POINTS as i64], t, (kind, device));
            Ok(self.points(&self.training, &pairs, t)?.x)
        };
        match images {
            Some(shape) => InputCoordinates::of_channels(shape, times, at, kind, device),
            None => InputCoordinates::from_samples(times, at, kind, device),
        }
    }

    /// The points of `pairs` at times `t` `[B]`.
    fn points(&self, rows: &Rows, pairs: &PairBatch, t: Tensor) -> Result<Points> {
        let PathPlan { path, kind, device, .. } = self.plan;
        let x1 = pairs.rows(&rows.data)?.to_device(device);
        let x0 = pairs.noise_for(&x1, rows.noise.as_ref())?;
        let condition = rows.condition.as_ref().map(|c| pairs.conditions(c)).transpose()?;
        let x = path.sample(&t, &x0, &x1)?.f_flatten(1, -1)?;
        let encoded = self.conditioning.encode(condition.as_ref(), kind);
        Ok(Points { t, x, condition: encoded, teacher_condition: condition })
    }
}

fn source(plan: &PathPlan, rows: &Rows, batch_size: usize, random: RandomSource) -> Result<PairSource> {
    let PathPlan { coupling, coupling_size, .. } = *plan;
    let mut source =
        PairSource::new(&rows.data, rows.condition.as_ref(), coupling, batch_size, coupling_size, random)?;
    if let Some(pool) = &rows.pool {
        source = source.starting_from(pool)?;
    }
    if !plan.flip {
        return Ok(source);
    }
    source.with_flips(&rows.data.size()[1..])
}
