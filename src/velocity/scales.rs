//! The scales of a network field's input and output, from the moments of data and source.
//!
//! On the path x_t = a x1 + s x0, let data have deviation d and the source o in one coordinate, independent of each
//! other. Then x has variance a^2 d^2 + s^2 o^2, the velocity dx/dt has a'^2 d^2 + s'^2 o^2, and their covariance is
//! a a' d^2 + s s' o^2. The best prediction of the velocity that is linear in x leaves the variance
//! (W d o)^2 / var(x) with W = a' s - a s'.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::standard::Standard;
use super::{NetworkFieldConfig, Path};
use crate::error::{Error, Result};

/// What the network of a field learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Preconditioning {
    /// The velocity in units of its deviation at each time.
    #[default]
    Scaled,
    /// What the best linear prediction leaves of the velocity, in units of its deviation at each time (Karras et al.,
    /// arXiv 2206.00364, table 1). Their network for the expected data has the same targets up to the sign, because
    /// expected data and velocity differ by a multiple of x.
    Edm,
}

impl Preconditioning {
    pub(super) fn is_scaled(&self) -> bool {
        *self == Preconditioning::Scaled
    }
}

/// The scales at some times, `[B, dim]` each, or numbers `[1, 1]`.
pub(super) struct Scales {
    /// Mean of the states.
    mean: Tensor,
    /// Deviation of the states.
    deviation: Tensor,
    /// Mean of the velocities.
    pub centre: Tensor,
    /// Deviation of the velocities.
    pub spread: Tensor,
    /// Unit of the network's output.
    pub unit: Tensor,
    /// Slope of the linear prediction in the scaled states; `None` without a prediction.
    slope: Option<Tensor>,
}

impl Scales {
    /// The scales of a network that returns velocities itself.
    pub fn identity(kind: Kind, device: Device) -> Scales {
        let [zero, one] = [0.0, 1.0].map(|x| Tensor::full([1, 1], x, (kind, device)));
        Scales {
            mean: zero.shallow_clone(),
            deviation: one.shallow_clone(),
            centre: zero,
            spread: one.shallow_clone(),
            unit: one,
            slope: None,
        }
    }

    /// The scales at times `[B]`. Without an `origin` the source is standard normal noise.
    pub fn at(
        t: &Tensor,
        path: Path,
        preconditioning: Preconditioning,
        data: &Standard,
        origin: Option<&Standard>,
    ) -> Scales {
        let c = path.coefficients(&t.unsqueeze(1));
        let variance = data.scale.square();
        let mut mean = &c.a * &data.mean;
        let mut centre = &c.a_rate * &data.mean;
        let (mut start, mut start_rate) = (c.s.square(), c.s_rate.square());
        if let Some(origin) = origin {
            mean += &c.s * &origin.mean;
            centre += &c.s_rate * &origin.mean;
            let own = origin.scale.square();
            (start, start_rate) = (start * &own, start_rate * own);
        }
        let deviation = (c.a.square() * &variance + start).sqrt();
        let spread = (c.a_rate.square() * &variance + start_rate).sqrt();
        if preconditioning == Preconditioning::Scaled {
            return Scales { mean, deviation, centre, unit: spread.shallow_clone(), spread, slope: None };
        }
        let (mut joint, mut product) = (&c.s * &c.s_rate, data.scale.shallow_clone());
        if let Some(origin) = origin {
            (joint, product) = (joint * origin.scale.square(), product * &origin.scale);
        }
        let slope = (&c.a * &c.a_rate * variance + joint) / &deviation;
        // The difference of the two variances would cancel where the prediction is good.
        let wronskian: Tensor = &c.a_rate * &c.s - &c.a * &c.s_rate;
        let unit = wronskian.abs() * product / &deviation;
        Scales { mean, deviation, centre, spread, unit, slope: Some(slope) }
    }

    /// The input of the network for states `[B, dim]`.
    pub fn input(&self, x: &Tensor) -> Tensor {
        (x - &self.mean) / &self.deviation
    }
}

/// One evaluation of a network, with its scales.
pub(super) struct Scaled {
    /// Input of the network, `[B, dim]`.
    pub input: Tensor,
    /// Output of the network, `[B, dim]`.
    pub answer: Tensor,
    /// Scaled growth rate `[B]`; `None` for a network without growth.
    pub growth: Option<Tensor>,
    pub scales: Scales,
}

impl Scaled {
    /// The velocity, `[B, dim]`.
    pub fn velocity(&self) -> Tensor {
        let velocity = &self.answer * &self.scales.unit + &self.scales.centre;
        match &self.scales.slope {
            Some(slope) => velocity + slope * &self.input,
            None => velocity,
        }
    }

    /// The output that would give the velocities `u` `[B, *event]`, `[B, dim]`.
    pub fn target(&self, u: &Tensor) -> Result<Tensor> {
        let rest = u.f_reshape(self.answer.size())? - &self.scales.centre;
        let rest = match &self.scales.slope {
            Some(slope) => rest - slope * &self.input,
            None => rest,
        };
        Ok(rest / &self.scales.unit)
    }
}

/// The linear prediction of a field in units of its network's output, at one time: v - centre = unit (F(z) + skip z)
/// for scaled states z, with skip `[dim]`. `None` for networks without a prediction.
///
/// # Errors
/// Errors that name a tensor of `tensors` that is missing or has another shape.
pub fn skip_at(
    config: &NetworkFieldConfig,
    tensors: &[(String, Tensor)],
    time: f64,
) -> Result<Option<Tensor>> {
    if !config.scaled || config.preconditioning == Preconditioning::Scaled {
        return Ok(None);
    }
    let size = crate::tensor::event_size(&config.event_shape);
    let stored = |name: &str| -> Result<Standard> {
        Ok(Standard::stored(tensors, name, size)?.to(Device::Cpu, Kind::Double))
    };
    let data = stored("data")?;
    let origin = if config.source.is_normal() { None } else { Some(stored("origin")?) };
    let t = Tensor::full([1], time, (Kind::Double, Device::Cpu));
    let scales = Scales::at(&t, config.path, config.preconditioning, &data, origin.as_ref());
    match &scales.slope {
        Some(slope) => Ok(Some((slope / &scales.unit).f_reshape([-1])?)),
        None => Err(Error::Internal(anyhow::anyhow!("a preconditioned field has a linear prediction"))),
    }
}
