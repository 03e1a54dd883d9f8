//! A teacher and its data in standard coordinates, if the data's own are far from standard.

use tch::{Device, Kind, Tensor};

use super::Inputs;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::ode::{self, SolveOptions};
use crate::tensor::{in_halves, RandomSource};
use crate::velocity::{Moments, Path, Units, UnitsField, VelocityField};

/// The flow in standard coordinates, between noise and standardised data, from which a student learns.
pub struct InStandardUnits {
    pub teacher: Box<dyn VelocityField>,
    pub inputs: Inputs,
    /// The map from standard coordinates back to the teacher's own.
    pub units: Units,
}

/// Bounds of the number of samples from which unknown moments of a teacher's data are measured, and the
/// number of values in all samples together.
const FEWEST_PROBES: i64 = 64;
const MOST_PROBES: i64 = 512;
const PROBE_VALUES: i64 = 1 << 14;
/// Relative difference of units that counts as the rounding of a file's dtype.
const ROUNDING: f64 = 1e-6;
/// Solver options of these samples. The relative tolerance is coarse, since only a mean and a deviation are
/// measured. The absolute tolerance is small, for small states.
const PROBE_TOLERANCES: SolveOptions =
    SolveOptions { solver: ode::Solver::Dopri5, steps: 1, rtol: 1e-3, atol: 1e-6, grid: None };

impl InStandardUnits {
    /// The teacher and the inputs in standard coordinates. `None` if the teacher's data are already near
    /// standard, or if its source is not standard normal noise.
    ///
    /// A teacher that knows its moments is asked for them. Otherwise they are measured on `inputs.data` or,
    /// without data, on samples of the teacher. The units are rounded to the student's `kind`. `path` is the
    /// probability path of a teacher that does not know its own.
    ///
    /// # Errors
    /// An error that names the input that does not fit; any error of the solver, the teacher or the monitor.
    pub fn find(
        teacher: &dyn VelocityField,
        inputs: &Inputs,
        path: Path,
        kind: Kind,
        monitor: &mut dyn Monitor,
    ) -> Result<Option<Self>> {
        inputs.check(teacher)?;
        if !teacher.source().is_normal() {
            return Ok(None);
        }
        if let Some((teacher, units)) = teacher.standard()? {
            return Self::of(teacher, inputs, units).map(Some);
        }
        let moments = match (teacher.moments()?, &inputs.data) {
            (Some(moments), _) => moments,
            (None, Some(data)) => Moments::of(data)?,
            (None, None) => match shared_samples(teacher, inputs, monitor)? {
                // The teacher is too slow to be sampled.
                None => return Ok(None),
                Some(samples) => Moments::of(&samples)?,
            },
        };
        let Some(units) = Units::far(path, &moments)? else { return Ok(None) };
        let units = units.to(kind, Device::Cpu);
        Self::of(seen_in(teacher, &units), inputs, units).map(Some)
    }

    /// [`InStandardUnits::find`] with known units, for a student that is trained further.
    ///
    /// # Errors
    /// As [`InStandardUnits::find`].
    pub fn with(teacher: &dyn VelocityField, inputs: &Inputs, units: Units) -> Result<Self> {
        let alike = |own: &Units| {
            let shift = units.shift().to_device(Device::Cpu).to_kind(Kind::Double);
            let other = own.shift().to_device(Device::Cpu).to_kind(Kind::Double);
            let length = |x: &Tensor| x.square().mean(Kind::Double).double_value(&[]).sqrt();
            own.path() == units.path()
                && length(&(&shift - other)) <= ROUNDING * (length(&shift) + units.scale())
                && (own.scale() / units.scale() - 1.0).abs() < ROUNDING
        };
        match teacher.standard()? {
            Some((standard, own)) if alike(&own) => Self::of(standard, inputs, own),
            _ => Self::of(seen_in(teacher, &units), inputs, units),
        }
    }

    fn of(teacher: Box<dyn VelocityField>, inputs: &Inputs, units: Units) -> Result<Self> {
        let data = inputs.data.as_ref().map(|data| units.standard_data(data)).transpose()?;
        Ok(InStandardUnits { teacher, inputs: Inputs { data, ..inputs.shallow_clone() }, units })
    }
}

/// A teacher of data in `units`, as a teacher of standard data.
fn seen_in(teacher: &dyn VelocityField, units: &Units) -> Box<dyn VelocityField> {
    Box::new(UnitsField::new(teacher.shallow_clone(), &units.inverse()))
}

/// Samples that the leading rank draws and all ranks receive; `None` if it had no time for them.
fn shared_samples(
    teacher: &dyn VelocityField,
    inputs: &Inputs,
    monitor: &mut dyn Monitor,
) -> Result<Option<Tensor>> {
    let world = monitor.world().clone();
    let own = match world.leads() {
        true => match samples(teacher, inputs, monitor) {
            Err(Error::OutOfTime) => Ok(None),
            samples => samples.map(Some),
        },
        false => Ok(None),
    };
    if world.is_alone() {
        return own;
    }
    let mut shape = vec![probes(teacher)];
    shape.extend(teacher.event_shape());
    let zeros = Tensor::f_zeros(shape, (teacher.dtype(), teacher.device()))?;
    let said = own.as_ref().map_or(-1.0, |own| f64::from(u8::from(own.is_some())));
    let said = world.numbers(said, &zeros)?[0];
    match own? {
        Some(samples) => world.sum(&samples).map(Some),
        None if said > 0.0 => world.sum(&zeros).map(Some),
        None if said < 0.0 => {
            Err(Error::Distributed("rank 0 failed to sample; its own error says why".into()))
        }
        None => Ok(None),
    }
}

/// Number of samples from which moments are measured.
fn probes(teacher: &dyn VelocityField) -> i64 {
    (PROBE_VALUES / teacher.event_size()).clamp(FEWEST_PROBES, MOST_PROBES)
}

/// Samples of a teacher. The noise is the same at every call.
fn samples(teacher: &dyn VelocityField, inputs: &Inputs, monitor: &mut dyn Monitor) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let count = probes(teacher);
    let mut random = RandomSource::new(0).fork("units");
    let condition = inputs
        .condition_pool(teacher)?
        .map(|pool| pool.f_index_select(0, &random.integers(pool.size()[0], count, pool.device())))
        .transpose()?;
    let mut shape = vec![count];
    shape.extend(teacher.event_shape());
    let noise = random.normal(&shape, teacher.dtype(), teacher.device())?;
    let mut found = Vec::new();
    in_halves(count, count, |first, rows| {
        let (noise, condition) =
            (noise.narrow(0, first, rows), condition.as_ref().map(|c| c.narrow(0, first, rows)));
        let ends = [0.0, 1.0];
        let solution = ode::solve(teacher, &noise, &ends, &PROBE_TOLERANCES, condition.as_ref(), monitor)?;
        found.push(solution.endpoint());
        Ok(())
    })?;
    Ok(Tensor::f_cat(&found, 0)?)
}
