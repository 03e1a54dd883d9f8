//! The log of training losses.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::Look;
use crate::error::Result;

/// Time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// The losses of one training. Each entry is the mean over a fixed number of steps; losses that are not
/// finite are left out. Losses are read from the device in bulk, because each read waits for it.
pub struct LossLog {
    every: u64,
    pending: Vec<Tensor>,
    steps: u64,
    entry: Mean,
    report: Mean,
    entries: Vec<(u64, f64)>,
    reported: Instant,
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

/// The state of a log in a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LossState {
    steps: u64,
    entry: Mean,
    entries: Vec<(u64, f64)>,
}

impl LossState {
    /// Pairs (steps done, mean loss over the steps since the previous entry). The unfinished entry is
    /// included.
    pub fn closed(&self) -> Vec<(u64, f64)> {
        let mut entry = self.entry;
        self.entries.iter().copied().chain(entry.take().map(|mean| (self.steps, mean))).collect()
    }
}

impl LossLog {
    /// A log with an entry for every `every` steps.
    pub fn new(every: u64) -> Self {
        let (entry, report) = (Mean::default(), Mean::default());
        let (pending, entries) = (Vec::new(), Vec::new());
        LossLog { every, pending, steps: 0, entry, report, entries, reported: Instant::now() }
    }

    /// Adds the loss of the next step; `None` for a step without a loss.
    ///
    /// # Errors
    /// Errors of libtorch, as in the methods below.
    pub fn push(&mut self, loss: Option<&Tensor>) -> Result<()> {
        let Some(loss) = loss else {
            self.read()?;
            self.add(f64::NAN);
            return Ok(());
        };
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

    /// Whether a report is due; the last one always is.
    pub fn due(&self, last: bool) -> bool {
        last || self.reported.elapsed() >= REPORT_INTERVAL
    }

    /// A report: the mean loss since the previous report (NaN if no loss was finite) and the learning rate.
    pub fn look(&mut self, rate: f64) -> Result<Look> {
        self.read()?;
        self.reported = Instant::now();
        let loss = self.report.take().unwrap_or(f64::NAN);
        Ok(Look { values: vec![("loss".into(), loss), ("learning_rate".into(), rate)], ..Look::default() })
    }

    fn read(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let losses = Tensor::f_stack(&self.pending, 0)?.to_device(Device::Cpu).to_kind(Kind::Double);
        self.pending.clear();
        Vec::<f64>::try_from(&losses)?.into_iter().for_each(|loss| self.add(loss));
        Ok(())
    }

    fn add(&mut self, loss: f64) {
        self.steps += 1;
        if loss.is_finite() {
            self.entry.add(loss);
            self.report.add(loss);
        }
        if self.steps % self.every == 0 {
            self.entries.extend(self.entry.take().map(|mean| (self.steps, mean)));
        }
    }
}
