//! Eigenvalues, eigenfunctions and modes of a generator, in float64 on the CPU.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::koopman::{Generator, Horizon, SpectralGenerator, Student};

/// All eigenvalues of L but the structural zeros (the constant, time and, with a spectral generator, the
/// state); `r` of them, each conjugate pair side by side, the positive frequency first.
pub struct Spectrum {
    /// lambda: complex, `[r]`.
    eigenvalues: Tensor,
    /// Right eigenvectors as columns: complex, `[m, r]`; psi = g · weights.
    weights: Tensor,
    /// Left eigenvectors as rows: complex, `[r, m]`. Where an eigenvalue vanishes the state's entries, which
    /// would be infinite, are 0: see `rates`.
    rows: Tensor,
    /// lambda times the rows, always finite: complex, `[r, m]`.
    rates: Tensor,
    /// The other of each conjugate pair; real ones are their own.
    partners: Vec<usize>,
    /// ||L W - W Λ|| / ||L||.
    residual: f64,
}

/// Eigenvalues below this, in units of the generator's norm where that is above 1, are taken for 0 where they
/// would have to be divided by.
const VANISHING: f64 = 1e-7;

const REAL: (Kind, Device) = (Kind::Double, Device::Cpu);

/// A real tensor as a complex one.
fn complex(real: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_complex(real, &real.f_zeros_like()?)?)
}

/// 1/lambda, and 0 where it vanishes.
fn reciprocal(eigenvalues: &Tensor, norm: f64) -> Result<Tensor> {
    let vanishing = eigenvalues.f_abs()?.f_lt(VANISHING * norm.max(1.0))?;
    let safe = eigenvalues.f_masked_fill(&vanishing, 1.0)?;
    Ok(safe.f_reciprocal()?.f_masked_fill(&vanishing, 0.0)?)
}

/// (e^{lambda tau} - 1)/lambda, by its series where that is 0/0.
pub(super) fn integral(eigenvalues: &Tensor, tau: f64) -> Result<Tensor> {
    let z = eigenvalues * tau;
    let small = z.f_abs()?.f_lt(1e-3)?;
    let safe = eigenvalues.f_masked_fill(&small, 1.0)?;
    let quotient = ((&safe * tau).f_exp()? - 1.0) / &safe;
    let mut series = &z / 120.0 + 1.0 / 24.0;
    for coefficient in [1.0 / 6.0, 0.5, 1.0] {
        series = &series * &z + coefficient;
    }
    Ok((series * tau).f_where_self(&small, &quotient)?)
}

impl Spectrum {
    /// Instant for a spectral generator; one dense eigenvalue problem of size d + k for a dense one.
    ///
    /// # Errors
    /// [`Error::Divergence`] where the eigenvectors are linearly dependent (a defective generator) or the
    /// generator is not finite.
    pub fn new(student: &Student) -> Result<Spectrum> {
        let _guard = tch::no_grad_guard();
        let dimension = student.config().dimension();
        if let Generator::Levels(_) = student.generator() {
            let expected = "a student that reads x off linearly; one by levels has their spectra";
            return Err(Error::argument("student", expected, "one that decodes feature maps"));
        }
        let matrix = student.generator().matrix();
        if matrix.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::Divergence("the generator is not finite: it has no spectrum".into()));
        }
        match student.generator() {
            Generator::Spectral(generator) => Self::of_blocks(generator, &matrix, dimension),
            Generator::Dense(_) | Generator::Levels(_) => Self::of_matrix(&matrix),
        }
    }

    /// The parameters are the eigenvalues. For z = re + i im the row is (re - i im)/2.
    fn of_blocks(generator: &SpectralGenerator, matrix: &Tensor, dimension: i64) -> Result<Spectrum> {
        let (growth, frequency) = generator.rates();
        let (pairs, all) = (frequency.size()[0], growth.size()[0]);
        let (features, m) = (pairs + all, matrix.size()[0]);
        let unit = Tensor::f_eye(features, REAL)?;
        let (re, im) = (unit.narrow(0, 0, pairs), unit.narrow(0, pairs, pairs));
        let sign = frequency.f_ge(0.0)?.to_kind(Kind::Double) * 2.0 - 1.0;
        // Rows over phi of: one of each pair, its conjugate, the real ones.
        let upper = Tensor::f_complex(&re, &(&im * sign.unsqueeze(1)))?;
        let couples = |upper: &Tensor| -> Result<Tensor> {
            let mut shape = upper.size();
            shape[0] *= 2;
            Ok(Tensor::f_stack(&[upper.shallow_clone(), upper.f_conj()?.f_resolve_conj()?], 1)?
                .reshape(shape))
        };
        let rest = complex(&unit.narrow(0, 2 * pairs, all - pairs))?;
        let columns = Tensor::f_cat(&[&couples(&upper)?, &rest], 0)?;
        let values = Tensor::f_complex(&growth.narrow(0, 0, pairs), &frequency.f_abs()?)?;
        let rest = complex(&growth.narrow(0, pairs, all - pairs))?;
        let eigenvalues = Tensor::f_cat(&[&couples(&values)?, &rest], 0)?;
        // The columns of a pair, re ± i im, have the dual (re ∓ i im)/2; the real ones are their own.
        let halves = Tensor::f_ones([features], REAL)?;
        let _ = halves.narrow(0, 0, 2 * pairs).f_fill_(0.5)?;
        let dual = columns.f_conj()?.f_resolve_conj()? * halves.unsqueeze(1);
        let readout = matrix.narrow(0, 2 + dimension, features).narrow(1, 2, dimension);
        let state_rates = dual.f_matmul(&complex(&readout)?)?;
        let feature_rates = &dual * eigenvalues.unsqueeze(1);
        let inverse = reciprocal(&eigenvalues, 1.0)?;
        let head = Tensor::f_zeros([features, 2], (Kind::ComplexDouble, Device::Cpu))?;
        let state = &state_rates * inverse.unsqueeze(1);
        let rates = Tensor::f_cat(&[&head, &state_rates, &feature_rates], 1)?;
        let rows = Tensor::f_cat(&[&head, &state, &dual], 1)?;
        let above = Tensor::f_zeros([m - features, features], (Kind::ComplexDouble, Device::Cpu))?;
        let weights = Tensor::f_cat(&[above, columns.f_transpose(0, 1)?], 0)?;
        // Eigenvectors by construction.
        Self::assemble(eigenvalues, weights, rows, rates, 0.0)
    }

    /// Through LAPACK: W of the block D that carries [x, phi], its inverse for the rows, and the affine part of
    /// each eigenfunction, beta = b1 w / lambda and alpha = (b0 w + beta) / lambda.
    fn of_matrix(matrix: &Tensor) -> Result<Spectrum> {
        let n = matrix.size()[0] - 2;
        let block = matrix.narrow(0, 2, n).narrow(1, 2, n).contiguous();
        let norm = block.norm().double_value(&[]);
        let (eigenvalues, vectors) = block.f_linalg_eig()?;
        let rows = Tensor::f_linalg_inv(&vectors)
            .ok()
            .filter(|rows| rows.abs().isfinite().all().int64_value(&[]) != 0);
        let Some(rows) = rows else {
            return Err(Error::Divergence(
                "the generator is defective: its eigenvectors are linearly dependent, so that it has no modes"
                    .into(),
            ));
        };
        let inverse = reciprocal(&eigenvalues, norm)?;
        let affine = complex(&matrix.narrow(0, 0, 2).narrow(1, 2, n))?.f_matmul(&vectors)?;
        let slope = affine.select(0, 1) * &inverse;
        let shift = (affine.select(0, 0) + &slope) * &inverse;
        let weights = Tensor::f_cat(&[&shift.unsqueeze(0), &slope.unsqueeze(0), &vectors], 0)?;
        let head = Tensor::f_zeros([n, 2], (Kind::ComplexDouble, Device::Cpu))?;
        let rates = Tensor::f_cat(&[&head, &(&rows * eigenvalues.unsqueeze(1))], 1)?;
        let rows = Tensor::f_cat(&[&head, &rows], 1)?;
        let full = complex(matrix)?;
        let residual = full.f_matmul(&weights)? - &weights * eigenvalues.unsqueeze(0);
        let residual = residual.abs().square().sum(Kind::Double).sqrt().double_value(&[])
            / matrix.norm().double_value(&[]);
        Self::assemble(eigenvalues, weights, rows, rates, residual)
    }

    fn assemble(
        eigenvalues: Tensor,
        weights: Tensor,
        rows: Tensor,
        rates: Tensor,
        residual: f64,
    ) -> Result<Spectrum> {
        let imaginary = Vec::<f64>::try_from(&eigenvalues.f_imag()?.contiguous())?;
        let partners = partners(&imaginary)?;
        Ok(Spectrum { eigenvalues, weights, rows, rates, partners, residual })
    }

    /// A second handle on the same tensors.
    pub fn shallow_clone(&self) -> Spectrum {
        Spectrum {
            eigenvalues: self.eigenvalues.shallow_clone(),
            weights: self.weights.shallow_clone(),
            rows: self.rows.shallow_clone(),
            rates: self.rates.shallow_clone(),
            partners: self.partners.clone(),
            residual: self.residual,
        }
    }

    /// r.
    pub fn count(&self) -> i64 {
        self.eigenvalues.size()[0]
    }

    /// lambda, complex `[r]`.
    pub fn eigenvalues(&self) -> &Tensor {
        &self.eigenvalues
    }

    /// Right eigenvectors as columns, complex `[m, r]`: the weights of each eigenfunction, psi = g · weights.
    pub fn weights(&self) -> &Tensor {
        &self.weights
    }

    /// Left eigenvectors as rows, complex `[r, m]`: the spectral projector of mode k is weights_k rows_k.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// lambda times the rows, complex `[r, m]`, finite also where lambda is 0: dg/dt of a unit of psi.
    pub fn rates(&self) -> &Tensor {
        &self.rates
    }

    /// ||L W - W Λ|| / ||L||: how exactly the eigenfunctions are eigenfunctions of L.
    pub fn residual(&self) -> f64 {
        self.residual
    }

    /// ||w_k|| ||q_k||, `[r]`: how much lambda_k moves for a change of L (Wilkinson); infinite for a defective
    /// one.
    pub fn condition_numbers(&self) -> Tensor {
        let norm = |tensor: &Tensor, dimension: i64| {
            tensor.abs().square().sum_dim_intlist(dimension, false, Kind::Double).sqrt()
        };
        norm(&self.weights, 0) * norm(&self.rows, 1)
    }

    /// The same selection with both of each conjugate pair where it has one: real samples come of nothing else.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `modes`.
    pub fn close(&self, keep: &[bool]) -> Result<Vec<bool>> {
        if keep.len() != self.partners.len() {
            let (expected, got) = (format!("({},)", self.partners.len()), format!("({},)", keep.len()));
            return Err(Error::shape("modes", expected, got));
        }
        Ok(self.partners.iter().zip(keep).map(|(partner, kept)| *kept || keep[*partner]).collect())
    }

    pub(super) fn partners(&self) -> &[usize] {
        &self.partners
    }

    /// exp(tau L) with only the kept modes moving, `[m, m]`: psi_k of the others stays what it is,
    /// exp(tau L) - sum over the others of w_k (e^{lambda_k tau} - 1) q_k.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `modes`; [`Error::Divergence`] where exp(tau L) is not finite.
    pub fn exponential(&self, generator: &Generator, tau: f64, keep: &[bool]) -> Result<Tensor> {
        let keep = self.close(keep)?;
        let whole = generator.exponential(tau)?;
        let left_out: Vec<i64> = (0..keep.len()).filter(|k| !keep[*k]).map(|k| k as i64).collect();
        if left_out.is_empty() {
            return Ok(whole);
        }
        let chosen = Tensor::from_slice(&left_out);
        let weights = self.weights.index_select(1, &chosen);
        let factors = integral(&self.eigenvalues.index_select(0, &chosen), tau)?;
        let moved = (weights * factors.unsqueeze(0)).f_matmul(&self.rates.index_select(0, &chosen))?;
        Ok(whole - moved.f_real()?)
    }

    /// x(t + tau) of observables at t with only the kept modes moving.
    ///
    /// # Errors
    /// As [`Self::exponential`].
    pub fn horizon(&self, student: &Student, tau: f64, keep: &[bool]) -> Result<Horizon> {
        let _guard = tch::no_grad_guard();
        student.horizon_of(&self.exponential(student.generator(), tau, keep)?)
    }
}

/// Conjugates side by side, the positive frequency first, as LAPACK gives them.
fn partners(imaginary: &[f64]) -> Result<Vec<usize>> {
    let mut partners = Vec::with_capacity(imaginary.len());
    while partners.len() < imaginary.len() {
        let k = partners.len();
        match imaginary[k] {
            0.0 => partners.push(k),
            value if value > 0.0 && imaginary.get(k + 1) == Some(&-value) => partners.extend([k + 1, k]),
            value => {
                let message =
                    anyhow::anyhow!("eigenvalue {k} of frequency {value} has no conjugate beside it");
                return Err(Error::Internal(message));
            }
        }
    }
    Ok(partners)
}
