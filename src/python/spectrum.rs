//! `_core.Spectrum`: a student's spectrum, for Python. Complex arrays cross as their real and imaginary parts.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use tch::{Kind, Tensor};

use super::array::{Array, ArrayKind};
use super::door;
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::python::door::PyMonitor;
use crate::sampling;
use crate::sampling::Source;
use crate::spectrum::{Edit, Spectrum};

/// The mutex is held only long enough to clone the handles; work runs on the clones.
#[pyclass(name = "Spectrum", module = "koopflow._core", frozen)]
pub struct PySpectrum(Mutex<(Spectrum, Student)>);

impl PySpectrum {
    fn handles(&self) -> (Spectrum, Student) {
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (own.0.shallow_clone(), own.1.shallow_clone())
    }

    fn spectrum(&self) -> Spectrum {
        self.handles().0
    }

    /// The common shape of both edits.
    fn edited<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        noise: bool,
        project: bool,
        condition: Option<&Bound<'py, PyAny>>,
        monitor: Option<Bound<'py, PyAny>>,
        edit: impl FnOnce(&Spectrum) -> Result<Edit> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x.py();
        let Array { tensor: x, kind } = Array::import_float(if noise { "x0" } else { "x" }, x)?;
        let condition = Array::import_optional("condition", condition)?.map(|array| array.tensor);
        let mut monitor = PyMonitor::new(monitor);
        let source = if noise { Source::Noise } else { Source::Data };
        let (spectrum, student) = self.handles();
        let edited = door::enter(py, move || {
            let (edit, condition) = (edit(&spectrum)?, condition.as_ref());
            sampling::edit(&student, &spectrum, &edit, &x, source, project, condition, &mut monitor)
        })?;
        kind.export(py, edited)
    }

    pub fn new(py: Python<'_>, student: Student) -> PyResult<Self> {
        let (student, spectrum) = door::enter(py, move || {
            let spectrum = Spectrum::new(&student)?;
            Ok((student, spectrum))
        })?;
        Ok(PySpectrum(Mutex::new((spectrum, student))))
    }
}

/// A complex tensor as a NumPy array of complex numbers.
fn export_complex<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let parts = tensor.contiguous().view_as_real().contiguous();
    let array = ArrayKind::Numpy.export(py, parts)?;
    array.call_method1("view", ("c16",))?.call_method1("squeeze", (-1,))
}

/// Real and imaginary parts, `[.., 2]`, as a complex tensor.
fn import_complex(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let parts = Array::import_float(argument, object)?.tensor;
    if parts.size().last() != Some(&2) {
        let got = crate::tensor::shape_text(&parts.size());
        return Err(Error::shape(argument, "(..., 2), real and imaginary parts", got).into());
    }
    Ok(parts.to_kind(Kind::Double).to_device(tch::Device::Cpu).contiguous().view_as_complex())
}

#[pymethods]
impl PySpectrum {
    #[getter]
    fn eigenvalues<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        export_complex(py, self.spectrum().eigenvalues())
    }

    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        export_complex(py, self.spectrum().weights())
    }

    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        export_complex(py, self.spectrum().rows())
    }

    #[getter]
    fn rates<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        export_complex(py, self.spectrum().rates())
    }

    #[getter]
    fn condition_numbers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        ArrayKind::Numpy.export(py, self.spectrum().condition_numbers())
    }

    #[getter]
    fn residual(&self) -> f64 {
        self.spectrum().residual()
    }

    /// C of x = g C `[m, d]`, or None where a network decodes.
    #[getter]
    fn readout<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let columns = self.handles().1.readout_columns()?;
        columns.map(|columns| ArrayKind::Numpy.export(py, columns)).transpose()
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
        let condition = Array::import_optional("condition", condition)?.map(|array| array.tensor);
        let mut monitor = PyMonitor::new(monitor);
        let (spectrum, student) = self.handles();
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
        self.edited(x, noise, project, condition, monitor, move |spectrum| {
            Edit::new(spectrum, &gains, &shifts, at)
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
        self.edited(x, noise, project, condition, monitor, move |spectrum| {
            Edit::of_observables(spectrum, &shift, at)
        })
    }
}
