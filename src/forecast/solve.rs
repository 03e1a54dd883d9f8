//! The linear regression of the next observables on the present ones.

use tch::{Device, Kind, Tensor};

use super::model::{NextState, Sizes};
use super::moments::Moments;
use crate::error::{Error, Result};
use crate::koopman::Eigenvectors;

const REAL: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Smallest ridge of regressions with Gram matrices.
pub const SQUARED: f64 = 1e-12;

/// Moments with the eigenvectors of their Gram matrix, with which the solution for any ridge needs only products.
pub struct Normal<'a> {
    moments: &'a Moments,
    values: Tensor,
    vectors: Tensor,
    /// Parts of the moments' factor; `None` if the moments have none.
    exact: Option<Exact>,
    /// Mean square of an observable, which is the unit of the ridge.
    unit: f64,
}

/// Parts of the moments' factor [[R, Z], [0, E]] with R = U S V^T: S, U^T Z, R, Z and E.
struct Exact {
    singular: Tensor,
    turned: Tensor,
    factor: Tensor,
    moved: Tensor,
    rest: Tensor,
}

impl Exact {
    /// Sum of squared residuals `[d, d]` of the states' displacements for the coefficients `moves` `[p, d]`.
    fn left(&self, moves: &Tensor) -> Result<Tensor> {
        let off = self.factor.f_matmul(moves)? - &self.moved;
        Ok(off.tr().f_matmul(&off)? + self.rest.tr().f_matmul(&self.rest)?)
    }
}

/// The solution of the regression.
pub struct Solution {
    /// K or L, `[m, m]`.
    pub matrix: Tensor,
    /// Effect of the inputs, `[u, m]`.
    pub drive: Option<Tensor>,
}

/// The columns of K or L that are known without a regression.
pub struct Structure<'a> {
    pub sizes: &'a Sizes,
    /// Whether the regression is for rates. The rate of a constant is 0.
    pub rates: bool,
}

impl Structure<'_> {
    /// The matrix `[p, m]` towards which the ridge shrinks the solution: a state that does not change.
    fn guess(&self, p: i64) -> Result<Tensor> {
        let guess = Tensor::f_zeros([p, self.sizes.all()], REAL)?;
        if !self.rates {
            ones(&guess, 1, 1, self.sizes.dimension())?;
        }
        Ok(guess)
    }

    /// Sets the columns of the constant, of older rows and of conditions, which are known exactly.
    fn impose(&self, matrix: &Tensor) -> Result<()> {
        let (d, stack) = (self.sizes.dimension(), self.sizes.stack());
        let columns = |first: i64, count: i64| matrix.narrow(1, first, count);
        let _ = columns(0, 1).f_zero_()?;
        let _ = columns(1 + d, stack - d + self.sizes.conditions).f_zero_()?;
        if !self.rates {
            ones(matrix, 0, 0, 1)?;
            ones(matrix, 1, 1 + d, stack - d)?;
            ones(matrix, 1 + stack, 1 + stack, self.sizes.conditions)?;
        }
        Ok(())
    }
}

/// Sets `count` entries on a diagonal to 1.
fn ones(matrix: &Tensor, row: i64, column: i64, count: i64) -> Result<()> {
    let block = matrix.narrow(0, row, count).narrow(1, column, count);
    block.shallow_clone().f_copy_(&Tensor::f_eye(count, REAL)?)?;
    Ok(())
}

impl<'a> Normal<'a> {
    /// # Errors
    /// [`Error::Divergence`] if observables are not finite.
    pub fn new(moments: &'a Moments) -> Result<Self> {
        let gram = &moments.gram / moments.count.max(1.0);
        if !crate::tensor::all_finite(&gram) {
            return Err(Error::Divergence("observables of the data are not finite".into()));
        }
        let unit = gram.f_diagonal(0, 0, 1)?.mean(Kind::Double).double_value(&[]);
        let Some(whole) = &moments.factor else {
            let (values, vectors) = gram.f_linalg_eigh("L")?;
            return Ok(Normal { moments, values: values.clamp_min(0.0), vectors, unit, exact: None });
        };
        let p = gram.size()[0];
        // With fewer rows than columns, R has fewer rows.
        let missing = whole.size()[1] - whole.size()[0];
        let whole = whole.f_constant_pad_nd([0, 0, 0, missing.max(0)])?;
        let d = whole.size()[1] - p;
        let part = |first: i64, rows: i64, from: i64, columns: i64| {
            whole.narrow(0, first, rows).narrow(1, from, columns).contiguous()
        };
        let (factor, moved, rest) = (part(0, p, 0, p), part(0, p, p, d), part(p, d, p, d));
        let (left, singular, vectors) = factor.f_svd(true, true)?;
        let values = singular.square() / moments.count.max(1.0);
        let turned = left.tr().f_matmul(&moved)?;
        let exact = Some(Exact { singular, turned, factor, moved, rest });
        Ok(Normal { moments, values, vectors, unit, exact })
    }

    /// The regression `[p, d]` of the states' displacements on the observables, accurate to all digits.
    fn moves(&self, own: &Exact, ridge: f64) -> Result<Tensor> {
        let floor = ridge * self.unit * self.moments.count.max(1.0) + f64::MIN_POSITIVE;
        let shrunk = &own.singular / (own.singular.square() + floor);
        Ok(self.vectors.f_matmul(&(&own.turned * shrunk.unsqueeze(1)))?)
    }

    /// (Gram + ridge)^{-1} right, for `right` and a Gram matrix divided by the number of pairs.
    fn apply(&self, right: &Tensor, ridge: f64) -> Result<Tensor> {
        let shrunk = (&self.values + ridge * self.unit + f64::MIN_POSITIVE).reciprocal();
        let turned = self.vectors.tr().f_matmul(right)?;
        Ok(self.vectors.f_matmul(&(turned * shrunk.unsqueeze(1)))?)
    }

    /// The ridge regression, which shrinks towards the guess of `structure`.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn solve(&self, ridge: f64, structure: &Structure<'_>) -> Result<Solution> {
        let p = self.moments.gram.size()[0];
        let guess = structure.guess(p)?;
        let right = &self.moments.cross - self.moments.gram.f_matmul(&guess)?;
        // Gram matrices give psi with half the digits, so a smaller ridge would fit its columns to rounding errors.
        let squared = ridge.max(SQUARED);
        let all = self.apply(&(right / self.moments.count.max(1.0)), squared)? + &guess;
        if let Some(own) = &self.exact {
            let d = structure.sizes.dimension();
            let columns = self.moves(own, ridge)? + guess.narrow(1, 1, d);
            all.narrow(1, 1, d).f_copy_(&columns)?;
        }
        let matrix = all.narrow(0, 0, structure.sizes.all()).copy();
        structure.impose(&matrix)?;
        let drive = (structure.sizes.inputs > 0).then(|| {
            let drive = all.narrow(0, structure.sizes.all(), structure.sizes.inputs).copy();
            let _ = drive.narrow(1, 0, 1).f_zero_();
            drive
        });
        Ok(Solution { matrix, drive })
    }

    /// The columns for the next state with a separate ridge; `None` if the moments have no factor.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn finer(&self, ridge: f64, structure: &Structure<'_>) -> Result<Option<NextState>> {
        let Some(own) = &self.exact else { return Ok(None) };
        let (m, d, u) = (structure.sizes.all(), structure.sizes.dimension(), structure.sizes.inputs);
        let moves = self.moves(own, ridge)?;
        let covariance = semidefinite(&(own.left(&moves)? / self.moments.count.max(1.0)))?;
        let all = moves + structure.guess(m + u)?.narrow(1, 1, d);
        let drive = (u > 0).then(|| all.narrow(0, m, u).copy());
        Ok(Some(NextState { columns: all.narrow(0, 0, m).copy(), drive, covariance }))
    }

    /// The plain regression of the other quantities in the cross moments, `[p, columns]`.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn regressed(&self, ridge: f64) -> Result<Tensor> {
        self.apply(&(&self.moments.cross / self.moments.count.max(1.0)), ridge.max(SQUARED))
    }

    /// The regression for combinations of observables, among which only the constant is known exactly.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn solve_combined(&self, ridge: f64, rank: i64, rates: bool) -> Result<Solution> {
        let all = self.apply(&(&self.moments.cross / self.moments.count.max(1.0)), ridge)?;
        let rest = all.size()[0] - rank;
        // The constant, which comes first, does not change.
        let _ = all.narrow(1, 0, 1).f_zero_()?;
        if !rates {
            ones(&all, 0, 0, 1)?;
        }
        Ok(Solution {
            matrix: all.narrow(0, 0, rank).copy(),
            drive: (rest > 0).then(|| all.narrow(0, rank, rest).copy()),
        })
    }

    /// The constant and the `rank` combinations of observables that predict the next observables best, `[m0, 1 +
    /// rank]` (reduced-rank regression: Kostic et al., Neural Information Processing Systems 35, 2022). The
    /// combinations have mean 0 and are orthonormal over the data. The state has the same weight as all other
    /// observables together.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `rank` if fewer observables are linearly independent.
    pub fn combinations(&self, ridge: f64, rank: i64, sizes: &Sizes) -> Result<Tensor> {
        let (m, d, count) = (sizes.all(), sizes.dimension(), self.moments.count.max(1.0));
        // Inputs are not observables.
        let block = |x: &Tensor| x.narrow(0, 0, m).narrow(1, 0, m) / count;
        let mean = &self.moments.sum / count;
        let gram = block(&self.moments.gram) - mean.unsqueeze(1).f_matmul(&mean.unsqueeze(0))?;
        let (values, vectors) = gram.f_linalg_eigh("L")?;
        let keep = values.gt(1e-13 * values.max().double_value(&[])).nonzero().view([-1]);
        let root = (values.f_index_select(0, &keep)? + ridge * self.unit).rsqrt();
        let whiten = vectors.f_index_select(1, &keep)? * root;
        // The means of the first and the next observables differ by the beginnings and ends of paths.
        let next_mean = (self.moments.cross.narrow(0, 0, 1) / count).squeeze_dim(0);
        let cross = block(&self.moments.cross) - mean.unsqueeze(1).f_matmul(&next_mean.unsqueeze(0))?;
        let weights = Tensor::f_ones([m], REAL)?;
        let _ = weights.narrow(0, 1, d).f_fill_((m as f64 / d as f64).sqrt())?;
        let (left, _, _) = (whiten.tr().f_matmul(&cross)? * weights).f_svd(true, true)?;
        if left.size()[1] < rank {
            let expected = format!("at most {}, the number of observables that differ", left.size()[1]);
            return Err(Error::argument("rank", expected, rank));
        }
        let combined = whiten.f_matmul(&left.narrow(1, 0, rank))?;
        let shift = mean.unsqueeze(0).f_matmul(&combined)?;
        let _ = combined.narrow(0, 0, 1).f_sub_(&shift)?;
        let one = Tensor::f_zeros([m, 1], REAL)?;
        let _ = one.get(0).f_fill_(1.0)?;
        Ok(Tensor::f_cat(&[one, combined], 1)?)
    }

    /// The linear readout `[r, d]` of standardised states from combinations of observables. `gram` `[m0, m0]` is the
    /// Gram matrix of all observables.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn readout(&self, projection: &Tensor, gram: &Tensor, d: i64) -> Result<Tensor> {
        let right = projection.tr().f_matmul(&gram.narrow(1, 1, d))? / self.moments.count.max(1.0);
        let r = projection.size()[1];
        let own = &self.moments.gram.narrow(0, 0, r).narrow(1, 0, r) / self.moments.count.max(1.0);
        let floor = own.f_diagonal(0, 0, 1)?.mean(Kind::Double).double_value(&[]) * 1e-12;
        Ok(Tensor::f_linalg_solve(&(own + Tensor::f_eye(r, REAL)? * floor), &right, true)?)
    }

    /// Covariance `[m, m]` of the residuals of the regression.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn covariance(&self, solution: &Solution) -> Result<Tensor> {
        let all = match &solution.drive {
            Some(drive) => Tensor::f_cat(&[&solution.matrix, drive], 0)?,
            None => solution.matrix.shallow_clone(),
        };
        let own = all.tr().f_matmul(&self.moments.cross)?;
        let both = all.tr().f_matmul(&self.moments.gram)?.f_matmul(&all)?;
        let sum = &self.moments.future - &own - own.tr() + both;
        if let Some(own) = &self.exact {
            // The block of the state is computed without differences of large numbers.
            let d = own.moved.size()[1];
            let guess = Tensor::f_zeros([own.factor.size()[0], d], REAL)?;
            ones(&guess, 1, 0, d)?;
            let left = own.left(&(all.narrow(1, 1, d) - guess))?;
            sum.narrow(0, 1, d).narrow(1, 1, d).f_copy_(&left)?;
        }
        semidefinite(&(sum / self.moments.count.max(1.0)))
    }
}

/// The nearest symmetric positive semidefinite matrix.
///
/// # Errors
/// Errors of libtorch.
pub fn semidefinite(matrix: &Tensor) -> Result<Tensor> {
    let (values, vectors) = ((matrix + matrix.tr()) * 0.5).f_linalg_eigh("L")?;
    Ok((&vectors * values.clamp_min(0.0)).f_matmul(&vectors.tr())?)
}

/// Maximum relative distance of exp(L dt) from K.
const EXACT: f64 = 1e-6;

/// L = log K / dt, or the reason why there is none.
///
/// # Errors
/// Errors of libtorch.
pub fn logarithm(transition: &Tensor, step: f64) -> Result<std::result::Result<Tensor, String>> {
    let eigen = Eigenvectors::new(transition)?;
    let parts = eigen.values.f_view_as_real()?;
    let (real, imaginary) = (parts.select(1, 0), parts.select(1, 1));
    let largest = eigen.values.abs().max().double_value(&[]);
    let none = imaginary.eq(0.0).logical_and(&real.le(1e-12 * largest)).sum(Kind::Int64).int64_value(&[]);
    if none > 0 {
        return Ok(Err(format!(
            "{none} eigenvalues of a step are real and not positive, so they have no logarithm"
        )));
    }
    let Ok(rows) = eigen.rows() else {
        return Ok(Err("a step has nearly parallel eigenvectors".into()));
    };
    let logs = eigen.values.log() / step;
    let generator = (&eigen.columns * logs).f_matmul(&rows)?.f_real()?.contiguous();
    let back = (&generator * step).f_linalg_matrix_exp()?;
    let off = (back - transition).norm().double_value(&[]) / transition.norm().double_value(&[]);
    match off <= EXACT {
        true => Ok(Ok(generator)),
        false => Ok(Err(format!("exp(L dt) would differ from a step by {off:.1e}, relative to the step"))),
    }
}
