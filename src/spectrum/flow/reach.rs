//! How far a rate can move while the others adapt and all of them still explain the motion.
//!
//! Sums of exponentials are nearly interchangeable, so many rates can fit equally well (Lanczos, Applied
//! Analysis, 1956, section 4.23). Resampled paths do not show this: they show how well the best rates are
//! determined, not how much better they are than others.

use std::f64::consts::TAU;

use tch::Tensor;

use super::rates::Motion;
use super::time::{count, Rate};
use crate::error::Result;

/// Number of directions in the complex plane in which the reach of a rate is measured.
pub(super) const DIRECTIONS: i64 = 16;

/// Largest reach of a rate, in units of 1 over the last time.
const FARTHEST: f64 = 40.0;

const BISECTIONS: usize = 8;

/// The farthest points (growth, frequency) of every eigenvalue in each direction at which all rates together
/// leave at most `bound` of the motion: `[r, DIRECTIONS, 2]`. Real rates stay real, and pairs stay pairs.
///
/// # Errors
/// Any error of libtorch.
pub(super) fn reach(motion: &Motion, rates: &[Rate], bound: f64, last: f64) -> Result<Tensor> {
    let mut ends = Vec::new();
    for (place, rate) in rates.iter().enumerate() {
        let others: Vec<Rate> =
            rates.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, rate)| *rate).collect();
        let mut own = Vec::new();
        for direction in 0..DIRECTIONS {
            let angle = TAU * direction as f64 / DIRECTIONS as f64;
            own.push(farthest(motion, rate, &others, angle, bound, last)?);
        }
        let signs: &[f64] = if rate.frequency > 0.0 { &[1.0, -1.0] } else { &[1.0] };
        for sign in signs {
            // The points of the conjugate are mirrored, and listed in the same order of directions.
            let turned = (0..DIRECTIONS).map(|direction| match *sign > 0.0 {
                true => direction,
                false => (DIRECTIONS - direction) % DIRECTIONS,
            });
            ends.extend(turned.flat_map(|direction| {
                let end = own[direction as usize];
                [end.growth, sign * end.frequency]
            }));
        }
    }
    Ok(Tensor::from_slice(&ends).f_reshape([count(rates) as i64, DIRECTIONS, 2])?)
}

fn farthest(
    motion: &Motion,
    rate: &Rate,
    others: &[Rate],
    angle: f64,
    bound: f64,
    last: f64,
) -> Result<Rate> {
    let (mut along, mut across) = (angle.cos(), angle.sin());
    if rate.frequency == 0.0 {
        (along, across) = (along.signum() * f64::from(along.abs() > 1e-9), 0.0);
        if along == 0.0 {
            return Ok(*rate);
        }
    }
    let most = match across < 0.0 {
        // A pair ends where it would turn into two real rates.
        true => (rate.frequency / -across).min(FARTHEST / last),
        false => FARTHEST / last,
    };
    let at = |way: f64| Rate { growth: rate.growth + along * way, frequency: rate.frequency + across * way };
    // The search for the others starts from their last values within the bound.
    let mut near = others.to_vec();
    let mut does = |way: f64| -> Result<bool> {
        let moved = at(way);
        let given = motion.beside(&moved);
        if given.unexplained(&near) <= bound {
            return Ok(true);
        }
        if near.is_empty() {
            return Ok(false);
        }
        let fit = given.refit(&near)?;
        let within = fit.unexplained <= bound;
        if within {
            near = fit.rates;
        }
        Ok(within)
    };
    let (mut within, mut step) = (0.0, 1e-3 * (0.1 / last + rate.growth.hypot(rate.frequency)));
    while within + step < most && does(within + step)? {
        within += step;
        step *= 2.0;
    }
    let mut beyond = (within + step).min(most);
    for _ in 0..BISECTIONS {
        let middle = (within + beyond) / 2.0;
        match does(middle)? {
            true => within = middle,
            false => beyond = middle,
        }
    }
    let end = at(within);
    Ok(Rate { frequency: end.frequency.max(0.0), ..end })
}
