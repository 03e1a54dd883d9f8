//! Coupled minibatches made ahead of the training step, on other threads.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;

use rand::seq::{index, SliceRandom};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::ThreadPool;
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::flow::coupling::{assign_until, Coupling, Stop};
use crate::tensor::{check_finite, shape_text, RandomSource};
use crate::threads;

/// One coupled minibatch of B pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct PairBatch {
    pub step: u64,
    /// `[B]`: the rows of the data set.
    pub indices: Vec<i64>,
    /// `[B, dim]`, row-major: the noise of each row, standard normal.
    pub noise: Vec<f32>,
    /// `[B]` in [0, 1): uniform, one in each of B equal intervals, which lowers the variance of the
    /// loss. A row's place says nothing about its data or its noise.
    pub times: Vec<f32>,
}

/// Where coupled minibatches come from. Batch `step` depends on the seed and `step` alone.
pub struct PairSource {
    count: usize,
    dim: usize,
    batch_size: usize,
    /// The data `[count, dim]`, where the coupling looks at them.
    rows: Option<Vec<f32>>,
    /// Which condition each row has, by number.
    groups: Option<Vec<u32>>,
    /// Pairs in one assignment, at most.
    coupling_size: usize,
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
        Ok(PairSource { count, dim, batch_size, rows, groups, coupling_size, random })
    }

    /// Batch number `step`.
    pub fn batch(&self, step: u64) -> Result<PairBatch> {
        self.batch_until(step, &Stop::default())?
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("a batch was cancelled by nobody")))
    }

    fn batch_until(&self, step: u64, stop: &Stop) -> Result<Option<PairBatch>> {
        if stop.is_raised() {
            return Ok(None);
        }
        let mut rng = self.random.at(step);
        let size = self.batch_size;
        let mut chosen = self.draw(&mut rng);
        let noise: Vec<f32> = (0..size * self.dim).map(|_| rng.sample(StandardNormal)).collect();
        // The last float below an integer may round up to it, hence the cap.
        let last = 1.0 - f32::EPSILON;
        let times = (0..size).map(|i| ((i as f32 + rng.random::<f32>()) / size as f32).min(last)).collect();
        if let Some(rows) = &self.rows {
            for members in self.members(&chosen) {
                let rows_of = |table: &[f32], of: &dyn Fn(usize) -> usize| -> Vec<f32> {
                    let start = |&member: &usize| of(member) * self.dim;
                    members.iter().map(start).flat_map(|at| table[at..at + self.dim].to_vec()).collect()
                };
                let x0 = rows_of(&noise, &|member| member);
                let x1 = rows_of(rows, &|member| chosen[member]);
                let Some(partner) = assign_until(&x0, &x1, self.dim, stop)? else { return Ok(None) };
                let paired: Vec<usize> = partner.iter().map(|&p| chosen[members[p]]).collect();
                members.iter().zip(paired).for_each(|(&member, row)| chosen[member] = row);
            }
        }
        let indices = chosen.into_iter().map(|row| row as i64).collect();
        Ok(Some(PairBatch { step, indices, noise, times }))
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

fn values(x: &Tensor) -> Result<Vec<f32>> {
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

struct Job {
    stop: Arc<Stop>,
    result: Receiver<Result<Option<PairBatch>>>,
}

/// The batches `first..end` of a source, in order, computed ahead on the shared pool (which holds
/// no Python lock). At most twice as many batches as threads exist at once. Dropping the stream
/// ends what is under way.
pub struct PairStream {
    source: Arc<PairSource>,
    pool: Arc<ThreadPool>,
    jobs: VecDeque<Job>,
    depth: usize,
    next: u64,
    end: u64,
}

impl PairStream {
    /// # Errors
    /// [`Error::Internal`] where no worker threads can be started.
    pub fn new(source: PairSource, first: u64, end: u64) -> Result<Self> {
        PairStream::on(threads::pool()?, source, first, end)
    }

    /// The same on a given pool.
    pub fn on(pool: Arc<ThreadPool>, source: PairSource, first: u64, end: u64) -> Result<Self> {
        let depth = (2 * pool.current_num_threads()).clamp(2, 16);
        let mut stream =
            PairStream { source: Arc::new(source), pool, jobs: VecDeque::new(), depth, next: first, end };
        stream.refill();
        Ok(stream)
    }

    fn refill(&mut self) {
        while self.jobs.len() < self.depth && self.next < self.end {
            let (sender, result) = sync_channel(1);
            let stop = Arc::new(Stop::default());
            let (source, step, raised) = (Arc::clone(&self.source), self.next, Arc::clone(&stop));
            self.pool.spawn_fifo(move || {
                // A panic here would end the whole process.
                let answer = catch_unwind(AssertUnwindSafe(|| source.batch_until(step, &raised)))
                    .unwrap_or_else(|_| Err(Error::Internal(anyhow::anyhow!("the coupling panicked"))));
                // The other end is gone once the stream has been dropped.
                let _ = sender.send(answer);
            });
            self.jobs.push_back(Job { stop, result });
            self.next += 1;
        }
    }
}

impl Iterator for PairStream {
    type Item = Result<PairBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let job = self.jobs.pop_front()?;
        self.refill();
        let lost = || Error::Internal(anyhow::anyhow!("a coupling worker ended without an answer"));
        match job.result.recv() {
            Ok(answer) => answer.and_then(|batch| batch.ok_or_else(lost)).map(Some).transpose(),
            Err(_) => Some(Err(lost())),
        }
    }
}

impl Drop for PairStream {
    fn drop(&mut self) {
        self.jobs.iter().for_each(|job| job.stop.raise());
    }
}
