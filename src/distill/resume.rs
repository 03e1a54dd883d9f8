//! A training run in a file, and back.

use std::path::Path;

use serde_json::{json, Value};
use tch::Tensor;

use super::history::{DistillHistory, Ledger};
use super::run::Run;
use super::DistillConfig;
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::tensor::shape_text;
use crate::training::{check_same_options, Stopped};
use crate::training::{save_training, TrainingFile};

/// Options that a longer run on another machine may change. The cosine follows the budget of the run that
/// resumes: with more steps than before, the rate goes back up to where the longer schedule has it.
const MAY_DIFFER: [&str; 4] = ["steps", "max_seconds", "device", "trajectory_memory"];

/// A file to go on from.
pub(super) struct Resumed {
    file: TrainingFile,
    pub ledger: Ledger,
    pub history: DistillHistory,
}

impl Resumed {
    /// `config` with nothing left open.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checkpoint`]; [`Error::Argument`] naming the option that differs.
    pub fn read(path: &Path, config: &DistillConfig, event_shape: &[i64]) -> Result<Self> {
        let file = TrainingFile::read(path)?;
        let name = path.display();
        if file.config().event_shape != event_shape {
            let own = shape_text(&file.config().event_shape);
            let expected = format!("a teacher of samples {own}, as in {name}");
            return Err(Error::argument("resume", expected, shape_text(event_shape)));
        }
        // Through the type, so that options younger than the file have their defaults.
        check_same_options(&file.fact("config")?, config, &MAY_DIFFER, path)?;
        let (ledger, history) = (file.fact("training")?, file.fact("history")?);
        Ok(Resumed { file, ledger, history })
    }

    /// The student as it was: input statistics, and the best parameters, which are returned too.
    pub fn student(&mut self, student: &mut Student) -> Result<Tensor> {
        self.file.restore(student)?;
        Ok(student.parameters().flat()?.copy())
    }

    /// Weights, moments and averages, into a run that has the best parameters.
    pub fn run(mut self, run: &mut Run) -> Result<()> {
        let parameters = run.student.parameters();
        let kind = parameters.kind();
        let mut flat = parameters.flat()?;
        let raw = self.file.take("raw", kind)?;
        if raw.size() != flat.size() {
            let (expected, got) = (shape_text(&flat.size()), shape_text(&raw.size()));
            return Err(self.file.refuse(Error::shape("training.raw", expected, got)));
        }
        tch::no_grad(|| flat.f_copy_(&raw))?;
        let (first, second) = (self.file.take("first", kind)?, self.file.take("second", kind)?);
        let restored = run.optimiser.restore(&first, &second, self.ledger.optimiser_steps);
        restored.map_err(|error| self.file.refuse(error))?;
        if let Some(average) = &mut run.average {
            let value = self.file.take("average", kind)?;
            let restored = average.restore(&value, self.ledger.average_updates);
            restored.map_err(|error| self.file.refuse(error))?;
        }
        run.log = self.history.log;
        run.ledger = self.ledger;
        Ok(())
    }
}

impl Run<'_> {
    /// Writes the best student and everything that training needs to go on.
    pub(super) fn save(&mut self, path: &Path, header: &Value, stopped: Stopped) -> Result<()> {
        let ledger = self.closed_ledger();
        let header = if header.is_object() { header.clone() } else { json!({}) };
        let facts = json!({
            "history": ledger.history(stopped, &self.log),
            "config": self.config,
            "header": header,
            "training": ledger,
        });
        let raw = self.student.parameters().flat()?.copy();
        let (first, second, _) = self.optimiser.state();
        let mut training = vec![
            ("raw", raw.shallow_clone()),
            ("first", first.shallow_clone()),
            ("second", second.shallow_clone()),
        ];
        let mut student = self.student.shallow_clone();
        if let Some(average) = &self.average {
            training.push(("average", average.value().shallow_clone()));
            student.keep_both(&self.best, &raw)?;
        }
        self.with_weights(&self.best, || save_training(path, &student, facts, training))
    }
}
