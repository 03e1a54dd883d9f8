//! Losses as they come in.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// The losses of one training, averaged over so many steps an entry. They are read in bulk, because reading
/// one waits for the device.
pub struct LossLog {
    subject: &'static str,
    every: u64,
    pending: Vec<Tensor>,
    steps: u64,
    entry: Mean,
    report: Mean,
    entries: Vec<(u64, f64)>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// The mean since the last call.
    fn take(&mut self) -> Option<f64> {
        let mean = (self.count > 0).then(|| self.sum / self.count as f64);
        *self = Mean::default();
        mean
    }
}

/// What a checkpoint keeps of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LossState {
    steps: u64,
    entry: Mean,
    entries: Vec<(u64, f64)>,
}

impl LossState {
    /// The entries, the one that is being averaged included.
    pub fn closed(&self) -> Vec<(u64, f64)> {
        let mut entry = self.entry;
        self.entries.iter().copied().chain(entry.take().map(|mean| (self.steps, mean))).collect()
    }
}

impl LossLog {
    /// An entry every so many steps; `subject` is whose loss it is, for messages.
    pub fn new(subject: &'static str, every: u64) -> Self {
        let (entry, report) = (Mean::default(), Mean::default());
        LossLog { subject, every, pending: Vec::new(), steps: 0, entry, report, entries: Vec::new() }
    }

    /// # Errors
    /// [`Error::Divergence`] where a loss is not finite, a few steps later perhaps; so in all that follows.
    pub fn push(&mut self, loss: &Tensor) -> Result<()> {
        self.pending.push(loss.detach());
        if self.pending.len() as u64 >= self.every.min(100) {
            self.read()?;
        }
        Ok(())
    }

    pub fn state(&mut self) -> Result<LossState> {
        self.read()?;
        Ok(LossState { steps: self.steps, entry: self.entry, entries: self.entries.clone() })
    }

    pub fn restore(&mut self, state: LossState) {
        (self.steps, self.entry, self.entries) = (state.steps, state.entry, state.entries);
    }

    /// The mean loss since this was last asked for; NaN without a step in between.
    pub fn since_report(&mut self) -> Result<f64> {
        self.read()?;
        Ok(self.report.take().unwrap_or(f64::NAN))
    }

    /// (steps done, mean loss over the steps since the entry before), the last entry included.
    pub fn close(mut self) -> Result<Vec<(u64, f64)>> {
        Ok(self.state()?.closed())
    }

    fn read(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let losses = Tensor::f_stack(&self.pending, 0)?.to_device(Device::Cpu).to_kind(Kind::Double);
        self.pending.clear();
        for loss in Vec::<f64>::try_from(&losses)? {
            self.steps += 1;
            if !loss.is_finite() {
                let (subject, steps) = (self.subject, self.steps);
                return Err(Error::Divergence(format!(
                    "{subject}'s loss is {loss} at step {steps}: try a smaller learning_rate or a smaller clip_norm",
                )));
            }
            self.entry.add(loss);
            self.report.add(loss);
            if self.steps % self.every == 0 {
                self.entries.extend(self.entry.take().map(|mean| (self.steps, mean)));
            }
        }
        Ok(())
    }
}
