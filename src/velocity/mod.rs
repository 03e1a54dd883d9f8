//! Velocity fields: anything that gives v(t, x) with dx/dt = v, from noise at t = 0 to data at t = 1.

/// The methods of [`VelocityField`] that a field made of another one answers as that one does.
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
pub use source::{Sampler, Source, SourceDescription};
pub use sourced::SourcedField;
pub use store::TeacherDescription;
pub use torchscript::{Convention, TorchScriptConfig, TorchScriptField};
pub use units::{Moments, Units, UnitsField};
pub use window::WindowField;

/// A velocity field v(t, x) over samples of shape `event_shape`.
///
/// Implementors may take their arguments as checked: `t` is `[B]`, `x` is `[B, *event]`, both of the
/// field's dtype and on its device, and the condition obeys [`VelocityField::conditioning`].
pub trait VelocityField: Send {
    /// The shape of one sample: `(2,)`, `(64,)`, `(1, 28, 28)` and so on.
    fn event_shape(&self) -> &[i64];

    fn conditioning(&self) -> Conditioning {
        Conditioning::None
    }

    fn device(&self) -> Device;

    fn dtype(&self) -> Kind;

    /// v(t, x): `[B, *event]`. Adds one to the evaluation counter.
    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor>;

    /// v(t, x) and the product of `cotangent` (`[B, *event]`) with its Jacobian in x.
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

    /// Multiplications of one sample's velocity, about, by counting and not by the clock; `None` where nobody
    /// knows. It may evaluate the field once.
    ///
    /// # Errors
    /// Whatever stops the count, but a failure of it.
    fn work(&self) -> Result<Option<f64>> {
        Ok(None)
    }

    fn counter(&self) -> &EvaluationCounter;

    /// The rate `[B]` at which the mass of what is at x grows, d log m / dt; `None` where mass stays as it is.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    fn growth(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Option<Tensor>> {
        let _ = (t, x, condition);
        Ok(None)
    }

    /// What its flow starts from.
    fn source(&self) -> Source {
        Source::Normal
    }

    /// Times in [0, 1] at which the velocity jumps, or next to which it is another: solvers start anew there. At one of
    /// them the velocity is that of either side.
    fn breaks(&self) -> Vec<f64> {
        Vec::new()
    }

    /// What the field knows of the data that it leads to; `None` for other people's models.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    fn moments(&self) -> Result<Option<Moments>> {
        Ok(None)
    }

    /// The same flow between noise and standard data, and the units that lead from those to the field's own, where
    /// the field knows that its data are far from standard: what solvers and students rather work in.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
    fn standard(&self) -> Result<Option<(Box<dyn VelocityField>, Units)>> {
        Ok(None)
    }

    /// How the field's states mix noise and data; `None` where no one a and s hold at every time. Models from elsewhere
    /// answer data - noise: they are on the linear path.
    fn mixing(&self) -> Option<Mixing> {
        Some(Mixing::Path(Path::Linear))
    }

    /// E[x1 | x_t = x], or that of the noise, `[B, *event]`, at times in float64, by one evaluation; `None` where no one
    /// mixture holds at every time.
    ///
    /// # Errors
    /// Whatever the velocity raises.
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

    /// The architecture of a native U-Net; `None` of other fields.
    fn unet(&self) -> Option<&UNetConfig> {
        None
    }

    /// What a native U-Net makes of (t, x) on its way down, map by map in the order of [`crate::nets::feature_maps`];
    /// `None` of other fields. Adds one to the evaluation counter.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
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

    /// A one-word name: `network`, `gaussian`, `empirical`, `torch`, `torchscript`, `diffusion`, `guided`,
    /// `chain`, `reversed`.
    fn kind_name(&self) -> &'static str;

    /// What [`crate::store`] needs to write the field; `None` where it has no weights of its own
    /// (a Python callable, a TorchScript module).
    fn state(&self) -> Option<FieldState>;
}

/// v(t, x) and the product of `cotangent` with its Jacobian by libtorch; no product without a graph from x to v.
fn differentiated<F: VelocityField + ?Sized>(
    field: &F,
    t: &Tensor,
    x: &Tensor,
    cotangent: &Tensor,
    condition: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let x = x.detach().set_requires_grad(true);
    // All of it under with_grad: a root without a graph crashes libtorch's engine.
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
    // Undefined where v does not depend on x, but on parameters that are being trained.
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

    /// Checks, converts and evaluates arguments from outside.
    ///
    /// # Errors
    /// Names the argument whose shape, dtype or values are wrong; `TeacherError`-class errors where
    /// the field itself answers with another shape or with values that are not finite.
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

    /// Checks and converts arguments from outside, of a field without conditions, and answers the rate of growth.
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
