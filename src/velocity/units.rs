//! Units of data: the change of coordinates between data and standardised data. For data x1 = m + s z1 with
//! standardised data z1, the probability path x_t = a_t x1 + b_t x0 is
//!
//! x_t = a_t m + d z_u,
//!
//! where z_u = a_u z1 + b_u x0 is the path from the same noise to the standardised data at another time u. On the
//! linear path d = (1 - t) + t s and u = t s / d. On the variance-preserving path d^2 = b_t^2 + (s a_t)^2 and
//! tan(pi u / 2) = s tan(pi t / 2). Thus a flow between noise and data in any units is a flow between noise and
//! standardised data in other coordinates. The change of coordinates leaves the noise (t = 0) unchanged, and
//!
//! dx/dt = a'_t m + d' z + (s / d) dz/du.
//!
//! The maps form a group: the inverse of (m, s) is (-m / s, 1 / s), with the roles of (t, x) and (u, z) exchanged.

use std::f64::consts::FRAC_PI_2;
use std::ops::RangeInclusive;

use tch::{Device, Kind, Tensor};

use super::standard::moments;
use super::{FieldState, Mixing, Path, Source, VelocityField};
use crate::error::{Error, Result};
use crate::nets::UNetConfig;
use crate::tensor::{check_finite, shape_text, shared};

/// Standard deviations of data that are close enough to that of the noise, 1.
const NEAR_ONE: RangeInclusive<f64> = 0.25..=4.0;

/// Mean `[d]` and root-mean-square deviation of data, in float64 on the CPU.
pub struct Moments {
    mean: Tensor,
    deviation: f64,
}

impl Moments {
    /// The moments of rows `[N, *event]`.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn of(rows: &Tensor) -> Result<Moments> {
        let size = rows.size();
        let (mean, deviations) = moments(&rows.f_reshape([size[0], -1])?);
        Moments::of_coordinates(&mean, &deviations, &size[1..])
    }

    /// The moments of samples whose coordinates have these means and deviations, `[d]`. Images have one mean for each
    /// channel, because a map that is the same at every pixel commutes with convolutions and reflections.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn of_coordinates(mean: &Tensor, deviations: &Tensor, event_shape: &[i64]) -> Result<Moments> {
        let double = |x: &Tensor| x.to_device(Device::Cpu).to_kind(Kind::Double);
        let (mean, variance) = (double(mean), double(deviations).square());
        let centre = match event_shape {
            [channels, _, _] => {
                let channel = mean.f_view([*channels, -1])?.f_mean_dim([1].as_slice(), true, Kind::Double)?;
                channel.f_expand([*channels, mean.size()[0] / channels], false)?.f_reshape([-1])?
            }
            _ => mean.shallow_clone(),
        };
        let variance = (variance + (mean - &centre).square()).mean(Kind::Double).double_value(&[]);
        Ok(Moments { mean: centre, deviation: variance.sqrt() })
    }

    /// Whether data with these moments are so close to standard that they can be learnt in their own units. Results
    /// begin to suffer only far beyond these bounds (docs/distillation.md). Data with common scales, such as pixels
    /// in [0, 1] or [-1, 1], are within them.
    fn are_near_standard(&self) -> bool {
        let offset = self.mean.square().mean(Kind::Double).double_value(&[]).sqrt();
        NEAR_ONE.contains(&self.deviation) && offset <= 2.0 * self.deviation.max(1.0)
    }
}

/// The change of coordinates between data and standard data.
#[derive(Debug)]
pub struct Units {
    path: Path,
    /// The mean m, `[d]`.
    shift: Tensor,
    /// The scale s.
    scale: f64,
}

/// The coefficients of the map at times t, each of the shape of t.
struct Clock {
    /// The time u.
    time: Tensor,
    /// a_t and its derivative.
    a: Tensor,
    a_rate: Tensor,
    /// d and its derivative.
    d: Tensor,
    d_rate: Tensor,
}

impl Units {
    /// # Errors
    /// [`Error::Argument`] or [`Error::NonFinite`] naming `units`.
    pub fn new(path: Path, shift: &Tensor, scale: f64) -> Result<Units> {
        check_finite("units.shift", shift)?;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::argument("units.scale", "a positive number", scale));
        }
        Ok(Units { path, shift: shift.shallow_clone(), scale })
    }

    /// The units of data that are far from standard; `None` for data that are close to standard.
    ///
    /// # Errors
    /// The errors of [`Units::new`].
    pub fn far(path: Path, moments: &Moments) -> Result<Option<Units>> {
        if moments.are_near_standard() {
            return Ok(None);
        }
        // Data whose deviation is near 1, and constant data, are only shifted.
        let deviation = moments.deviation;
        let scale = if NEAR_ONE.contains(&deviation) || deviation == 0.0 { 1.0 } else { deviation };
        Units::new(path, &moments.mean, scale).map(Some)
    }

    /// Rebuilds units from the tensors of [`Units::named`], for samples of `size` values.
    ///
    /// # Errors
    /// [`Error::Shape`] and the errors of [`Units::new`].
    pub fn stored(path: Path, size: i64, mut take: impl FnMut(&str) -> Result<Tensor>) -> Result<Units> {
        let (shift, scale) = (take(SHIFT)?, take(SCALE)?);
        for (name, tensor, expected) in [(SHIFT, &shift, vec![size]), (SCALE, &scale, vec![])] {
            if tensor.size() != expected {
                return Err(Error::shape(name, shape_text(&expected), shape_text(&tensor.size())));
            }
        }
        Units::new(path, &shift, scale.double_value(&[]))
    }

    /// Copies of shift and scale for a file, with their names.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let scale = Tensor::from(self.scale).to_kind(self.shift.kind()).to_device(self.shift.device());
        vec![(SHIFT.to_string(), self.shift.copy()), (SCALE.to_string(), scale)]
    }

    /// The same units in another dtype, to which the scale is rounded too, and on another device.
    pub fn to(&self, kind: Kind, device: Device) -> Units {
        let scale = if kind == Kind::Float { f64::from(self.scale as f32) } else { self.scale };
        Units { path: self.path, shift: self.shift.to_kind(kind).to_device(device), scale }
    }

    pub fn path(&self) -> Path {
        self.path
    }

    /// The mean m, `[d]`.
    pub fn shift(&self) -> &Tensor {
        &self.shift
    }

    /// The scale s.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The inverse map, from (u, z) to (t, x).
    pub fn inverse(&self) -> Units {
        Units { path: self.path, shift: &self.shift * (-1.0 / self.scale), scale: 1.0 / self.scale }
    }

    /// The time u for a time t in [0, 1]. Other times are returned unchanged.
    pub fn time(&self, t: f64) -> f64 {
        if t <= 0.0 || t >= 1.0 {
            return t;
        }
        match self.path {
            Path::Linear => t * self.scale / ((1.0 - t) + t * self.scale),
            Path::Vp => ((t * FRAC_PI_2).sin() * self.scale).atan2((t * FRAC_PI_2).cos()) / FRAC_PI_2,
        }
    }

    fn clock(&self, t: &Tensor) -> Clock {
        let inside = t.clamp(0.0, 1.0);
        let c = self.path.coefficients(&inside);
        let data = &c.a * self.scale;
        let (d, d_rate, time) = match self.path {
            Path::Linear => {
                let d = &c.s + &data;
                let time = &data / &d;
                (d, c.s_rate + &c.a_rate * self.scale, time)
            }
            Path::Vp => {
                let d = (c.s.square() + data.square()).sqrt();
                let rate = (&c.s * c.s_rate + &data * &c.a_rate * self.scale) / &d;
                (d, rate, data.atan2(&c.s) / FRAC_PI_2)
            }
        };
        Clock { time: time + (t - inside), a: c.a, a_rate: c.a_rate, d, d_rate }
    }

    /// (u, z) for times `[B]` or `[1]` and states `[B, *event]`. Differentiable.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn standard(&self, t: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let clock = self.clock(&column(t)?);
        let rows = x.f_reshape([x.size()[0], -1])?;
        let z = (rows - clock.a * &self.shift) / clock.d;
        Ok((clock.time.f_reshape(t.size())?, z.f_reshape(x.size())?))
    }

    /// z for states `[B, *event]` that all have the same time.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn standard_at(&self, t: f64, x: &Tensor) -> Result<Tensor> {
        if t <= 0.0 {
            return Ok(x.shallow_clone());
        }
        Ok(self.standard(&Tensor::f_full([1], t, (x.kind(), x.device()))?, x)?.1)
    }

    /// z for data `[N, *event]` of any dtype. Computed in float64, because subtracting a large shift loses precision.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn standard_data(&self, data: &Tensor) -> Result<Tensor> {
        let size = data.size();
        let shift = self.shift.to_device(data.device()).to_kind(Kind::Double);
        let rows = data.detach().f_reshape([size[0], -1])?.to_kind(Kind::Double);
        Ok(((rows - shift) / self.scale).to_kind(data.kind()).f_reshape(size.as_slice())?)
    }

    /// dx/dt for states `[B, *event]`, from the field that returns dz/du at (u, z).
    ///
    /// # Errors
    /// Errors of the field.
    pub fn velocity(
        &self,
        t: &Tensor,
        x: &Tensor,
        field: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (u, z) = self.standard(t, x)?;
        self.carry(t, &z, &field(&u, &z)?)
    }

    /// dx/dt from z and dz/du.
    fn carry(&self, t: &Tensor, z: &Tensor, rate: &Tensor) -> Result<Tensor> {
        let clock = self.clock(&column(t)?);
        let size = z.size();
        let rows = |x: &Tensor| x.f_reshape([size[0], -1]);
        let moved = clock.a_rate * &self.shift
            + clock.d_rate * rows(z)?
            + clock.d.f_reciprocal()? * self.scale * rows(rate)?;
        Ok(moved.f_reshape(size.as_slice())?)
    }

    /// dz/du for states with velocity dx/dt.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn standard_velocity(&self, t: &Tensor, x: &Tensor, velocity: &Tensor) -> Result<Tensor> {
        let (u, _) = self.standard(t, x)?;
        self.inverse().carry(&u, x, velocity)
    }

    /// The product of a cotangent with the Jacobian of dx/dt in x, given `product`, its product with the Jacobian of
    /// dz/du in z.
    fn pull(&self, t: &Tensor, cotangent: &Tensor, product: &Tensor) -> Result<Tensor> {
        let clock = self.clock(&column(t)?);
        let size = cotangent.size();
        let rows = |x: &Tensor| x.f_reshape([size[0], -1]);
        let own = &clock.d_rate / &clock.d * rows(cotangent)?;
        let pulled = own + clock.d.square().f_reciprocal()? * self.scale * rows(product)?;
        Ok(pulled.f_reshape(size.as_slice())?)
    }
}

shared!(Units { shift; path, scale });

/// Names of the tensors in a file.
const SHIFT: &str = "units.shift";
const SCALE: &str = "units.scale";

/// Times `[B]` as `[B, 1]`.
fn column(t: &Tensor) -> Result<Tensor> {
    Ok(t.f_reshape([-1, 1])?)
}

/// A field in other units: `inner` is the field in standardised coordinates.
pub struct UnitsField {
    inner: Box<dyn VelocityField>,
    units: Units,
}

impl UnitsField {
    pub fn new(inner: Box<dyn VelocityField>, units: &Units) -> UnitsField {
        let units = units.to(inner.dtype(), inner.device());
        UnitsField { inner, units }
    }
}

impl VelocityField for UnitsField {
    answers_as!(inner);

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.units.velocity(t, x, |u, z| self.inner.velocity(u, z, condition))
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (u, z) = self.units.standard(t, x)?;
        let (rate, product) = self.inner.velocity_and_vjp(&u, &z, cotangent, condition)?;
        Ok((self.units.carry(t, &z, &rate)?, self.units.pull(t, cotangent, &product)?))
    }

    fn work(&self) -> Result<Option<f64>> {
        self.inner.work()
    }

    fn unet(&self) -> Option<&UNetConfig> {
        self.inner.unet()
    }

    fn feature_maps(
        &self,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Vec<Tensor>>> {
        let (u, z) = self.units.standard(t, x)?;
        self.inner.feature_maps(&u, &z, condition)
    }

    /// The mixture is the same in both coordinates only if its path is that of the units.
    fn mixing(&self) -> Option<Mixing> {
        self.inner.mixing().filter(|mixing| *mixing == Mixing::Path(self.units.path()))
    }

    fn source(&self) -> Source {
        self.inner.source()
    }

    fn breaks(&self) -> Vec<f64> {
        let back = self.units.inverse();
        self.inner.breaks().into_iter().map(|u| back.time(u)).collect()
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(UnitsField { inner: self.inner.shallow_clone(), units: self.units.shallow_clone() })
    }

    fn kind_name(&self) -> &'static str {
        self.inner.kind_name()
    }

    /// None: this field is not stored in files.
    fn state(&self) -> Option<FieldState> {
        None
    }
}
