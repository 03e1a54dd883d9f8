//! Velocity fields v(t, x) of flows dx/dt = v from noise at t = 0 to data at t = 1.

/// Implements the methods of [`VelocityField`] that a wrapping field forwards to the field that it wraps.
macro_rules! answers_as {
    ($inner:ident) => {
        fn event_shape(&self) -> &[i64] {
            self.$inner.event_shape()
        }

        fn conditioning(&self) -> $crate::condition::Conditioning {
            self.$inner.conditioning()
        }

        fn device(&self) -> tch::Device {
            self.$inner.device()
        }

        fn dtype(&self) -> tch::Kind {
            self.$inner.dtype()
        }

        fn counter(&self) -> &$crate::monitor::EvaluationCounter {
            self.$inner.counter()
        }
    };
}

pub mod answer;
mod body;
mod chain;
mod diffusion;
mod empirical;
mod gaussian;
mod guidance;
mod mean_shift;
mod mixing;
mod network;
mod network_config;
mod noise_schedule;
mod path;
mod reversed;
mod scales;
mod source;
mod sourced;
mod standard;
mod store;
mod torchscript;
mod units;
mod window;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

pub use crate::condition::Conditioning;
use crate::error::Result;
pub use crate::monitor::EvaluationCounter;
use crate::nets::UNetConfig;
use crate::tensor::{check_batch, event_size, expand_time, Share};

pub use chain::ChainField;
pub use diffusion::{DiffusionConfig, DiffusionField, NoiseArgument, Parametrisation};
pub use empirical::EmpiricalField;
pub use gaussian::GaussianField;
pub use guidance::GuidedField;
pub use mean_shift::{mean_shift, Modes};
pub use mixing::{Expectation, Mixing};
pub use network::NetworkField;
pub use network_config::NetworkFieldConfig;
pub use noise_schedule::{Cosine, Geometric, Karras, LinearBeta, NoiseLevel, NoiseSchedule, ScaledBeta};
pub use path::{Coefficients, Path};
pub use reversed::ReversedField;
pub use scales::{skip_at, Preconditioning};
pub use source::{Sampler, Source, SourceDescription};
pub use sourced::SourcedField;
pub use store::TeacherDescription;
pub use torchscript::{Convention, TorchScriptConfig, TorchScriptField};
pub use units::{Moments, Units, UnitsField};
pub use window::WindowField;

/// A velocity field v(t, x) over samples of shape `event_shape`.
///
/// Implementations may assume that their arguments are checked: `t` is `[B]`, `x` is `[B, *event]`, both of the
/// field's dtype and on its device, and the condition agrees with [`VelocityField::conditioning`].
pub trait VelocityField: Send {
    /// The shape of one sample: `(2,)`, `(64,)`, `(1, 28, 28)` and so on.
    fn event_shape(&self) -> &[i64];

    fn conditioning(&self) -> Conditioning {
        Conditioning::None
    }

    fn device(&self) -> Device;

    fn dtype(&self) -> Kind;

    /// v(t, x), `[B, *event]`. Adds one to the evaluation counter.
    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor>;

    /// v(t, x) and the product of `cotangent` `[B, *event]` with its Jacobian in x.
    /// The default differentiates [`VelocityField::velocity`] with libtorch.
    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (v, product) = differentiated(self, t, x, cotangent, condition)?;
        Ok((v, product.unwrap_or_else(|| x.detach().zeros_like())))
    }

    /// Approximate number of multiplications for the velocity of one sample; `None` if it is not known. This is an
    /// operation count, not a measured time. It may evaluate the field once.
    ///
    /// # Errors
    /// Only an interruption of the count: if the count itself fails, the result is `None`.
    fn work(&self) -> Result<Option<f64>> {
        Ok(None)
    }

    fn counter(&self) -> &EvaluationCounter;

    /// The growth rate of mass at x, d log m / dt, `[B]`; `None` for a field that conserves mass.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn growth(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Option<Tensor>> {
        let _ = (t, x, condition);
        Ok(None)
    }

    /// The distribution that the flow starts from.
    fn source(&self) -> Source {
        Source::Normal
    }

    /// Times in [0, 1] at which the velocity is discontinuous; solvers restart there. At a break the velocity may be
    /// the limit from either side.
    fn breaks(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Moments of the data that the flow leads to; `None` if they are not known, as for models from outside koopflow.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn moments(&self) -> Result<Option<Moments>> {
        Ok(None)
    }

    /// The same flow in standardised coordinates, between noise and standard data, and the units that convert back.
    /// Solvers and students prefer these coordinates. `None` unless the field knows that its data are far from
    /// standard.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn standard(&self) -> Result<Option<(Box<dyn VelocityField>, Units)>> {
        Ok(None)
    }

    /// The mixture a x1 + s x0 of noise and data that the field's states are; `None` if no single a and s hold at
    /// every time. Models from outside koopflow predict data - noise, so they are on the linear path.
    fn mixing(&self) -> Option<Mixing> {
        Some(Mixing::Path(Path::Linear))
    }

    /// E[x1 | x_t = x] or E[x0 | x_t = x], `[B, *event]`, at times in float64, by one evaluation; `None` if no single
    /// mixture holds at every time.
    ///
    /// # Errors
    /// Errors of the velocity.
    fn expectation(
        &self,
        of: Expectation,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        let Some(mixing) = self.mixing() else { return Ok(None) };
        let velocity = self.velocity(&t.to_kind(self.dtype()), x, condition)?;
        mixing.expectation(of, t, x, &velocity).map(Some)
    }

    /// The koopflow network whose velocities these are, or which they guide.
    fn network(&self) -> Option<&NetworkField> {
        None
    }

    /// The architecture of a native U-Net; `None` for other fields.
    fn unet(&self) -> Option<&UNetConfig> {
        None
    }

    /// The feature maps of a native U-Net's encoder at (t, x), in the order of [`crate::nets::feature_maps`]; `None`
    /// for other fields. Adds one to the evaluation counter.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn feature_maps(
        &self,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Vec<Tensor>>> {
        let _ = (t, x, condition);
        Ok(None)
    }

    /// The number of batched evaluations so far.
    fn evaluations(&self) -> u64 {
        self.counter().get()
    }

    /// A second handle on the same field: parameters and counter are shared, not copied.
    fn shallow_clone(&self) -> Box<dyn VelocityField>;

    /// The kind of field as one word: `network`, `gaussian`, `empirical`, `torch`, `torchscript`, `diffusion`,
    /// `guided`, `chain`, `reversed` or `window`.
    fn kind_name(&self) -> &'static str;

    /// The data that [`crate::store`] writes for the field; `None` for a field that koopflow cannot store
    /// (a Python callable, a TorchScript module).
    fn state(&self) -> Option<FieldState>;
}

/// v(t, x) and the product of `cotangent` with its Jacobian, by libtorch. The product is `None` if there is no graph
/// from x to v.
fn differentiated<F: VelocityField + ?Sized>(
    field: &F,
    t: &Tensor,
    x: &Tensor,
    cotangent: &Tensor,
    condition: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let x = x.detach().set_requires_grad(true);
    // Everything runs under with_grad, because a root without a graph crashes libtorch's autograd engine.
    let (v, product) = tch::with_grad(|| -> Result<_> {
        let v = field.velocity(t, &x, condition)?;
        let product = (&v * cotangent).sum(v.kind());
        Ok((v, product))
    })?;
    if !product.requires_grad() {
        return Ok((v, None));
    }
    let mut gradients = Tensor::f_run_backward(&[product], &[&x], false, false)?;
    let gradient = gradients.swap_remove(0);
    // The gradient is undefined if v depends only on parameters that are being trained, and not on x.
    Ok((v.detach(), gradient.defined().then_some(gradient)))
}

impl Share for Box<dyn VelocityField> {
    fn shallow_clone(&self) -> Self {
        (**self).shallow_clone()
    }
}

/// A field as plain data: a description and named tensors.
pub struct FieldState {
    pub description: FieldDescription,
    pub tensors: Vec<(String, Tensor)>,
}

/// The serialisable part of a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "field", rename_all = "snake_case")]
pub enum FieldDescription {
    Gaussian { event_shape: Vec<i64> },
    Empirical { event_shape: Vec<i64> },
    Network(Box<NetworkFieldConfig>),
    Guided { scale: f64, model: Box<FieldDescription> },
    Sourced { source: SourceDescription, model: Box<FieldDescription> },
    Chain { breaks: Vec<f64>, models: Vec<FieldDescription> },
    Reversed { model: Box<FieldDescription> },
    Window { from: f64, to: f64, model: Box<FieldDescription> },
}

impl dyn VelocityField + '_ {
    pub fn event_size(&self) -> i64 {
        event_size(self.event_shape())
    }

    /// Checks and converts arguments from outside, and evaluates the velocity.
    ///
    /// # Errors
    /// Names the argument whose shape, dtype or values are wrong. [`Error::Teacher`](crate::Error::Teacher) or
    /// [`Error::NotFiniteAnswer`](crate::Error::NotFiniteAnswer) if the field returns a wrong shape or non-finite
    /// values.
    pub fn checked_velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let batch = check_batch("x", x, self.event_shape())?;
        let t = expand_time("t", t, batch)?;
        self.conditioning().check(condition, batch)?;
        let (device, dtype) = (self.device(), self.dtype());
        let x = x.to_device(device).to_kind(dtype);
        let t = t.to_device(device).to_kind(dtype);
        let condition = condition.map(|c| c.to_device(device));
        self.velocity(&t, &x, condition.as_ref())
    }

    /// Checks and converts arguments from outside for a field without conditions, and returns the growth rate.
    ///
    /// # Errors
    /// Names the argument whose shape, dtype or values are wrong.
    pub fn checked_growth(&self, t: &Tensor, x: &Tensor) -> Result<Option<Tensor>> {
        let batch = check_batch("x", x, self.event_shape())?;
        let (device, dtype) = (self.device(), self.dtype());
        let t = expand_time("t", t, batch)?.to_device(device).to_kind(dtype);
        tch::no_grad(|| self.growth(&t, &x.to_device(device).to_kind(dtype), None))
    }
}
