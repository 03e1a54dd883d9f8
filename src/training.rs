//! What both trainers share: optimiser, learning-rate schedule, clipping, averaging, budgets,
//! interrupts and progress.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};
use crate::nets::Parameters;

/// One report of a long computation.
#[derive(Debug, Clone, Serialize)]
pub struct Progress {
    /// `"trajectories"`, `"teacher"`, `"student"`, `"closed_form"`, `"sample"`.
    pub stage: &'static str,
    pub step: u64,
    pub total: u64,
    /// Seconds since the stage began.
    pub seconds: f64,
    /// Named values, in a fixed order: each loss term, the learning rate, held-out errors.
    pub values: Vec<(String, f64)>,
}

/// Who watches a long computation. An error stops it: [`Error::Interrupted`] keeps the best state so
/// far, any other is passed on.
pub trait Monitor {
    /// Called after every step or chunk; cheap implementors answer at once most of the time.
    fn tick(&mut self) -> Result<()>;

    /// Called when there is something to show.
    fn report(&mut self, progress: &Progress) -> Result<()>;
}

/// Watches nothing.
pub struct Silent;

impl Monitor for Silent {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn report(&mut self, _: &Progress) -> Result<()> {
        Ok(())
    }
}

/// Why a training loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    Completed,
    Interrupted,
    /// `max_seconds` ran out.
    Budget,
}

/// Adam (Kingma & Ba, 1412.6980), or AdamW (Loshchilov & Hutter, 1711.05101) with
/// `decoupled` weight decay, over the flat buffer of [`Parameters`].
#[derive(Debug)]
pub struct Adam {
    first: Tensor,
    second: Tensor,
    steps: i32,
    weight_decay: f64,
    decoupled: bool,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

impl Adam {
    pub fn new(parameters: &Parameters, weight_decay: f64, decoupled: bool) -> Result<Self> {
        let flat = parameters.flat()?;
        Ok(Adam { first: flat.zeros_like(), second: flat.zeros_like(), steps: 0, weight_decay, decoupled })
    }

    /// Applies one step along the flat gradient.
    pub fn step(&mut self, parameters: &Parameters, gradient: &Tensor, learning_rate: f64) -> Result<()> {
        let mut flat = parameters.flat()?;
        self.steps += 1;
        let correction1 = 1.0 - BETA1.powi(self.steps);
        let correction2 = 1.0 - BETA2.powi(self.steps);
        tch::no_grad(|| {
            let gradient = match (self.weight_decay != 0.0, self.decoupled) {
                (false, _) => gradient.shallow_clone(),
                (true, false) => gradient + &flat * self.weight_decay,
                (true, true) => {
                    let _ = flat.f_mul_scalar_(1.0 - learning_rate * self.weight_decay)?;
                    gradient.shallow_clone()
                }
            };
            let _ = self.first.f_lerp_(&gradient, 1.0 - BETA1)?;
            let _ = self.second.f_lerp_(&gradient.f_square()?, 1.0 - BETA2)?;
            let scale = self.second.f_sqrt()? * (1.0 / correction2.sqrt()) + EPSILON;
            let step = self.first.f_div(&scale)? * (-learning_rate / correction1);
            let _ = flat.f_add_(&step)?;
            Ok(())
        })
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

/// Linear warm-up, then a cosine to zero.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub peak: f64,
    pub warmup_steps: u64,
}

impl Schedule {
    /// The rate at `step`, when `done` (0 to 1) of the whole training is behind.
    pub fn rate(&self, step: u64, done: f64) -> f64 {
        let warm = ((step + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        self.peak * warm * 0.5 * (1.0 + (std::f64::consts::PI * done.clamp(0.0, 1.0)).cos())
    }
}

/// Steps and, optionally, seconds: whichever runs out first.
#[derive(Debug, Clone)]
pub struct Budget {
    pub steps: u64,
    pub max_seconds: Option<f64>,
    started: Instant,
}

impl Budget {
    pub fn new(steps: u64, max_seconds: Option<f64>) -> Self {
        Budget { steps, max_seconds, started: Instant::now() }
    }

    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// The share of the budget used when `step` steps are done. The learning rate follows it, so that
    /// a run cut by the clock still ends with a small rate.
    pub fn done(&self, step: u64) -> f64 {
        let by_steps = step as f64 / self.steps.max(1) as f64;
        let by_clock = self.max_seconds.map_or(0.0, |limit| self.seconds() / limit);
        by_steps.max(by_clock)
    }

    pub fn exhausted(&self) -> bool {
        self.max_seconds.is_some_and(|limit| self.seconds() >= limit)
    }
}

/// An exponential moving average of the parameters, with a short memory at first.
#[derive(Debug)]
pub struct Average {
    value: Tensor,
    decay: f64,
    updates: u64,
}

impl Average {
    pub fn new(parameters: &Parameters, decay: f64) -> Result<Self> {
        Ok(Average { value: parameters.flat()?.copy(), decay, updates: 0 })
    }

    pub fn update(&mut self, parameters: &Parameters) -> Result<()> {
        let updates = self.updates as f64;
        let decay = self.decay.min((1.0 + updates) / (10.0 + updates));
        let flat = parameters.flat()?;
        let _ = tch::no_grad(|| self.value.f_lerp_(&flat, 1.0 - decay))?;
        self.updates += 1;
        Ok(())
    }

    pub fn value(&self) -> &Tensor {
        &self.value
    }
}

/// Checks the options that both trainers share.
///
/// # Errors
/// [`Error::Argument`] naming the first one out of its range.
pub fn check_positive(options: &[(&str, f64)]) -> Result<()> {
    for (name, value) in options {
        if !(value.is_finite() && *value > 0.0) {
            return Err(Error::argument(name, "a positive number", value));
        }
    }
    Ok(())
}
