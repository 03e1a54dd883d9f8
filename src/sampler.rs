//! Reading a student off: one step, a few re-encoding steps, paths at many times, inversion.

use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::koopman::{finite_or_divergence, weight_of_encoding, Direction, Horizon, Motion, Student};
use crate::tensor::RandomSource;
use crate::threads::IntraOpThreads;
use crate::training::Monitor;

/// Values of the widest intermediate tensor in one chunk: bounds the memory of any sampling call, and the
/// time between two looks at the monitor.
const CHUNK_VALUES: i64 = 1 << 22;

/// Rows in a chunk.
fn chunk_rows(student: &Student, times: i64) -> i64 {
    let config = student.config();
    let width = config.width.max(config.observables).max(2 * config.dimension() + 1);
    (CHUNK_VALUES / width.max(times * config.dimension())).max(1)
}

/// Threads for samplers' products: those of one lift.
fn threads(student: &Student, rows: i64) -> IntraOpThreads {
    IntraOpThreads::for_work(student.parameters().count() / student.config().lifts, rows)
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
    let x = student.flatten(argument, x)?;
    let condition = student.condition_input(condition, x.size()[0])?;
    let stride = Stride::new(student, span.0, span.1, span.2)?;
    let total = x.size()[0];
    let rows = chunk_rows(student, 1);
    let _threads = threads(student, rows.min(total));
    let output = x.empty_like();
    let mut start = 0;
    while start < total {
        let length = rows.min(total - start);
        let condition = condition.as_ref().map(|c| c.narrow(0, start, length));
        let moved = stride.advance(student, &x.narrow(0, start, length), condition.as_ref())?;
        output.narrow(0, start, length).copy_(&moved);
        monitor.tick()?;
        start += length;
    }
    Ok(student.unflatten(&output))
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
    let _guard = tch::no_grad_guard();
    if times.is_empty() || times.iter().any(|time| !time.is_finite()) {
        return Err(Error::argument("times", "one or more finite times", format!("{times:?}")));
    }
    let x0 = student.flatten("x0", x0)?;
    let condition = student.condition_input(condition, x0.size()[0])?;
    let horizons = times.iter().map(|time| student.horizon(*time)).collect::<Result<Vec<_>>>()?;
    let (total, count) = (x0.size()[0], times.len() as i64);
    let rows = chunk_rows(student, count);
    let _threads = threads(student, rows.min(total));
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < total {
        let length = rows.min(total - start);
        let x = x0.narrow(0, start, length);
        let condition = condition.as_ref().map(|c| c.narrow(0, start, length));
        let t = x.new_zeros([length], (student.kind(), student.device()));
        let g = student.lift_flat(&t, &x, Direction::Forward, condition.as_ref());
        let piece = Horizon::apply_many(&horizons, &g)?;
        finite_or_divergence(&piece, "paths")?;
        pieces.push(piece);
        monitor.tick()?;
        start += length;
    }
    let mut shape = vec![count, total];
    shape.extend(&student.config().event_shape);
    Ok(Tensor::f_cat(&pieces, 1)?.reshape(shape))
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
