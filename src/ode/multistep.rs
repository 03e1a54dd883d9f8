//! Linear multistep methods. A step takes one evaluation, and reaches its order with the slopes of earlier
//! steps.
//!
//! Adams-Bashforth methods integrate the polynomial through the last slopes (Hairer, Norsett and Wanner,
//! Solving ODEs I, III.5, with variable steps). Here these are slopes of y = x / m in tau, with m = a + s. In
//! these coordinates every path x_t = a x1 + s x0 is a straight line. Euler's method is then DDIM (Song et
//! al., arXiv 2010.02502), and the schedule causes no error.

use tch::Tensor;

use super::fixed::march;
use super::grid::Step;
use super::{Along, Rhs, States};
use crate::error::{Error, Result};
use crate::velocity::{Coefficients, Mixing};

/// Least distance between successive slopes in use, as a share of the next step. If two are nearer, their
/// difference says more about rounding than about curvature, and the earlier one is left out.
const NEAREST: f64 = 0.1;

/// With fewer steps than this, the last step of DPM-Solver++ is of first order, as in its authors' code: it
/// is the longest in lambda.
const FEW: usize = 15;

/// The method's coordinates at a node, and the factors that convert a slope in t to them.
struct Node {
    tau: f64,
    /// m, the unit of states.
    unit: f64,
    /// Factors of dx/dt and x in dy/dtau.
    of_rate: f64,
    of_state: f64,
}

/// The coordinates at the ends of all steps.
fn nodes(steps: &[Step], along: &Along) -> Result<Vec<Node>> {
    let times: Vec<f64> =
        steps.iter().take(1).map(|step| step.start).chain(steps.iter().map(|s| s.end)).collect();
    let Some(mixing) = along.mixing() else {
        return Ok(times.iter().map(|t| Node { tau: *t, unit: 1.0, of_rate: 1.0, of_state: 0.0 }).collect());
    };
    let known = Known::of(&mixing, &times)?;
    let node = |index: usize| {
        let [a, s, a_rate, s_rate] = known.at(index);
        let (unit, wronskian) = (a + s, a_rate * s - a * s_rate);
        match along {
            // dy/dtau = (m x' - m' x) / W.
            Along::States(_) => Node {
                tau: a / unit,
                unit,
                of_rate: unit / wronskian,
                of_state: -(a_rate + s_rate) / wronskian,
            },
            // dx/dtau = x' m^2 / W.
            _ => Node { tau: a / unit, unit: 1.0, of_rate: unit * unit / wronskian, of_state: 0.0 },
        }
    };
    Ok((0..times.len()).map(node).collect())
}

/// a, s, a' and s' at some times.
struct Known([Vec<f64>; 4]);

impl Known {
    fn of(mixing: &Mixing, times: &[f64]) -> Result<Known> {
        let Coefficients { a, s, a_rate, s_rate } = mixing.extended(&Tensor::from_slice(times));
        let values = |x: &Tensor| Vec::<f64>::try_from(x);
        Ok(Known([values(&a)?, values(&s)?, values(&a_rate)?, values(&s_rate)?]))
    }

    fn at(&self, index: usize) -> [f64; 4] {
        [0, 1, 2, 3].map(|which| self.0[which][index])
    }
}

/// Weights of the slopes at `places` in the integral of their polynomial from 0 to `h`. There are at most
/// three places, and the first is 0.
fn adams_weights(places: &[f64], h: f64) -> Vec<f64> {
    match *places {
        [_, b] => vec![h - h * h / (2.0 * b), h * h / (2.0 * b)],
        [_, b, c] => {
            let (square, cube) = (h * h / 2.0, h * h * h / 3.0);
            vec![
                (cube - (b + c) * square + b * c * h) / (b * c),
                (cube - c * square) / (b * (b - c)),
                (cube - b * square) / (c * (c - b)),
            ]
        }
        _ => vec![h],
    }
}

/// The Adams-Bashforth method of order 2 or 3. The first step is Euler's, whose error alone would limit the
/// method to second order. It is corrected to the trapezoidal rule with the slope at the start of the second
/// step.
pub(super) fn adams<F>(
    rhs: &mut Rhs<'_, F>,
    y: &Tensor,
    steps: &[Step],
    order: usize,
    along: &Along,
) -> Result<States>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    let nodes = nodes(steps, along)?;
    // The last slopes with their values of tau, the latest first.
    let mut past: Vec<(f64, Tensor)> = Vec::new();
    let mut corrected = None;
    let mut states = march(rhs, y, steps, |rhs, index, x| {
        let (here, there) = (&nodes[index], &nodes[index + 1]);
        let mut slope = rhs.call(steps[index].start, x)? * here.of_rate;
        if here.of_state != 0.0 {
            slope += x * here.of_state;
        }
        let mut x = x.shallow_clone();
        if let (1, Some((before, first))) = (index, past.first()) {
            x = &x + (&slope - first) * ((here.tau - before) / 2.0 * here.unit);
            corrected = Some(x.shallow_clone());
        }
        let h = there.tau - here.tau;
        past.insert(0, (here.tau, slope));
        past.truncate(order);
        let apart = past.windows(2).take_while(|pair| (pair[0].0 - pair[1].0).abs() >= NEAREST * h.abs());
        let kept = 1 + apart.count();
        past.truncate(kept);
        let places: Vec<f64> = past.iter().map(|(tau, _)| tau - here.tau).collect();
        let weights = adams_weights(&places, h);
        let mut next = x * (there.unit / here.unit);
        for ((_, slope), weight) in past.iter().zip(weights) {
            next += slope * (weight * there.unit);
        }
        Ok(next)
    })?;
    if let (Some(state), Some(true)) = (corrected, steps.first().map(|step| step.requested)) {
        states.0[1] = state;
    }
    Ok(states)
}

/// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2): the expectation of the data is taken as a
/// line in lambda = log(a / s) through its last two values, and integrated exactly. Backwards in time, where
/// s grows from 0, the expectation of the noise takes its place.
pub(super) fn dpm2m<F>(rhs: &mut Rhs<'_, F>, y: &Tensor, steps: &[Step], along: &Along) -> Result<States>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    let Along::States(mixing) = along else {
        let expected =
            "a solver other than 'dpm2m', which needs states that are mixtures a x1 + s x0 of data x1 and noise \
             x0, at times from 0 to 1, without further variables";
        return Err(Error::argument("solver", expected, "'dpm2m'"));
    };
    let times: Vec<f64> =
        steps.iter().take(1).map(|step| step.start).chain(steps.iter().map(|s| s.end)).collect();
    let known = Known::of(mixing, &times)?;
    let forwards = steps.first().is_none_or(|step| step.end > step.start);
    // The expectation at the start of the previous step, and the length of that step in lambda.
    let mut past: Option<(Tensor, f64)> = None;
    march(rhs, y, steps, |rhs, index, x| {
        let [a, s, a_rate, s_rate] = known.at(index);
        let [a_next, s_next, ..] = known.at(index + 1);
        let wronskian = a_rate * s - a * s_rate;
        let velocity = rhs.call(steps[index].start, x)?;
        let (now, kept, weight) = match forwards {
            true => {
                (x * (-s_rate / wronskian) + velocity * (s / wronskian), s_next / s, a_next - s_next / s * a)
            }
            false => {
                (x * (a_rate / wronskian) - velocity * (a / wronskian), a_next / a, s_next - a_next / a * s)
            }
        };
        // Infinite at an end where a or s is 0; the line is then a constant.
        let h = (a_next.ln() - s_next.abs().ln() - a.abs().ln() + s.ln()).abs();
        let ratio = past.as_ref().map_or(0.0, |(_, last)| h / (2.0 * last));
        let low = index + 1 == steps.len() && steps.len() < FEW;
        let line = match &past {
            Some((before, _)) if !low && ratio <= 0.5 / NEAREST => &now + (&now - before) * ratio,
            _ => now.shallow_clone(),
        };
        past = Some((now, h));
        Ok(x * kept + line * weight)
    })
}
