//! Measurements of a spectrum over noise and along a teacher's paths: energies, residuals, and sorting by
//! them.

use std::str::FromStr;

use tch::{Kind, Tensor};

use super::Spectrum;
use crate::error::{Error, Result};
use crate::koopman::{exponential_integral, Direction, Student};
use crate::monitor::Monitor;
use crate::ode::{self, Chunks, SolveOptions};
use crate::tensor::{exact, shape_text};
use crate::velocity::VelocityField;

/// The student's own times along the teacher's paths where residuals are measured.
pub const RESIDUAL_TIMES: [f64; 9] = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0];

/// Key that modes are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Descending energy.
    Energy,
    /// Ascending |Im lambda|.
    Frequency,
    /// Ascending Re lambda.
    Growth,
    /// Ascending |lambda|.
    Modulus,
    /// Ascending residual along the teacher's paths.
    Residual,
}

impl FromStr for Sort {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "energy" => Sort::Energy,
            "frequency" => Sort::Frequency,
            "growth" => Sort::Growth,
            "modulus" => Sort::Modulus,
            "residual" => Sort::Residual,
            _ => {
                let expected = "'energy', 'frequency', 'growth', 'modulus' or 'residual'";
                return Err(Error::argument("sort", expected, format!("{name:?}")));
            }
        })
    }
}

/// Measurements of all r modes, in float64 on the CPU.
pub struct Facts {
    /// Mean of |psi(0, x0)|² over noise, `[r]`.
    power: Tensor,
    /// Standard deviation of psi(0, x0) over noise, `[r]`.
    spread: Tensor,
    /// Mean square of the contribution of each mode to the state's rate at time 0, `[r]`.
    rate: Tensor,
    /// Residual of each eigenfunction's equation along the teacher's paths, `[r]`; `None` without a teacher.
    residuals: Option<Tensor>,
}

impl Facts {
    /// Measures energies over the noise `[B, *event]`, and residuals along the teacher's paths from it.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `teacher` if its events have another shape; any error of the student, the
    /// teacher's solver or the monitor.
    pub fn measure(
        student: &Student,
        spectrum: &Spectrum,
        noise: &Tensor,
        condition: Option<&Tensor>,
        teacher: Option<&dyn VelocityField>,
        monitor: &mut dyn Monitor,
    ) -> Result<Facts> {
        let _guard = tch::no_grad_guard();
        let g = student.encode(&Tensor::from(0.0), noise, Direction::Forward, condition)?;
        let psi = spectrum.read(&exact(&g), None)?;
        let power = mean_square(&psi)?;
        let residuals = match teacher {
            None => None,
            Some(teacher) => {
                check_teacher(student, teacher)?;
                Some(residuals(student, spectrum, noise, condition, teacher, monitor)?)
            }
        };
        Facts::known(student, spectrum, power, mean_square(&centred(&psi)?)?.sqrt(), residuals)
    }

    /// Facts that were measured before for the same student.
    ///
    /// # Errors
    /// [`Error::Shape`] for arrays that are not `[r]`.
    pub fn known(
        student: &Student,
        spectrum: &Spectrum,
        power: Tensor,
        spread: Tensor,
        residuals: Option<Tensor>,
    ) -> Result<Facts> {
        let rates = spectrum.mode_rates(student)?;
        for (name, of_modes) in
            [("power", Some(&power)), ("spread", Some(&spread)), ("residuals", residuals.as_ref())]
        {
            if let Some(got) = of_modes.map(Tensor::size).filter(|size| *size != [rates.size()[0]]) {
                return Err(Error::shape(name, format!("({},)", rates.size()[0]), shape_text(&got)));
            }
        }
        let rate = rates.f_abs()?.f_square()?.f_sum_dim_intlist(1, false, Kind::Double)? * &power;
        Ok(Facts { power, spread, rate, residuals })
    }

    /// A shallow copy, which shares the tensors.
    pub fn shallow_clone(&self) -> Facts {
        Facts {
            power: self.power.shallow_clone(),
            spread: self.spread.shallow_clone(),
            rate: self.rate.shallow_clone(),
            residuals: self.residuals.as_ref().map(Tensor::shallow_clone),
        }
    }

    /// Mean of |psi(0, x0)|² over noise, `[r]`.
    pub fn power(&self) -> &Tensor {
        &self.power
    }

    /// Standard deviation of psi(0, x0) over noise, `[r]`.
    pub fn spread(&self) -> &Tensor {
        &self.spread
    }

    /// RMS of d psi/dt - lambda psi over sqrt(RMS(d psi/dt)² + Var(psi)) along the teacher's paths, `[r]`.
    pub fn residuals(&self) -> Option<&Tensor> {
        self.residuals.as_ref()
    }

    /// Mean square over noise of the displacement by each mode until time `t`, `[r]`.
    fn moved(&self, spectrum: &Spectrum, t: f64) -> Result<Tensor> {
        Ok(&self.rate * exponential_integral(spectrum.eigenvalues(), t)?.f_abs()?.f_square()?)
    }

    /// Mean square over noise of the displacement by each mode until each of `times`, `[T, r]`, relative to
    /// the sum over all modes at t = 1.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `times` if it is empty.
    pub fn energy(&self, spectrum: &Spectrum, times: &[f64]) -> Result<Tensor> {
        if times.is_empty() {
            return Err(Error::argument("times", "at least one time", "none"));
        }
        let total = self.moved(spectrum, 1.0)?.f_sum(Kind::Double)?.double_value(&[]);
        let rows = times.iter().map(|t| self.moved(spectrum, *t)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&rows, 0)? / total.max(1e-300))
    }

    /// Indices of the modes in the chosen order, with the two of a pair adjacent.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `sort` for residuals without a teacher.
    pub fn order(&self, spectrum: &Spectrum, sort: Sort) -> Result<Vec<i64>> {
        let values = spectrum.eigenvalues();
        let key = match (sort, &self.residuals) {
            (Sort::Energy, _) => self.moved(spectrum, 1.0)?.neg(),
            (Sort::Frequency, _) => values.f_imag()?.f_abs()?,
            (Sort::Growth, _) => values.f_real()?,
            (Sort::Modulus, _) => values.f_abs()?,
            (Sort::Residual, Some(residuals)) => residuals.shallow_clone(),
            (Sort::Residual, None) => {
                return Err(Error::argument("sort", "a teacher for 'residual'", "none"));
            }
        };
        let key = Vec::<f64>::try_from(&key.contiguous())?;
        // Both of a pair have the key of the first.
        let first: Vec<usize> = spectrum.partners().iter().enumerate().map(|(k, p)| k.min(*p)).collect();
        let mut order: Vec<usize> = (0..key.len()).collect();
        order.sort_by(|a, b| {
            let (one, other) = (first[*a], first[*b]);
            key[one].total_cmp(&key[other]).then(one.cmp(&other)).then(a.cmp(b))
        });
        Ok(order.into_iter().map(|k| k as i64).collect())
    }
}

/// # Errors
/// [`Error::Shape`] naming `teacher`.
pub(super) fn check_teacher(student: &Student, teacher: &dyn VelocityField) -> Result<()> {
    let (expected, got) = (&student.config().event_shape, teacher.event_shape());
    if expected != got {
        let (expected, got) = (format!("{} per sample", shape_text(expected)), shape_text(got));
        return Err(Error::shape("teacher", expected, got));
    }
    Ok(())
}

/// Values minus their mean over the first dimension.
pub(super) fn centred(values: &Tensor) -> Result<Tensor> {
    Ok(values - values.f_mean_dim([0i64].as_slice(), true, None::<Kind>)?)
}

/// Mean of |z|² over the first dimension.
pub(super) fn mean_square(values: &Tensor) -> Result<Tensor> {
    Ok(values.f_abs()?.f_square()?.f_mean_dim([0i64].as_slice(), false, Kind::Double)?)
}

fn residuals(
    student: &Student,
    spectrum: &Spectrum,
    noise: &Tensor,
    condition: Option<&Tensor>,
    teacher: &dyn VelocityField,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let options = SolveOptions::default();
    let chunks = Chunks::new("sample");
    let times = RESIDUAL_TIMES.map(|own| student.data_time(own));
    let path = ode::solve_chunked(teacher, noise, &times, &options, condition, chunks, monitor)?;
    let (mut gap, mut scale) = (spectrum.zeros()?, spectrum.zeros()?);
    for (index, time) in times.iter().enumerate() {
        let (t, x) = (Tensor::from(*time), path.trajectory.select(0, index as i64));
        let velocity = teacher.checked_velocity(&t, &x, condition)?;
        let (g, tangent) = student.encode_with_tangent(&t, &x, &velocity, Direction::Forward, condition)?;
        let (psi, moved) = (spectrum.read(&exact(&g), None)?, spectrum.read(&exact(&tangent), None)?);
        gap += mean_square(&(&moved - &psi * spectrum.eigenvalues()))?;
        scale += mean_square(&moved)? + mean_square(&centred(&psi)?)?;
        monitor.tick()?;
    }
    // An eigenfunction that is constant everywhere gets the residual 1.
    let constant = scale.f_le(0.0)?;
    Ok((gap / scale.f_masked_fill(&constant, 1.0)?).f_masked_fill(&constant, 1.0)?.sqrt())
}
