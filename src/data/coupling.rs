//! The coupling of noise and data: independent, by minibatch optimal transport, or given.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use lapjv::{Cancellation, ErrorKind, LapJV};
use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};
use crate::tensor::{check_finite, shape_text};

/// The pairing of a minibatch of noise with a minibatch of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Coupling {
    /// Independent pairs: plain conditional flow matching (Lipman et al., arXiv 2210.02747).
    Independent,
    /// The exact assignment of least total squared distance (Tong et al., arXiv 2302.00482). Paths are
    /// straighter and marginals the same.
    #[default]
    Ot,
    /// Noise that is given with each row of the data, as in rectified flow from another flow's pairs (Liu et
    /// al., arXiv 2209.03003).
    Given,
}

impl Coupling {
    /// Checks that noise is given with the data if and only if the coupling needs it.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `noise` if it is missing or not allowed; [`Error::Argument`] naming `flip`,
    /// because given pairs cannot be mirrored; [`Error::Shape`] or [`Error::NonFinite`] for noise that does
    /// not fit the data.
    pub fn check_noise(self, data: &Tensor, noise: Option<&Tensor>, flip: bool) -> Result<()> {
        let given = self == Coupling::Given;
        match noise {
            None if given => Err(Error::argument("noise", "the noise of each row, for given pairs", "none")),
            None => Ok(()),
            Some(_) if !given => Err(Error::argument("noise", "none unless pairs are given", "an array")),
            Some(_) if flip => Err(Error::argument("flip", "false for given pairs", "true")),
            Some(noise) if noise.size() != data.size() => {
                Err(Error::shape("noise", shape_text(&data.size()), shape_text(&noise.size())))
            }
            Some(noise) => check_finite("noise", noise),
        }
    }
}

/// A flag by which one thread can cancel an assignment in another.
#[derive(Default)]
pub struct Stop {
    raised: AtomicBool,
    solver: Mutex<Option<Cancellation>>,
}

impl Stop {
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        let solver = self.solver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(solver) = solver.as_ref() {
            solver.cancel();
        }
    }

    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Registers `solver`, so that [`Stop::raise`] cancels it. It is cancelled even if the flag was raised
    /// before.
    fn watch(&self, solver: Cancellation) {
        let mut slot = self.solver.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_raised() {
            solver.cancel();
        }
        *slot = Some(solver);
    }
}

/// The exact optimal-transport pairing of two equally large sets under squared Euclidean distance. Row i of
/// `x0` is paired with row `result[i]` of `x1`. Both are row-major `[n, dim]`.
///
/// It is solved by Jonker and Volgenant's algorithm in float64, in O(n^3) at worst. Points may repeat.
///
/// # Errors
/// [`Error::Shape`] for lengths that do not match or are not whole rows, [`Error::NonFinite`] for
/// values that are not finite.
pub fn assign(x0: &[f32], x1: &[f32], dim: usize) -> Result<Vec<usize>> {
    assign_until(x0, x1, dim, &Stop::default())?
        .ok_or_else(|| Error::Internal(anyhow::anyhow!("the assignment was cancelled unexpectedly")))
}

/// [`assign`], or `None` if `stop` was raised first.
pub(crate) fn assign_until(x0: &[f32], x1: &[f32], dim: usize, stop: &Stop) -> Result<Option<Vec<usize>>> {
    if dim == 0 || x0.len() % dim != 0 || x0.len() != x1.len() {
        let expected = format!("two arrays with the same number of rows of {dim} values, at least 1");
        return Err(Error::shape("x0, x1", expected, format!("{} and {} values", x0.len(), x1.len())));
    }
    let n = x0.len() / dim;
    let (noise, data) = (centred("x0", x0, n, dim)?, centred("x1", x1, n, dim)?);
    if n < 2 {
        return Ok(Some((0..n).collect()));
    }
    // The squared lengths do not change the pairing. Without them the solver starts from poor prices, and in
    // two dimensions it takes several times as long.
    let lengths = |rows: &Array2<f64>| rows.map_axis(Axis(1), |row| row.dot(&row));
    let mut costs = noise.dot(&data.t()) * -2.0;
    costs += &lengths(&noise).insert_axis(Axis(1));
    costs += &lengths(&data);
    let largest = costs.iter().fold(0.0_f64, |largest, cost| largest.max(cost.abs()));
    if largest == 0.0 {
        return Ok(Some((0..n).collect()));
    }
    // The solver compares against an absolute epsilon: give it costs of order one.
    costs /= largest;
    let costs = lapjv::Matrix::from_shape_vec((n, n), costs.into_iter().collect())
        .map_err(|error| Error::Internal(error.into()))?;
    let solver = LapJV::new(&costs);
    stop.watch(solver.cancellation());
    match solver.solve() {
        Ok((column_of_row, _)) => Ok(Some(column_of_row)),
        Err(error) if matches!(error.kind(), ErrorKind::Cancelled) => Ok(None),
        Err(error) => Err(Error::Internal(error.into())),
    }
}

/// The rows in float64, minus their mean. A common offset does not change the pairing and would cost
/// precision.
fn centred(argument: &str, rows: &[f32], n: usize, dim: usize) -> Result<Array2<f64>> {
    let wide: Vec<f64> = rows.iter().copied().map(f64::from).collect();
    let bad = wide.iter().filter(|value| !value.is_finite()).count();
    if bad > 0 {
        let message = format!("{bad} of {} values are not finite", wide.len());
        return Err(Error::NonFinite { argument: argument.into(), message });
    }
    let mut rows = Array2::from_shape_vec((n, dim), wide).map_err(|error| Error::Internal(error.into()))?;
    if let Some(mean) = rows.mean_axis(Axis(0)) {
        rows -= &mean;
    }
    Ok(rows)
}
