//! Batches of samples for a student, in chunks of bounded memory.

use tch::{Device, Tensor};

use crate::error::Result;
use crate::koopman::{Direction, Observables, Student};
use crate::monitor::Monitor;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::{chunks, in_chunks};

/// Values of the widest intermediate tensor in one chunk: bounds the memory of any sampling call, and the
/// time between two looks at the monitor.
const CHUNK_VALUES: i64 = 1 << 22;
/// The same for each thread of a CPU: a layer is to find what the one before left in the processor's cache.
pub(super) const CACHE_VALUES: i64 = 1 << 18;
/// Rows of a chunk, below which products are slower.
const LEAST_ROWS: i64 = 256;

/// Number of rows in a chunk, where `times` states of each are held at once.
pub(super) fn chunk_rows(student: &Student, times: i64) -> i64 {
    let config = student.config();
    let hidden = match &config.unet {
        // A few maps at full resolution at once.
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

/// Threads for samplers' products: those of one lift.
pub(super) fn threads(student: &Student, rows: i64) -> IntraOpThreads {
    let config = student.config();
    IntraOpThreads::for_work(student.parameters().count() / config.lifts, rows * config.reuse())
}

/// One batch of checked samples, flat.
pub(super) struct Samples<'a> {
    student: &'a Student,
    /// `[B, d]`.
    pub x: Tensor,
    /// Condition of each sample, as the student was given it.
    condition: Option<Tensor>,
    /// Number of states held at once for each sample.
    states: i64,
}

/// Some rows of it.
pub(super) struct Chunk {
    pub start: i64,
    /// `[rows, d]`.
    pub x: Tensor,
    /// Conditions as the network takes them, `[rows, c]`.
    pub condition: Option<Tensor>,
}

impl<'a> Samples<'a> {
    /// Noise from outside, `[B, *event]`.
    ///
    /// # Errors
    /// Names `argument` or `condition` where they do not fit the student or are not finite.
    pub fn new(student: &'a Student, argument: &str, x: &Tensor, condition: Option<&Tensor>) -> Result<Self> {
        let x = student.flatten(argument, x)?;
        student.config().conditioning.check(condition, x.size()[0])?;
        Ok(Samples { student, x, condition: condition.map(Tensor::shallow_clone), states: 1 })
    }

    /// Data from outside, `[B, *event]`, in the student's own coordinates.
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

    /// The same batch where `states` states of each sample are held at once.
    pub fn held(self, states: i64) -> Self {
        Samples { states, ..self }
    }

    /// The same conditions with other flat states, which are the house's own and not checked.
    pub fn with(&self, x: &Tensor) -> Samples<'a> {
        let condition = self.condition.as_ref().map(Tensor::shallow_clone);
        Samples { student: self.student, x: x.shallow_clone(), condition, states: self.states }
    }

    pub fn count(&self) -> i64 {
        self.x.size()[0]
    }

    /// Results of `work` for each chunk, joined along `dimension`. The monitor is asked after each.
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

    /// `work` for each chunk, whose results it keeps itself. The monitor is asked after each.
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
