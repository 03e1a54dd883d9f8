//! Writing a teacher's training to a file, and resuming it.

use std::path::{Path, PathBuf};

use serde_json::{json, Value};
use tch::Device;

use super::history::Ledger;
use super::TeacherConfig;
use crate::error::{Error, Result};
use crate::training;
use crate::training::{
    check_same_options, save_training, Checkpointing, LossLog, LossState, Schedule, State, Stopped,
    TrainingFile, UpdateCounts,
};
use crate::velocity::{FieldDescription, FieldState, NetworkField, VelocityField};

/// Options that a resumed run may change, for example to train longer or on another machine.
const MAY_DIFFER: [&str; 3] = ["steps", "max_seconds", "device"];

/// The files of a training run; none by default.
#[derive(Debug, Default)]
pub struct TrainingFiles {
    pub checkpoint: Option<Checkpointing>,
    /// A file that [`Checkpointing`] wrote, from which training is resumed.
    pub resume: Option<PathBuf>,
}

/// A file from which training is resumed.
pub(super) struct Resumed {
    file: TrainingFile<Box<dyn VelocityField>>,
    pub ledger: Ledger,
}

impl Resumed {
    /// Reads the file of a run whose options, with every default filled in, are `config`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checkpoint`]; [`Error::Argument`] naming the option that differs.
    pub fn read(path: &Path, config: &TeacherConfig) -> Result<Self> {
        let file = TrainingFile::read(path)?;
        check_same_options(&file.fact("config")?, config, &MAY_DIFFER, path)?;
        let ledger = file.fact("training")?;
        Ok(Resumed { file, ledger })
    }

    /// Whether the file's field has units. Fields of older files have none and are trained on without them.
    pub fn has_units(&self) -> bool {
        self.file.tensors.get("units.scale").is_some()
    }

    /// Restores weights, moments, average and counters into a new run on the same data. The average becomes
    /// the state to which a restart returns.
    ///
    /// # Errors
    /// [`Error::Argument`] if the data differ; [`Error::Checkpoint`] for a damaged file.
    pub fn restore(mut self, field: &NetworkField, state: &mut State<'_>, log: &mut LossLog) -> Result<()> {
        self.check_data(field)?;
        let run = self.ledger.run;
        let counts =
            UpdateCounts { optimiser_steps: run.optimiser_steps, average_updates: run.average_updates };
        self.file.restore(state.parameters, &mut state.optimiser, &mut state.averages, counts)?;
        state.best = state.current()?.copy();
        log.restore(self.ledger.loss);
        // Older files have no schedule. Kind and peak are the same as in this run's options.
        let Schedule { factor, stale, .. } = run.schedule;
        let schedule = Schedule { factor, stale, ..state.ledger.schedule };
        state.ledger = training::Ledger { schedule, best_step: run.step, ..run };
        Ok(())
    }

    /// Checks that the file's field and `field` were made for the same data: shape, mean, scale and source.
    ///
    /// # Errors
    /// [`Error::Argument`] if they differ.
    fn check_data(&self, field: &NetworkField) -> Result<()> {
        let expected = format!("the data, conditions and network of {}", self.file.tensors.path());
        let differ = |name: &str| Error::argument("resume", expected.clone(), format!("another {name}"));
        if field.source().is_normal() && self.file.tensors.get("origin.mean").is_some() {
            return Err(differ("source"));
        }
        if let (
            Some(FieldState { description: FieldDescription::Network(own), .. }),
            FieldDescription::Network(stored),
        ) = (field.state(), &self.file.description.description)
        {
            // The noise on source rows is not stored in a tensor.
            if own.source != stored.source {
                return Err(differ("source"));
            }
        }
        for (name, own) in field.state().map(|state| state.tensors).unwrap_or_default() {
            let Some(stored) = self.file.tensors.get(&name) else { return Err(differ(&name)) };
            if stored.size() != own.size() {
                return Err(differ(&name));
            }
            let own = own.to_device(Device::Cpu).to_kind(stored.kind());
            if !name.starts_with("network.") && !stored.f_allclose(&own, 1e-4, 1e-6, false)? {
                return Err(differ(&name));
            }
        }
        Ok(())
    }
}

/// Everything that is written to a file.
pub(super) struct Snapshot<'a> {
    pub config: &'a TeacherConfig,
    pub field: &'a NetworkField,
    pub state: &'a State<'a>,
    pub loss: LossState,
}

impl Snapshot<'_> {
    /// Writes the averaged teacher and everything needed to resume training.
    pub fn save(self, plan: &Checkpointing, stopped: Stopped) -> Result<()> {
        let ledger = Ledger { run: self.state.closed_ledger(), loss: self.loss };
        let history = ledger.history(stopped, self.config);
        let mut facts = if plan.header.is_object() { plan.header.clone() } else { json!({}) };
        let own = json!({ "history": history, "config": self.config, "training": ledger });
        if let (Value::Object(facts), Value::Object(own)) = (&mut facts, own) {
            facts.extend(own);
        }
        let State { optimiser, averages, .. } = self.state;
        let raw = self.field.parameters().flat()?.copy();
        // While the file is written, the field has the averaged parameters.
        self.field.parameters().with(&self.state.current()?, || {
            let field = self.field.shallow_clone();
            save_training(&plan.file, &field, facts, &raw, optimiser, averages)
        })
    }
}
