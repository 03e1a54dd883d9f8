//! Exponential moving averages of the parameters.

use tch::Tensor;

use super::adam::lerp;
use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::tensor::shape_text;

/// An exponential moving average. Its decay is smaller during the first updates.
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

    /// As [`Average::update`], but the average does not change if the 0-dimensional `mask` is 0 and not 1.
    /// Such an update is counted until [`Average::uncount`].
    pub fn update_masked(&mut self, parameters: &Parameters, mask: Option<&Tensor>) -> Result<()> {
        let updates = self.updates as f64;
        let decay = self.decay.min((1.0 + updates) / (10.0 + updates));
        let flat = parameters.flat()?;
        let _guard = tch::no_grad_guard();
        lerp(&mut self.value, &flat, 1.0 - decay, mask)?;
        self.updates += 1;
        Ok(())
    }

    /// Removes one masked update from the count.
    pub fn uncount(&mut self) {
        self.updates -= 1;
    }

    pub fn value(&self) -> &Tensor {
        &self.value
    }

    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Restores the average to `value`, and its count to `updates`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `value` has another size than the parameters.
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

/// Averages with several decays at once, or none. One of them is chosen: it is evaluated and kept as the
/// model.
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

    /// The chosen average, by default the first; `None` if nothing is averaged.
    pub fn chosen(&self) -> Option<&Average> {
        self.all.get(self.chosen)
    }

    pub fn choose(&mut self, place: usize) {
        self.chosen = place;
    }

    /// Calls [`Average::update_masked`] on all.
    pub fn update_masked(&mut self, parameters: &Parameters, mask: Option<&Tensor>) -> Result<()> {
        self.all.iter_mut().try_for_each(|average| average.update_masked(parameters, mask))
    }

    /// Calls [`Average::uncount`] on all.
    pub fn uncount(&mut self) {
        self.all.iter_mut().for_each(Average::uncount);
    }

    /// Restarts all averages at `value`.
    ///
    /// # Errors
    /// As [`Average::restore`].
    pub fn restart(&mut self, value: &Tensor) -> Result<()> {
        self.all.iter_mut().try_for_each(|average| average.restore(value, 0))
    }

    /// Restores each average to the value that `take` returns for its index, and the count to `updates`.
    ///
    /// # Errors
    /// As [`Average::restore`]; any error of `take`.
    pub fn restore(&mut self, updates: u64, mut take: impl FnMut(usize) -> Result<Tensor>) -> Result<()> {
        let mut places = self.all.iter_mut().enumerate();
        places.try_for_each(|(place, average)| average.restore(&take(place)?, updates))
    }

    /// The number of updates, which is the same for all averages.
    pub fn updates(&self) -> u64 {
        self.all.first().map_or(0, Average::updates)
    }
}
