//! Coupled minibatches of what a flow starts from and of data.

use std::collections::BTreeMap;
use std::ops::Range;

use rand::seq::{index, SliceRandom};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use tch::{Kind, Tensor};

use super::coupling::{assign_until, Stop};
use super::prefetch::{Batches, Prefetch};
use super::Coupling;
use crate::error::{Error, Result};
use crate::tensor::{check_finite, shape_text, RandomSource};

/// One coupled minibatch of B pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct PairBatch {
    pub step: u64,
    /// `[B]`: the rows of the data set.
    pub indices: Vec<i64>,
    /// `[B]`: which of them are mirrored; empty for a source without flips.
    pub flipped: Vec<bool>,
    /// `[B, dim]`, row-major: the noise of each row, standard normal; empty where it is given with the data.
    pub noise: Vec<f32>,
    /// `[B]` in [0, 1): uniform, one in each of B equal intervals, which lowers the variance of the
    /// loss. A row's place says nothing about its data or its noise.
    pub times: Vec<f32>,
}

impl PairBatch {
    /// The batch's rows of `data` `[N, *event]`, mirrored along the last axis where the batch says so: on the
    /// data's device.
    ///
    /// # Errors
    /// [`Error::Torch`] where the data have fewer rows than the batch's source had.
    pub fn rows(&self, data: &Tensor) -> Result<Tensor> {
        let chosen = self.conditions(data)?;
        if self.flipped.is_empty() {
            return Ok(chosen);
        }
        let mut column = vec![1; data.dim()];
        column[0] = -1;
        let flipped = Tensor::from_slice(&self.flipped).to_device(data.device()).f_view(column.as_slice())?;
        Ok(chosen.f_flip([-1])?.f_where_self(&flipped, &chosen)?)
    }

    /// The noise of each row, of the shape, dtype and device of `x1` `[B, *event]`: the batch's own, or its rows of
    /// `given` `[N, *event]`.
    ///
    /// # Errors
    /// As [`PairBatch::rows`].
    pub fn noise_for(&self, x1: &Tensor, given: Option<&Tensor>) -> Result<Tensor> {
        let noise = match given {
            Some(noise) => self.conditions(noise)?,
            None => Tensor::from_slice(&self.noise),
        };
        Ok(noise.to_device(x1.device()).to_kind(x1.kind()).f_view(x1.size().as_slice())?)
    }

    /// The batch's rows of what nothing mirrors, `[N, ...]`: on its device.
    ///
    /// # Errors
    /// As [`PairBatch::rows`].
    pub fn conditions(&self, condition: &Tensor) -> Result<Tensor> {
        let indices = Tensor::from_slice(&self.indices).to_device(condition.device());
        Ok(condition.f_index_select(0, &indices)?)
    }
}

/// Source of coupled minibatches. Batch `step` depends on the seed and `step` alone.
pub struct PairSource {
    count: usize,
    dim: usize,
    batch_size: usize,
    /// The rows of a batch that are made, where other ranks make the rest.
    share: Range<usize>,
    /// The data `[count, dim]`, where the coupling looks at them.
    rows: Option<Vec<f32>>,
    /// Which condition each row has, by number.
    groups: Option<Vec<u32>>,
    /// Largest number of pairs in one assignment.
    coupling_size: usize,
    /// Whether the noise comes with the data.
    given: bool,
    /// Rows that stand for noise, `[M, dim]`, where a flow starts from something else.
    pool: Option<Vec<f32>>,
    /// Length of the last axis of a row, if rows are mirrored.
    flip_width: Option<usize>,
    random: RandomSource,
}

impl PairSource {
    /// Pairs for `data` `[N, *event]`; `condition` is `[N]` labels or `[N, dim]` vectors.
    ///
    /// Under optimal transport noise is exchanged only between rows of equal condition: an
    /// assignment across conditions would change the law of the noise given the condition, and a
    /// conditional flow is started from the standard normal law. (Distinct vectors are therefore
    /// coupled independently.) No assignment is larger than `coupling_size`; a batch is cut into
    /// parts of at most that size.
    ///
    /// # Errors
    /// Names the argument of a wrong shape, an empty set or values that are not finite.
    pub fn new(
        data: &Tensor,
        condition: Option<&Tensor>,
        coupling: Coupling,
        batch_size: usize,
        coupling_size: usize,
        random: RandomSource,
    ) -> Result<Self> {
        check_finite("data", data)?;
        let count = data.size().first().copied().unwrap_or(0) as usize;
        if count == 0 || data.numel() == 0 {
            return Err(Error::argument("data", "at least one sample", "an empty array"));
        }
        for (name, size) in [("batch_size", batch_size), ("coupling_size", coupling_size)] {
            if size == 0 {
                return Err(Error::argument(name, "at least 1", size));
            }
        }
        let dim = data.numel() / count;
        let (mut rows, mut groups) = (None, None);
        if coupling == Coupling::Ot {
            rows = Some(values(data)?);
            groups = condition.map(|c| number_conditions(c, count)).transpose()?;
        }
        let (given, flip_width) = (coupling == Coupling::Given, None);
        let pool = None;
        Ok(PairSource {
            count,
            dim,
            batch_size,
            share: 0..batch_size,
            rows,
            groups,
            coupling_size,
            given,
            pool,
            flip_width,
            random,
        })
    }

    /// The same source where rows of `pool` `[M, *event]`, each as likely as any other, take the place of noise.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `source` where the pool's rows are no samples.
    pub fn starting_from(self, pool: &Tensor) -> Result<Self> {
        let rows = pool.size().first().copied().unwrap_or(0) as usize;
        if rows == 0 || pool.numel() / rows != self.dim {
            let expected = format!("one or more rows of {} values", self.dim);
            return Err(Error::shape("source", expected, shape_text(&pool.size())));
        }
        Ok(PairSource { pool: Some(values(pool)?), ..self })
    }

    /// The same source of which one rank makes its rows of each batch alone, from the first one on: those that the whole
    /// batch would have there, coupled among themselves.
    pub fn with_share(self, (first, count): (i64, i64)) -> Self {
        PairSource { share: first as usize..(first + count) as usize, ..self }
    }

    /// The same source, but each row of a batch is mirrored with probability one half: images
    /// `[channels, height, width]`, left to right. Rows, noise and times stay what they were; the
    /// assignment is of the mirrored rows.
    ///
    /// # Errors
    /// [`Error::Argument`] where samples are not of three dimensions.
    pub fn with_flips(self, event_shape: &[i64]) -> Result<Self> {
        let &[_, _, width] = event_shape else {
            let got = shape_text(event_shape);
            return Err(Error::argument("flip", "samples of shape (channels, height, width)", got));
        };
        Ok(PairSource { flip_width: Some(width as usize), ..self })
    }

    /// Batch number `step`.
    pub fn batch(&self, step: u64) -> Result<PairBatch> {
        self.batch_until(step, &Stop::default())?
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("a batch was cancelled by nobody")))
    }

    /// What each of `size` rows starts from, `[size, dim]`; nothing where it comes with the data.
    fn noise(&self, size: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let values = if self.given { 0 } else { size * self.dim };
        let Some(pool) = &self.pool else { return (0..values).map(|_| rng.sample(StandardNormal)).collect() };
        let mut noise = Vec::with_capacity(values);
        while noise.len() < values {
            let row = rng.random_range(0..pool.len() / self.dim);
            noise.extend_from_slice(&pool[row * self.dim..][..self.dim]);
        }
        noise
    }

    /// Rows in random order, each as often as any other to within one.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::with_capacity(self.batch_size);
        for _ in 0..self.batch_size / self.count {
            chosen.extend(0..self.count);
        }
        chosen.extend(index::sample(rng, self.count, self.batch_size % self.count));
        chosen.shuffle(rng);
        chosen
    }

    /// The places of the batch whose noise may be exchanged: equal conditions, in parts of
    /// `coupling_size`.
    fn members(&self, chosen: &[usize]) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (place, &row) in chosen.iter().enumerate() {
            let group = self.groups.as_ref().map_or(0, |groups| groups[row]);
            groups.entry(group).or_default().push(place);
        }
        let parts = |places: Vec<usize>| places.chunks(self.coupling_size).map(<[usize]>::to_vec).collect();
        groups.into_values().flat_map(|places| -> Vec<Vec<usize>> { parts(places) }).collect()
    }
}

/// Coupled minibatches made ahead.
pub type PairStream = Prefetch<PairSource>;

impl Batches for PairSource {
    type Batch = PairBatch;

    fn batch_until(&self, step: u64, stop: &Stop) -> Result<Option<PairBatch>> {
        if stop.is_raised() {
            return Ok(None);
        }
        let mut rng = self.random.at(step);
        let size = self.batch_size;
        let mut chosen = self.draw(&mut rng);
        let noise = self.noise(size, &mut rng);
        let times = stratified(size, &mut rng);
        let mut flipped: Vec<bool> = match self.flip_width {
            Some(_) => (0..size).map(|_| rng.random()).collect(),
            None => Vec::new(),
        };
        let own = self.share.clone();
        let (mut chosen, times) =
            (chosen.drain(own.clone()).collect::<Vec<_>>(), times[own.clone()].to_vec());
        let width = if self.given { 0 } else { self.dim };
        let noise = noise[own.start * width..own.end * width].to_vec();
        flipped = flipped.get(own).map(<[bool]>::to_vec).unwrap_or_default();
        if let Some(rows) = &self.rows {
            let row_of = |table: &[f32], row: usize| table[row * self.dim..][..self.dim].to_vec();
            for members in self.members(&chosen) {
                let x0: Vec<f32> = members.iter().flat_map(|&member| row_of(&noise, member)).collect();
                let x1 = members.iter().flat_map(|&member| {
                    let mut row = row_of(rows, chosen[member]);
                    if let Some(width) = self.flip_width.filter(|_| flipped[member]) {
                        row.chunks_exact_mut(width).for_each(<[f32]>::reverse);
                    }
                    row
                });
                let x1: Vec<f32> = x1.collect();
                let Some(partner) = assign_until(&x0, &x1, self.dim, stop)? else { return Ok(None) };
                exchange(&mut chosen, &members, &partner);
                if self.flip_width.is_some() {
                    exchange(&mut flipped, &members, &partner);
                }
            }
        }
        let indices = chosen.into_iter().map(|row| row as i64).collect();
        Ok(Some(PairBatch { step, indices, flipped, noise, times }))
    }
}

/// `size` times in [0, 1): uniform, one in each of as many equal intervals.
pub(super) fn stratified(size: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    // The last float below an integer may round up to it, hence the cap.
    let last = 1.0 - f32::EPSILON;
    (0..size).map(|i| ((i as f32 + rng.random::<f32>()) / size as f32).min(last)).collect()
}

/// Gives the place `members[i]` what `members[partner[i]]` had.
pub(super) fn exchange<T: Copy>(places: &mut [T], members: &[usize], partner: &[usize]) {
    let paired: Vec<T> = partner.iter().map(|&p| places[members[p]]).collect();
    members.iter().zip(paired).for_each(|(&member, value)| places[member] = value);
}

/// A tensor's values, row-major.
pub(super) fn values(x: &Tensor) -> Result<Vec<f32>> {
    let flat = x.to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous().f_view([-1])?;
    Ok(Vec::<f32>::try_from(&flat)?)
}

/// Numbers equal conditions equally.
fn number_conditions(condition: &Tensor, count: usize) -> Result<Vec<u32>> {
    let size = condition.size();
    if size.first() != Some(&(count as i64)) {
        return Err(Error::shape("condition", format!("({count}, ...)"), shape_text(&size)));
    }
    let (_, inverse, _) = condition.f_unique_dim(0, true, true, false)?;
    let inverse = Vec::<i64>::try_from(&inverse.to_device(tch::Device::Cpu))?;
    Ok(inverse.into_iter().map(|group| group as u32).collect())
}
