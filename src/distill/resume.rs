//! Writing a distillation to a file, and resuming it.

use std::path::Path;

use serde_json::{json, Value};
use tch::Tensor;

use super::averages::BestAverages;
use super::history::{DistillHistory, Ledger, LogEntry};
use super::objective::CORRECTION;
use super::{DistillConfig, Weights};
use crate::error::{Error, Result};
use crate::koopman::{average_name, Student, StudentConfig};
use crate::tensor::shape_text;
use crate::training;
use crate::training::{check_same_options, save_training, State, Stopped, TrainingFile, UpdateCounts};
use crate::velocity::Units;

/// Options that a resumed run may change, for example to train longer or on another machine. The cosine
/// follows the budget of the resumed run: with more steps than before, the learning rate rises to that of the
/// longer schedule.
const MAY_DIFFER: [&str; 4] = ["steps", "max_seconds", "device", "trajectory_memory"];

/// Least number of trajectories of a run that needs any, even if a time limit cut solving short.
const FEWEST_TRAJECTORIES: i64 = 16;

/// A file from which a distillation is resumed.
pub(super) struct Resumed {
    file: TrainingFile<Student>,
    pub ledger: Ledger,
    pub history: DistillHistory,
}

impl Resumed {
    /// Reads the file of a run with the options `config`, which must have every default filled in.
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
        // Options that are newer than the file get their defaults, and terms that are newer get weight 0.
        let mut stored: DistillConfig = file.fact("config")?;
        for (name, _) in Weights::NONE.entries() {
            stored.weights.entry(name.into()).or_insert(0.0);
        }
        check_same_options(&stored, config, &MAY_DIFFER, path)?;
        let (ledger, history): (Ledger, _) = (file.fact("training")?, file.fact("history")?);
        // Memory is reserved by the run's own options, never by a count in the file.
        let most = config.trajectories.unwrap_or(i64::MAX);
        // The number is 0 if training needed no trajectories.
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

    /// Checks the parts of the student `config` that depend on the teacher's network.
    ///
    /// # Errors
    /// [`Error::Argument`] if the file's student learned from a teacher of another architecture.
    pub fn check_teacher(&self, config: &StudentConfig, path: &Path) -> Result<()> {
        let own = &self.file.description.config;
        let parts = [("levels", own.heads == config.heads), (CORRECTION, own.noising == config.noising)];
        let Some((term, _)) = parts.iter().find(|(_, same)| !same) else { return Ok(()) };
        let expected =
            format!("a teacher with the same network as that of {}, for the term '{term}'", path.display());
        Err(Error::argument("resume", expected, "a teacher with another network"))
    }

    /// The units of the file's student. Students of older files have none and are trained on without them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is damaged.
    pub fn units(&self) -> Result<Option<Units>> {
        let config = &self.file.description.config;
        let Some(path) = config.units else { return Ok(None) };
        let missing = |name: &str| Error::argument(name, "a tensor", "none");
        let take =
            |name: &str| self.file.tensors.get(name).map(Tensor::shallow_clone).ok_or_else(|| missing(name));
        Units::stored(path, config.dimension(), take).map(Some).map_err(|error| self.file.refuse(error))
    }

    /// Overwrites the input statistics and the parameters of `student` with those of the file's best student.
    pub fn student(&mut self, student: &mut Student) -> Result<()> {
        let kind = student.kind();
        let restored = student.restore(|name| self.file.tensors.take(name, kind));
        restored.map_err(|error| self.file.refuse(error))
    }

    /// Restores weights, moments, averages and counters into a run whose student has the best parameters.
    /// Returns the ledger, the best averages and the log.
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

/// Everything that is written to a file.
pub(super) struct Snapshot<'a> {
    pub student: &'a Student,
    /// The file's student has the best parameters of this state.
    pub state: &'a State<'a>,
    /// Options with every default filled in.
    pub config: &'a DistillConfig,
    pub ledger: Ledger,
    pub averages: &'a BestAverages,
    pub log: &'a [LogEntry],
}

impl Snapshot<'_> {
    /// Writes the best student and everything needed to resume training.
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
        // While the file is written, the student has the best parameters.
        self.student
            .parameters()
            .with(best, || save_training(path, &student, facts, &raw, optimiser, averages))
    }
}
