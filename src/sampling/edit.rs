//! Editing: samples with some eigenfunctions changed.

use tch::Tensor;

use super::chunks::Samples;
use crate::error::{Error, Result};
use crate::koopman::{Direction, Motion, Observables, Student};
use crate::monitor::Monitor;
use crate::spectrum::Edit;
use crate::tensor::finite_or_divergence;

/// Starting point of an edited path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Noise, encoded at time 0.
    Noise,
    /// Data, which are first carried back to the time of the edit.
    Data,
}

/// Samples with some eigenfunctions changed, at one of the student's own times: `[B, *event]`.
///
/// From noise, the observables at time 0 are carried to the time of the edit. From data, the student carries
/// the data back to that time and encodes the state there. The error of this round trip is subtracted from
/// the result, so that an edit that changes nothing returns the data. With `project`, the edited observables
/// are decoded and encoded again before they are carried on. This keeps them among the observables of actual
/// states.
#[allow(clippy::too_many_arguments)]
pub fn edit(
    student: &Student,
    edit: &Edit,
    x: &Tensor,
    source: Source,
    project: bool,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let at = edit.at();
    if project && !edit.moves_the_state() {
        return Err(Error::argument(
            "at",
            "a time above 0 with project, since noise has not moved at time 0",
            at,
        ));
    }
    let argument = if source == Source::Noise { "x0" } else { "x" };
    let samples = match source {
        Source::Noise => Samples::new(student, argument, x, condition)?,
        Source::Data => Samples::of_data(student, argument, x, condition)?,
    };
    let total = samples.count();
    if let Some(batch) = edit.batch().filter(|batch| *batch != total) {
        return Err(Error::shape(
            "shifts",
            format!("({total}, ...), one row per sample"),
            format!("{batch} rows"),
        ));
    }
    let change = edit.change(student, if project { at } else { 1.0 })?;
    let back = student.horizon(at - 1.0)?;
    let there = Motion::new(student.generator(), at)?;
    let onward = Motion::new(student.generator(), 1.0 - at)?;
    let edited = samples.map(0, monitor, |chunk| {
        let g = match source {
            Source::Noise => there.apply(&chunk.encode(student, 0.0, &chunk.x, Direction::Forward))?,
            Source::Data if at == 1.0 => chunk.encode(student, 1.0, &chunk.x, Direction::Forward),
            Source::Data => {
                let earlier = back.apply(&chunk.encode(student, 1.0, &chunk.x, Direction::Backward))?;
                chunk.encode(student, at, &earlier, Direction::Forward)
            }
        };
        let (changed, same) = if project {
            let again = |g: &Observables| -> Result<Tensor> {
                let fresh = chunk.encode(student, at, &student.decode(g), Direction::Forward);
                Ok(student.decode(&onward.apply(&fresh)?))
            };
            (again(&change.apply(&g, &g, chunk.start))?, again(&g)?)
        } else {
            let end = onward.apply(&g)?;
            (student.decode(&change.apply(&end, &g, chunk.start)), student.decode(&end))
        };
        let x = match source {
            Source::Noise => changed,
            Source::Data => changed - same + &chunk.x,
        };
        finite_or_divergence(&x, "edited samples")?;
        student.states(1.0, &x)
    })?;
    Ok(student.unflatten(&edited))
}
