//! Reading a student off: one step, a few re-encoding steps, paths at many times, inversion.

use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::koopman::{weight_of_encoding, Direction, Horizon, Motion, Observables, Student};
use crate::monitor::Monitor;
use crate::spectrum::{Edit, Spectrum};
use crate::tensor::finite_or_divergence;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::RandomSource;

/// Values of the widest intermediate tensor in one chunk: bounds the memory of any sampling call, and the
/// time between two looks at the monitor.
const CHUNK_VALUES: i64 = 1 << 22;

/// Rows in a chunk.
pub(crate) fn chunk_rows(student: &Student, times: i64) -> i64 {
    let config = student.config();
    let hidden = match &config.unet {
        // A few maps at full resolution at once.
        Some(unet) => 4 * unet.channels * config.event_shape[1..].iter().product::<i64>(),
        None => config.width.max(2 * config.dimension() + 1),
    };
    let width = hidden.max(config.observables);
    (CHUNK_VALUES / width.max(times * config.dimension())).max(1)
}

/// Threads for samplers' products: those of one lift.
pub(crate) fn threads(student: &Student, rows: i64) -> IntraOpThreads {
    let config = student.config();
    IntraOpThreads::for_work(student.parameters().count() / config.lifts, rows * config.reuse())
}

/// Equal steps from one time to another, prepared once for all chunks.
struct Stride {
    from: f64,
    tau: f64,
    steps: i64,
    direction: Direction,
    /// The last step carries only x.
    horizon: Horizon,
    /// Those before it carry all observables.
    motion: Option<Motion>,
}

impl Stride {
    fn new(student: &Student, from: f64, to: f64, steps: i64) -> Result<Self> {
        let tau = (to - from) / steps as f64;
        let direction = if to >= from { Direction::Forward } else { Direction::Backward };
        let motion = (steps > 1).then(|| Motion::new(student.generator(), tau)).transpose()?;
        Ok(Stride { from, tau, steps, direction, horizon: student.horizon(tau)?, motion })
    }

    /// Flat samples carried all the way. Each step but the first encodes the state reached so far and
    /// averages it into the observables carried along (see [`weight_of_encoding`]).
    fn advance(&self, student: &Student, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let encode = |x: &Tensor, step: i64| {
            let time = self.from + self.tau * step as f64;
            let t = Tensor::full([x.size()[0]], time, (student.kind(), student.device()));
            student.lift_flat(&t, x, self.direction, condition)
        };
        let mut g = encode(x, 0);
        if let Some(motion) = &self.motion {
            for step in 1..self.steps {
                let carried = motion.apply(&g)?;
                let fresh = encode(&student.decode(&carried), step);
                g = carried.blend(&fresh, weight_of_encoding(step, self.steps));
            }
        }
        let x = self.horizon.apply(&g)?;
        finite_or_divergence(&x, "samples")?;
        Ok(x)
    }
}

fn check_steps(steps: i64) -> Result<()> {
    if !(1..=10_000).contains(&steps) {
        return Err(Error::argument("steps", "an integer from 1 to 10000", steps));
    }
    Ok(())
}

/// One batch of samples from outside, flat, for `work` chunk by chunk.
struct Chunks<'a> {
    student: &'a Student,
    /// `[B, d]`.
    x: Tensor,
    condition: Option<Tensor>,
    /// States held at once for each sample.
    states: i64,
}

/// Some rows of it.
struct Chunk {
    start: i64,
    x: Tensor,
    condition: Option<Tensor>,
}

impl<'a> Chunks<'a> {
    fn new(student: &'a Student, argument: &str, x: &Tensor, condition: Option<&Tensor>) -> Result<Self> {
        let x = student.flatten(argument, x)?;
        let condition = student.condition_input(condition, x.size()[0])?;
        Ok(Chunks { student, x, condition, states: 1 })
    }

    /// What `work` makes of each chunk, along dimension `batch` of its tensors.
    fn map(
        &self,
        batch: i64,
        monitor: &mut dyn Monitor,
        mut work: impl FnMut(&Chunk) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let total = self.x.size()[0];
        let rows = chunk_rows(self.student, self.states);
        let _threads = threads(self.student, rows.min(total));
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < total {
            let length = rows.min(total - start);
            let x = self.x.narrow(0, start, length);
            let condition = self.condition.as_ref().map(|c| c.narrow(0, start, length));
            pieces.push(work(&Chunk { start, x, condition })?);
            monitor.tick()?;
            start += length;
        }
        Ok(Tensor::f_cat(&pieces, batch)?)
    }
}

impl Chunk {
    fn encode(&self, student: &Student, time: f64, x: &Tensor, direction: Direction) -> Observables {
        let t = Tensor::full([x.size()[0]], time, (student.kind(), student.device()));
        student.lift_flat(&t, x, direction, self.condition.as_ref())
    }
}

/// Strides over `span` (from, to, steps) chunk by chunk.
fn map_chunks(
    student: &Student,
    argument: &str,
    x: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
    span: (f64, f64, i64),
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    check_steps(span.2)?;
    let chunks = Chunks::new(student, argument, x, condition)?;
    let stride = Stride::new(student, span.0, span.1, span.2)?;
    let moved =
        chunks.map(0, monitor, |chunk| stride.advance(student, &chunk.x, chunk.condition.as_ref()))?;
    Ok(student.unflatten(&moved))
}

/// Data for noise `[B, *event]`: one evaluation of the lift and one thin product for each of `steps`.
pub fn sample(
    student: &Student,
    x0: &Tensor,
    condition: Option<&Tensor>,
    steps: i64,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    map_chunks(student, "x0", x0, condition, monitor, (0.0, 1.0, steps))
}

/// `count` fresh samples on the CPU. Noise is drawn chunk by chunk, so that memory is bounded by the result.
pub fn sample_count(
    student: &Student,
    count: i64,
    seed: u64,
    condition: Option<&Tensor>,
    steps: i64,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    check_steps(steps)?;
    if count < 1 {
        return Err(Error::argument("n", "at least one sample", count));
    }
    let condition = student.condition_input(condition, count)?;
    let dimension = student.config().dimension();
    let stride = Stride::new(student, 0.0, 1.0, steps)?;
    let mut random = RandomSource::noise(seed);
    let output = Tensor::f_empty([count, dimension], (student.kind(), Device::Cpu))?;
    let rows = RandomSource::aligned_rows(chunk_rows(student, 1), dimension);
    let _threads = threads(student, rows.min(count));
    let mut start = 0;
    while start < count {
        let length = rows.min(count - start);
        let noise = random.normal(&[length, dimension], student.kind(), student.device())?;
        let condition = condition.as_ref().map(|c| c.narrow(0, start, length));
        let moved = stride.advance(student, &noise, condition.as_ref())?;
        output.narrow(0, start, length).copy_(&moved);
        monitor.tick()?;
        start += length;
    }
    Ok(student.unflatten(&output))
}

/// x at each of `times` for noise `[B, *event]`: `[T, B, *event]`, from one encoding at time 0.
pub fn sample_path(
    student: &Student,
    x0: &Tensor,
    times: &[f64],
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    check_times(times)?;
    let horizons = times.iter().map(|time| student.horizon(*time)).collect::<Result<Vec<_>>>()?;
    read_path(student, x0, &horizons, condition, monitor)
}

/// The same with only the kept modes of a spectrum moving: `keep` has one entry an eigenvalue, and both of a
/// conjugate pair are kept where one is.
pub fn sample_modes(
    student: &Student,
    spectrum: &Spectrum,
    x0: &Tensor,
    times: &[f64],
    keep: &[bool],
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    check_times(times)?;
    let horizons =
        times.iter().map(|time| spectrum.horizon(student, *time, keep)).collect::<Result<Vec<_>>>()?;
    read_path(student, x0, &horizons, condition, monitor)
}

fn check_times(times: &[f64]) -> Result<()> {
    if times.is_empty() || times.iter().any(|time| !time.is_finite()) {
        return Err(Error::argument("times", "one or more finite times", format!("{times:?}")));
    }
    Ok(())
}

/// What each of `horizons` reads from the encoding of noise at time 0.
fn read_path(
    student: &Student,
    x0: &Tensor,
    horizons: &[Horizon],
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let count = horizons.len() as i64;
    let chunks = Chunks { states: count, ..Chunks::new(student, "x0", x0, condition)? };
    let path = chunks.map(1, monitor, |chunk| {
        let g = chunk.encode(student, 0.0, &chunk.x, Direction::Forward);
        let piece = Horizon::apply_many(horizons, &g)?;
        finite_or_divergence(&piece, "paths")?;
        Ok(piece)
    })?;
    let mut shape = vec![count, chunks.x.size()[0]];
    shape.extend(&student.config().event_shape);
    Ok(path.reshape(shape))
}

/// Where an edited path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Noise, encoded at time 0.
    Noise,
    /// Data: carried back to the time of the edit first.
    Data,
}

/// Samples with some eigenfunctions changed: `[B, *event]`.
///
/// From noise the observables at 0 are carried to the time of the edit. From data they are what the student
/// encodes then, of the state that it carries the data back to; what that round trip alone loses of the data is
/// given back, so that an edit that changes nothing returns them. With `project` the edited state of that
/// time is encoded anew before it goes on, which keeps it on the set of observables that some state has.
#[allow(clippy::too_many_arguments)]
pub fn edit(
    student: &Student,
    spectrum: &Spectrum,
    edit: &Edit,
    x: &Tensor,
    source: Source,
    project: bool,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let at = edit.at();
    if project && !edit.moves_the_state() {
        return Err(Error::argument("at", "a time above 0 to project at: noise is not moved yet", at));
    }
    let argument = if source == Source::Noise { "x0" } else { "x" };
    let chunks = Chunks::new(student, argument, x, condition)?;
    let total = chunks.x.size()[0];
    if let Some(batch) = edit.batch().filter(|batch| *batch != total) {
        return Err(Error::shape("shifts", format!("one row a sample, {total}"), format!("{batch} rows")));
    }
    let change = edit.change(spectrum, student, if project { at } else { 1.0 })?;
    let back = student.horizon(at - 1.0)?;
    let there = Motion::new(student.generator(), at)?;
    let onward = Motion::new(student.generator(), 1.0 - at)?;
    let edited = chunks.map(0, monitor, |chunk| {
        let g = match source {
            Source::Noise => there.apply(&chunk.encode(student, 0.0, &chunk.x, Direction::Forward))?,
            Source::Data if at == 1.0 => chunk.encode(student, 1.0, &chunk.x, Direction::Forward),
            Source::Data => {
                let earlier = back.apply(&chunk.encode(student, 1.0, &chunk.x, Direction::Backward))?;
                chunk.encode(student, at, &earlier, Direction::Forward)
            }
        };
        let (changed, same) = if project {
            let again = |g: &Observables| -> Result<Tensor> {
                let fresh = chunk.encode(student, at, &student.decode(g), Direction::Forward);
                Ok(student.decode(&onward.apply(&fresh)?))
            };
            (again(&change.apply(&g, &g, chunk.start))?, again(&g)?)
        } else {
            let end = onward.apply(&g)?;
            (student.decode(&change.apply(&end, &g, chunk.start)), student.decode(&end))
        };
        let x = match source {
            Source::Noise => changed,
            Source::Data => changed - same + &chunk.x,
        };
        finite_or_divergence(&x, "edited samples")?;
        Ok(x)
    })?;
    Ok(student.unflatten(&edited))
}

/// The noise that generates data `[B, *event]`: the flow from 1 back to 0 in one step.
pub fn invert(
    student: &Student,
    x1: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    map_chunks(student, "x", x1, condition, monitor, (1.0, 0.0, 1))
}
