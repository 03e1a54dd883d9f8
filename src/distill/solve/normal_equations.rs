//! Linear least squares by normal equations. Batches are added one after another, sums can be merged, and one
//! decomposition gives the solution for any ridge. Everything is float64, since normal equations square the
//! condition number.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{check_finite, shape_text};

/// The sums of min ||A W - Y||² over regressors A `[N, p]` and targets Y `[N, q]`. Their memory does not
/// depend on N. To weight a row, scale the row and its target by the square root of the weight.
#[derive(Debug)]
pub struct NormalEquations {
    /// AᵀA, `[p, p]`.
    gram: Tensor,
    /// AᵀY, `[p, q]`.
    cross: Tensor,
    /// Sum of squares of each target, `[q]`.
    energy: Tensor,
    count: i64,
}

/// A ridge with its solution and its held-out residual.
#[derive(Debug)]
pub struct RidgeChoice {
    pub ridge: f64,
    /// W, `[p, q]`, float64 on the CPU.
    pub solution: Tensor,
    /// [`NormalEquations::residual`] on the held-out sums.
    pub residual: f64,
}

/// The Gram matrix of regressors scaled to unit mean square, in its eigenbasis.
struct Decomposition {
    /// Square root of the Gram matrix's diagonal, `[p, 1]`; 1 for a regressor that is zero.
    scale: Tensor,
    values: Tensor,
    vectors: Tensor,
    /// The scaled AᵀY in the eigenbasis, `[p, q]`.
    projected: Tensor,
}

impl NormalEquations {
    /// Empty sums for `p` regressors and `q` targets.
    pub fn new(p: i64, q: i64) -> Self {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Double, Device::Cpu));
        NormalEquations { gram: zeros(&[p, p]), cross: zeros(&[p, q]), energy: zeros(&[q]), count: 0 }
    }

    /// Number of rows so far.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// AᵀA, `[p, p]`, float64 on the CPU.
    pub fn gram(&self) -> &Tensor {
        &self.gram
    }

    /// AᵀY, `[p, q]`, float64 on the CPU.
    pub fn cross(&self) -> &Tensor {
        &self.cross
    }

    /// Adds the rows of regressors `[B, p]` and targets `[B, q]`, of any float dtype and on any device.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`].
    pub fn add(&mut self, regressors: &Tensor, targets: &Tensor) -> Result<()> {
        let (p, q) = (self.cross.size()[0], self.cross.size()[1]);
        let rows = regressors.size().first().copied().unwrap_or(0);
        for (name, tensor, columns) in [("regressors", regressors, p), ("targets", targets, q)] {
            if tensor.size() != [rows, columns] {
                let expected = format!("({rows}, {columns})");
                return Err(Error::shape(name, expected, shape_text(&tensor.size())));
            }
            check_finite(name, tensor)?;
        }
        tch::no_grad(|| {
            let a = regressors.to_kind(Kind::Double);
            let y = targets.to_kind(Kind::Double);
            let transposed = a.tr();
            let _ = self.gram.f_add_(&transposed.f_matmul(&a)?.to_device(Device::Cpu))?;
            let _ = self.cross.f_add_(&transposed.f_matmul(&y)?.to_device(Device::Cpu))?;
            let squares = y.square().sum_dim_intlist(0, false, Kind::Double);
            let _ = self.energy.f_add_(&squares.to_device(Device::Cpu))?;
            self.count += rows;
            Ok(())
        })
    }

    /// Adds the rows of other sums.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of regressors or targets differ.
    pub fn merge(&mut self, other: &NormalEquations) -> Result<()> {
        if self.cross.size() != other.cross.size() {
            let (expected, got) = (shape_text(&self.cross.size()), shape_text(&other.cross.size()));
            return Err(Error::shape("other", expected, got));
        }
        tch::no_grad(|| {
            let _ = self.gram.f_add_(&other.gram)?;
            let _ = self.cross.f_add_(&other.cross)?;
            let _ = self.energy.f_add_(&other.energy)?;
            self.count += other.count;
            Ok(())
        })
    }

    /// The solution W, `[p, q]`, float64 on the CPU. `ridge >= 0` penalises the weights of regressors scaled
    /// to unit mean square, relative to the mean diagonal of their Gram matrix. It depends neither on units
    /// nor on N.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `ridge` if it is negative, or 0 with linearly dependent regressors;
    /// [`Error::Argument`] naming `regressors` without rows.
    pub fn solve(&self, ridge: f64) -> Result<Tensor> {
        self.decompose()?.solve(ridge)
    }

    fn decompose(&self) -> Result<Decomposition> {
        if self.count == 0 {
            return Err(Error::argument("regressors", "at least one row", "none"));
        }
        let diagonal = self.gram.diagonal(0, 0, 1);
        let scale = diagonal.sqrt().where_self(&diagonal.gt(0.0), &diagonal.ones_like()).unsqueeze(1);
        let standard = (&self.gram / &scale) / scale.tr();
        let (values, vectors) = standard.f_linalg_eigh("L")?;
        let projected = vectors.tr().f_matmul(&(&self.cross / &scale))?;
        Ok(Decomposition { scale, values: values.clamp_min(0.0), vectors, projected })
    }

    /// The share of each target's sum of squares that A W does not explain, averaged over the targets. Each
    /// target counts the same, whatever its units. It is computed from the sums, so cancellation limits its
    /// accuracy to about 1e-14.
    ///
    /// # Errors
    /// [`Error::Shape`] for a solution that is not `[p, q]`.
    pub fn residual(&self, solution: &Tensor) -> Result<f64> {
        let shares = self.residuals(solution)?;
        Ok(shares.mean(Kind::Double).double_value(&[]))
    }

    /// The share of each target's sum of squares that A W does not explain, `[q]`; see [`Self::residual`].
    pub fn residuals(&self, solution: &Tensor) -> Result<Tensor> {
        if solution.size() != self.cross.size() {
            let (expected, got) = (shape_text(&self.cross.size()), shape_text(&solution.size()));
            return Err(Error::shape("solution", expected, got));
        }
        let w = solution.detach().to_device(Device::Cpu).to_kind(Kind::Double);
        // ||Y - A W||² = ||Y||² - 2 <W, AᵀY> + <W, AᵀA W>, column by column.
        let inner = &w * (self.gram.f_matmul(&w)? - &self.cross * 2.0);
        let left = &self.energy + inner.sum_dim_intlist(0, false, Kind::Double);
        Ok(left.clamp_min(0.0) / self.energy.clamp_min(f64::MIN_POSITIVE))
    }
}

impl Decomposition {
    fn solve(&self, ridge: f64) -> Result<Tensor> {
        if !(ridge.is_finite() && ridge >= 0.0) {
            return Err(Error::argument("ridge", "a number >= 0", ridge));
        }
        let p = self.values.size()[0];
        if ridge == 0.0 {
            let floor = self.values.max().double_value(&[]) * p as f64 * f64::EPSILON;
            let rank = self.values.gt(floor).sum(Kind::Int64).int64_value(&[]);
            if rank < p {
                let expected =
                    format!("a positive number: the {p} regressors are linearly dependent (rank {rank})");
                return Err(Error::argument("ridge", expected, 0));
            }
        }
        // The scaled Gram matrix has a unit diagonal, so the ridge needs no scale.
        let damped = (&self.values + ridge).unsqueeze(1);
        Ok(self.vectors.f_matmul(&(&self.projected / damped))? / &self.scale)
    }
}

/// The solution of the training sums for every candidate ridge, with its residual on the held-out sums. All
/// use one decomposition. A ridge of 0 is skipped if the regressors are dependent and there are other
/// candidates.
///
/// # Errors
/// [`Error::Argument`] naming `ridge` for a negative candidate; [`Error::Shape`] for sums that do not fit.
pub fn ridge_curve(
    train: &NormalEquations,
    held_out: &NormalEquations,
    candidates: &[f64],
) -> Result<Vec<RidgeChoice>> {
    let decomposition = train.decompose()?;
    let mut curve = Vec::new();
    for &ridge in candidates {
        let solution = match decomposition.solve(ridge) {
            Err(Error::Argument { .. }) if ridge == 0.0 && candidates.len() > 1 => continue,
            other => other?,
        };
        let residual = held_out.residual(&solution)?;
        curve.push(RidgeChoice { ridge, solution, residual });
    }
    Ok(curve)
}

/// The candidate with the lowest held-out residual: see [`ridge_curve`].
///
/// # Errors
/// The errors of [`ridge_curve`]; [`Error::Argument`] naming `ridge` if no candidate has a finite residual.
pub fn select_ridge(
    train: &NormalEquations,
    held_out: &NormalEquations,
    candidates: &[f64],
) -> Result<RidgeChoice> {
    let curve = ridge_curve(train, held_out, candidates)?;
    let usable = curve.into_iter().filter(|choice| choice.residual.is_finite());
    usable
        .min_by(|a, b| a.residual.total_cmp(&b.residual))
        .ok_or_else(|| Error::argument("ridge", "a candidate that can be solved", format!("{candidates:?}")))
}
