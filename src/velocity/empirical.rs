//! The exact marginal field of a finite data set under the linear path: a teacher that needs no training.
//!
//! With weights w_i = softmax_i(-||x - t y_i||^2 / (2 (1 - t)^2)) over the data y_i,
//! v(t, x) = (sum_i w_i y_i - x) / (1 - t) (METHOD.md, "Empirical field").

use tch::{Device, Kind, Tensor};

use super::gaussian::{check_event_shape, check_field_dtype, find_tensor};
use super::{EvaluationCounter, FieldDescription, FieldState, Moments, Path, Units, VelocityField};
use crate::error::{Error, Result};
use crate::tensor::{check_batch, chunks, event_size, shape_text};

/// Floor of 1 - t in the weights and in the division. At t = 1 the field is 0/0 on the data and infinite elsewhere.
/// With the floor it is exact up to t = 1 - 1e-5. From then on it pulls x to its nearest data point at the rate
/// 1e5, which leaves at t = 1 a gap of about 1e-5 times the length of the path.
const TIME_FLOOR: f64 = 1e-5;

/// Maximum number of weights `[rows, N]` in memory at once (float64: 32 MB).
const CHUNK_ELEMENTS: i64 = 1 << 22;

/// The marginal velocity field of the uniform distribution on `data`. See the module documentation.
pub struct EmpiricalField {
    event_shape: Vec<i64>,
    /// `[N, d]` in the field's dtype.
    data: Tensor,
    /// The data `[N, d]` and, below, half their squared norms `[N]`, in float64: near t = 1 the logits are differences
    /// of numbers of size 1 / (1 - t)^2, for which float32 is not precise enough.
    data64: Tensor,
    half_squares: Tensor,
    counter: EvaluationCounter,
}

impl EmpiricalField {
    /// `data` is `[N, *event]`, finite; velocities have dtype `dtype` (float32 or float64).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Argument`], [`Error::Dtype`] or [`Error::NonFinite`].
    pub fn new(data: &Tensor, device: Device, dtype: Kind) -> Result<Self> {
        check_field_dtype(dtype)?;
        let shape = data.size();
        if shape.len() < 2 {
            return Err(Error::shape("data", "(N, *event)", shape_text(&shape)));
        }
        let event_shape = shape[1..].to_vec();
        let size = check_event_shape(&event_shape)?;
        check_batch("data", data, &event_shape)?;
        let data = data.detach().f_reshape([-1, size])?.to_device(device).to_kind(dtype);
        // A copy, because the caller may write to its own array later.
        let data = data.copy();
        let data64 = data.to_kind(Kind::Double);
        let half_squares = data64.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)? * 0.5;
        Ok(EmpiricalField { event_shape, data, data64, half_squares, counter: EvaluationCounter::default() })
    }

    /// Rebuilds the field that [`VelocityField::state`] described.
    ///
    /// # Errors
    /// [`Error::Argument`] for a missing tensor, [`Error::Shape`] if it does not fit `event_shape`, and the errors
    /// of [`EmpiricalField::new`].
    pub fn from_state(event_shape: &[i64], tensors: &[(String, Tensor)], device: Device) -> Result<Self> {
        let data = find_tensor(tensors, "data")?;
        check_batch("data", data, event_shape)?;
        EmpiricalField::new(data, device, data.kind())
    }

    /// The number of data points.
    pub fn count(&self) -> i64 {
        self.data.size()[0]
    }

    fn size(&self) -> i64 {
        event_size(&self.event_shape)
    }

    /// The data, `[N, *event]`.
    fn events(&self) -> Tensor {
        let mut shape = vec![self.count()];
        shape.extend(&self.event_shape);
        self.data.view(shape.as_slice())
    }

    fn chunk_rows(&self) -> i64 {
        (CHUNK_ELEMENTS / self.count()).max(1)
    }

    /// Weights `[b, N]` of the data for rows `x` `[b, d]` at times `t` `[b, 1]`, both in float64, and 1 - t with its
    /// floor, `[b, 1]`.
    fn weights(&self, t: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let rest = (t.neg() + 1.0).clamp_min(TIME_FLOOR);
        // -||x - t y||^2 / 2 without the term that is the same for all y.
        let logits = (x.f_matmul(&self.data64.tr())? - t * &self.half_squares) * (t / rest.square());
        Ok((logits.f_softmax(1, Kind::Double)?, rest))
    }

    /// v for float64 rows, and the weights and the floored 1 - t that it was computed from.
    fn rows_velocity(&self, t: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let (weights, rest) = self.weights(t, x)?;
        let v = (weights.f_matmul(&self.data64)? - x) / &rest;
        Ok((v, weights, rest))
    }

    /// Applies `body` to float64 chunks of `t` `[b, 1]` and of the inputs as rows `[b, d]`, and joins its outputs in
    /// the field's dtype and the shape of the inputs.
    fn chunked<const IN: usize, const OUT: usize>(
        &self,
        t: &Tensor,
        inputs: [&Tensor; IN],
        body: impl Fn(&Tensor, [Tensor; IN]) -> Result<[Tensor; OUT]>,
    ) -> Result<[Tensor; OUT]> {
        let shape = inputs[0].size();
        let batch = shape[0];
        let times = t.f_reshape([-1, 1])?.to_kind(Kind::Double);
        let mut outputs: [Vec<Tensor>; OUT] = std::array::from_fn(|_| Vec::new());
        for (first, length) in chunks(batch, self.chunk_rows()) {
            let part = inputs
                .map(|x| x.narrow(0, first, length).reshape([length, self.size()]).to_kind(Kind::Double));
            let results = body(&times.narrow(0, first, length), part)?;
            for (all, result) in outputs.iter_mut().zip(results) {
                all.push(result.to_kind(self.data.kind()));
            }
        }
        Ok(outputs.map(|parts| Tensor::cat(&parts, 0).view(shape.as_slice())))
    }
}

impl VelocityField for EmpiricalField {
    fn event_shape(&self) -> &[i64] {
        &self.event_shape
    }

    fn device(&self) -> Device {
        self.data.device()
    }

    fn dtype(&self) -> Kind {
        self.data.kind()
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        self.counter.add(1);
        let [v] = self.chunked(t, [x], |t, [x]| Ok([self.rows_velocity(t, &x)?.0]))?;
        Ok(v)
    }

    /// In closed form, so that memory stays bounded. The Jacobian is symmetric:
    /// (t / (1 - t)^2 Cov_w(y) - I) / (1 - t).
    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        _: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        self.counter.add(1);
        let [v, product] = self.chunked(t, [x, cotangent], |t, [x, cotangent]| {
            let (v, weights, rest) = self.rows_velocity(t, &x)?;
            let along = cotangent.f_matmul(&self.data64.tr())?;
            let mean = (&weights * &along).f_sum_dim_intlist([1i64].as_slice(), true, Kind::Double)?;
            let covariance = (weights * (along - mean)).f_matmul(&self.data64)?;
            let product = (covariance * (t / rest.square()) - cotangent) / rest;
            Ok([v, product])
        })?;
        Ok((v, product))
    }

    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }

    fn moments(&self) -> Result<Option<Moments>> {
        Moments::of(&self.events()).map(Some)
    }

    fn standard(&self) -> Result<Option<(Box<dyn VelocityField>, Units)>> {
        let data = self.events();
        let Some(units) = Units::far(Path::Linear, &Moments::of(&data)?)? else { return Ok(None) };
        let field = EmpiricalField::new(&units.standard_data(&data)?, self.device(), self.dtype())?;
        Ok(Some((Box::new(EmpiricalField { counter: self.counter.clone(), ..field }), units)))
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(EmpiricalField {
            event_shape: self.event_shape.clone(),
            data: self.data.shallow_clone(),
            data64: self.data64.shallow_clone(),
            half_squares: self.half_squares.shallow_clone(),
            counter: self.counter.clone(),
        })
    }

    fn kind_name(&self) -> &'static str {
        "empirical"
    }

    fn state(&self) -> Option<FieldState> {
        Some(FieldState {
            description: FieldDescription::Empirical { event_shape: self.event_shape.clone() },
            tensors: vec![("data".into(), self.events())],
        })
    }
}
