//! Eigenvectors of a dense matrix, as complex columns and in the real layout of [`super::Blocks`].

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

const REAL: (Kind, Device) = (Kind::Double, Device::Cpu);

/// The eigendecomposition D W = W Λ, by LAPACK.
pub struct Eigenvectors {
    /// λ: complex `[n]`, conjugates side by side, the positive frequency first.
    pub values: Tensor,
    /// W: complex `[n, n]`, columns of length 1.
    pub columns: Tensor,
}

impl Eigenvectors {
    /// Eigenvalues and eigenvectors of a float64 matrix `[n, n]` on the CPU.
    ///
    /// # Errors
    /// [`Error::Divergence`] if the matrix is not finite.
    pub fn new(matrix: &Tensor) -> Result<Self> {
        if matrix.f_isfinite()?.all().int64_value(&[]) == 0 {
            return Err(Error::Divergence("the generator is not finite: it has no spectrum".into()));
        }
        let (values, columns) = matrix.f_linalg_eig()?;
        Ok(Eigenvectors { values, columns })
    }

    /// W^{-1}, whose rows are the left eigenvectors.
    ///
    /// # Errors
    /// [`Error::Divergence`] for a defective matrix, whose eigenvectors are linearly dependent. LAPACK seldom
    /// returns exactly dependent ones, so an inverse without a correct digit counts as an error too.
    pub fn rows(&self) -> Result<Tensor> {
        let size = |matrix: &Tensor| matrix.abs().square().sum(Kind::Double).sqrt().double_value(&[]);
        let rows = Tensor::f_linalg_inv(&self.columns).ok();
        rows.filter(|rows| size(rows) * size(&self.columns) * f64::EPSILON < 1.0).ok_or_else(|| {
            Error::Divergence(
                "the generator is defective: its eigenvectors are linearly dependent, so that it has no modes"
                    .into(),
            )
        })
    }
}

/// The same in real arithmetic: one of each conjugate pair of eigenvalues, then the real ones.
pub(in crate::koopman) struct RealEigenvectors {
    /// Real and imaginary parts of the eigenvalues, `[p + r]`.
    pub growth: Tensor,
    pub frequency: Tensor,
    /// Real and imaginary parts of the eigenvectors, `[n, p + r]`.
    pub real: Tensor,
    pub imaginary: Tensor,
    /// p, the number of conjugate pairs.
    pub pairs: i64,
}

impl RealEigenvectors {
    /// Eigenvalues and eigenvectors of a float64 matrix `[n, n]` on the CPU.
    ///
    /// # Errors
    /// As [`Eigenvectors::new`].
    pub fn new(matrix: &Tensor) -> Result<Self> {
        let Eigenvectors { values, columns } = Eigenvectors::new(matrix)?;
        let (values, columns) = (values.f_view_as_real()?, columns.f_view_as_real()?);
        let (growth, frequency) = (values.select(1, 0), values.select(1, 1));
        let couples = frequency.gt(0.0).nonzero().reshape([-1]);
        let order = Tensor::cat(&[&couples, &frequency.eq(0.0).nonzero().reshape([-1])], 0);
        let pairs = couples.size()[0];
        // The two real vectors of a pair together have the norm of a complex vector and its conjugate.
        let weight = Tensor::ones([order.size()[0]], REAL);
        let _ = weight.narrow(0, 0, pairs).f_mul_scalar_(2f64.sqrt())?;
        let columns = columns.index_select(1, &order);
        Ok(RealEigenvectors {
            growth: growth.index_select(0, &order),
            frequency: frequency.index_select(0, &order),
            real: columns.select(2, 0) * &weight,
            imaginary: columns.select(2, 1) * &weight,
            pairs,
        })
    }

    /// |λ|, `[p + r]`.
    pub fn modulus(&self) -> Tensor {
        (self.growth.square() + self.frequency.square()).sqrt()
    }

    /// Columns in the generator's layout: real parts, imaginary parts of the pairs, real eigenvalues.
    pub fn layout(&self, real: &Tensor, imaginary: &Tensor) -> Tensor {
        let reals = real.size()[1] - self.pairs;
        let of_pairs = |part: &Tensor| part.narrow(1, 0, self.pairs);
        Tensor::cat(&[of_pairs(real), of_pairs(imaginary), real.narrow(1, self.pairs, reals)], 1)
    }

    /// The eigenvectors in that layout, `[n, n]`.
    pub fn basis(&self) -> Tensor {
        self.layout(&self.real, &self.imaginary)
    }

    /// Divides rows of complex numbers by the eigenvalues, and multiplies by `factor`, which is 0 where the
    /// quotient is not wanted.
    pub fn divide(&self, real: &Tensor, imaginary: &Tensor, factor: &Tensor) -> (Tensor, Tensor) {
        let square = self.modulus().square();
        let inverse = factor / square.masked_fill(&factor.eq(0.0), 1.0);
        (
            (real * &self.growth + imaginary * &self.frequency) * &inverse,
            (imaginary * &self.growth - real * &self.frequency) * inverse,
        )
    }

    /// Λ in the layout's order, `[n, n]`.
    pub fn rates(&self) -> Result<Tensor> {
        let reals = self.growth.size()[0] - self.pairs;
        let (p, n) = (self.pairs, 2 * self.pairs + reals);
        let matrix = Tensor::f_zeros([n, n], REAL)?;
        let a = self.growth.narrow(0, 0, p);
        let b = self.frequency.narrow(0, 0, p);
        matrix.narrow(0, 0, p).narrow(1, 0, p).f_copy_(&a.f_diag(0)?)?;
        matrix.narrow(0, p, p).narrow(1, p, p).f_copy_(&a.f_diag(0)?)?;
        matrix.narrow(0, 0, p).narrow(1, p, p).f_copy_(&b.f_diag(0)?)?;
        matrix.narrow(0, p, p).narrow(1, 0, p).f_copy_(&b.f_diag(0)?.neg())?;
        let rest = self.growth.narrow(0, p, reals);
        matrix.narrow(0, 2 * p, reals).narrow(1, 2 * p, reals).f_copy_(&rest.f_diag(0)?)?;
        Ok(matrix)
    }
}
