//! Adaptive Dormand-Prince 5(4), SciPy's `RK45` on tensors.

use tch::{Device, Kind, Tensor};

use super::{not_finite, Rhs, SolveOptions, States, STEP_LIMIT};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
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

/// The seven slopes of a step as rows of one `[7, n]` tensor, so that every combination of them is
/// one product.
struct Stages {
    slopes: Tensor,
    shape: Vec<i64>,
    options: (Kind, Device),
}

impl Stages {
    fn new(y: &Tensor) -> Result<Self> {
        let options = (y.kind(), y.device());
        Ok(Stages { slopes: Tensor::f_zeros([7, y.numel() as i64], options)?, shape: y.size(), options })
    }

    fn set(&mut self, index: i64, slope: &Tensor) -> Result<()> {
        self.slopes.get(index).f_copy_(&slope.f_reshape([-1])?)?;
        Ok(())
    }

    fn get(&self, index: i64) -> Tensor {
        self.slopes.get(index).view(self.shape.as_slice())
    }

    /// scale times the sum over i of `weights[i]` * slope i, in the state's shape.
    fn combine(&self, weights: &[f64], scale: f64) -> Result<Tensor> {
        let scaled: Vec<f64> = weights.iter().map(|w| w * scale).collect();
        let count = scaled.len() as i64;
        let row = Tensor::from_slice(&scaled).to_kind(self.options.0).to_device(self.options.1);
        let sum = row.view([1, count]).f_matmul(&self.slopes.narrow(0, 0, count))?;
        Ok(sum.view(self.shape.as_slice()))
    }
}

fn rms(y: &Tensor) -> f64 {
    y.norm().double_value(&[]) / (y.numel() as f64).sqrt()
}

/// SciPy's `select_initial_step` (Hairer, Norsett and Wanner, Solving ODEs I, II.4).
fn initial_step<F>(
    rhs: &mut Rhs<F>,
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
    rhs: &mut Rhs<F>,
    start: &Tensor,
    times: &[f64],
    options: &SolveOptions,
    monitor: &mut dyn Monitor,
) -> Result<States>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    let rounding = if start.kind() == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let (rtol, atol) = (options.rtol.max(10.0 * rounding), options.atol);
    let (first, last) = (times[0], times[times.len() - 1]);
    let span = last - first;
    let direction = span.signum();

    let mut y = start.shallow_clone();
    let mut states = vec![y.shallow_clone()];
    let mut stages = Stages::new(&y)?;
    let slope = rhs.call(first, &y)?;
    if !all_finite(&slope) {
        return Err(not_finite(first));
    }
    stages.set(0, &slope)?;
    let mut t = first;
    let mut length = initial_step(rhs, &y, &slope, times, (rtol, atol))?;
    if !length.is_finite() {
        return Err(not_finite(first));
    }
    let (mut accepted, mut rejected) = (0, 0);
    let mut rejected_here = false;
    let mut error = 0.0;

    while t != last {
        // Below this, t + h is t up to rounding.
        let shortest = 10.0 * f64::EPSILON * t.abs().max(1e-3 * span.abs());
        if length < shortest {
            if !rejected_here {
                length = shortest;
            } else if f64::is_finite(error) {
                return Err(Error::Divergence(format!(
                    "dopri5: the step size fell below {shortest:.1e} at t = {t:.6}, where the velocity \
                     changes too fast for rtol {rtol:.1e} and atol {atol:.1e}"
                )));
            } else {
                return Err(not_finite(t));
            }
        }
        if accepted + rejected >= STEP_LIMIT {
            return Err(Error::Divergence(format!(
                "dopri5: {STEP_LIMIT} steps only reached t = {t:.6} of {last}"
            )));
        }
        let mut t_new = t + length * direction;
        if direction * (t_new - last) > 0.0 {
            t_new = last;
        }
        let h = t_new - t;
        length = h.abs();

        for stage in 1..6 {
            let inner = &y + stages.combine(A[stage], h)?;
            stages.set(stage as i64, &rhs.call(t + C[stage] * h, &inner)?)?;
        }
        let y_new = &y + stages.combine(&B, h)?;
        stages.set(6, &rhs.call(t_new, &y_new)?)?;

        let scale = y.abs().maximum(&y_new.abs()) * rtol + atol;
        error = rms(&(stages.combine(&E, h)? / scale));
        monitor.tick()?;
        // NaN and infinity fail the comparison and are retried with a smaller step.
        if !error.lt(&1.0) {
            let factor = SAFETY * error.powf(ERROR_EXPONENT);
            length *= if factor > MIN_FACTOR { factor } else { MIN_FACTOR };
            rejected_here = true;
            rejected += 1;
            continue;
        }
        while states.len() < times.len() && direction * (times[states.len()] - t_new) <= 0.0 {
            let time = times[states.len()];
            states.push(if time == t_new {
                y_new.shallow_clone()
            } else {
                &y + stages.combine(&dense_weights((time - t) / h), h)?
            });
        }
        let factor =
            if error == 0.0 { MAX_FACTOR } else { (SAFETY * error.powf(ERROR_EXPONENT)).min(MAX_FACTOR) };
        length *= if rejected_here { factor.min(1.0) } else { factor };
        rejected_here = false;
        accepted += 1;
        t = t_new;
        y = y_new;
        // The last stage of this step is the first of the next.
        let slope = stages.get(6).copy();
        stages.set(0, &slope)?;
    }
    Ok((states, accepted, rejected))
}

/// Weights of the slopes at the fraction `x` of a step (fourth-order interpolation).
fn dense_weights(x: f64) -> [f64; 7] {
    P.map(|row| row.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * x))
}
