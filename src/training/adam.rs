//! Adam (Kingma & Ba, 1412.6980) and AdamW (Loshchilov & Hutter, 1711.05101), and gradient clipping.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::adam_step::{self, Step};
use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::tensor::shape_text;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam. Weight decay, if any, is added to the gradient.
    #[default]
    Adam,
    /// AdamW, with decoupled weight decay.
    AdamW,
}

/// Adam or AdamW, over the flat buffer of [`Parameters`].
#[derive(Debug)]
pub struct Adam {
    first: Tensor,
    second: Tensor,
    steps: i32,
    weight_decay: f64,
    decoupled: bool,
    /// Buffer for the step when libtorch computes it. Allocating a buffer of all parameters at each step is
    /// slow.
    scratch: Option<Tensor>,
    /// Factor of the learning rate for each value of the buffer; `None` means 1 for all.
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
            scratch: None,
            multipliers: None,
        })
    }

    /// Sets factors of the learning rate for each value of the buffer: `[count]`, as
    /// [`Parameters::multipliers`] makes them.
    pub fn with_multipliers(mut self, multipliers: Option<Tensor>) -> Self {
        self.multipliers = multipliers;
        self
    }

    /// Applies one step along the flat gradient.
    pub fn step(&mut self, parameters: &Parameters, gradient: &Tensor, learning_rate: f64) -> Result<()> {
        self.step_masked(parameters, gradient, learning_rate, None)
    }

    /// As [`Adam::step`], but nothing changes if the 0-dimensional `mask` is 0 and not 1. The mask is not
    /// read by the host, so a masked step is counted until [`Adam::uncount`].
    pub fn step_masked(
        &mut self,
        parameters: &Parameters,
        gradient: &Tensor,
        learning_rate: f64,
        mask: Option<&Tensor>,
    ) -> Result<()> {
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
                let _ = match (&self.multipliers, mask) {
                    (Some(multipliers), None) => flat.f_mul_(&(multipliers * -decay + 1.0))?,
                    (Some(multipliers), Some(mask)) => flat.f_mul_(&(multipliers * mask * -decay + 1.0))?,
                    (None, None) => flat.f_mul_scalar_(1.0 - decay)?,
                    (None, Some(mask)) => flat.f_mul_(&(mask * -decay + 1.0))?,
                };
                gradient.shallow_clone()
            }
        };
        // Multiplying by the mask is not enough: zero times a number that is not finite is not zero.
        let gradient = match mask {
            Some(mask) => gradient.f_masked_fill(&mask.f_eq(0.0)?, 0.0)?,
            None => gradient,
        };
        let buffers = [&flat, &gradient, &self.first, &self.second];
        if mask.is_none()
            && adam_step::fusible(&buffers)
            && self.multipliers.iter().all(|x| adam_step::fusible(&[x]))
        {
            let step = Step {
                shares: [1.0 - BETA1, 1.0 - BETA2].map(|share| share as f32),
                root: (1.0 / correction2.sqrt()) as f32,
                epsilon: EPSILON as f32,
                rate: (-learning_rate / correction1) as f32,
            };
            return step.apply(&flat, &gradient, [&self.first, &self.second], self.multipliers.as_ref());
        }
        let step = self.scratch.get_or_insert_with(|| flat.zeros_like());
        lerp(&mut self.first, &gradient, 1.0 - BETA1, mask)?;
        let _ = gradient.f_square_out(step)?;
        lerp(&mut self.second, step, 1.0 - BETA2, mask)?;
        let _ = self.second.f_sqrt_out(step)?;
        let _ = step.f_mul_scalar_(1.0 / correction2.sqrt())?.f_add_scalar_(EPSILON)?;
        let _ = step.f_reciprocal_()?.f_mul_(&self.first)?;
        let _ = step.f_mul_scalar_(-learning_rate / correction1)?;
        for factor in [self.multipliers.as_ref(), mask].into_iter().flatten() {
            let _ = step.f_mul_(factor)?;
        }
        let _ = flat.f_add_(step)?;
        Ok(())
    }

    /// Removes one masked step from the count.
    pub fn uncount(&mut self) {
        self.steps -= 1;
    }

    /// Resets the moments, after a restart from other weights.
    pub fn reset(&mut self) {
        self.first = self.first.zeros_like();
        self.second = self.second.zeros_like();
        self.steps = 0;
    }

    /// The first and second moments and the number of steps, for a checkpoint.
    pub fn state(&self) -> (&Tensor, &Tensor, i32) {
        (&self.first, &self.second, self.steps)
    }

    /// Restores moments and the number of steps.
    ///
    /// # Errors
    /// [`Error::Shape`] if the moments have another size than the parameters.
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

/// Moves `value` by the share `weight` of the way to `target`, or not at all if the mask is 0.
pub(super) fn lerp(value: &mut Tensor, target: &Tensor, weight: f64, mask: Option<&Tensor>) -> Result<()> {
    let _ = match mask {
        Some(mask) => value.f_lerp_tensor_(target, &(mask * weight))?,
        None => value.f_lerp_(target, weight)?,
    };
    Ok(())
}

/// Scales a flat gradient in place so that its norm is at most `limit`; a `limit` of 0 does not clip. Returns
/// the original norm, a scalar tensor on the same device.
pub fn clip_norm(gradient: &mut Tensor, limit: f64) -> Result<Tensor> {
    let norm = gradient.f_norm()?;
    if limit > 0.0 {
        let scale = ((&norm + 1e-12).f_reciprocal()? * limit).f_clamp_max(1.0)?;
        let _ = gradient.f_mul_(&scale)?;
    }
    Ok(norm)
}
