//! Vector-Jacobian products of a flow's map, by the adjoint equation (Pontryagin; Chen et al., Neural
//! ordinary differential equations, 2018). Along dx/dt = v(t, x), the equation da/dt = -a dv/dx carries a
//! covector from the end of a path back to its start.

use tch::Tensor;

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::ode::{integrate_between, Along, SolveOptions};
use crate::tensor::{check_batch, chunks, in_halves, shape_text};
use crate::velocity::VelocityField;

/// Largest number of rows in one call of the field: samples times covectors.
const CHUNK_ROWS: i64 = 8192;

/// Multiplies `covectors` `[B, K, *event]` at data `x` `[B, *event]` by the derivative of the flow's map from
/// noise to data. Returns `[B, K, *event]` in the field's dtype and on its device.
///
/// # Errors
/// As [`crate::ode::solve`]; [`Error::Shape`] naming `covectors`.
pub fn pull_back(
    field: &dyn VelocityField,
    x: &Tensor,
    covectors: &Tensor,
    options: &SolveOptions,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let batch = check_batch("x", x, field.event_shape())?;
    field.conditioning().check(condition, batch)?;
    let (device, kind, size) = (field.device(), field.dtype(), field.event_size());
    let each = covectors.size().get(1).copied().unwrap_or(1);
    let mut expected = vec![batch, each];
    expected.extend(field.event_shape());
    if covectors.size() != expected {
        return Err(Error::shape("covectors", shape_text(&expected), shape_text(&covectors.size())));
    }
    let flat = |x: &Tensor, rows: i64| -> Result<Tensor> {
        Ok(x.to_device(device).to_kind(kind).f_reshape([rows, size])?)
    };
    let repeated = |x: &Tensor| -> Result<Tensor> { Ok(x.f_repeat_interleave_self_int(each, 0, None)?) };
    let state = Tensor::f_cat(&[repeated(&flat(x, batch)?)?, flat(covectors, batch * each)?], 1)?;
    let condition = condition.map(|c| repeated(&c.to_device(device))).transpose()?;
    let mut parts: Vec<Tensor> = Vec::new();
    for (first, rows) in chunks(batch * each, CHUNK_ROWS) {
        in_halves(rows, rows, |offset, rows| {
            let part = |x: &Tensor| x.narrow(0, first + offset, rows);
            let condition = condition.as_ref().map(part);
            let mut shape = vec![rows];
            shape.extend(field.event_shape());
            let derivative = |t: f64, y: &Tensor| -> Result<Tensor> {
                let event = |from: i64| y.narrow(1, from, size).f_reshape(shape.as_slice());
                let time = Tensor::f_full([rows], t, (kind, device))?;
                let (v, product) =
                    field.velocity_and_vjp(&time, &event(0)?, &event(size)?, condition.as_ref())?;
                let flat = |x: Tensor| x.f_reshape([rows, size]);
                Ok(Tensor::f_cat(&[flat(v)?, flat(product)?.neg()], 1)?)
            };
            let (ends, along, breaks) = ([1.0, 0.0], Along::augmented(field), field.breaks());
            let state = part(&state);
            let solution = integrate_between(derivative, &state, &ends, options, &along, &breaks, monitor)?;
            parts.push(solution.endpoint().narrow(1, size, size).to_kind(kind));
            Ok(())
        })?;
    }
    Ok(Tensor::f_cat(&parts, 0)?.f_reshape(expected)?)
}
