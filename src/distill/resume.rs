//! A distillation in a file, and back.

use std::path::Path;

use serde_json::{json, Value};
use tch::Tensor;

use super::averages::BestAverages;
use super::history::{DistillHistory, Ledger, LogEntry};
use super::{DistillConfig, Weights};
use crate::error::{Error, Result};
use crate::koopman::{average_name, Student};
use crate::tensor::shape_text;
use crate::training;
use crate::training::{check_same_options, save_training, State, Stopped, TrainingFile, UpdateCounts};
use crate::velocity::Units;

/// Options that a longer run on another machine may change. The cosine follows the budget of the run that
/// resumes: with more steps than before, the rate goes back up to where the longer schedule has it.
const MAY_DIFFER: [&str; 4] = ["steps", "max_seconds", "device", "trajectory_memory"];

/// A chunk of trajectories, the fewest that a run has that was cut short while it solved them, is no smaller.
const FEWEST_TRAJECTORIES: i64 = 16;

/// A file to go on from.
pub(super) struct Resumed {
    file: TrainingFile<Student>,
    pub ledger: Ledger,
    pub history: DistillHistory,
}

impl Resumed {
    /// Reads the file of a run whose options, with nothing left open, are `config`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checkpoint`]; [`Error::Argument`] naming the option that differs.
    pub fn read(path: &Path, config: &DistillConfig, event_shape: &[i64]) -> Result<Self> {
        let file = TrainingFile::<Student>::read(path)?;
        let own = &file.description.config.event_shape;
        if own != event_shape {
            let expected = format!("a teacher of samples {}, as in {}", shape_text(own), path.display());
            return Err(Error::argument("resume", expected, shape_text(event_shape)));
        }
        // Through the type, so that options younger than the file have their defaults; terms are off.
        let mut stored: DistillConfig = file.fact("config")?;
        for (name, _) in Weights::NONE.entries() {
            stored.weights.entry(name.into()).or_insert(0.0);
        }
        check_same_options(&stored, config, &MAY_DIFFER, path)?;
        let (ledger, history): (Ledger, _) = (file.fact("training")?, file.fact("history")?);
        // What is reserved follows the run's own options, whatever the file says.
        let most = config.trajectories.unwrap_or(i64::MAX);
        // None, where training had no need of them.
        let enough = ledger.trajectories == 0 || ledger.trajectories >= most.min(FEWEST_TRAJECTORIES);
        let decays: Vec<f64> = ledger.averages.iter().map(|entry| entry.decay).collect();
        if decays != config.averages {
            let message = format!("its training is damaged (averages are {decays:?})");
            return Err(Error::checkpoint(path.display(), message));
        }
        let ranges = [
            ("accumulate", ledger.accumulate, (1..=config.training.batch_size.unwrap_or(i64::MAX)), true),
            ("trajectories", ledger.trajectories, (0..=most), enough),
        ];
        for (name, value, range, enough) in ranges {
            if !range.contains(&value) || !enough {
                let message = format!("its training is damaged ({name} is {value})");
                return Err(Error::checkpoint(path.display(), message));
            }
        }
        Ok(Resumed { file, ledger, history })
    }

    /// The units of the student that the file keeps; those from before students had them go on as they began.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the file is damaged.
    pub fn units(&self) -> Result<Option<Units>> {
        let config = &self.file.description.config;
        let Some(path) = config.units else { return Ok(None) };
        let missing = |name: &str| Error::argument(name, "a tensor", "none");
        let take =
            |name: &str| self.file.tensors.get(name).map(Tensor::shallow_clone).ok_or_else(|| missing(name));
        Units::stored(path, config.dimension(), take).map(Some).map_err(|error| self.file.refuse(error))
    }

    /// Overwrites `student` with the one that the file keeps: its input statistics and the best parameters.
    pub fn student(&mut self, student: &mut Student) -> Result<()> {
        let kind = student.kind();
        let restored = student.restore(|name| self.file.tensors.take(name, kind));
        restored.map_err(|error| self.file.refuse(error))
    }

    /// Puts weights, moments, averages and counts into a run whose student has the best parameters; answers the
    /// rest of what the run knew.
    pub fn restore(mut self, state: &mut State<'_>) -> Result<(Ledger, BestAverages, Vec<LogEntry>)> {
        let training::Ledger { optimiser_steps, average_updates, .. } = self.ledger.run;
        let counts = UpdateCounts { optimiser_steps, average_updates };
        self.file.restore(state.parameters, &mut state.optimiser, &mut state.averages, counts)?;
        state.ledger = self.ledger.run.clone();
        let entries = self.ledger.averages.clone();
        let kind = state.parameters.kind();
        let weights: Result<Vec<_>> =
            entries.iter().map(|entry| self.file.tensors.take(&average_name(entry.decay), kind)).collect();
        let best = BestAverages::of(entries, weights?);
        Ok((self.ledger, best, self.history.log))
    }
}

/// What a file is written from.
pub(super) struct Snapshot<'a> {
    pub student: &'a Student,
    /// Its best parameters are kept in the student's place.
    pub state: &'a State<'a>,
    pub config: &'a DistillConfig,
    /// Options with every default filled in.
    pub ledger: Ledger,
    pub averages: &'a BestAverages,
    pub log: &'a [LogEntry],
}

impl Snapshot<'_> {
    /// Writes the best student and everything that training needs to go on.
    pub fn save(self, path: &Path, header: &Value, stopped: Stopped) -> Result<()> {
        let header = if header.is_object() { header.clone() } else { json!({}) };
        let facts = json!({
            "history": self.ledger.history(stopped, self.log),
            "config": self.config,
            "header": header,
            "training": self.ledger,
        });
        let State { best, optimiser, averages, .. } = self.state;
        let raw = self.student.parameters().flat()?.copy();
        let mut student = self.student.shallow_clone();
        if averages.chosen().is_some() {
            student.keep_both(best, &raw)?;
            student.keep_averages(&self.averages.weights())?;
        }
        // For as long as the file is written, the student is the best one.
        self.student
            .parameters()
            .with(best, || save_training(path, &student, facts, &raw, optimiser, averages))
    }
}
