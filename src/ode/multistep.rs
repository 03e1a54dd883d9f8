//! Linear multistep methods: one evaluation a step, and the slopes of earlier steps for the order.
//!
//! Adams and Bashforth's methods integrate the polynomial through the last slopes (Hairer, Norsett and Wanner, Solving
//! ODEs I, III.5, with variable steps), here of y = x / m in tau, m = a + s: on every path x_t = a x1 + s x0 a line of
//! y in tau, so that Euler's method is DDIM (Song et al., arXiv 2010.02502) and nothing is lost to the schedule.

use tch::Tensor;

use super::fixed::march;
use super::grid::Step;
use super::{Along, Rhs, States};
use crate::error::{Error, Result};
use crate::velocity::{Coefficients, Mixing};

/// An earlier slope that is nearer to the last than this share of the coming step says more of rounding than of the
/// curve, and is left out.
const NEAREST: f64 = 0.1;

/// Of fewer steps than this, the last of DPM-Solver++ is of first order, as its authors have it: it is the longest in
/// lambda.
const FEW: usize = 15;

/// What a node's slope in t is as one of the method's own coordinates.
struct Node {
    tau: f64,
    /// m, in which states are measured.
    unit: f64,
    /// Factors of dx/dt and x in dy/dtau.
    of_rate: f64,
    of_state: f64,
}

/// The coordinates at the steps' ends.
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

/// Weights of slopes at `places`, 0 the first of them, in the integral of their polynomial from 0 to `h`; at most three.
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

/// Adams and Bashforth's method of order 2 or 3. The first step is Euler's, whose error alone would leave the second order;
/// it is corrected to the trapezium's by the slope that the second step begins with.
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
    // The last slopes and where they are, the latest first.
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

/// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2): the expectation of the data as a line through its last
/// two values in lambda = log(a / s), integrated exactly. Backwards, where s grows from 0, it is the mirror image:
/// the expectation of the noise.
pub(super) fn dpm2m<F>(rhs: &mut Rhs<'_, F>, y: &Tensor, steps: &[Step], along: &Along) -> Result<States>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    let Along::States(mixing) = along else {
        let expected =
            "another than 'dpm2m', which is for states that are a x1 + s x0 of noise and data, from time \
                        0 to 1 or back, and for nothing that is carried along with them";
        return Err(Error::argument("solver", expected, "'dpm2m'"));
    };
    let times: Vec<f64> =
        steps.iter().take(1).map(|step| step.start).chain(steps.iter().map(|s| s.end)).collect();
    let known = Known::of(mixing, &times)?;
    let forwards = steps.first().is_none_or(|step| step.end > step.start);
    // The expectation one step ago and that step's length in lambda.
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
        // Infinite at an end where one of them is 0: then the line is a constant.
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
