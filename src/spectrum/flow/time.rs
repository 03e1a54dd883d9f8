//! Functions of time: exponentials that start from zero, and integrals over a grid of times.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

/// A rate lambda at which a flow moves, per unit of time: real if `frequency` is 0, else a conjugate pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Re lambda.
    pub growth: f64,
    /// |Im lambda|, in radians per unit of time.
    pub frequency: f64,
}

impl Rate {
    /// The number of functions of time of this rate: one, or two for a pair.
    pub fn functions(&self) -> usize {
        if self.frequency > 0.0 {
            2
        } else {
            1
        }
    }

    /// The same rate per unit of time that is `units` times as long.
    pub fn scaled(&self, units: f64) -> Rate {
        Rate { growth: self.growth * units, frequency: self.frequency * units }
    }

    /// Values at `t` of real functions that span (e^{lambda t} - 1) / lambda; the second is used for pairs only.
    pub fn at(&self, t: f64) -> [f64; 2] {
        match self.frequency > 0.0 {
            true => turning(self.growth, self.frequency.powi(2), t),
            false if (self.growth * t).abs() < 1e-12 => [t, 0.0],
            false => [(self.growth * t).exp_m1() / self.growth, 0.0],
        }
    }
}

/// Two functions that span e^{growth t} cos(w t) - 1 and e^{growth t} sin(w t) / w with w² = `square`, which may be
/// negative: the span is smooth where a conjugate pair turns into two real rates.
pub fn turning(growth: f64, square: f64, t: f64) -> [f64; 2] {
    let w = square.abs().sqrt();
    if square >= 0.0 {
        let grown = (growth * t).exp();
        let odd = if w * t < 1e-8 { t } else { (w * t).sin() / w };
        return [grown * (w * t).cos() - 1.0, grown * odd];
    }
    // cosh and sinh would be parallel up to rounding if one rate is much larger than the other.
    let slower = growth - w;
    let apart = if w * t < 1e-8 { t } else { (2.0 * w * t).exp_m1() / (2.0 * w) };
    [(slower * t).exp_m1(), (slower * t).exp() * apart]
}

/// The number of functions of `rates`: a conjugate pair has two.
pub fn count(rates: &[Rate]) -> usize {
    rates.iter().map(Rate::functions).sum()
}

/// Values of all functions of `rates` at `times`: `[T, r]`.
pub fn functions(rates: &[Rate], times: &[f64]) -> Array2<f64> {
    let mut values = Array2::zeros((times.len(), count(rates)));
    for (row, t) in times.iter().enumerate() {
        let own = rates.iter().flat_map(|rate| rate.at(*t).into_iter().take(rate.functions()));
        own.enumerate().for_each(|(column, value)| values[[row, column]] = value);
    }
    values
}

/// Weights of the trapezium rule at increasing `times`.
pub fn trapezium(times: &[f64]) -> Vec<f64> {
    let mut weights = vec![0.0; times.len()];
    for (index, pair) in times.windows(2).enumerate() {
        let half = (pair[1] - pair[0]) / 2.0;
        weights[index] += half;
        weights[index + 1] += half;
    }
    weights
}

/// An orthonormal basis of the columns, and the matrix `mix` with `values @ mix = basis`. Columns that depend
/// linearly on earlier ones become zeros.
pub fn orthonormal(values: &Array2<f64>) -> (Array2<f64>, Array2<f64>) {
    let (mut basis, mut mix) = (values.clone(), Array2::eye(values.ncols()));
    for column in 0..values.ncols() {
        let size = basis.column(column).dot(&basis.column(column)).sqrt();
        // Twice, because once loses orthogonality between nearly parallel columns (Kahan's "twice is enough").
        for _ in 0..2 {
            for before in 0..column {
                let share = basis.column(before).dot(&basis.column(column));
                let (part, made) = (basis.column(before).to_owned(), mix.column(before).to_owned());
                basis.column_mut(column).scaled_add(-share, &part);
                mix.column_mut(column).scaled_add(-share, &made);
            }
        }
        let left = basis.column(column).dot(&basis.column(column)).sqrt();
        let scale = if left > 1e-10 * size { left.recip() } else { 0.0 };
        basis.column_mut(column).mapv_inplace(|value| value * scale);
        mix.column_mut(column).mapv_inplace(|value| value * scale);
    }
    (basis, mix)
}
