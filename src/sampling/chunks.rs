//! Batches of samples for a student, in chunks of bounded memory.

use tch::{Device, Tensor};

use crate::error::Result;
use crate::koopman::{Direction, Observables, Student};
use crate::monitor::Monitor;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::{chunks, in_chunks};

/// Largest number of values in the widest intermediate tensor of a chunk. It bounds the memory of any
/// sampling call, and the time between two calls of the monitor.
const CHUNK_VALUES: i64 = 1 << 22;
/// The same per thread of a CPU, so that a layer finds the output of the previous one in the processor's
/// cache.
pub(super) const CACHE_VALUES: i64 = 1 << 18;
/// Least number of rows in a chunk; with fewer, matrix products are slower.
const LEAST_ROWS: i64 = 256;

/// Number of rows in a chunk if `times` states of each row are held in memory at once.
pub(super) fn chunk_rows(student: &Student, times: i64) -> i64 {
    let config = student.config();
    let hidden = match &config.unet {
        // A few feature maps at full resolution are held at once.
        Some(unet) => 4 * unet.channels * config.event_shape[1..].iter().product::<i64>(),
        None => config.width.max(2 * config.dimension() + 1),
    };
    let width = hidden.max(config.observables);
    let rows = (CHUNK_VALUES / width.max(times * config.dimension())).max(1);
    if student.device() != Device::Cpu || config.unet.is_some() {
        return rows;
    }
    let cached = CACHE_VALUES * i64::from(tch::get_num_threads()) / width;
    rows.min(cached.max(LEAST_ROWS))
}

/// Limit of threads for the matrix products of a sampler, which are those of one lift.
pub(super) fn threads(student: &Student, rows: i64) -> IntraOpThreads {
    let config = student.config();
    IntraOpThreads::for_work(student.parameters().count() / config.lifts, rows * config.reuse())
}

/// A batch of checked samples, flattened.
pub(super) struct Samples<'a> {
    student: &'a Student,
    /// `[B, d]`.
    pub x: Tensor,
    /// Condition of each sample, before encoding.
    condition: Option<Tensor>,
    /// Number of states held at once for each sample.
    states: i64,
}

/// Some rows of a batch.
pub(super) struct Chunk {
    pub start: i64,
    /// `[rows, d]`.
    pub x: Tensor,
    /// Encoded conditions, `[rows, c]`.
    pub condition: Option<Tensor>,
}

impl<'a> Samples<'a> {
    /// A batch of a caller's noise, `[B, *event]`.
    ///
    /// # Errors
    /// An error naming `argument` or `condition` if it does not match the student or is not finite.
    pub fn new(student: &'a Student, argument: &str, x: &Tensor, condition: Option<&Tensor>) -> Result<Self> {
        let x = student.flatten(argument, x)?;
        student.config().conditioning.check(condition, x.size()[0])?;
        Ok(Samples { student, x, condition: condition.map(Tensor::shallow_clone), states: 1 })
    }

    /// A batch of a caller's data, `[B, *event]`, converted to the student's own coordinates.
    ///
    /// # Errors
    /// As [`Samples::new`].
    pub fn of_data(
        student: &'a Student,
        argument: &str,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Self> {
        let samples = Samples::new(student, argument, x, condition)?;
        Ok(Samples { x: student.own_data(&samples.x)?, ..samples })
    }

    /// The same batch, with `states` states of each sample held in memory at once.
    pub fn held(self, states: i64) -> Self {
        Samples { states, ..self }
    }

    /// The same conditions with other flat states, which are not checked.
    pub fn with(&self, x: &Tensor) -> Samples<'a> {
        let condition = self.condition.as_ref().map(Tensor::shallow_clone);
        Samples { student: self.student, x: x.shallow_clone(), condition, states: self.states }
    }

    pub fn count(&self) -> i64 {
        self.x.size()[0]
    }

    /// Results of `work` for each chunk, joined along `dimension`. The monitor is called after each.
    pub fn map(
        &self,
        dimension: i64,
        monitor: &mut dyn Monitor,
        mut work: impl FnMut(&Chunk) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let rows = chunk_rows(self.student, self.states);
        let _threads = threads(self.student, rows.min(self.count()));
        in_chunks(self.count(), rows, dimension, |start, length| {
            let made = work(&self.chunk(start, length))?;
            monitor.tick()?;
            Ok(made)
        })
    }

    /// Calls `work` for each chunk, and the monitor after each.
    pub fn each(&self, monitor: &mut dyn Monitor, mut work: impl FnMut(&Chunk) -> Result<()>) -> Result<()> {
        let rows = chunk_rows(self.student, self.states);
        let _threads = threads(self.student, rows.min(self.count()));
        for (start, length) in chunks(self.count(), rows) {
            work(&self.chunk(start, length))?;
            monitor.tick()?;
        }
        Ok(())
    }

    fn chunk(&self, start: i64, length: i64) -> Chunk {
        let condition = self.condition.as_ref().map(|c| c.narrow(0, start, length));
        let condition = self.student.encode_condition(condition.as_ref());
        Chunk { start, x: self.x.narrow(0, start, length), condition }
    }
}

impl Chunk {
    /// Observables of `x` at `time` under the chunk's conditions.
    pub fn encode(&self, student: &Student, time: f64, x: &Tensor, direction: Direction) -> Observables {
        student.lift_flat_at(time, x, direction, self.condition.as_ref())
    }
}
