//! Changing eigenfunctions and reading the result as a sample.

use tch::{Device, Kind, Tensor};

use super::Spectrum;
use crate::error::{Error, Result};
use crate::koopman::Observables;
use crate::tensor::{check_finite, shape_text};

/// psi_k -> gain_k psi_k + shift_k, as an affine map of observables: g -> g + sum_k ((gain_k - 1) psi_k +
/// shift_k) q_k, real because conjugates are changed alike.
pub struct Edit {
    /// `[m, m]`.
    matrix: Tensor,
    /// `[m]`.
    shift: Tensor,
}

impl Edit {
    /// `gains` complex `[r]` and `shifts` complex `[r]` or `[B, r]`; of each pair the second one is ignored and
    /// taken to be the conjugate of the first.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] name `gains` or `shifts`.
    pub fn new(spectrum: &Spectrum, gains: &Tensor, shifts: &Tensor) -> Result<Edit> {
        let _guard = tch::no_grad_guard();
        let count = spectrum.count();
        let batched = shifts.dim() == 2;
        for (name, tensor, fits) in
            [("gains", gains, gains.dim() == 1), ("shifts", shifts, batched || shifts.dim() == 1)]
        {
            if !fits || tensor.size().last() != Some(&count) {
                return Err(Error::shape(name, format!("({count},)"), shape_text(&tensor.size())));
            }
            check_finite(name, &tensor.f_view_as_real()?)?;
        }
        let (gains, shifts) = (conjugated(spectrum, gains)?, conjugated(spectrum, shifts)?);
        let changes = spectrum.weights() * (gains - 1.0).unsqueeze(0);
        let change = changes.f_matmul(spectrum.rows())?.f_real()?;
        let m = change.size()[0];
        let matrix = Tensor::f_eye(m, (Kind::Double, Device::Cpu))? + change;
        let shift = shifts.f_matmul(spectrum.rows())?.f_real()?;
        Ok(Edit { matrix, shift: shift.contiguous() })
    }

    pub fn to_device_and_kind(&self, device: Device, kind: Kind) -> Edit {
        let convert = |tensor: &Tensor| tensor.to_device(device).to_kind(kind);
        Edit { matrix: convert(&self.matrix), shift: convert(&self.shift) }
    }

    /// Rows `start .. start + length` of shifts that differ from sample to sample.
    pub fn rows(&self, start: i64, length: i64) -> Edit {
        let shift = match self.shift.dim() {
            2 => self.shift.narrow(0, start, length),
            _ => self.shift.shallow_clone(),
        };
        Edit { matrix: self.matrix.shallow_clone(), shift }
    }

    /// How many samples it is for; `None` is any number.
    pub fn batch(&self) -> Option<i64> {
        (self.shift.dim() == 2).then(|| self.shift.size()[0])
    }

    pub fn apply(&self, g: &Observables) -> Observables {
        let edited = g.assemble().matmul(&self.matrix) + &self.shift;
        Observables { t: g.t.shallow_clone(), ..Observables::split(&edited, g.x.size()[1]) }
    }
}

/// The last dimension with the second of each pair set to the conjugate of the first, real ones to their real
/// part.
fn conjugated(spectrum: &Spectrum, values: &Tensor) -> Result<Tensor> {
    let first: Vec<i64> = spectrum.partners().iter().enumerate().map(|(k, p)| k.min(*p) as i64).collect();
    let sign: Vec<f64> = spectrum
        .partners()
        .iter()
        .enumerate()
        .map(|(k, p)| f64::from((*p as i64 - k as i64).signum() as i32))
        .collect();
    let chosen = values.f_index_select(-1, &Tensor::from_slice(&first))?;
    Ok(Tensor::f_complex(&chosen.f_real()?.contiguous(), &(chosen.f_imag()? * Tensor::from_slice(&sign)))?)
}
