//! Curves through states at several times.

use serde::{Deserialize, Serialize};

/// The curve between the states of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Interpolant {
    /// A straight line from each state to the next. Its velocity jumps at the states.
    #[default]
    Linear,
    /// The natural cubic spline, the curve through the states with the least integral of squared acceleration
    /// (de Boor, A Practical Guide to Splines, chapter V).
    Spline,
}

/// An interpolant over times. It is linear in the states, so it is described by the weight of each state.
pub(super) struct Curve {
    /// `K + 1` increasing times.
    times: Vec<f64>,
    /// Second derivative at each time for a unit state at each time: `[K + 1][K + 1]`; `None` for straight
    /// lines.
    bend: Option<Vec<Vec<f64>>>,
}

/// The weights of the `K + 1` states in the curve and in its derivative, at one time.
pub(super) struct Weights {
    pub state: Vec<f64>,
    pub velocity: Vec<f64>,
}

impl Curve {
    pub fn new(interpolant: Interpolant, times: &[f64]) -> Self {
        let bend = match interpolant {
            Interpolant::Linear => None,
            Interpolant::Spline => Some(natural(times)),
        };
        Curve { times: times.to_vec(), bend }
    }

    /// The interval that contains `time`, from 0 to `K - 1`, and the share of it that lies before `time`, in
    /// [0, 1].
    pub fn place(&self, time: f64) -> (usize, f64) {
        let last = self.times.len() - 2;
        let interval = self.times.partition_point(|&at| at <= time).saturating_sub(1).min(last);
        (interval, (time - self.times[interval]) / self.length(interval))
    }

    pub fn length(&self, interval: usize) -> f64 {
        self.times[interval + 1] - self.times[interval]
    }

    pub fn weights(&self, time: f64) -> Weights {
        let (interval, behind) = self.place(time);
        let (length, ahead) = (self.length(interval), 1.0 - behind);
        let mut state = vec![0.0; self.times.len()];
        let mut velocity = state.clone();
        (state[interval], state[interval + 1]) = (ahead, behind);
        (velocity[interval], velocity[interval + 1]) = (-1.0 / length, 1.0 / length);
        if let Some(bend) = &self.bend {
            let cubic = |part: f64| part.powi(3) - part;
            let rate = |part: f64| 3.0 * part * part - 1.0;
            for (node, (first, second)) in bend[interval].iter().zip(&bend[interval + 1]).enumerate() {
                state[node] += (cubic(ahead) * first + cubic(behind) * second) * length * length / 6.0;
                velocity[node] += (rate(behind) * second - rate(ahead) * first) * length / 6.0;
            }
        }
        Weights { state, velocity }
    }
}

/// Second derivatives of the natural spline at each time, for a unit state at each time. They solve the
/// tridiagonal system that makes the first derivative continuous, with 0 at both ends. It is solved by
/// elimination.
fn natural(times: &[f64]) -> Vec<Vec<f64>> {
    let nodes = times.len();
    let length = |interval: usize| times[interval + 1] - times[interval];
    let mut bend = vec![vec![0.0; nodes]; nodes];
    let mut diagonal = vec![1.0; nodes];
    for node in 1..nodes - 1 {
        let (before, after) = (length(node - 1), length(node));
        bend[node][node - 1] = 6.0 / before;
        bend[node][node] = -6.0 / before - 6.0 / after;
        bend[node][node + 1] = 6.0 / after;
        diagonal[node] = 2.0 * (before + after);
        if node > 1 {
            let factor = before / diagonal[node - 1];
            diagonal[node] -= factor * before;
            let above = bend[node - 1].clone();
            bend[node].iter_mut().zip(above).for_each(|(value, above)| *value -= factor * above);
        }
    }
    for node in (1..nodes - 1).rev() {
        let (next, after) = (bend[node + 1].clone(), length(node));
        for (value, next) in bend[node].iter_mut().zip(next) {
            *value = (*value - after * next) / diagonal[node];
        }
    }
    bend
}
