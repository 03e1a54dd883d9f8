//! Changing eigenfunctions and reading the result as a sample.

use tch::{Device, Kind, Tensor};

use super::Spectrum;
use crate::error::{Error, Result};
use crate::koopman::{exponential_integral, Observables, Student};
use crate::tensor::{check_finite, shape_text};

/// A change of the observables at one time.
pub struct Edit {
    at: f64,
    what: What,
}

/// Eigenfunctions: psi_k -> gain_k psi_k + shift_k, with the noise held: what each mode has moved since noise,
/// psi_k(0) (e^{lambda_k t} - 1) q_k, changes as psi_k(0) = e^{-lambda_k at} psi_k(at) does. (Changing psi_k in the
/// observables alone would also change the noise that it says they came from, by psi_k(0) q_k, and for a
/// decaying mode push samples the other way.)
enum What {
    /// Gains less 1, `[r]`, and shifts, `[r]` or `[B, r]`: complex.
    Eigenfunctions { gains: Tensor, shifts: Tensor },
    /// g -> g + shift, `[m]` or `[B, m]`, as it is.
    Observables(Tensor),
}

/// How much an edit changes the observables at one time: g' = g + g(at) `matrix` + `shift`.
pub struct Change {
    /// `[m, m]`; none is 0.
    matrix: Option<Tensor>,
    /// `[m]` or `[B, m]`.
    shift: Tensor,
}

impl Edit {
    /// Eigenfunctions, by `gains` complex `[r]` and `shifts` complex `[r]` or `[B, r]`; of each pair the second one is ignored and
    /// taken to be the conjugate of the first.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] name `gains` or `shifts`; [`Error::Argument`] names `at`, outside
    /// [0, 1].
    pub fn new(spectrum: &Spectrum, gains: &Tensor, shifts: &Tensor, at: f64) -> Result<Edit> {
        let _guard = tch::no_grad_guard();
        check_time(at)?;
        let count = spectrum.count();
        for (name, tensor, dimensions) in [("gains", gains, 1..=1), ("shifts", shifts, 1..=2)] {
            if !dimensions.contains(&tensor.dim()) || tensor.size().last() != Some(&count) {
                return Err(Error::shape(name, format!("({count},)"), shape_text(&tensor.size())));
            }
            check_finite(name, &tensor.f_view_as_real()?)?;
        }
        let gains = conjugated(spectrum, gains)? - 1.0;
        Ok(Edit { at, what: What::Eigenfunctions { gains, shifts: conjugated(spectrum, shifts)? } })
    }

    /// All observables, by a shift `[m]` or `[B, m]` of which the constant and time take no part.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] name `shift`; [`Error::Argument`] names `at`.
    pub fn of_observables(spectrum: &Spectrum, shift: &Tensor, at: f64) -> Result<Edit> {
        check_time(at)?;
        let m = spectrum.observables();
        if !(1..=2).contains(&shift.dim()) || shift.size().last() != Some(&m) {
            return Err(Error::shape("shift", format!("({m},)"), shape_text(&shift.size())));
        }
        check_finite("shift", shift)?;
        let shift = shift.to_kind(Kind::Double).to_device(Device::Cpu).copy();
        let _ = shift.narrow(-1, 0, 2).f_zero_()?;
        Ok(Edit { at, what: What::Observables(shift) })
    }

    pub fn at(&self) -> f64 {
        self.at
    }

    /// Number of samples that it is for; `None` is any number.
    pub fn batch(&self) -> Option<i64> {
        let (What::Eigenfunctions { shifts, .. } | What::Observables(shifts)) = &self.what;
        (shifts.dim() == 2).then(|| shifts.size()[0])
    }

    /// Whether the state is changed at the time of the edit itself: what eigenfunctions have moved of noise is
    /// nothing.
    pub fn moves_the_state(&self) -> bool {
        self.at > 0.0 || matches!(self.what, What::Observables(_))
    }

    /// Difference of the observables at `time`: real, because conjugates are changed alike.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    pub fn change(&self, spectrum: &Spectrum, student: &Student, time: f64) -> Result<Change> {
        let _guard = tch::no_grad_guard();
        let convert =
            |tensor: Tensor| tensor.contiguous().to_device(student.device()).to_kind(student.kind());
        let (gains, shifts) = match &self.what {
            What::Eigenfunctions { gains, shifts } => (gains, shifts),
            What::Observables(shift) => {
                let carried = shift.f_matmul(&student.generator().exponential(time - self.at)?)?;
                return Ok(Change { matrix: None, shift: convert(carried) });
            }
        };
        let values = spectrum.eigenvalues();
        let carried = (values * -self.at).f_exp()? * exponential_integral(values, time)?;
        Ok(Change {
            matrix: Some(convert(spectrum.motion(&(gains * &carried))?)),
            shift: convert(spectrum.write(&(shifts * carried))?),
        })
    }
}

impl Change {
    /// `g` with what is different for samples `start ..` whose observables were `at_edit`.
    pub fn apply(&self, g: &Observables, at_edit: &Observables, start: i64) -> Observables {
        let count = g.x.size()[0];
        let shift = match self.shift.dim() {
            2 => self.shift.narrow(0, start, count),
            _ => self.shift.shallow_clone(),
        };
        let mut changed = g.assemble() + shift;
        if let Some(matrix) = &self.matrix {
            changed += at_edit.assemble().matmul(matrix);
        }
        Observables { t: g.t.shallow_clone(), ..Observables::split(&changed, g.x.size()[1]) }
    }
}

fn check_time(at: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&at) {
        return Err(Error::argument("at", "a time in [0, 1]", at));
    }
    Ok(())
}

/// The last dimension with the second of each pair set to the conjugate of the first, real ones to their real
/// part.
fn conjugated(spectrum: &Spectrum, values: &Tensor) -> Result<Tensor> {
    let places = || spectrum.partners().iter().enumerate();
    let first: Vec<i64> = places().map(|(k, partner)| k.min(*partner) as i64).collect();
    let sign: Vec<f64> = places().map(|(k, p)| f64::from((*p as i64 - k as i64).signum() as i32)).collect();
    let chosen = values.f_index_select(-1, &Tensor::from_slice(&first))?;
    Ok(Tensor::f_complex(&chosen.f_real()?.contiguous(), &(chosen.f_imag()? * Tensor::from_slice(&sign)))?)
}
