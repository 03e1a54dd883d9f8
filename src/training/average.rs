//! An exponential moving average of the parameters.

use tch::Tensor;

use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::tensor::shape_text;

/// The average, with a short memory at first.
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
        let _guard = tch::no_grad_guard();
        let _ = self.value.f_lerp_(&flat, 1.0 - decay)?;
        self.updates += 1;
        Ok(())
    }

    pub fn value(&self) -> &Tensor {
        &self.value
    }

    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Goes on from `value`, `updates` updates after the start.
    ///
    /// # Errors
    /// [`Error::Shape`] for the average of other parameters.
    pub fn restore(&mut self, value: &Tensor, updates: u64) -> Result<()> {
        if value.size() != self.value.size() {
            let (expected, got) = (shape_text(&self.value.size()), shape_text(&value.size()));
            return Err(Error::shape("average", expected, got));
        }
        self.value.f_copy_(value)?;
        self.updates = updates;
        Ok(())
    }
}
