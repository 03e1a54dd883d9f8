//! The training batches of a teacher: coupled rows, or points on curves through snapshots.

use tch::{Device, Kind, Tensor};

use super::config::TeacherConfig;
use super::given::check_data;
use super::objective::{Batch, Pairs, Points};
use crate::data::{Augmentation, Chains, PairBatch, PairSource, PairStream, PointBatch, Portions, Prefetch};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::{at_home, shape_text, RandomSource};
use crate::training::decided;
use crate::velocity::{Conditioning, Units};
use crate::world::World;

pub(super) enum Feed<'a> {
    Pairs(Box<PairFeed<'a>>),
    Points(PointFeed),
}

impl Feed<'_> {
    /// The batch of step number `step`.
    pub fn batch(&mut self, step: u64, monitor: &mut dyn Monitor) -> Result<Batch> {
        match self {
            Feed::Pairs(pairs) => pairs.batch(step, monitor).map(Batch::Pairs),
            Feed::Points(points) => points.batch(monitor).map(Batch::Points),
        }
    }
}

/// A stream of points on curves, in a dtype and on a device.
pub(super) struct PointFeed {
    pub stream: Prefetch<Chains>,
    pub event_shape: Vec<i64>,
    pub home: (Kind, Device),
    pub world: World,
}

impl PointFeed {
    fn batch(&mut self, monitor: &mut dyn Monitor) -> Result<Points> {
        let PointBatch { times, x, u, masses, rates } =
            self.stream.watched(monitor).unwrap_or_else(ran_out)?;
        let (kind, device) = self.home;
        let at_home = |values: &[f32]| Tensor::from_slice(values).to_device(device).to_kind(kind);
        let mut shape = vec![-1];
        shape.extend(&self.event_shape);
        let states = |values: &[f32]| at_home(values).f_view(shape.as_slice());
        let growth = if rates.is_empty() { None } else { Some([at_home(&masses), at_home(&rates)]) };
        let (first, count) = self.world.share(times.len() as i64);
        let own = |x: Tensor| x.narrow(0, first, count);
        Ok(Points {
            t: own(at_home(&times)),
            x: own(states(&x)?),
            u: own(states(&u)?),
            growth: growth.map(|both| both.map(own)),
        })
    }
}

/// A stream of coupled rows. The data may come in portions.
pub(super) struct PairFeed<'a> {
    config: &'a TeacherConfig,
    stream: PairStream,
    /// Number of batches before the next portion of the data.
    left: u64,
    portions: Option<Box<dyn Portions>>,
    /// Samples of a source other than standard normal noise.
    pool: Option<Tensor>,
    /// Units in which the data are learnt.
    units: Option<&'a Units>,
    random: RandomSource,
    device: Device,
    /// Data `[N, *event]`, in the field's dtype.
    data: Tensor,
    noise: Option<Tensor>,
    condition: Option<Tensor>,
    /// Random source of the hidden labels.
    hidden: RandomSource,
    /// Random source of the augmentations.
    augmentations: RandomSource,
    world: World,
}

impl<'a> PairFeed<'a> {
    /// Batches from step number `step` on, in the dtype and on the device of training.
    pub fn new(
        config: &'a TeacherConfig,
        (data, condition, noise): (&Tensor, Option<&Tensor>, Option<&Tensor>),
        portions: Option<Box<dyn Portions>>,
        pool: Option<Tensor>,
        units: Option<&'a Units>,
        random: &RandomSource,
        (step, world): (u64, World),
    ) -> Result<Self> {
        let (dtype, device) = config.training.place()?;
        let batch_size = decided("batch_size", config.training.batch_size)?;
        let pairs = random.fork("teacher pairs");
        Ok(PairFeed {
            config,
            stream: pair_stream(config, data, condition, pool.as_ref(), step, (pairs, &world))?,
            left: portions.as_ref().map_or(u64::MAX, |_| batches(data, batch_size)),
            portions,
            pool,
            units,
            random: random.clone(),
            device,
            data: at_home(data, dtype, device),
            noise: noise.map(|noise| at_home(noise, dtype, device)),
            condition: condition.map(|c| c.detach().to_device(device)),
            hidden: random.fork("hidden labels"),
            augmentations: random.fork("augmentations"),
            world,
        })
    }

    fn batch(&mut self, step: u64, monitor: &mut dyn Monitor) -> Result<Pairs> {
        if self.left == 0 {
            self.refill(step)?;
        }
        self.left -= 1;
        let batch = self.stream.watched(monitor).unwrap_or_else(ran_out)?;
        let mut pairs =
            to_pairs(&batch, &self.data, self.noise.as_ref(), self.condition.as_ref(), self.device)?;
        let labels = pairs.condition.take();
        pairs.condition = labels
            .map(|labels| hide(labels, self.config, &mut self.hidden.fork_numbered("", step), &self.world))
            .transpose()?;
        pairs.t = self.config.time_sampler.times(&pairs.t)?;
        if self.config.augment > 0.0 {
            // After the assignment: one between images with different augmentations would change the law of the noise
            // given the augmentation, which the network is told, as one across conditions would.
            let whole = decided("batch_size", self.config.training.batch_size)?;
            let random = &mut self.augmentations.fork_numbered("", step);
            let (first, count) = self.world.share(whole);
            let drawn = Augmentation::draw(whole, self.config.augment, random)?.rows(first, count);
            pairs.x1 = drawn.apply(&pairs.x1)?;
            pairs.augmentation = Some(at_home(drawn.numbers(), pairs.x1.kind(), pairs.x1.device()));
        }
        Ok(pairs)
    }

    /// Replaces the data by the next portion, from step number `step` on.
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
        self.stream = pair_stream(self.config, &data, condition.as_ref(), pool, step, (pairs, &self.world))?;
        self.left = batches(&data, decided("batch_size", self.config.training.batch_size)?);
        let device = self.data.device();
        self.data = at_home(&data, self.data.kind(), device);
        self.condition = condition.map(|c| c.detach().to_device(device));
        Ok(())
    }
}

fn ran_out<T>() -> Result<T> {
    Err(Error::Internal(anyhow::anyhow!("the batches ended before the steps")))
}

/// Number of batches of one pass over `data`.
fn batches(data: &Tensor, batch_size: i64) -> u64 {
    (data.size()[0] as u64).div_ceil(batch_size as u64)
}

/// The stream of coupled rows from step number `step` on. Each rank couples its own rows.
fn pair_stream(
    config: &TeacherConfig,
    data: &Tensor,
    condition: Option<&Tensor>,
    pool: Option<&Tensor>,
    step: u64,
    (random, world): (RandomSource, &World),
) -> Result<PairStream> {
    let batch_size = decided("batch_size", config.training.batch_size)?;
    let share = world.share_of_batch(batch_size, 1)?;
    let size = batch_size as usize;
    let mut pairs = PairSource::new(data, condition, config.coupling, size, config.coupling_size, random)?;
    pairs = pairs.with_share(share);
    if let Some(pool) = pool {
        pairs = pairs.starting_from(pool)?;
    }
    if config.flip {
        pairs = pairs.with_flips(&data.size()[1..])?;
    }
    PairStream::new(pairs, step, decided("steps", config.training.steps)?)
}

/// Replaces some of the labels by the null label, which is the number of classes. Vectors are returned
/// unchanged.
fn hide(
    condition: Tensor,
    config: &TeacherConfig,
    random: &mut RandomSource,
    world: &World,
) -> Result<Tensor> {
    let Conditioning::Labels { classes } = config.conditioning else { return Ok(condition) };
    if config.label_dropout == 0.0 {
        return Ok(condition);
    }
    let whole = decided("batch_size", config.training.batch_size)?;
    let (first, count) = world.share(whole);
    let draw = random.uniform(&[whole], Kind::Float, condition.device())?.narrow(0, first, count);
    Ok(condition.f_masked_fill(&draw.f_lt(config.label_dropout)?, classes)?)
}

/// The tensors of a batch, in the dtype of the data and on `device`.
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
    Ok(Pairs { t, x0, x1, condition, augmentation: None })
}
