//! Adam (Kingma & Ba, 1412.6980) and AdamW (Loshchilov & Hutter, 1711.05101), and gradient clipping.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::tensor::shape_text;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Weight decay, where asked for, joins the gradient.
    #[default]
    Adam,
    /// Weight decay shrinks the weights themselves.
    AdamW,
}

/// Either optimiser, over the flat buffer of [`Parameters`].
#[derive(Debug)]
pub struct Adam {
    first: Tensor,
    second: Tensor,
    steps: i32,
    weight_decay: f64,
    decoupled: bool,
    /// Holds the step while it is formed: buffers as large as all parameters are slow to allocate anew.
    scratch: Tensor,
    /// Of the learning rate, one for each value of the buffer; `None` is one for all.
    multipliers: Option<Tensor>,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

impl Adam {
    pub fn new(parameters: &Parameters, optimizer: Optimizer, weight_decay: f64) -> Result<Self> {
        let flat = parameters.flat()?;
        Ok(Adam {
            first: flat.zeros_like(),
            second: flat.zeros_like(),
            steps: 0,
            weight_decay,
            decoupled: optimizer == Optimizer::AdamW,
            scratch: flat.zeros_like(),
            multipliers: None,
        })
    }

    /// Scales the learning rate of each value of the buffer: `[count]`, as
    /// [`Parameters::multipliers`] makes it.
    pub fn with_multipliers(mut self, multipliers: Option<Tensor>) -> Self {
        self.multipliers = multipliers;
        self
    }

    /// Applies one step along the flat gradient.
    pub fn step(&mut self, parameters: &Parameters, gradient: &Tensor, learning_rate: f64) -> Result<()> {
        let mut flat = parameters.flat()?;
        self.steps += 1;
        let correction1 = 1.0 - BETA1.powi(self.steps);
        let correction2 = 1.0 - BETA2.powi(self.steps);
        let _guard = tch::no_grad_guard();
        let gradient = match (self.weight_decay != 0.0, self.decoupled) {
            (false, _) => gradient.shallow_clone(),
            (true, false) => gradient + &flat * self.weight_decay,
            (true, true) => {
                let decay = learning_rate * self.weight_decay;
                let _ = match &self.multipliers {
                    Some(multipliers) => flat.f_mul_(&(multipliers * -decay + 1.0))?,
                    None => flat.f_mul_scalar_(1.0 - decay)?,
                };
                gradient.shallow_clone()
            }
        };
        let step = &mut self.scratch;
        let _ = self.first.f_lerp_(&gradient, 1.0 - BETA1)?;
        let _ = gradient.f_square_out(step)?;
        let _ = self.second.f_lerp_(step, 1.0 - BETA2)?;
        let _ = self.second.f_sqrt_out(step)?;
        let _ = step.f_mul_scalar_(1.0 / correction2.sqrt())?.f_add_scalar_(EPSILON)?;
        let _ = step.f_reciprocal_()?.f_mul_(&self.first)?;
        let _ = step.f_mul_scalar_(-learning_rate / correction1)?;
        if let Some(multipliers) = &self.multipliers {
            let _ = step.f_mul_(multipliers)?;
        }
        let _ = flat.f_add_(step)?;
        Ok(())
    }

    /// Forgets all moments, after a restart from other weights.
    pub fn reset(&mut self) {
        self.first = self.first.zeros_like();
        self.second = self.second.zeros_like();
        self.steps = 0;
    }

    /// First and second moments and the number of steps behind them: what a checkpoint stores.
    pub fn state(&self) -> (&Tensor, &Tensor, i32) {
        (&self.first, &self.second, self.steps)
    }

    /// # Errors
    /// [`Error::Shape`] for moments of other parameters.
    pub fn restore(&mut self, first: &Tensor, second: &Tensor, steps: i32) -> Result<()> {
        for (name, own, stored) in [("first", &mut self.first, first), ("second", &mut self.second, second)] {
            if own.size() != stored.size() {
                return Err(Error::shape(name, shape_text(&own.size()), shape_text(&stored.size())));
            }
            own.f_copy_(stored)?;
        }
        self.steps = steps;
        Ok(())
    }
}

/// Scales a flat gradient down to norm `limit` at most, in place; returns the norm before (a scalar
/// tensor, left on its device).
pub fn clip_norm(gradient: &mut Tensor, limit: Option<f64>) -> Result<Tensor> {
    let norm = gradient.f_norm()?;
    if let Some(limit) = limit {
        let scale = ((&norm + 1e-12).f_reciprocal()? * limit).f_clamp_max(1.0)?;
        let _ = gradient.f_mul_(&scale)?;
    }
    Ok(norm)
}
