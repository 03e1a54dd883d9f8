//! Adaptive Dormand-Prince 5(4), SciPy's `RK45` on tensors.

use tch::{Device, Kind, Tensor};

use super::{not_finite, Rhs, SolveOptions, States, STEP_LIMIT};
use crate::error::{Error, Result};
use crate::tensor::all_finite;

// The Dormand-Prince pair, laid out as in SciPy: nodes, stages, error weights, dense output.
const C: [f64; 6] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0];
const A: [&[f64]; 6] = [
    &[],
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
];
const B: [f64; 6] = [35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0];
const E: [f64; 7] =
    [-71.0 / 57600.0, 0.0, 71.0 / 16695.0, -71.0 / 1920.0, 17253.0 / 339200.0, -22.0 / 525.0, 1.0 / 40.0];
const P: [[f64; 4]; 7] = [
    [1.0, -8048581381.0 / 2820520608.0, 8663915743.0 / 2820520608.0, -12715105075.0 / 11282082432.0],
    [0.0; 4],
    [0.0, 131558114200.0 / 32700410799.0, -68118460800.0 / 10900136933.0, 87487479700.0 / 32700410799.0],
    [0.0, -1754552775.0 / 470086768.0, 14199869525.0 / 1410260304.0, -10690763975.0 / 1880347072.0],
    [0.0, 127303824393.0 / 49829197408.0, -318862633887.0 / 49829197408.0, 701980252875.0 / 199316789632.0],
    [0.0, -282668133.0 / 205662961.0, 2019193451.0 / 616988883.0, -1453857185.0 / 822651844.0],
    [0.0, 40617522.0 / 29380423.0, -110615467.0 / 29380423.0, 69997945.0 / 29380423.0],
];
const SAFETY: f64 = 0.9;
const MIN_FACTOR: f64 = 0.2;
const MAX_FACTOR: f64 = 10.0;
/// -1 over (the error estimate's order + 1).
const ERROR_EXPONENT: f64 = -0.2;

/// Rows of the table of coefficients: A of stages 1 to 5, then B and E.
const STAGE_B: usize = 6;
const STAGE_E: usize = 7;

/// The seven slopes of a step as rows of one `[7, n]` tensor, so that every combination of them is one matrix
/// product. The coefficients are kept on the device of the slopes, so that a step uploads none.
struct Stages {
    slopes: Tensor,
    /// The rows of A, B and E, `[8, 7]`, in float64. `scaled` is this table times the length of the current
    /// step, in the state's dtype.
    table: Tensor,
    scaled: Tensor,
    shape: Vec<i64>,
    options: (Kind, Device),
}

impl Stages {
    fn new(y: &Tensor) -> Result<Self> {
        let options = (y.kind(), y.device());
        let mut table = [[0.0; 7]; 8];
        for (row, weights) in table.iter_mut().zip(A.iter().copied().chain([&B[..], &E[..]])) {
            row[..weights.len()].copy_from_slice(weights);
        }
        let table = Tensor::from_slice(table.as_flattened()).f_view([8, 7])?.f_to_device(y.device())?;
        let slopes = Tensor::f_zeros([7, y.numel() as i64], options)?;
        Ok(Stages { slopes, scaled: table.f_to_kind(y.kind())?, table, shape: y.size(), options })
    }

    /// Begins a step of length `h`.
    fn begin(&mut self, h: f64) -> Result<()> {
        self.scaled = self.table.f_mul_scalar(h)?.f_to_kind(self.options.0)?;
        Ok(())
    }

    fn set(&mut self, index: i64, slope: &Tensor) -> Result<()> {
        self.slopes.get(index).f_copy_(&slope.f_reshape([-1])?)?;
        Ok(())
    }

    fn get(&self, index: i64) -> Tensor {
        self.slopes.get(index).view(self.shape.as_slice())
    }

    /// The sum of the first `count` slopes with weights `[1, 7]`, in the state's shape.
    fn combine(&self, weights: &Tensor, count: usize) -> Result<Tensor> {
        let count = count as i64;
        let sum = weights.narrow(1, 0, count).f_matmul(&self.slopes.narrow(0, 0, count))?;
        Ok(sum.view(self.shape.as_slice()))
    }

    /// The length of the current step times the sum over i of coefficient i in `row` of the table * slope i.
    fn weighted(&self, row: usize) -> Result<Tensor> {
        let count = match row {
            STAGE_B => B.len(),
            STAGE_E => E.len(),
            stage => stage,
        };
        self.combine(&self.scaled.narrow(0, row as i64, 1), count)
    }

    /// Dense output: increments from the state at the start of a step of length `h` to the state at each of
    /// `fractions` of the step. The weights of all fractions are uploaded at once.
    fn dense(&self, fractions: &[f64], h: f64) -> Result<Vec<Tensor>> {
        let weights: Vec<f64> = fractions.iter().flat_map(|x| dense_weights(*x)).map(|w| w * h).collect();
        let weights = Tensor::from_slice(&weights).to_kind(self.options.0).to_device(self.options.1);
        let weights = weights.f_view([-1, 7])?;
        (0..fractions.len()).map(|row| self.combine(&weights.narrow(0, row as i64, 1), 7)).collect()
    }
}

fn rms(y: &Tensor) -> f64 {
    y.norm().double_value(&[]) / (y.numel() as f64).sqrt()
}

/// SciPy's `select_initial_step` (Hairer, Norsett and Wanner, Solving ODEs I, II.4).
fn initial_step<F>(
    rhs: &mut Rhs<'_, F>,
    y: &Tensor,
    slope: &Tensor,
    times: &[f64],
    tolerances: (f64, f64),
) -> Result<f64>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    let span = times[times.len() - 1] - times[0];
    let scale = y.abs() * tolerances.0 + tolerances.1;
    let (d0, d1) = (rms(&(y / &scale)), rms(&(slope / &scale)));
    let h0 = if d0 < 1e-5 || d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 }.min(span.abs());
    let signed = h0 * span.signum();
    let next = rhs.call(times[0] + signed, &(y + slope * signed))?;
    let d2 = rms(&((next - slope) / scale)) / h0;
    let h1 = if d1 <= 1e-15 && d2 <= 1e-15 {
        (h0 * 1e-3).max(1e-6)
    } else {
        (0.01 / d1.max(d2)).powf(-ERROR_EXPONENT)
    };
    Ok((100.0 * h0).min(h1).min(span.abs()))
}

pub(super) fn run<F>(
    rhs: &mut Rhs<'_, F>,
    start: &Tensor,
    times: &[f64],
    options: &SolveOptions,
) -> Result<States>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    let mut run = Run::start(rhs, start, times, options)?;
    while run.t != run.last {
        run.check_length()?;
        let step = run.try_step()?;
        // NaN and infinity fail the comparison and are retried with a smaller step.
        if step.error.lt(&1.0) {
            run.read_off(&step)?;
            run.accept(step)?;
        } else {
            run.reject(step.error);
        }
    }
    Ok((run.states, run.accepted, run.rejected))
}

/// An integration under way.
struct Run<'a, 'm, F> {
    rhs: &'a mut Rhs<'m, F>,
    times: &'a [f64],
    rtol: f64,
    atol: f64,
    last: f64,
    /// 1 forwards in time, -1 backwards.
    direction: f64,
    t: f64,
    y: Tensor,
    stages: Stages,
    /// The states at those of `times` that have been passed.
    states: Vec<Tensor>,
    /// The length of the next step.
    length: f64,
    /// The error of the last step tried, relative to the tolerance.
    error: f64,
    /// Whether a longer step from `t` has been rejected.
    rejected_here: bool,
    accepted: u64,
    rejected: u64,
}

/// A step tried from the current state.
struct Step {
    t: f64,
    h: f64,
    y: Tensor,
    error: f64,
}

impl<'a, 'm, F: FnMut(f64, &Tensor) -> Result<Tensor>> Run<'a, 'm, F> {
    fn start(
        rhs: &'a mut Rhs<'m, F>,
        start: &Tensor,
        times: &'a [f64],
        options: &SolveOptions,
    ) -> Result<Self> {
        let rounding = if start.kind() == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let (rtol, atol) = (options.rtol.max(10.0 * rounding), options.atol);
        let (first, last) = (times[0], times[times.len() - 1]);
        let y = start.shallow_clone();
        let mut stages = Stages::new(&y)?;
        let slope = rhs.call(first, &y)?;
        if !all_finite(&slope) {
            return Err(not_finite(first));
        }
        stages.set(0, &slope)?;
        let length = initial_step(rhs, &y, &slope, times, (rtol, atol))?;
        if !length.is_finite() {
            return Err(not_finite(first));
        }
        let direction = (last - first).signum();
        let states = vec![y.shallow_clone()];
        Ok(Run {
            rhs,
            times,
            rtol,
            atol,
            last,
            direction,
            t: first,
            y,
            stages,
            states,
            length,
            error: 0.0,
            rejected_here: false,
            accepted: 0,
            rejected: 0,
        })
    }

    /// Returns an error if steps have become too short or too many.
    fn check_length(&mut self) -> Result<()> {
        let t = self.t;
        // Below this, t + h is t up to rounding.
        let shortest = 10.0 * f64::EPSILON * t.abs().max(1e-3 * (self.last - self.times[0]).abs());
        if self.length < shortest {
            if !self.rejected_here {
                self.length = shortest;
            } else if f64::is_finite(self.error) {
                let (rtol, atol) = (self.rtol, self.atol);
                return Err(Error::Divergence(format!(
                    "dopri5: the step size fell below {shortest:.1e} at t = {t:.6}, where the velocity \
                     changes too fast for rtol {rtol:.1e} and atol {atol:.1e}"
                )));
            } else {
                return Err(not_finite(t));
            }
        }
        if self.accepted + self.rejected >= STEP_LIMIT {
            return Err(Error::Divergence(format!(
                "dopri5: reached only t = {t:.6} of {} after {STEP_LIMIT} steps",
                self.last
            )));
        }
        Ok(())
    }

    /// Tries one step of the current length, or up to the last time, and estimates its error. Takes six
    /// evaluations.
    fn try_step(&mut self) -> Result<Step> {
        let mut t = self.t + self.length * self.direction;
        if self.direction * (t - self.last) > 0.0 {
            t = self.last;
        }
        let h = t - self.t;
        self.length = h.abs();
        self.stages.begin(h)?;
        for (stage, node) in C.iter().enumerate().skip(1) {
            let inner = &self.y + self.stages.weighted(stage)?;
            let slope = self.rhs.call(self.t + node * h, &inner)?;
            self.stages.set(stage as i64, &slope)?;
        }
        let y = &self.y + self.stages.weighted(STAGE_B)?;
        self.stages.set(6, &self.rhs.call(t, &y)?)?;
        let scale = self.y.abs().maximum(&y.abs()) * self.rtol + self.atol;
        let error = rms(&(self.stages.weighted(STAGE_E)? / scale));
        self.error = error;
        Ok(Step { t, h, y, error })
    }

    /// Stores the states at the requested times that the step has passed.
    fn read_off(&mut self, step: &Step) -> Result<()> {
        let ahead = &self.times[self.states.len()..];
        let passed = ahead.iter().take_while(|time| self.direction * (**time - step.t) <= 0.0);
        let (inside, end): (Vec<f64>, Vec<f64>) = passed.partition(|time| **time != step.t);
        let fractions: Vec<f64> = inside.iter().map(|time| (time - self.t) / step.h).collect();
        if !fractions.is_empty() {
            let moved = self.stages.dense(&fractions, step.h)?;
            self.states.extend(moved.into_iter().map(|moved| &self.y + moved));
        }
        self.states.extend(end.iter().map(|_| step.y.shallow_clone()));
        Ok(())
    }

    fn reject(&mut self, error: f64) {
        let factor = SAFETY * error.powf(ERROR_EXPONENT);
        self.length *= if factor > MIN_FACTOR { factor } else { MIN_FACTOR };
        self.rejected_here = true;
        self.rejected += 1;
    }

    fn accept(&mut self, step: Step) -> Result<()> {
        let factor = match step.error {
            0.0 => MAX_FACTOR,
            error => (SAFETY * error.powf(ERROR_EXPONENT)).min(MAX_FACTOR),
        };
        self.length *= if self.rejected_here { factor.min(1.0) } else { factor };
        self.rejected_here = false;
        self.accepted += 1;
        (self.t, self.y) = (step.t, step.y);
        // The last stage of this step is the first of the next.
        let slope = self.stages.get(6).copy();
        self.stages.set(0, &slope)
    }
}

/// Weights of the slopes at the fraction `x` of a step (fourth-order interpolation).
fn dense_weights(x: f64) -> [f64; 7] {
    P.map(|row| row.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * x))
}
