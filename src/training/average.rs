//! An exponential moving average of the parameters.

use tch::Tensor;

use super::adam::lerp;
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
        self.update_masked(parameters, None)
    }

    /// As [`Average::update`], but where `mask`, 0-dimensional, is 0 and not 1 nothing changes, though the update
    /// is counted until [`Average::uncount`].
    pub fn update_masked(&mut self, parameters: &Parameters, mask: Option<&Tensor>) -> Result<()> {
        let updates = self.updates as f64;
        let decay = self.decay.min((1.0 + updates) / (10.0 + updates));
        let flat = parameters.flat()?;
        let _guard = tch::no_grad_guard();
        lerp(&mut self.value, &flat, 1.0 - decay, mask)?;
        self.updates += 1;
        Ok(())
    }

    /// Takes back the count of one update that a mask left out.
    pub fn uncount(&mut self) {
        self.updates -= 1;
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
