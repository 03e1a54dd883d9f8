//! Eigenvalues, eigenfunctions and modes of a generator, in float64 on the CPU.

use tch::{Device, Kind, Tensor};

use super::vectors::{complex, product, Blocks, Vectors};
use crate::error::{Error, Result};
use crate::koopman::{
    exponential_integral, Direction, Eigenvectors, Generator, Horizon, SpectralGenerator, Student,
};
use crate::tensor::exact;

/// All `r` eigenvalues of L except the structural zeros (the constant, time and, with a spectral generator,
/// the state). The two of a conjugate pair are adjacent, with the positive frequency first.
pub struct Spectrum {
    /// lambda: complex, `[r]`.
    eigenvalues: Tensor,
    /// 1/lambda: complex, `[r]`; 0 where lambda vanishes. The state's entries of left eigenvectors would be
    /// infinite there, and are 0 instead.
    inverse: Tensor,
    vectors: Vectors,
    /// Index of the conjugate of each eigenvalue; real ones are their own.
    partners: Vec<usize>,
    /// ||L W - W Λ|| / ||L||.
    residual: f64,
}

/// Eigenvalues below this, in units of the generator's norm if that is above 1, count as 0 in divisions.
const VANISHING: f64 = 1e-7;

/// 1/lambda, or 0 where lambda vanishes.
fn reciprocal(eigenvalues: &Tensor, norm: f64) -> Result<Tensor> {
    let vanishing = eigenvalues.f_abs()?.f_lt(VANISHING * norm.max(1.0))?;
    let safe = eigenvalues.f_masked_fill(&vanishing, 1.0)?;
    Ok(safe.f_reciprocal()?.f_masked_fill(&vanishing, 0.0)?)
}

impl Spectrum {
    /// Takes almost no time for a spectral generator, and one eigenvalue problem of size d + k for a dense
    /// one.
    ///
    /// # Errors
    /// [`Error::Divergence`] if the eigenvectors are linearly dependent (a defective generator) or the
    /// generator is not finite.
    pub fn new(student: &Student) -> Result<Spectrum> {
        let _guard = tch::no_grad_guard();
        if let Generator::Levels(_) = student.generator() {
            let expected = "a student that reads x off linearly (a hierarchy has a level spectrum instead)";
            return Err(Error::argument("student", expected, "a hierarchy of feature maps"));
        }
        match student.generator() {
            Generator::Spectral(generator) => Self::of_blocks(generator),
            _ => Self::of_matrix(&student.generator().matrix()),
        }
    }

    /// The parameters are the eigenvalues, and the eigenvectors are known in closed form.
    fn of_blocks(generator: &SpectralGenerator) -> Result<Spectrum> {
        let (growth, frequency) = generator.rates();
        let readout = generator.modes().detach().to_device(Device::Cpu).to_kind(Kind::Double);
        check(&Tensor::f_cat(&[&growth, &frequency, &readout.reshape([-1])], 0)?)?;
        let (pairs, all) = (frequency.size()[0], growth.size()[0]);
        let (growing, turning) = (growth.narrow(0, 0, pairs), frequency.f_abs()?);
        let couples = [&turning, &turning.neg()].map(|each| Tensor::f_complex(&growing, each));
        let [one, other] = couples;
        let couples = Tensor::f_stack(&[one?, other?], 1)?.f_reshape([-1])?;
        let rest = complex(&growth.narrow(0, pairs, all - pairs))?;
        let eigenvalues = Tensor::f_cat(&[couples, rest], 0)?;
        let sign = frequency.f_ge(0.0)?.to_kind(Kind::Double) * 2.0 - 1.0;
        let inverse = reciprocal(&eigenvalues, 1.0)?;
        Self::assemble(eigenvalues, inverse, Vectors::Blocks(Blocks { sign, readout }), 0.0)
    }

    /// By LAPACK: W of the block D that maps [x, phi], its inverse for the rows, and the affine part of each
    /// eigenfunction, beta = b1 w / lambda and alpha = (b0 w + beta) / lambda.
    fn of_matrix(matrix: &Tensor) -> Result<Spectrum> {
        check(matrix)?;
        let n = matrix.size()[0] - 2;
        let block = matrix.narrow(0, 2, n).narrow(1, 2, n).contiguous();
        let norm = block.norm().double_value(&[]);
        let eigen = Eigenvectors::new(&block)?;
        let rows = eigen.rows()?;
        let Eigenvectors { values: eigenvalues, columns: vectors } = eigen;
        let inverse = reciprocal(&eigenvalues, norm)?;
        let affine = product(&matrix.narrow(0, 0, 2).narrow(1, 2, n), &vectors)?;
        let slope = affine.select(0, 1) * &inverse;
        let shift = (affine.select(0, 0) + &slope) * &inverse;
        let weights = Tensor::f_cat(&[&shift.unsqueeze(0), &slope.unsqueeze(0), &vectors], 0)?;
        let head = Tensor::f_zeros([n, 2], (Kind::ComplexDouble, Device::Cpu))?;
        let rates = Tensor::f_cat(&[&head, &(&rows * eigenvalues.unsqueeze(1))], 1)?;
        let rows = Tensor::f_cat(&[&head, &rows], 1)?;
        let residual = product(matrix, &weights)? - &weights * eigenvalues.unsqueeze(0);
        let residual = residual.abs().square().sum(Kind::Double).sqrt().double_value(&[])
            / matrix.norm().double_value(&[]);
        Self::assemble(eigenvalues, inverse, Vectors::Tables { weights, rows, rates }, residual)
    }

    fn assemble(eigenvalues: Tensor, inverse: Tensor, vectors: Vectors, residual: f64) -> Result<Spectrum> {
        let imaginary = Vec::<f64>::try_from(&eigenvalues.f_imag()?.contiguous())?;
        let partners = partners(&imaginary)?;
        Ok(Spectrum { eigenvalues, inverse, vectors, partners, residual })
    }

    /// A shallow copy, which shares the tensors.
    pub fn shallow_clone(&self) -> Spectrum {
        Spectrum {
            eigenvalues: self.eigenvalues.shallow_clone(),
            inverse: self.inverse.shallow_clone(),
            vectors: self.vectors.shallow_clone(),
            partners: self.partners.clone(),
            residual: self.residual,
        }
    }

    /// r, the number of eigenvalues.
    pub fn count(&self) -> i64 {
        self.eigenvalues.size()[0]
    }

    /// 0 for each mode, float64.
    pub(super) fn zeros(&self) -> Result<Tensor> {
        Ok(self.eigenvalues.f_real()?.f_zeros_like()?)
    }

    /// m, the number of observables.
    pub fn observables(&self) -> i64 {
        self.vectors.observables()
    }

    /// lambda, complex `[r]`.
    pub fn eigenvalues(&self) -> &Tensor {
        &self.eigenvalues
    }

    /// Right eigenvectors as columns, complex `[m, r]`: the weights of each eigenfunction, psi = g · weights.
    /// For a spectral generator they are computed at every call, as are [`Self::rows`] and [`Self::rates`].
    ///
    /// # Errors
    /// Any error of libtorch, such as running out of memory for a large m.
    pub fn weights(&self) -> Result<Tensor> {
        self.vectors.weights()
    }

    /// Left eigenvectors as rows, complex `[r, m]`: the spectral projector of mode k is weights_k rows_k.
    /// Where an eigenvalue vanishes, the state's entries would be infinite, and are 0 instead; see
    /// [`Self::rates`].
    ///
    /// # Errors
    /// As [`Self::weights`].
    pub fn rows(&self) -> Result<Tensor> {
        self.vectors.rows(&self.inverse)
    }

    /// lambda times the rows, complex `[r, m]`, finite also where lambda is 0: dg/dt of a unit of psi.
    ///
    /// # Errors
    /// As [`Self::weights`].
    pub fn rates(&self) -> Result<Tensor> {
        self.vectors.rates(&self.eigenvalues)
    }

    /// Eigenfunctions of observables, float64 `[B, m]` on the CPU: complex `[B, r]`, or `[B, places]`.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn read(&self, g: &Tensor, places: Option<&[i64]>) -> Result<Tensor> {
        match places {
            None => self.vectors.read(g),
            Some(places) => self.vectors.read_some(g, places),
        }
    }

    /// psi(t, x) of a student's states `[B, *event]`, for t `[B]` or one number: complex `[B, r]`, or `[B, places]`.
    ///
    /// # Errors
    /// As [`Student::encode`].
    pub fn eigenfunctions(
        &self,
        student: &Student,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
        places: Option<&[i64]>,
    ) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.read(&exact(&student.encode(t, x, Direction::Forward, condition)?), places)
    }

    /// Contribution of a unit of each psi to the rate of the student's readout, complex `[r, d]`. If a
    /// network decodes x, it is the contribution to the rate of the state among the observables. In the
    /// data's units at time 1.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn mode_rates(&self, student: &Student) -> Result<Tensor> {
        let rates = match learned_columns(student)? {
            Some(columns) => self.rates()?.f_matmul(&complex(&columns)?)?,
            None => self.vectors.state_rates(student.config().dimension())?,
        };
        Ok(rates * student.length(1.0)?)
    }

    /// Contribution of a unit of each psi to the student's readout at time 1, complex `[r, d]`.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn modes(&self, student: &Student) -> Result<Tensor> {
        let modes = match learned_columns(student)? {
            Some(columns) => self.rows()?.f_matmul(&complex(&columns)?)?,
            None => self.vectors.state_rows(student.config().dimension(), &self.inverse)?,
        };
        Ok(modes * student.length(1.0)?)
    }

    /// Displacement of the readout by time `t` for a unit of each psi at time 0, which is (e^{lambda t} - 1)
    /// times the modes: complex `[r, d]`.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn displacements(&self, student: &Student, t: f64) -> Result<Tensor> {
        let (own, whole) = (student.own_time(t), student.length(1.0)?);
        let moved = self.mode_rates(student)? * exponential_integral(&self.eigenvalues, own)?.unsqueeze(1);
        Ok(moved * (student.length(own)? / whole))
    }

    /// ||L W - W Λ|| / ||L||: the relative error of the eigenvectors.
    pub fn residual(&self) -> f64 {
        self.residual
    }

    /// Condition numbers ||w_k|| ||q_k||, `[r]`: the sensitivity of lambda_k to a change of L (Wilkinson);
    /// infinite for a defective L.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn condition_numbers(&self) -> Result<Tensor> {
        self.vectors.condition_numbers(&self.inverse)
    }

    /// Extends a selection to both of each conjugate pair of which it has one. Only then are samples real.
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

    /// Index of the conjugate of each eigenvalue, `[r]`; real ones are their own.
    pub fn partners(&self) -> &[usize] {
        &self.partners
    }

    /// Re(a Λ Q): the contribution of amplitudes, complex `[.., r]`, to dg/dt, `[.., m]`.
    pub(super) fn write(&self, amplitudes: &Tensor) -> Result<Tensor> {
        self.vectors.write(amplitudes, &self.eigenvalues)
    }

    /// Re(W diag(factors) Λ Q), `[m, m]`, for complex factors `[r]`.
    pub(super) fn motion(&self, factors: &Tensor) -> Result<Tensor> {
        self.vectors.motion(factors, &self.eigenvalues)
    }

    /// exp(tau L) with only the kept modes moving, `[m, m]`. psi_k of the others is held constant:
    /// exp(tau L) - sum over the others of w_k (e^{lambda_k tau} - 1) q_k.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `modes`; [`Error::Divergence`] if exp(tau L) is not finite.
    pub fn exponential(&self, generator: &Generator, tau: f64, keep: &[bool]) -> Result<Tensor> {
        let keep = self.close(keep)?;
        let whole = generator.exponential(tau)?;
        if keep.iter().all(|kept| *kept) {
            return Ok(whole);
        }
        let left_out: Vec<f64> = keep.iter().map(|kept| f64::from(u8::from(!kept))).collect();
        Ok(whole
            - self
                .motion(&(exponential_integral(&self.eigenvalues, tau)? * Tensor::from_slice(&left_out)))?)
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

/// C of x = g C if it was learned. A slice needs no product. If a network decodes x, the slice is the linear
/// part of the readout.
fn learned_columns(student: &Student) -> Result<Option<Tensor>> {
    match student.reads_exactly() {
        true => Ok(None),
        false => student.readout_columns(),
    }
}

/// # Errors
/// [`Error::Divergence`] for a generator that is not finite.
fn check(parameters: &Tensor) -> Result<()> {
    if parameters.isfinite().all().int64_value(&[]) == 0 {
        return Err(Error::Divergence("the generator is not finite: it has no spectrum".into()));
    }
    Ok(())
}

/// Index of the conjugate of each eigenvalue. Pairs must be adjacent, with the positive frequency first, as
/// LAPACK returns them.
pub(crate) fn partners(imaginary: &[f64]) -> Result<Vec<usize>> {
    let mut partners = Vec::with_capacity(imaginary.len());
    while partners.len() < imaginary.len() {
        let k = partners.len();
        match imaginary[k] {
            0.0 => partners.push(k),
            value if value > 0.0 && imaginary.get(k + 1) == Some(&-value) => partners.extend([k + 1, k]),
            value => {
                let message =
                    anyhow::anyhow!("eigenvalue {k} of frequency {value} has no conjugate next to it");
                return Err(Error::Internal(message));
            }
        }
    }
    Ok(partners)
}
