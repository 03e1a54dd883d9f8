//! A velocity field from a TorchScript file: a PyTorch model that runs without Python.

use std::fs::File;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use super::answer;
use super::gaussian::{check_event_shape, check_field_dtype};
use super::{differentiated, Conditioning, EvaluationCounter, FieldState, VelocityField};
use crate::error::{Error, Result};

/// The order of a module's positional arguments, and the meaning of its result.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Convention {
    /// `forward(t, x[, condition])` returns data - noise.
    #[default]
    TorchCfm,
    /// `forward(x, t[, condition])` returns data - noise.
    FlowMatching,
    /// `forward(x, timestep[, condition])` with timestep = scale (1 - t) returns noise - data.
    Diffusers { timestep_scale: f64 },
}

impl FromStr for Convention {
    type Err = Error;

    /// Parses a name. The scale of `"diffusers"` is set to 1000.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "torchcfm" => Ok(Convention::TorchCfm),
            "flow_matching" => Ok(Convention::FlowMatching),
            "diffusers" => Ok(Convention::Diffusers { timestep_scale: 1000.0 }),
            _ => {
                let expected = "one of 'torchcfm', 'flow_matching', 'diffusers'";
                Err(Error::argument("convention", expected, format!("'{name}'")))
            }
        }
    }
}

/// The properties of a [`TorchScriptField`] apart from its file.
#[derive(Debug, Clone)]
pub struct TorchScriptConfig {
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    pub convention: Convention,
    pub device: Device,
    /// Dtype of the field, float32 or float64. `None` means float64 if the module's parameters are float64, otherwise
    /// float32.
    pub dtype: Option<Kind>,
}

/// v(t, x) by the module of a TorchScript file, in evaluation mode and with frozen parameters. Inputs are converted to
/// the dtype of the module, and results to the dtype of the field. The result may be a tensor, or a tuple or list
/// whose first element is a tensor.
pub struct TorchScriptField {
    module: Arc<CModule>,
    config: TorchScriptConfig,
    /// Name of the module in messages.
    name: String,
    dtype: Kind,
    /// Dtype of the module's parameters; `None` if it has none.
    module_dtype: Option<Kind>,
    /// Whether a half-precision module has rejected times in single precision.
    rounds_time: Arc<AtomicBool>,
    /// Number of weights of the module.
    weights: i64,
    counter: EvaluationCounter,
}

impl TorchScriptField {
    /// Loads `path` onto the device of `config`. A TorchScript file is a program: load only files that you trust.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Checkpoint`] for one without a complete TorchScript
    /// module; [`Error::Argument`] or [`Error::Dtype`] naming an option.
    pub fn load(path: &Path, config: TorchScriptConfig) -> Result<Self> {
        check_event_shape(&config.event_shape)?;
        config.dtype.map_or(Ok(()), check_field_dtype)?;
        let name = path.display().to_string();
        // Opened first, because libtorch does not distinguish a missing file from a damaged one.
        let file = File::open(path).map_err(|source| Error::Io { path: name.clone(), source })?;
        if file.metadata().is_ok_and(|facts| facts.is_dir()) {
            return Err(Error::checkpoint(&name, "expected a TorchScript file, got a folder"));
        }
        let refuse = |error: TchError| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let reason = line.split(". This is an internal").next().unwrap_or(line);
            let expected = "expected a complete TorchScript module, as written by torch.jit.save";
            Error::checkpoint(&name, format!("{expected}; libtorch reports: {reason}"))
        };
        let mut module = CModule::load_on_device(path, config.device).map_err(refuse)?;
        module.f_set_eval()?;
        let parameters = module.named_parameters()?;
        for (_, parameter) in &parameters {
            let _ = parameter.f_set_requires_grad(false)?;
        }
        let module_dtype =
            parameters.iter().map(|(_, tensor)| tensor).find(|p| p.is_floating_point()).map(Tensor::kind);
        let natural = if module_dtype == Some(Kind::Double) { Kind::Double } else { Kind::Float };
        Ok(TorchScriptField {
            module: Arc::new(module),
            dtype: config.dtype.unwrap_or(natural),
            config,
            name,
            module_dtype,
            rounds_time: Arc::new(AtomicBool::new(false)),
            weights: parameters.iter().map(|(_, tensor)| tensor.numel() as i64).sum(),
            counter: EvaluationCounter::default(),
        })
    }

    /// The module's arguments in its dtype, with times in the dtype `time`.
    fn arguments(
        &self,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
        time: Kind,
    ) -> Result<Vec<IValue>> {
        let own = self.module_dtype.unwrap_or(self.dtype);
        // Labels and discrete time steps stay integers.
        let cast = |tensor: &Tensor, kind| match tensor.is_floating_point() {
            true => tensor.f_to_kind(kind),
            false => Ok(tensor.shallow_clone()),
        };
        let x = cast(x, own)?;
        let mut arguments = match self.config.convention {
            Convention::TorchCfm => vec![cast(t, time)?, x],
            Convention::FlowMatching => vec![x, cast(t, time)?],
            Convention::Diffusers { timestep_scale } => {
                vec![x, cast(&((t.f_neg()? + 1.0) * timestep_scale), time)?]
            }
        };
        arguments.extend(condition.map(|condition| cast(condition, own)).transpose()?);
        Ok(arguments.into_iter().map(IValue::Tensor).collect())
    }

    /// The result of the module. Half precision would round the time, so a half-precision module gets times in single
    /// precision unless it rejects them.
    fn forward(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<IValue> {
        let own = self.module_dtype.unwrap_or(self.dtype);
        let half = matches!(own, Kind::Half | Kind::BFloat16);
        if half && !self.rounds_time.load(Ordering::Relaxed) {
            let answer = self.module.forward_is(&self.arguments(t, x, condition, Kind::Float)?);
            if let Ok(answer) = answer {
                return Ok(answer);
            }
        }
        let answer = self.module.forward_is(&self.arguments(t, x, condition, own)?);
        let answer = answer.map_err(|error| self.failed(&error))?;
        self.rounds_time.store(half, Ordering::Relaxed);
        Ok(answer)
    }

    fn failed(&self, error: &TchError) -> Error {
        Error::teacher(format!("teacher '{}': forward raised {}", self.name, reason(&error.to_string())))
    }
}

/// The line of a failure that names the error: the last such line of an interpreter's traceback, otherwise the first
/// line.
fn reason(text: &str) -> &str {
    let names_an_error = |line: &&str| {
        let name = line.split(": ").next().unwrap_or_default();
        name.ends_with("Error") && !name.contains(' ')
    };
    let line = text.lines().rev().find(names_an_error).or_else(|| text.lines().next());
    line.unwrap_or("an unknown failure").trim()
}

fn first_tensor(answer: IValue) -> Option<Tensor> {
    match answer {
        IValue::Tensor(tensor) => Some(tensor),
        IValue::Tuple(items) | IValue::GenericList(items) => match items.into_iter().next() {
            Some(IValue::Tensor(tensor)) => Some(tensor),
            _ => None,
        },
        IValue::TensorList(items) => items.into_iter().next(),
        _ => None,
    }
}

impl VelocityField for TorchScriptField {
    fn event_shape(&self) -> &[i64] {
        &self.config.event_shape
    }

    fn conditioning(&self) -> Conditioning {
        self.config.conditioning
    }

    fn device(&self) -> Device {
        self.config.device
    }

    fn dtype(&self) -> Kind {
        self.dtype
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.counter.add(1);
        let got = first_tensor(self.forward(t, x, condition)?)
            .filter(Tensor::defined)
            .ok_or_else(|| answer::refuse(&self.name, "forward", "no tensor".into(), x))?;
        let v = answer::accept(&self.name, "forward", got, (t, x), self.dtype)?;
        match self.config.convention {
            // dx/ds = noise - data in the time s = 1 - t of diffusers, so dx/dt has the opposite sign.
            Convention::Diffusers { .. } => Ok(v.f_neg()?),
            _ => Ok(v),
        }
    }

    /// # Errors
    /// [`Error::Teacher`] also if the result depends on x without a graph, since its divergence would be 0.
    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (v, product) = differentiated(self, t, x, cotangent, condition)?;
        if let Some(product) = product {
            return Ok((v, product));
        }
        let moved = self.velocity(t, &(x + (x.abs() + 1.0) * 1e-2), condition)?;
        if !moved.allclose(&v, 1e-5, 1e-8, false) {
            return Err(Error::teacher(format!(
                "teacher '{}': forward's result depends on x but carries no gradient, because it runs under no_grad \
                 or is detached; densities need gradients; FlowTeacher.from_torch(\
                 torch.jit.load(path), ..., gradients='differences') uses finite differences instead",
                self.name
            )));
        }
        Ok((v, x.detach().zeros_like()))
    }

    /// The number of weights; for images times 1/16 of the number of pixels, as estimated for a U-Net.
    fn work(&self) -> Result<Option<f64>> {
        let reuse = match self.config.event_shape.as_slice() {
            [_, height, width] => (height * width / 16).max(1),
            _ => 1,
        };
        Ok(Some((self.weights * reuse) as f64))
    }

    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(TorchScriptField {
            module: Arc::clone(&self.module),
            config: self.config.clone(),
            name: self.name.clone(),
            dtype: self.dtype,
            module_dtype: self.module_dtype,
            rounds_time: Arc::clone(&self.rounds_time),
            weights: self.weights,
            counter: self.counter.clone(),
        })
    }

    fn kind_name(&self) -> &'static str {
        "torchscript"
    }

    /// None, because a checkpoint holds only numbers, never a program.
    fn state(&self) -> Option<FieldState> {
        None
    }
}
