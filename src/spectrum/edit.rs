//! Edits: changes of eigenfunctions or observables at one time of a path.

use tch::{Device, Kind, Tensor};

use super::{LevelSpectrum, Spectrum};
use crate::error::{Error, Result};
use crate::koopman::{exponential_integral, Generator, LevelBlocks, Observables, Student};
use crate::tensor::{check_finite, shape_text};

/// A change of the observables at one time.
pub struct Edit<'a> {
    at: f64,
    what: What<'a>,
}

enum What<'a> {
    /// psi_k -> gain_k psi_k + shift_k, with the noise held fixed. The displacement by each mode since noise,
    /// psi_k(0) (e^{lambda_k t} - 1) q_k, changes with psi_k(0) = e^{-lambda_k at} psi_k(at). (Changing psi_k
    /// in the observables alone would also change the noise that they represent, by psi_k(0) q_k. For a
    /// decaying mode, that would push samples in the opposite direction.)
    Modes { spectrum: &'a Spectrum, of: Numbers },
    /// psi_k -> mean_k + gain_k (psi_k - mean_k) + shift_k at every pixel, where mean_k is the mean over
    /// noise. A decoder is not a sum over feature maps, and maps of zeros do not occur in its training.
    Maps { spectrum: &'a LevelSpectrum, of: Numbers },
    /// g -> g + shift, with a shift `[m]` or `[B, m]`.
    Observables(Tensor),
}

/// Gains minus 1, `[r]`, and shifts, `[r]` or `[B, r]`; both are complex.
struct Numbers {
    gains: Tensor,
    shifts: Tensor,
}

impl Numbers {
    fn new(count: i64, gains: &Tensor, shifts: &Tensor) -> Result<Numbers> {
        for (name, tensor, dimensions) in [("gains", gains, 1..=1), ("shifts", shifts, 1..=2)] {
            if !dimensions.contains(&tensor.dim()) || tensor.size().last() != Some(&count) {
                return Err(Error::shape(name, format!("({count},)"), shape_text(&tensor.size())));
            }
            check_finite(name, &tensor.f_view_as_real()?)?;
        }
        Ok(Numbers { gains: gains - 1.0, shifts: shifts.shallow_clone() })
    }
}

/// How much an edit changes the observables at one time: g' = g + `gain` + `shift`.
pub struct Change {
    gain: Gain,
    /// `[m]` or `[B, m]`.
    shift: Tensor,
}

enum Gain {
    None,
    /// g(at) times this, `[m, m]`.
    Matrix(Tensor),
    /// For each map, (phi - `mean`) times the gains minus 1, which are real and imaginary parts `[2, r]`.
    Maps {
        blocks: LevelBlocks,
        factors: Vec<Tensor>,
        mean: Tensor,
    },
}

impl<'a> Edit<'a> {
    /// Edits eigenfunctions by complex `gains` `[r]` and `shifts` `[r]` or `[B, r]`. The second value of each
    /// pair is ignored and set to the conjugate of the first.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] naming `gains` or `shifts`; [`Error::Argument`] naming `at`
    /// if it is outside [0, 1].
    pub fn new(spectrum: &'a Spectrum, gains: &Tensor, shifts: &Tensor, at: f64) -> Result<Edit<'a>> {
        let _guard = tch::no_grad_guard();
        check_time(at)?;
        let Numbers { gains, shifts } = Numbers::new(spectrum.count(), gains, shifts)?;
        let of = Numbers { gains: conjugated(spectrum, &gains)?, shifts: conjugated(spectrum, &shifts)? };
        Ok(Edit { at, what: What::Modes { spectrum, of } })
    }

    /// Edits eigenfunctions of feature maps about their means over noise, by complex `gains` `[R]` and
    /// `shifts` `[R]` or `[B, R]` for all maps one after another. Imaginary parts for real eigenfunctions are
    /// ignored.
    ///
    /// # Errors
    /// As [`Edit::new`].
    pub fn of_maps(
        spectrum: &'a LevelSpectrum,
        gains: &Tensor,
        shifts: &Tensor,
        at: f64,
    ) -> Result<Edit<'a>> {
        let _guard = tch::no_grad_guard();
        check_time(at)?;
        let of = Numbers::new(spectrum.count(), gains, shifts)?;
        Ok(Edit { at, what: What::Maps { spectrum, of } })
    }

    /// Edits all `m` observables by a shift `[m]` or `[B, m]`, whose entries for the constant and time are
    /// ignored.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] naming `shift`; [`Error::Argument`] naming `at`.
    pub fn of_observables(m: i64, shift: &Tensor, at: f64) -> Result<Edit<'static>> {
        check_time(at)?;
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

    /// Number of samples that the edit is for; `None` is any number.
    pub fn batch(&self) -> Option<i64> {
        let (What::Modes { of: Numbers { shifts, .. }, .. }
        | What::Maps { of: Numbers { shifts, .. }, .. }
        | What::Observables(shifts)) = &self.what;
        (shifts.dim() == 2).then(|| shifts.size()[0])
    }

    /// Whether the edit changes the state at the time of the edit. At time 0, modes have not moved the state
    /// yet.
    pub fn moves_the_state(&self) -> bool {
        self.at > 0.0 || !matches!(self.what, What::Modes { .. })
    }

    /// Difference of the observables at `time`. It is real, because conjugates are changed alike.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `student` if it does not have the maps that are edited; any error of
    /// libtorch.
    pub fn change(&self, student: &Student, time: f64) -> Result<Change> {
        let _guard = tch::no_grad_guard();
        let convert =
            |tensor: Tensor| tensor.contiguous().to_device(student.device()).to_kind(student.kind());
        match &self.what {
            What::Observables(shift) => {
                Ok(Change { gain: Gain::None, shift: convert(carried(student, shift, time - self.at)?) })
            }
            What::Modes { spectrum, of: Numbers { gains, shifts } } => {
                let values = spectrum.eigenvalues();
                let carried = (values * -self.at).f_exp()? * exponential_integral(values, time)?;
                Ok(Change {
                    gain: Gain::Matrix(convert(spectrum.motion(&(gains * &carried))?)),
                    shift: convert(spectrum.write(&(shifts * carried))?),
                })
            }
            What::Maps { spectrum, of: Numbers { gains, shifts } } => {
                let Generator::Levels(generator) = student.generator() else {
                    return Err(Error::argument(
                        "student",
                        "a hierarchy of feature maps",
                        "a student without",
                    ));
                };
                let parts = Tensor::f_stack(&[gains.f_real()?, gains.f_imag()?], 0)?;
                let factors = spectrum.by_map(&parts)?.into_iter().map(convert).collect();
                let mean = convert(spectrum.mean_features(time)?);
                let shift = spectrum.carried_features(shifts, time - self.at)?;
                Ok(Change {
                    gain: Gain::Maps { blocks: generator.blocks().shallow_clone(), factors, mean },
                    // The constant and time come first.
                    shift: convert(shift.f_constant_pad_nd([2, 0])?),
                })
            }
        }
    }
}

/// Propagates a shift of the observables, `[m]` or `[B, m]`, by `tau`.
fn carried(student: &Student, shift: &Tensor, tau: f64) -> Result<Tensor> {
    let Generator::Levels(generator) = student.generator() else {
        return Ok(shift.f_matmul(&student.generator().exponential(tau)?)?);
    };
    // L of a hierarchy is too large to form: it has tens of thousands of rows and columns.
    let features = shift.f_reshape([-1, *shift.size().last().unwrap_or(&0)])?.f_slice(1, 2, None, 1)?;
    let moved = generator.in_double().propagate(&features.f_contiguous()?, &Tensor::from_slice(&[tau]));
    Ok(moved.f_constant_pad_nd([2, 0])?.f_reshape(shift.size())?)
}

impl Change {
    /// Applies the change to observables `g` of the samples from `start` on, whose observables at the time of
    /// the edit were `at_edit`.
    pub fn apply(&self, g: &Observables, at_edit: &Observables, start: i64) -> Observables {
        let count = g.t.size()[0];
        let shift = match self.shift.dim() {
            2 => self.shift.narrow(0, start, count),
            _ => self.shift.shallow_clone(),
        };
        let mut changed = g.assemble() + shift;
        match &self.gain {
            Gain::None => {}
            Gain::Matrix(matrix) => changed += at_edit.assemble().matmul(matrix),
            Gain::Maps { blocks, factors, mean } => {
                let mut features = changed.narrow(1, 2, changed.size()[1] - 2);
                features += blocks.multiply(&(&g.features - mean), factors);
            }
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

/// Sets the second value of each pair in the last dimension to the conjugate of the first, and values of real
/// eigenvalues to their real part.
fn conjugated(spectrum: &Spectrum, values: &Tensor) -> Result<Tensor> {
    let places = || spectrum.partners().iter().enumerate();
    let first: Vec<i64> = places().map(|(k, partner)| k.min(*partner) as i64).collect();
    let sign: Vec<f64> = places().map(|(k, p)| f64::from((*p as i64 - k as i64).signum() as i32)).collect();
    let chosen = values.f_index_select(-1, &Tensor::from_slice(&first))?;
    Ok(Tensor::f_complex(&chosen.f_real()?.contiguous(), &(chosen.f_imag()? * Tensor::from_slice(&sign)))?)
}
