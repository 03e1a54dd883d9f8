//! The analytic field between Gaussians: noise N(0, I) and data N(m, C) under the linear path.
//!
//! With S_t = t^2 C + (1 - t)^2 I (METHOD.md, "Gaussian field"),
//! v(t, x) = m + (t C - (1 - t) I) S_t^{-1} (x - t m). In the eigenbasis of C all operations are elementwise, and
//! x_t - t m scales with the square root of S_t, so that the flow map has a closed form too.

use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use super::{EvaluationCounter, FieldDescription, FieldState, Moments, Path, Units, VelocityField};
use crate::error::{Error, Result};
use crate::tensor::{check_batch, check_finite, dtype_name, event_size, shape_text};

/// Floor of the variances s_t^2 in the denominator of the velocity, (1e-5)^2. If C is singular, the field is 0/0 at
/// t = 1 in the directions without variance, and the floor makes it 0 there. Directions whose variance is above the
/// floor are exact at every t.
const VARIANCE_FLOOR: f64 = 1e-10;

/// v(t, x) between N(0, I) at t = 0 and N(m, C) at t = 1, exact for every finite t. See the module documentation.
pub struct GaussianField {
    event_shape: Vec<i64>,
    dtype: Kind,
    /// The mean `[d]` in the field's dtype. A checkpoint takes the dtype of the field from it.
    mean: Tensor,
    /// The covariance `[d, d]`, float64.
    covariance: Tensor,
    /// Eigenvalues of C, float64 `[d]`, and eigenvectors as columns, float64 and in the field's dtype.
    variances: Tensor,
    basis64: Tensor,
    basis: Tensor,
    counter: EvaluationCounter,
}

impl GaussianField {
    /// `mean` has shape `[d]` or the event shape, where d is the event's size. `covariance` is `[d, d]`, symmetric and
    /// positive semidefinite. Velocities have dtype `dtype` (float32 or float64). The mean is rounded to it; the
    /// covariance is decomposed in float64.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for a covariance that is not
    /// symmetric (tolerance: 1e-5 of its largest entry) or has a negative eigenvalue (tolerance: 1e-5 of the largest).
    pub fn new(
        mean: &Tensor,
        covariance: &Tensor,
        event_shape: &[i64],
        device: Device,
        dtype: Kind,
    ) -> Result<Self> {
        let d = check_event_shape(event_shape)?;
        check_field_dtype(dtype)?;
        if mean.size() != [d] && mean.size() != event_shape {
            return Err(Error::shape("mean", shape_text(&[d]), shape_text(&mean.size())));
        }
        if covariance.size() != [d, d] {
            return Err(Error::shape("cov", shape_text(&[d, d]), shape_text(&covariance.size())));
        }
        check_finite("mean", mean)?;
        check_finite("cov", covariance)?;
        let mean = mean.detach().reshape([d]).to_device(device).to_kind(dtype);
        let given = covariance.detach().to_device(Device::Cpu).to_kind(Kind::Double);
        let asymmetry = (&given - given.tr()).abs().max().double_value(&[]);
        if asymmetry > 1e-5 * given.abs().max().double_value(&[]) {
            let got = format!("a matrix that differs from its transpose by up to {asymmetry:.3e}");
            return Err(Error::argument("cov", "a symmetric matrix", got));
        }
        let covariance = (&given + given.tr()) * 0.5;
        let (variances, basis64) = covariance.f_linalg_eigh("L")?;
        let (low, high) = (variances.min().double_value(&[]), variances.max().double_value(&[]));
        if low < -1e-5 * high.max(0.0) {
            let got = format!("a matrix with eigenvalues from {low:.3e} to {high:.3e}");
            return Err(Error::argument("cov", "a positive semidefinite matrix", got));
        }
        let basis64 = basis64.to_device(device);
        Ok(GaussianField {
            event_shape: event_shape.to_vec(),
            dtype,
            mean,
            covariance: covariance.to_device(device),
            variances: variances.clamp_min(0.0).to_device(device),
            basis: basis64.to_kind(dtype),
            basis64,
            counter: EvaluationCounter::default(),
        })
    }

    /// Rebuilds the field that [`VelocityField::state`] described.
    ///
    /// # Errors
    /// [`Error::Argument`] for a missing tensor, and as [`GaussianField::new`].
    pub fn from_state(event_shape: &[i64], tensors: &[(String, Tensor)], device: Device) -> Result<Self> {
        let mean = find_tensor(tensors, "mean")?;
        let covariance = find_tensor(tensors, "covariance")?;
        GaussianField::new(mean, covariance, event_shape, device, mean.kind())
    }

    fn size(&self) -> i64 {
        event_size(&self.event_shape)
    }

    fn mean64(&self) -> Tensor {
        self.mean.to_kind(Kind::Double)
    }

    /// x - t m as rows `[B, d]`.
    fn centred(&self, t: &Tensor, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_reshape([-1, self.size()])? - t.f_reshape([-1, 1])? * &self.mean)
    }

    /// The Jacobian's eigenvalues (t c - (1 - t)) / s_t^2 for each sample and direction: `[B, d]`.
    fn rates(&self, t: &Tensor) -> Result<Tensor> {
        let t = t.to_kind(Kind::Double).f_reshape([-1, 1])?;
        let rest = t.neg() + 1.0;
        let spread = t.square() * &self.variances + rest.square();
        Ok(((t * &self.variances - rest) / spread.clamp_min(VARIANCE_FLOOR)).to_kind(self.dtype))
    }

    /// The symmetric Jacobian applied to rows.
    fn apply_rates(&self, rates: &Tensor, rows: &Tensor) -> Result<Tensor> {
        Ok((rows.f_matmul(&self.basis)? * rates).f_matmul(&self.basis.tr())?)
    }

    /// The standard deviation s_t of each direction, float64 `[d]`.
    fn deviations(&self, t: f64) -> Tensor {
        (&self.variances * (t * t) + (1.0 - t) * (1.0 - t)).sqrt()
    }

    /// The exact flow from time `start` to time `end` of `x` `[B, *event]`, evaluated in float64 and
    /// returned in the dtype of `x`: t m + S_end^{1/2} S_start^{-1/2} (x - start m).
    ///
    /// # Errors
    /// The errors of [`crate::tensor::check_batch`]; [`Error::Argument`] if the flow from `start` is not invertible,
    /// because the covariance is singular and `start` is 1.
    pub fn flow(&self, x: &Tensor, start: f64, end: f64) -> Result<Tensor> {
        check_batch("x", x, &self.event_shape)?;
        let from = self.deviations(start);
        if start != end && from.min().double_value(&[]) == 0.0 {
            return Err(Error::argument(
                "cov",
                "an invertible matrix for a flow from t = 1",
                "a singular matrix",
            ));
        }
        let rows = x.to_device(self.device()).to_kind(Kind::Double).f_reshape([-1, self.size()])?;
        let mean = self.mean64();
        let scaled = (rows - &mean * start).f_matmul(&self.basis64)? * (self.deviations(end) / from);
        let moved = scaled.f_matmul(&self.basis64.tr())? + mean * end;
        Ok(moved.f_reshape(x.size())?.to_kind(x.kind()))
    }

    /// Noise to data: x1 = m + C^{1/2} x0.
    ///
    /// # Errors
    /// As [`GaussianField::flow`].
    pub fn flow_map(&self, x0: &Tensor) -> Result<Tensor> {
        self.flow(x0, 0.0, 1.0)
    }

    /// Data to noise: x0 = C^{-1/2} (x1 - m).
    ///
    /// # Errors
    /// As [`GaussianField::flow`].
    pub fn inverse_flow_map(&self, x1: &Tensor) -> Result<Tensor> {
        self.flow(x1, 1.0, 0.0)
    }

    /// log N(x; m, C) in nats, float64 `[B]`.
    ///
    /// # Errors
    /// As [`GaussianField::inverse_flow_map`].
    pub fn log_prob(&self, x: &Tensor) -> Result<Tensor> {
        let noise = self.inverse_flow_map(&x.to_kind(Kind::Double))?.f_reshape([-1, self.size()])?;
        let squares = noise.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        let volume = self.variances.log().sum(Kind::Double) + self.size() as f64 * (2.0 * PI).ln();
        Ok((squares + volume) * -0.5)
    }
}

impl VelocityField for GaussianField {
    fn event_shape(&self) -> &[i64] {
        &self.event_shape
    }

    fn device(&self) -> Device {
        self.mean.device()
    }

    fn dtype(&self) -> Kind {
        self.dtype
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        self.counter.add(1);
        let moved = self.apply_rates(&self.rates(t)?, &self.centred(t, x)?)?;
        Ok((moved + &self.mean).f_reshape(x.size())?)
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        _: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        self.counter.add(1);
        let rates = self.rates(t)?;
        let moved = self.apply_rates(&rates, &self.centred(t, x)?)?;
        let product = self.apply_rates(&rates, &cotangent.f_reshape([-1, self.size()])?)?;
        Ok(((moved + &self.mean).f_reshape(x.size())?, product.f_reshape(x.size())?))
    }

    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }

    fn moments(&self) -> Result<Option<Moments>> {
        let deviations = self.covariance.diagonal(0, 0, 1).sqrt();
        Moments::of_coordinates(&self.mean, &deviations, &self.event_shape).map(Some)
    }

    fn standard(&self) -> Result<Option<(Box<dyn VelocityField>, Units)>> {
        let Some(moments) = self.moments()? else { return Ok(None) };
        let Some(units) = Units::far(Path::Linear, &moments)? else { return Ok(None) };
        let (shape, device, dtype) = (&self.event_shape, self.device(), self.dtype);
        let mean = units.standard_data(&self.mean64().unsqueeze(0))?.squeeze_dim(0);
        let covariance = &self.covariance / units.scale().powi(2);
        let field = GaussianField::new(&mean, &covariance, shape, device, dtype)?;
        Ok(Some((Box::new(GaussianField { counter: self.counter.clone(), ..field }), units)))
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(GaussianField {
            event_shape: self.event_shape.clone(),
            dtype: self.dtype,
            mean: self.mean.shallow_clone(),
            covariance: self.covariance.shallow_clone(),
            variances: self.variances.shallow_clone(),
            basis64: self.basis64.shallow_clone(),
            basis: self.basis.shallow_clone(),
            counter: self.counter.clone(),
        })
    }

    fn kind_name(&self) -> &'static str {
        "gaussian"
    }

    fn state(&self) -> Option<FieldState> {
        Some(FieldState {
            description: FieldDescription::Gaussian { event_shape: self.event_shape.clone() },
            tensors: vec![
                ("mean".into(), self.mean.shallow_clone()),
                ("covariance".into(), self.covariance.shallow_clone()),
            ],
        })
    }
}

/// Checks that an event has at least one axis, none of them empty, and returns its size.
pub(super) fn check_event_shape(event_shape: &[i64]) -> Result<i64> {
    let size = event_shape.iter().try_fold(1i64, |size, &n| size.checked_mul(n).filter(|_| n >= 1));
    match size.filter(|_| !event_shape.is_empty()) {
        Some(size) if size < 1 << 40 => Ok(size),
        _ => Err(Error::argument(
            "event_shape",
            "positive sizes with a product below 2^40",
            shape_text(event_shape),
        )),
    }
}

pub(super) fn check_field_dtype(dtype: Kind) -> Result<()> {
    match dtype {
        Kind::Float | Kind::Double => Ok(()),
        other => Err(Error::dtype("dtype", "float32 or float64", dtype_name(other))),
    }
}

pub(super) fn find_tensor<'a>(tensors: &'a [(String, Tensor)], name: &str) -> Result<&'a Tensor> {
    let found = tensors.iter().find(|(key, _)| key == name).map(|(_, tensor)| tensor);
    found.ok_or_else(|| Error::argument("tensors", format!("a tensor named {name:?}"), "none"))
}
