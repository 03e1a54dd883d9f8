//! A teacher's training in a file, and back.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tch::Tensor;

use super::trainer::TeacherHistory;
use super::TeacherConfig;
use crate::error::{Error, Result};
use crate::tensor::shape_text;
use crate::training::{check_same_options, Adam, Average, Checkpointing, LossState, Stopped};
use crate::training::{save_field_training, FieldTrainingFile};
use crate::velocity::NetworkField;

/// Options that a longer run on another machine may change.
const MAY_DIFFER: [&str; 3] = ["steps", "max_seconds", "device"];

/// The files of a training; none by default.
#[derive(Debug, Default)]
pub struct TrainingFiles {
    pub checkpoint: Option<Checkpointing>,
    /// A file that [`Checkpointing`] wrote: training goes on where it was.
    pub resume: Option<PathBuf>,
}

/// Everything about a run that is neither a tensor nor an option.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub step: u64,
    pub seconds: f64,
    pub optimiser_steps: i32,
    pub average_updates: u64,
    pub loss: LossState,
}

/// A file to go on from.
pub(super) struct Resumed {
    file: FieldTrainingFile,
    pub ledger: Ledger,
}

impl Resumed {
    /// `config` with nothing left open.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checkpoint`]; [`Error::Argument`] naming the option that differs.
    pub fn read(path: &Path, config: &TeacherConfig) -> Result<Self> {
        let file = FieldTrainingFile::read(path)?;
        check_same_options(&file.fact("config")?, config, &MAY_DIFFER, path)?;
        let ledger = file.fact("training")?;
        Ok(Resumed { file, ledger })
    }

    /// Weights, moments and averages, into a run that has just begun on the same data.
    ///
    /// # Errors
    /// [`Error::Argument`] for other data; [`Error::Checkpoint`] for a damaged file.
    pub fn restore(
        mut self,
        field: &NetworkField,
        optimizer: &mut Adam,
        average: &mut Average,
    ) -> Result<()> {
        self.file.check_data(field)?;
        let parameters = field.parameters();
        let (kind, mut flat) = (parameters.kind(), parameters.flat()?);
        let raw = self.file.take("raw", kind)?;
        if raw.size() != flat.size() {
            let (expected, got) = (shape_text(&flat.size()), shape_text(&raw.size()));
            return Err(self.file.refuse(Error::shape("training.raw", expected, got)));
        }
        tch::no_grad(|| flat.f_copy_(&raw))?;
        let (first, second) = (self.file.take("first", kind)?, self.file.take("second", kind)?);
        let restored = optimizer.restore(&first, &second, self.ledger.optimiser_steps);
        restored.map_err(|error| self.file.refuse(error))?;
        let value = self.file.take("average", kind)?;
        let restored = average.restore(&value, self.ledger.average_updates);
        restored.map_err(|error| self.file.refuse(error))
    }
}

/// What a file is written from.
pub(super) struct Snapshot<'a> {
    pub config: &'a TeacherConfig,
    pub field: &'a NetworkField,
    pub optimizer: &'a Adam,
    pub average: &'a Average,
    pub step: u64,
    pub seconds: f64,
    pub loss: LossState,
}

impl Snapshot<'_> {
    /// Writes the averaged teacher and everything that training needs to go on.
    pub fn save(self, plan: &Checkpointing, stopped: Stopped) -> Result<()> {
        let (first, second, optimiser_steps) = self.optimizer.state();
        let history = TeacherHistory {
            steps: self.step,
            seconds: self.seconds,
            stopped,
            loss: self.loss.closed(),
            config: self.config.clone(),
        };
        let ledger = Ledger {
            step: self.step,
            seconds: self.seconds,
            optimiser_steps,
            average_updates: self.average.updates(),
            loss: self.loss,
        };
        let mut facts = if plan.header.is_object() { plan.header.clone() } else { json!({}) };
        let own = json!({ "history": history, "config": self.config, "training": ledger });
        if let (Value::Object(facts), Value::Object(own)) = (&mut facts, own) {
            facts.extend(own);
        }
        let mut flat = self.field.parameters().flat()?;
        let raw = flat.copy();
        let training: Vec<(&str, Tensor)> = vec![
            ("raw", raw.shallow_clone()),
            ("first", first.shallow_clone()),
            ("second", second.shallow_clone()),
            ("average", self.average.value().shallow_clone()),
        ];
        // For as long as the file is written, the field is the average.
        tch::no_grad(|| flat.f_copy_(self.average.value()))?;
        let written = save_field_training(&plan.file, self.field, facts, training);
        tch::no_grad(|| flat.f_copy_(&raw))?;
        written
    }
}
