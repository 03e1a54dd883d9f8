//! `_core.LevelSpectrum`: the spectrum of a hierarchy's feature maps, for Python.

use pyo3::prelude::*;
use tch::Tensor;

use super::array::{rows, Array, ArrayKind};
use super::door;
use super::door::PyMonitor;
use super::handle::Shared;
use super::spectrum::{export_complex, import_complex, import_own, Asked, Edited, OfStudent};
use super::student::PyStudent;
use super::velocity_field::PyVelocityField;
use crate::condition::Conditioning;
use crate::koopman::Student;
use crate::sampling;
use crate::spectrum::{Edit, LevelSpectrum, MapSpectrum, MeasuredMap};
use crate::tensor::Share;

/// A hierarchical student and its measured spectrum.
struct Measured {
    spectrum: LevelSpectrum,
    student: Student,
}

impl Share for Measured {
    fn shallow_clone(&self) -> Self {
        Measured { spectrum: self.spectrum.shallow_clone(), student: self.student.shallow_clone() }
    }
}

impl OfStudent for Measured {
    fn student(&self) -> &Student {
        &self.student
    }
}

#[pyclass(name = "LevelSpectrum", module = "koopflow._core", frozen)]
pub struct PyLevelSpectrum(Shared<Measured>);

/// Name, channels, height and width of a feature map.
type MapRow = (String, i64, i64, i64);
/// Energy, spread, mean and residual of a map.
type MeasuredRow<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

impl PyLevelSpectrum {
    fn conditioning(&self) -> Conditioning {
        self.0.fact(|own| own.student.config().conditioning)
    }
}

/// A copy as a NumPy array, which Python may write to.
fn export_own<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    ArrayKind::Numpy.export(py, tensor.copy())
}

#[pymethods]
impl PyLevelSpectrum {
    /// Measures how the feature maps of a hierarchical student move.
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
        let asked = Asked::import(student, (n, seed), condition, teacher, monitor)?;
        let measured = door::enter(py, move || {
            let (student, spectrum) = asked.measure(LevelSpectrum::measure)?;
            Ok(Measured { spectrum, student })
        })?;
        Ok(PyLevelSpectrum(Shared::new(measured)))
    }

    /// Rebuilds a spectrum from its student and the measured values of each feature map.
    #[staticmethod]
    fn known(py: Python<'_>, student: &PyStudent, maps: Vec<MeasuredRow<'_>>) -> PyResult<Self> {
        let own = |(energy, spread, mean, residual): MeasuredRow<'_>| -> PyResult<MeasuredMap> {
            Ok(MeasuredMap {
                energy: import_own("energy", &energy)?,
                spread: import_own("spread", &spread)?,
                mean: import_complex("mean", &mean)?,
                residual: residual.map(|residual| import_own("residual", &residual)).transpose()?,
            })
        };
        let maps = maps.into_iter().map(own).collect::<PyResult<Vec<_>>>()?;
        let student = student.handle();
        let measured = door::enter(py, move || {
            Ok(Measured { spectrum: LevelSpectrum::known(&student, maps)?, student })
        })?;
        Ok(PyLevelSpectrum(Shared::new(measured)))
    }

    #[getter]
    fn maps(&self) -> Vec<MapRow> {
        let row = |own: &MapSpectrum| (own.name.clone(), own.map.channels, own.map.height, own.map.width);
        self.0.fact(|own| own.spectrum.maps.iter().map(row).collect())
    }

    #[getter]
    fn eigenvalues<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let own = self.0.handle().spectrum.maps;
        own.iter().map(|map| export_complex(py, &map.eigenvalues.copy())).collect()
    }

    #[getter]
    fn measured<'py>(&self, py: Python<'py>) -> PyResult<Vec<MeasuredRow<'py>>> {
        let row = |map: &MapSpectrum| -> PyResult<MeasuredRow<'py>> {
            let residual = map.residual.as_ref().map(|residual| export_own(py, residual)).transpose()?;
            let mean = export_own(py, &map.mean.view_as_real())?;
            Ok((export_own(py, &map.energy)?, export_own(py, &map.spread)?, mean, residual))
        };
        self.0.handle().spectrum.maps.iter().map(row).collect()
    }

    /// Only one of each conjugate pair is listed, so each eigenfunction is its own partner.
    #[getter]
    fn partners(&self) -> Vec<i64> {
        (0..self.0.fact(|own| own.spectrum.count())).collect()
    }

    #[pyo3(signature = (t, x, index, *, condition=None))]
    fn eigenfunctions<'py>(
        &self,
        t: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        index: usize,
        condition: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (t, x_) = (Array::import_float("t", t)?.tensor, Array::import_float("x", x)?.tensor);
        let condition = Array::import_condition(self.conditioning(), condition, rows(&x_))?;
        let Measured { spectrum, student } = self.0.handle();
        let psi = door::enter(x.py(), move || {
            spectrum.eigenfunctions(&student, &t, &x_, condition.as_ref(), index)
        })?;
        export_complex(x.py(), &psi)
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
        let Measured { spectrum, student } = self.0.handle();
        let path = door::enter(py, move || {
            let condition = condition.as_ref();
            sampling::sample_maps(&student, &spectrum, &x0, &times, &keep, condition, &mut monitor)
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
            Edit::of_maps(&own.spectrum, &gains, &shifts, own.student.own_time(at))
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
