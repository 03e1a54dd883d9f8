//! Coupled minibatches of source samples and data.

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
    /// Row indices in the data set, `[B]`.
    pub indices: Vec<i64>,
    /// Whether each row is mirrored, `[B]`; empty for a source without flips.
    pub flipped: Vec<bool>,
    /// Noise of each row, `[B, dim]`, row-major; empty if noise is given with the data.
    pub noise: Vec<f32>,
    /// Times `[B]` in [0, 1), one uniform time in each of B equal intervals, which lowers the variance of the
    /// loss. The time of a row is independent of its data and its noise.
    pub times: Vec<f32>,
}

impl PairBatch {
    /// The batch's rows of `data` `[N, *event]`, on the data's device. Rows that `flipped` marks are mirrored
    /// along the last axis.
    ///
    /// # Errors
    /// [`Error::Torch`] if the data have fewer rows than the batch's source had.
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

    /// The noise of each row, in the shape, dtype and device of `x1` `[B, *event]`. It is the batch's own
    /// noise, or its rows of `given` `[N, *event]`.
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

    /// The batch's rows of `condition` `[N, ...]`, on its device. They are never mirrored.
    ///
    /// # Errors
    /// As [`PairBatch::rows`].
    pub fn conditions(&self, condition: &Tensor) -> Result<Tensor> {
        let indices = Tensor::from_slice(&self.indices).to_device(condition.device());
        Ok(condition.f_index_select(0, &indices)?)
    }
}

/// Source of coupled minibatches. Batch `step` depends only on the seed and `step`.
pub struct PairSource {
    count: usize,
    dim: usize,
    batch_size: usize,
    /// This rank's rows of a batch.
    share: Range<usize>,
    /// The data `[count, dim]`, if the coupling depends on them.
    rows: Option<Vec<f32>>,
    /// Number of the condition of each row.
    groups: Option<Vec<u32>>,
    /// Largest number of pairs in one assignment.
    coupling_size: usize,
    /// Whether noise is given with the data.
    given: bool,
    /// Source samples `[M, dim]` of a flow that does not start from standard normal noise.
    pool: Option<Vec<f32>>,
    /// Length of the last axis of a row, if rows are mirrored.
    flip_width: Option<usize>,
    random: RandomSource,
}

impl PairSource {
    /// Pairs for `data` `[N, *event]`; `condition` is `[N]` labels or `[N, dim]` vectors.
    ///
    /// Under optimal transport noise is exchanged only between rows of equal condition. An assignment across
    /// conditions would change the law of the noise given the condition, but a conditional flow starts from
    /// the standard normal law. Distinct condition vectors are therefore coupled independently. A batch is
    /// cut into assignments of at most `coupling_size` pairs.
    ///
    /// # Errors
    /// An error that names an argument with a wrong shape, without samples or with values that are not
    /// finite.
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

    /// The same source with uniformly random rows of `pool` `[M, *event]` in place of noise.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `source` if the pool is empty or its rows have another size than samples.
    pub fn starting_from(self, pool: &Tensor) -> Result<Self> {
        let rows = pool.size().first().copied().unwrap_or(0) as usize;
        if rows == 0 || pool.numel() / rows != self.dim {
            let expected = format!("one or more rows of {} values", self.dim);
            return Err(Error::shape("source", expected, shape_text(&pool.size())));
        }
        Ok(PairSource { pool: Some(values(pool)?), ..self })
    }

    /// The same source for one rank, which makes only its own rows of each batch (the first row and the
    /// number of rows). They are drawn as in the whole batch and coupled among themselves.
    pub fn with_share(self, (first, count): (i64, i64)) -> Self {
        PairSource { share: first as usize..(first + count) as usize, ..self }
    }

    /// The same source with images `[channels, height, width]` that are mirrored left to right, each with
    /// probability one half. Rows, noise and times are drawn as without mirroring; assignments use the
    /// mirrored rows.
    ///
    /// # Errors
    /// [`Error::Argument`] if samples do not have three dimensions.
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
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("a batch was cancelled unexpectedly")))
    }

    /// The noise or source sample of each of `size` rows, `[size, dim]`; empty if noise is given with the
    /// data.
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

    /// `batch_size` rows in random order. Their frequencies differ by at most one.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::with_capacity(self.batch_size);
        for _ in 0..self.batch_size / self.count {
            chosen.extend(0..self.count);
        }
        chosen.extend(index::sample(rng, self.count, self.batch_size % self.count));
        chosen.shuffle(rng);
        chosen
    }

    /// Sets of places in the batch within which noise may be exchanged: rows of equal condition, at most
    /// `coupling_size` in a set.
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

/// Coupled minibatches, prepared ahead.
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

/// `size` times in [0, 1), one uniform time in each of `size` equal intervals.
pub(super) fn stratified(size: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    // The last float below an integer may round up to it, hence the cap.
    let last = 1.0 - f32::EPSILON;
    (0..size).map(|i| ((i as f32 + rng.random::<f32>()) / size as f32).min(last)).collect()
}

/// Moves the value at `members[partner[i]]` to `members[i]`, for all i at once.
pub(super) fn exchange<T: Copy>(places: &mut [T], members: &[usize], partner: &[usize]) {
    let paired: Vec<T> = partner.iter().map(|&p| places[members[p]]).collect();
    members.iter().zip(paired).for_each(|(&member, value)| places[member] = value);
}

/// A tensor's values, row-major.
pub(super) fn values(x: &Tensor) -> Result<Vec<f32>> {
    let flat = x.to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous().f_view([-1])?;
    Ok(Vec::<f32>::try_from(&flat)?)
}

/// Gives each row the number of its condition. Equal conditions have equal numbers.
fn number_conditions(condition: &Tensor, count: usize) -> Result<Vec<u32>> {
    let size = condition.size();
    if size.first() != Some(&(count as i64)) {
        return Err(Error::shape("condition", format!("({count}, ...)"), shape_text(&size)));
    }
    let (_, inverse, _) = condition.f_unique_dim(0, true, true, false)?;
    let inverse = Vec::<i64>::try_from(&inverse.to_device(tch::Device::Cpu))?;
    Ok(inverse.into_iter().map(|group| group as u32).collect())
}
