//! Velocities that jump at known times (breaks), for example where flows are chained. The solver restarts at
//! a break: no step, no history of slopes and no error estimate crosses it. On either side the solver
//! evaluates the velocity of that side only.

use tch::{Kind, Tensor};

use super::grid::share_steps;
use super::{check_times, integrate_along, Along, Solution, SolveOptions};
use crate::error::Result;
use crate::monitor::Monitor;

/// A break and a requested time that differ by no more than this are the same time.
const SAME: f64 = 1e-9;

/// [`integrate_along`] for a velocity that jumps at `breaks`. Fixed steps are divided among the pieces
/// between breaks in proportion to their lengths, with at least one step each.
pub(super) fn integrate_between<F>(
    mut derivative: F,
    y: &Tensor,
    times: &[f64],
    options: &SolveOptions,
    along: &Along,
    breaks: &[f64],
    monitor: &mut dyn Monitor,
) -> Result<Solution>
where
    F: FnMut(f64, &Tensor) -> Result<Tensor>,
{
    if breaks.is_empty() || times.len() < 2 {
        return integrate_along(derivative, y, times, options, along, monitor);
    }
    check_times(times)?;
    options.validate()?;
    let pieces = pieces(times, breaks);
    let ends: Vec<f64> = times[..1].iter().copied().chain(pieces.iter().map(|piece| piece.end())).collect();
    // A time that rounds to a break in the state's dtype would be evaluated on its other side.
    let rounding = if y.kind() == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let margin = |t: f64| if is_break(breaks, t) { 4.0 * rounding } else { 0.0 };
    let (mut states, mut state) = (vec![y.detach().unsqueeze(0)], y.shallow_clone());
    let (mut evaluations, mut accepted, mut rejected) = (0, 0, 0);
    for (piece, steps) in pieces.iter().zip(share_steps(&ends, options.steps)) {
        let (low, high) = (piece.start().min(piece.end()), piece.start().max(piece.end()));
        let (low, high) = (low + margin(low), high - margin(high));
        let inside = |t: f64, y: &Tensor| derivative(t.min(high).max(low), y);
        let options = SolveOptions { steps, ..options.clone() };
        let solved = integrate_along(inside, &state, &piece.times, &options, along, monitor)?;
        state = solved.endpoint();
        let asked = piece.times.len() as i64 - if piece.asked { 1 } else { 2 };
        states.push(solved.trajectory.narrow(0, 1, asked));
        evaluations += solved.evaluations;
        accepted += solved.accepted;
        rejected += solved.rejected;
    }
    Ok(Solution { trajectory: Tensor::f_cat(&states, 0)?, evaluations, accepted, rejected })
}

/// The times from one break to the next.
struct Piece {
    /// Its start, the requested times within it, and its end.
    times: Vec<f64>,
    /// Whether its end is a requested time.
    asked: bool,
}

impl Piece {
    fn start(&self) -> f64 {
        self.times[0]
    }

    fn end(&self) -> f64 {
        self.times[self.times.len() - 1]
    }
}

fn is_break(breaks: &[f64], t: f64) -> bool {
    breaks.iter().any(|b| (b - t).abs() <= SAME)
}

/// Splits two or more times at the breaks. Each piece starts where the previous one ends.
fn pieces(times: &[f64], breaks: &[f64]) -> Vec<Piece> {
    let (first, last) = (times[0], times[times.len() - 1]);
    let (low, high) = (first.min(last), first.max(last));
    let mut nodes: Vec<(f64, bool)> = times.iter().map(|t| (*t, true)).collect();
    let own = breaks.iter().filter(|b| **b > low && **b < high && !is_break(times, **b));
    nodes.extend(own.map(|b| (*b, false)));
    nodes.sort_by(|a, b| if first <= last { a.0.total_cmp(&b.0) } else { b.0.total_cmp(&a.0) });
    // Neighbouring parts of a field may both report the break between them.
    nodes.dedup_by(|a, b| !a.1 && !b.1 && (a.0 - b.0).abs() <= SAME);
    let mut pieces = Vec::new();
    let mut open = vec![first];
    for (node, asked) in &nodes[1..] {
        open.push(*node);
        if *node == last || is_break(breaks, *node) {
            let times = std::mem::replace(&mut open, vec![*node]);
            pieces.push(Piece { times, asked: *asked });
        }
    }
    pieces
}
