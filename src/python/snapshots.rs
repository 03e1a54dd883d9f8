//! Training a teacher on snapshots of a population, for Python.

use std::path::PathBuf;

use pyo3::prelude::*;
use tch::Tensor;

use super::array::Array;
use super::door::{self, PyMonitor};
use super::json;
use super::velocity_field::PyVelocityField;
use super::world::PyWorld;
use crate::data::{Chaining, Coupling, Interpolant, Snapshots};
use crate::error::Error;
use crate::flow::{self, TeacherConfig, TrainingFiles};
use crate::training::Checkpointing;

/// Flow matching through snapshots `[N_k, *event]` at increasing `times`. Returns the field, which leads from the
/// first snapshot at time 0 to the last at time 1, and its history as JSON. `plans` `[N_k, N_{k + 1}]` replace the
/// coupling of the options. With `sizes` of the population, growth rates are learnt too.
#[pyfunction]
#[pyo3(signature = (snapshots, times, config, *, interpolant="linear", plans=None, sizes=None, monitor=None,
                    checkpoint=None, checkpoint_every=None, checkpoint_seconds=None, header="{}", resume=None, world=None))]
#[allow(clippy::too_many_arguments)]
pub fn train_on_snapshots(
    py: Python<'_>,
    snapshots: Vec<Bound<'_, PyAny>>,
    times: Vec<f64>,
    config: &str,
    interpolant: &str,
    plans: Option<Vec<Bound<'_, PyAny>>>,
    sizes: Option<Vec<f64>>,
    monitor: Option<Bound<'_, PyAny>>,
    checkpoint: Option<PathBuf>,
    checkpoint_every: Option<u64>,
    checkpoint_seconds: Option<f64>,
    header: &str,
    resume: Option<PathBuf>,
    world: Option<PyWorld>,
) -> PyResult<(PyVelocityField, String)> {
    let config: TeacherConfig = json::parse_options(config)?;
    let interpolant: Interpolant = serde_json::from_value(interpolant.into())
        .map_err(|_| Error::argument("interpolant", "'linear' or 'spline'", format!("'{interpolant}'")))?;
    let sets = import("snapshots", &snapshots)?;
    let plans = plans.map(|plans| import("coupling", &plans)).transpose()?;
    let header = json::parse("header", header)?;
    let checkpoint = checkpoint.map(|file| Checkpointing {
        file,
        every_steps: checkpoint_every,
        every_seconds: checkpoint_seconds,
        header,
    });
    let files = TrainingFiles { checkpoint, resume };
    let mut monitor = PyMonitor::new(monitor).shared(PyWorld::of(world)?);
    let (field, history) = door::enter(py, move || {
        let chaining = match config.coupling {
            Coupling::Ot => Chaining::Ot { size: config.coupling_size.max(1) },
            _ => Chaining::Independent,
        };
        let mut snapshots = Snapshots::new(sets, &times)?.joined_by(interpolant, chaining);
        if let Some(plans) = plans {
            snapshots = snapshots.planned(&plans)?;
        }
        if let Some(sizes) = sizes {
            snapshots = snapshots.growing(&sizes)?;
        }
        flow::train_on_snapshots(&config, &snapshots, &files, &mut monitor)
    })?;
    Ok((PyVelocityField::new(Box::new(field)), json::to_value(&history)?.to_string()))
}

/// Raises the errors of [`train_on_snapshots`] about snapshots and times without computing anything.
#[pyfunction]
pub fn check_snapshots(py: Python<'_>, snapshots: Vec<Bound<'_, PyAny>>, times: Vec<f64>) -> PyResult<()> {
    let sets = import("snapshots", &snapshots)?;
    door::enter(py, move || Snapshots::new(sets, &times).map(|_| ()))
}

fn import(name: &str, arrays: &[Bound<'_, PyAny>]) -> PyResult<Vec<Tensor>> {
    let array = |(k, array)| Ok(Array::import_float(&format!("{name}[{k}]"), array)?.tensor);
    arrays.iter().enumerate().map(array).collect()
}
