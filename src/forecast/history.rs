//! The history of a fit: the choices that were tried, and what is reported about the result.

use serde::Serialize;

use crate::training::Note;

/// One choice that was tried on held-out paths.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// Name of the choice: `"ridge"`, `"re_encode"`, `"round"`, `"steps"` or `"exponentials"`.
    pub choice: &'static str,
    pub value: String,
    /// Mean of the relative error over the logarithm of lead times, at most 1; smaller is better.
    pub error: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ForecasterHistory {
    pub paths: usize,
    pub rows: usize,
    /// Number of pairs of neighbouring rows in the fit.
    pub pairs: i64,
    /// Number of held-out rows.
    pub held_out_rows: usize,
    pub trials: Vec<Trial>,
    /// Held-out error of the chosen model; `None` if nothing was held out.
    pub error: Option<f64>,
    /// Horizon of the held-out error, in units of time.
    pub horizon: f64,
    /// The reason why the model has no generator; `None` if it has one.
    pub generator: Option<String>,
    /// Standard deviation of the observation noise, in standard deviations of the data; `None` if it was not
    /// estimated.
    pub noise: Option<f64>,
    pub seconds: f64,
    pub steps: u64,
    pub notes: Vec<Note>,
    /// How training ended: `"completed"`, `"interrupted"` or another reason.
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
