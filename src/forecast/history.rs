//! What a fit found out on its way.

use serde::Serialize;

use crate::training::Note;

/// One choice that was tried on held-out paths.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// `"lengths"`, `"ridge"`, `"re_encode"`, `"round"`, `"steps"`
    pub choice: &'static str,
    pub value: String,
    /// Mean over the logarithm of lead times of the relative error, at most 1 each; smaller is better.
    pub error: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ForecasterHistory {
    pub paths: usize,
    pub rows: usize,
    /// Pairs of neighbouring rows that the fit is of.
    pub pairs: i64,
    /// Rows of paths that choices were made on.
    pub held_out_rows: usize,
    pub trials: Vec<Trial>,
    /// Held-out error of what was chosen; `None` where nothing was held out.
    pub error: Option<f64>,
    /// The horizon of that error, in units of time.
    pub horizon: f64,
    /// Why there is no generator, where there is none.
    pub generator: Option<String>,
    /// Deviation of the observations' noise, in the data's deviations; `None` where it was not estimated.
    pub noise: Option<f64>,
    pub seconds: f64,
    pub steps: u64,
    pub notes: Vec<Note>,
    /// `"completed"` or how training ended.
    pub stopped: String,
}

impl ForecasterHistory {
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(Note { step: 0, text: text.into() });
    }

    pub fn tried(&mut self, choice: &'static str, value: impl ToString, error: f64) {
        self.trials.push(Trial { choice, value: value.to_string(), error });
    }
}
