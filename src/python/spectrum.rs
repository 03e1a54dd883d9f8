//! `_core.Spectrum`: the spectrum of a student, for Python. Complex arrays are passed as real and imaginary parts.

use pyo3::prelude::*;
use tch::{Device, Kind, Tensor};

use super::array::{rows, Array, ArrayKind};
use super::door;
use super::handle::Shared;
use super::student::PyStudent;
use super::velocity_field::PyVelocityField;
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::koopman::{ReadoutKind, Student};
use crate::monitor::Monitor;
use crate::ode;
use crate::python::door::PyMonitor;
use crate::sampling;
use crate::sampling::Source;
use crate::spectrum::{Edit, Facts, Sort, Spectrum};
use crate::tensor::Share;
use crate::velocity::VelocityField;

struct Measured {
    spectrum: Spectrum,
    student: Student,
    facts: Facts,
}

impl Share for Measured {
    fn shallow_clone(&self) -> Self {
        Measured {
            spectrum: self.spectrum.shallow_clone(),
            student: self.student.shallow_clone(),
            facts: self.facts.shallow_clone(),
        }
    }
}

/// A spectrum that is stored together with its student.
pub(super) trait OfStudent {
    fn student(&self) -> &Student;
}

impl OfStudent for Measured {
    fn student(&self) -> &Student {
        &self.student
    }
}

#[pyclass(name = "Spectrum", module = "koopflow._core", frozen)]
pub struct PySpectrum(Shared<Measured>);

/// The request to measure a spectrum: a student, `n` noise samples of a seed, their conditions, and optionally a
/// teacher.
pub(super) struct Asked {
    student: Student,
    n: i64,
    seed: u64,
    condition: Option<Tensor>,
    teacher: Option<Box<dyn VelocityField>>,
    monitor: PyMonitor,
}

impl Asked {
    pub(super) fn import(
        student: &PyStudent,
        (n, seed): (i64, u64),
        condition: Option<&Bound<'_, PyAny>>,
        teacher: Option<&PyVelocityField>,
        monitor: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let condition = Array::import_condition(student.conditioning_of(), condition, Some(n))?;
        let (student, teacher) = (student.handle(), teacher.map(PyVelocityField::handle));
        Ok(Asked { student, n, seed, condition, teacher, monitor: PyMonitor::new(monitor) })
    }

    /// Draws the noise, calls `measure`, and returns the student and the result.
    pub(super) fn measure<T>(
        mut self,
        measure: impl FnOnce(
            &Student,
            &Tensor,
            Option<&Tensor>,
            Option<&dyn VelocityField>,
            &mut dyn Monitor,
        ) -> Result<T>,
    ) -> Result<(Student, T)> {
        if self.n < 1 {
            return Err(Error::argument("n", "at least 1", self.n));
        }
        let config = self.student.config();
        let condition = config.conditioning.spread(self.condition.as_ref(), self.n)?;
        let (source, shape, options) =
            (self.student.source(), &config.event_shape, (Kind::Float, Device::Cpu));
        let (given, monitor) = (condition.as_ref(), &mut self.monitor);
        let noise = ode::starts(source, self.n, shape, self.seed, options, given, monitor)?;
        let (condition, teacher) = (condition.as_ref(), self.teacher.as_deref());
        let found = measure(&self.student, &noise, condition, teacher, &mut self.monitor)?;
        Ok((self.student, found))
    }
}

impl PySpectrum {
    fn conditioning(&self) -> Conditioning {
        self.0.fact(|own| own.student.config().conditioning)
    }

    /// A complex array computed without the interpreter lock.
    fn table<'py>(
        &self,
        py: Python<'py>,
        make: impl FnOnce(Measured) -> Result<Tensor> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let own = self.0.handle();
        export_complex(py, &door::enter(py, move || make(own))?)
    }
}

/// The arguments of an edit, from Python: the samples it starts from and its options.
pub(super) struct Edited {
    x: Array,
    source: Source,
    project: bool,
    condition: Option<Tensor>,
    monitor: PyMonitor,
}

impl Edited {
    pub(super) fn import(
        conditioning: Conditioning,
        x: &Bound<'_, PyAny>,
        (noise, project): (bool, bool),
        condition: Option<&Bound<'_, PyAny>>,
        monitor: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let x = Array::import_float(if noise { "x0" } else { "x" }, x)?;
        let condition = Array::import_condition(conditioning, condition, rows(&x.tensor))?;
        let source = if noise { Source::Noise } else { Source::Data };
        Ok(Edited { x, source, project, condition, monitor: PyMonitor::new(monitor) })
    }

    /// Applies the edit that `edit` makes from a spectrum, and returns the edited samples.
    pub(super) fn by<'py, T: OfStudent + Send>(
        self,
        py: Python<'py>,
        own: T,
        edit: impl for<'a> FnOnce(&'a T) -> Result<Edit<'a>> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Edited { x: Array { tensor: x, kind }, source, project, condition, mut monitor } = self;
        let edited = door::enter(py, move || {
            let (edit, condition) = (edit(&own)?, condition.as_ref());
            sampling::edit(own.student(), &edit, &x, source, project, condition, &mut monitor)
        })?;
        kind.export(py, edited)
    }
}

/// A complex tensor as a NumPy array of complex numbers.
pub(super) fn export_complex<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let parts = tensor.contiguous().view_as_real().contiguous();
    let array = ArrayKind::Numpy.export(py, parts)?;
    array.call_method1("view", ("c16",))?.call_method1("squeeze", (-1,))
}

/// Real and imaginary parts, `[.., 2]`, as a complex tensor.
pub(super) fn import_complex(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let parts = Array::import_float(argument, object)?.tensor;
    if parts.size().last() != Some(&2) {
        let got = crate::tensor::shape_text(&parts.size());
        return Err(Error::shape(argument, "(..., 2), real and imaginary parts", got).into());
    }
    Ok(parts.to_kind(Kind::Double).to_device(Device::Cpu).contiguous().view_as_complex())
}

/// A copy of an array in float64 on the CPU.
pub(super) fn import_own(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let tensor = Array::import_float(argument, object)?.tensor;
    Ok(tensor.to_kind(Kind::Double).to_device(Device::Cpu).copy())
}

#[pymethods]
impl PySpectrum {
    /// Decomposes a student's generator and measures its modes.
    #[new]
    #[pyo3(signature = (student, *, n=512, seed=0, condition=None, teacher=None, monitor=None))]
    fn new(
        py: Python<'_>,
        student: &PyStudent,
        n: i64,
        seed: u64,
        condition: Option<&Bound<'_, PyAny>>,
        teacher: Option<&PyVelocityField>,
        monitor: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let own = student.handle();
        let spectrum = door::enter_decomposition(py, own.config().size(), move || Spectrum::new(&own))?;
        let asked = Asked::import(student, (n, seed), condition, teacher, monitor)?;
        let measured = door::enter(py, move || {
            let facts = asked.measure(|student, noise, condition, teacher, monitor| {
                Facts::measure(student, &spectrum, noise, condition, teacher, monitor)
            });
            let (student, facts) = facts?;
            Ok(Measured { spectrum, student, facts })
        })?;
        Ok(PySpectrum(Shared::new(measured)))
    }

    /// Rebuilds a spectrum from its student and its measured values.
    #[staticmethod]
    #[pyo3(signature = (student, power, spread, residuals=None))]
    fn known(
        py: Python<'_>,
        student: &PyStudent,
        power: &Bound<'_, PyAny>,
        spread: &Bound<'_, PyAny>,
        residuals: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let (power, spread) = (import_own("power", power)?, import_own("spread", spread)?);
        let residuals = residuals.map(|residuals| import_own("residuals", residuals)).transpose()?;
        let student = student.handle();
        let measured = door::enter(py, move || {
            let spectrum = Spectrum::new(&student)?;
            let facts = Facts::known(&student, &spectrum, power, spread, residuals)?;
            Ok(Measured { spectrum, student, facts })
        })?;
        Ok(PySpectrum(Shared::new(measured)))
    }

    #[getter]
    fn eigenvalues<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table(py, |own| Ok(own.spectrum.eigenvalues().copy()))
    }

    /// The index of each mode's complex conjugate.
    #[getter]
    fn partners(&self) -> Vec<usize> {
        self.0.fact(|own| own.spectrum.partners().to_vec())
    }

    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table(py, |own| Ok(own.spectrum.weights()?.copy()))
    }

    #[getter]
    fn modes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table(py, |own| own.spectrum.modes(&own.student))
    }

    #[getter]
    fn mode_rates<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.table(py, |own| Ok(own.spectrum.mode_rates(&own.student)?.copy()))
    }

    fn displacements<'py>(&self, py: Python<'py>, t: f64) -> PyResult<Bound<'py, PyAny>> {
        self.table(py, move |own| own.spectrum.displacements(&own.student, t))
    }

    #[getter]
    fn condition_numbers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let own = self.0.handle();
        let numbers = door::enter(py, move || own.spectrum.condition_numbers())?;
        ArrayKind::Numpy.export(py, numbers)
    }

    #[getter]
    fn power<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        ArrayKind::Numpy.export(py, self.0.fact(|own| own.facts.power().copy()))
    }

    #[getter]
    fn spread<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        ArrayKind::Numpy.export(py, self.0.fact(|own| own.facts.spread().copy()))
    }

    #[getter]
    fn residuals<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let residuals = self.0.fact(|own| own.facts.residuals().map(Tensor::copy));
        residuals.map(|residuals| ArrayKind::Numpy.export(py, residuals)).transpose()
    }

    /// The relative residual of the eigenvalue problem.
    #[getter]
    fn residual(&self) -> f64 {
        self.0.fact(|own| own.spectrum.residual())
    }

    /// Whether a sample is a sum over modes. This holds if no network decodes the observables.
    #[getter]
    fn linear(&self) -> bool {
        let linear = [ReadoutKind::Slice, ReadoutKind::Linear];
        self.0.fact(|own| linear.contains(&own.student.config().readout))
    }

    fn energy<'py>(&self, py: Python<'py>, times: Vec<f64>) -> PyResult<Bound<'py, PyAny>> {
        let own = self.0.handle();
        let energy = door::enter(py, move || {
            let times: Vec<f64> = times.iter().map(|t| own.student.own_time(*t)).collect();
            own.facts.energy(&own.spectrum, &times)
        })?;
        ArrayKind::Numpy.export(py, energy)
    }

    fn order(&self, sort: &str) -> PyResult<Vec<i64>> {
        let own = self.0.handle();
        Ok(own.facts.order(&own.spectrum, sort.parse::<Sort>()?)?)
    }

    #[pyo3(signature = (n, condition=None))]
    fn conditions<'py>(
        &self,
        py: Python<'py>,
        n: i64,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let kind = self.conditioning();
        let given = Array::import_condition(kind, condition, Some(n))?;
        let spread = kind.spread(given.as_ref(), n)?;
        spread.map(|spread| ArrayKind::Numpy.export(py, spread)).transpose()
    }

    #[pyo3(signature = (t, x, places=None, *, condition=None))]
    fn eigenfunctions<'py>(
        &self,
        t: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        places: Option<Vec<i64>>,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (t, x_) = (Array::import_float("t", t)?.tensor, Array::import_float("x", x)?.tensor);
        let condition = Array::import_condition(self.conditioning(), condition, rows(&x_))?;
        self.table(x.py(), move |own| {
            own.spectrum.eigenfunctions(&own.student, &t, &x_, condition.as_ref(), places.as_deref())
        })
    }

    #[pyo3(signature = (x0, times, keep, *, condition=None, monitor=None))]
    fn sample<'py>(
        &self,
        x0: &Bound<'py, PyAny>,
        times: Vec<f64>,
        keep: Vec<bool>,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x0.py();
        let Array { tensor: x0, kind } = Array::import_float("x0", x0)?;
        let condition = Array::import_condition(self.conditioning(), condition, rows(&x0))?;
        let mut monitor = PyMonitor::new(monitor);
        let Measured { spectrum, student, .. } = self.0.handle();
        let path = door::enter(py, move || {
            let condition = condition.as_ref();
            sampling::sample_modes(&student, &spectrum, &x0, &times, &keep, condition, &mut monitor)
        })?;
        kind.export(py, path)
    }

    #[pyo3(signature = (x, gains, shifts, *, noise, at, project=false, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn edit<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        gains: &Bound<'py, PyAny>,
        shifts: &Bound<'py, PyAny>,
        noise: bool,
        at: f64,
        project: bool,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (gains, shifts) = (import_complex("gains", gains)?, import_complex("shifts", shifts)?);
        let edited = Edited::import(self.conditioning(), x, (noise, project), condition, monitor)?;
        edited.by(x.py(), self.0.handle(), move |own| {
            Edit::new(&own.spectrum, &gains, &shifts, own.student.own_time(at))
        })
    }

    #[pyo3(signature = (x, shift, *, noise, at, project=false, condition=None, monitor=None))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn shift<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        shift: &Bound<'py, PyAny>,
        noise: bool,
        at: f64,
        project: bool,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let shift = Array::import_float("shift", shift)?.tensor;
        let edited = Edited::import(self.conditioning(), x, (noise, project), condition, monitor)?;
        edited.by(x.py(), self.0.handle(), move |own| {
            Edit::of_observables(own.student.config().size(), &shift, own.student.own_time(at))
        })
    }
}
