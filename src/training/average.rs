//! Exponential moving averages of the parameters.

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

/// Averages of several decays at once, or none. One of them is chosen: what a model is judged by, and keeps.
#[derive(Debug)]
pub struct Averages {
    all: Vec<Average>,
    chosen: usize,
}

impl Averages {
    pub fn new(parameters: &Parameters, decays: &[f64]) -> Result<Self> {
        let all: Result<_> = decays.iter().map(|decay| Average::new(parameters, *decay)).collect();
        Ok(Averages { all: all?, chosen: 0 })
    }

    pub fn all(&self) -> &[Average] {
        &self.all
    }

    /// The one that is chosen: the first, unless another is.
    pub fn chosen(&self) -> Option<&Average> {
        self.all.get(self.chosen)
    }

    pub fn choose(&mut self, place: usize) {
        self.chosen = place;
    }

    /// [`Average::update_masked`] of all.
    pub fn update_masked(&mut self, parameters: &Parameters, mask: Option<&Tensor>) -> Result<()> {
        self.all.iter_mut().try_for_each(|average| average.update_masked(parameters, mask))
    }

    /// [`Average::uncount`] of all.
    pub fn uncount(&mut self) {
        self.all.iter_mut().for_each(Average::uncount);
    }

    /// Begins all anew at `value`.
    ///
    /// # Errors
    /// As [`Average::restore`].
    pub fn restart(&mut self, value: &Tensor) -> Result<()> {
        self.all.iter_mut().try_for_each(|average| average.restore(value, 0))
    }

    /// Goes on from what `take` answers for each, by its place, `updates` updates after the start.
    ///
    /// # Errors
    /// As [`Average::restore`]; whatever `take` answers.
    pub fn restore(&mut self, updates: u64, mut take: impl FnMut(usize) -> Result<Tensor>) -> Result<()> {
        let mut places = self.all.iter_mut().enumerate();
        places.try_for_each(|(place, average)| average.restore(&take(place)?, updates))
    }

    /// The updates of each, which all have in common.
    pub fn updates(&self) -> u64 {
        self.all.first().map_or(0, Average::updates)
    }
}
