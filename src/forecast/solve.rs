//! Linear regression of the next observables on the present ones.

use tch::{Device, Kind, Tensor};

use super::model::Sizes;
use super::moments::Moments;
use crate::error::{Error, Result};
use crate::koopman::Eigenvectors;

const REAL: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Moments with the eigenvectors of their Gram matrix: any ridge is then a matter of products.
pub struct Normal<'a> {
    moments: &'a Moments,
    values: Tensor,
    vectors: Tensor,
    /// Mean square of an observable, the unit of ridges.
    unit: f64,
}

/// The regression's answer.
pub struct Solution {
    /// K or L, `[m, m]`.
    pub matrix: Tensor,
    /// `[u, m]`
    pub drive: Option<Tensor>,
}

/// What is known of the next observables without a regression.
pub struct Structure<'a> {
    pub sizes: &'a Sizes,
    /// Whether rates are sought, of which none is that of a constant.
    pub rates: bool,
}

impl Structure<'_> {
    /// The guess that a ridge leads to: the state stays. `[p, m]`
    fn guess(&self, p: i64) -> Result<Tensor> {
        let guess = Tensor::f_zeros([p, self.sizes.all()], REAL)?;
        if !self.rates {
            ones(&guess, 1, 1, self.sizes.dimension())?;
        }
        Ok(guess)
    }

    /// Columns of the constant, of older rows and of conditions, which are exact.
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
    /// [`Error::Divergence`] where observables are not finite.
    pub fn new(moments: &'a Moments) -> Result<Self> {
        let gram = &moments.gram / moments.count.max(1.0);
        if !crate::tensor::all_finite(&gram) {
            return Err(Error::Divergence("observables of the data are not finite".into()));
        }
        let unit = gram.f_diagonal(0, 0, 1)?.mean(Kind::Double).double_value(&[]);
        let (values, vectors) = gram.f_linalg_eigh("L")?;
        Ok(Normal { moments, values: values.clamp_min(0.0), vectors, unit })
    }

    /// (Gram + ridge)^{-1} right, both divided by the number of pairs.
    fn apply(&self, right: &Tensor, ridge: f64) -> Result<Tensor> {
        let shrunk = (&self.values + ridge * self.unit + f64::MIN_POSITIVE).reciprocal();
        let turned = self.vectors.tr().f_matmul(right)?;
        Ok(self.vectors.f_matmul(&(turned * shrunk.unsqueeze(1)))?)
    }

    /// The regression with a ridge, towards `structure`'s guess.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    pub fn solve(&self, ridge: f64, structure: &Structure<'_>) -> Result<Solution> {
        let p = self.moments.gram.size()[0];
        let guess = structure.guess(p)?;
        let right = &self.moments.cross - self.moments.gram.f_matmul(&guess)?;
        let all = self.apply(&(right / self.moments.count.max(1.0)), ridge)? + guess;
        let matrix = all.narrow(0, 0, structure.sizes.all()).copy();
        structure.impose(&matrix)?;
        let drive = (structure.sizes.inputs > 0).then(|| {
            let drive = all.narrow(0, structure.sizes.all(), structure.sizes.inputs).copy();
            let _ = drive.narrow(1, 0, 1).f_zero_();
            drive
        });
        Ok(Solution { matrix, drive })
    }

    /// The plain regression of what the cross moments are of, `[p, columns]`.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    pub fn regressed(&self, ridge: f64) -> Result<Tensor> {
        self.apply(&(&self.moments.cross / self.moments.count.max(1.0)), ridge)
    }

    /// The same for combinations of observables that have no structure of their own.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    pub fn solve_combined(&self, ridge: f64, rank: i64) -> Result<Solution> {
        let all = self.apply(&(&self.moments.cross / self.moments.count.max(1.0)), ridge)?;
        let rest = all.size()[0] - rank;
        Ok(Solution {
            matrix: all.narrow(0, 0, rank).copy(),
            drive: (rest > 0).then(|| all.narrow(0, rank, rest).copy()),
        })
    }

    /// The `rank` combinations of observables, `[m0, r]`, that tell most of what comes next (reduced-rank regression:
    /// Kostic et al., Neural Information Processing Systems 35, 2022), orthonormal over the data. The state weighs as
    /// much as everything else together.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `rank` where there are fewer observables that differ.
    pub fn combinations(&self, ridge: f64, rank: i64, sizes: &Sizes) -> Result<Tensor> {
        let (m, d) = (sizes.all(), sizes.dimension());
        let keep = self.values.gt(1e-13 * self.values.max().double_value(&[]));
        let places = keep.nonzero().view([-1]);
        let root = (self.values.f_index_select(0, &places)? + ridge * self.unit).rsqrt();
        let whiten = self.vectors.f_index_select(1, &places)? * root;
        let weights = Tensor::f_ones([m], REAL)?;
        let _ = weights.narrow(0, 1, d).f_fill_((m as f64 / d as f64).sqrt())?;
        let next = whiten.tr().f_matmul(&(&self.moments.cross / self.moments.count.max(1.0)))? * weights;
        let (left, _, _) = next.f_svd(true, true)?;
        if left.size()[1] < rank {
            let expected = format!("at most {}, the number of observables that differ", left.size()[1]);
            return Err(Error::argument("rank", expected, rank));
        }
        // Inputs are no observables.
        Ok(whiten.f_matmul(&left.narrow(1, 0, rank))?.narrow(0, 0, m).contiguous())
    }

    /// The linear readout of standardised states from combinations of observables, `[r, d]`: `gram` is that of all
    /// observables, `[m0, m0]`.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    pub fn readout(&self, projection: &Tensor, gram: &Tensor, d: i64) -> Result<Tensor> {
        let right = projection.tr().f_matmul(&gram.narrow(1, 1, d))? / self.moments.count.max(1.0);
        let r = projection.size()[1];
        let own = &self.moments.gram.narrow(0, 0, r).narrow(1, 0, r) / self.moments.count.max(1.0);
        let floor = own.f_diagonal(0, 0, 1)?.mean(Kind::Double).double_value(&[]) * 1e-12;
        Ok(Tensor::f_linalg_solve(&(own + Tensor::f_eye(r, REAL)? * floor), &right, true)?)
    }

    /// Covariance `[m, m]` of what a step adds to the regression's answer.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    pub fn covariance(&self, solution: &Solution) -> Result<Tensor> {
        let all = match &solution.drive {
            Some(drive) => Tensor::f_cat(&[&solution.matrix, drive], 0)?,
            None => solution.matrix.shallow_clone(),
        };
        let own = all.tr().f_matmul(&self.moments.cross)?;
        let both = all.tr().f_matmul(&self.moments.gram)?.f_matmul(&all)?;
        let sum = &self.moments.future - &own - own.tr() + both;
        semidefinite(&(sum / self.moments.count.max(1.0)))
    }
}

/// The nearest symmetric matrix without negative eigenvalues.
///
/// # Errors
/// Whatever libtorch refuses.
pub fn semidefinite(matrix: &Tensor) -> Result<Tensor> {
    let (values, vectors) = ((matrix + matrix.tr()) * 0.5).f_linalg_eigh("L")?;
    Ok((&vectors * values.clamp_min(0.0)).f_matmul(&vectors.tr())?)
}

/// Largest relative distance of exp(L dt) from K.
const EXACT: f64 = 1e-6;

/// L = log K / dt, or why there is none.
///
/// # Errors
/// Whatever libtorch refuses.
pub fn logarithm(transition: &Tensor, step: f64) -> Result<std::result::Result<Tensor, String>> {
    let eigen = Eigenvectors::new(transition)?;
    let parts = eigen.values.f_view_as_real()?;
    let (real, imaginary) = (parts.select(1, 0), parts.select(1, 1));
    let largest = eigen.values.abs().max().double_value(&[]);
    let none = imaginary.eq(0.0).logical_and(&real.le(1e-12 * largest)).sum(Kind::Int64).int64_value(&[]);
    if none > 0 {
        return Ok(Err(format!(
            "{none} eigenvalues of a step are real and not positive: they have no logarithm"
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
        false => Ok(Err(format!("exp(L dt) would miss a step by {off:.1e} of it"))),
    }
}
