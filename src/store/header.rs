//! The koopflow header in the metadata of a safetensors file: format version, kind, description and facts.

use std::collections::HashMap;

use safetensors::tensor::Metadata;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The key of the JSON header among the safetensors metadata.
const KEY: &str = "koopflow";

/// Format version, written into every file. A reader refuses newer versions.
const FORMAT_VERSION: u64 = 1;

/// Contents of a file besides its tensors. In JSON, `{"version": 1, "model": {"kind": ..., ...}, "facts": ...}`.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub kind: String,
    description: Map<String, Value>,
    pub facts: Value,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u64,
    model: Map<String, Value>,
    facts: Value,
}

impl Header {
    pub fn new<D: Serialize>(kind: &str, description: &D, facts: Value) -> Result<Self> {
        match serde_json::to_value(description) {
            Ok(Value::Object(description)) => Ok(Header { kind: kind.into(), description, facts }),
            Ok(_) => {
                Err(Error::Internal(anyhow::anyhow!("the description of a {kind} is not a JSON object")))
            }
            Err(error) => Err(Error::Internal(error.into())),
        }
    }

    /// Reads the header of the file called `name`.
    pub fn read(name: &str, metadata: &Metadata) -> Result<Self> {
        let refuse = |message: String| Error::checkpoint(name, message);
        let damaged = |error: &dyn std::fmt::Display| refuse(format!("its header is damaged ({error})"));
        let entries = metadata.metadata().as_ref();
        let text = entries
            .and_then(|entries| entries.get(KEY))
            .ok_or_else(|| refuse("a safetensors file, but not one that koopflow wrote".into()))?;
        // The version is checked first: a newer header may have fields that this reader does not know.
        let value: Value = serde_json::from_str(text)
            .map_err(|error| refuse(format!("its header is not JSON ({error})")))?;
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version <= FORMAT_VERSION => {}
            Some(version) => {
                return Err(refuse(format!(
                    "written in format {version} by a newer koopflow; this one reads up to {FORMAT_VERSION}"
                )))
            }
            None => return Err(refuse("its header names no format version".into())),
        }
        let Written { mut model, facts, .. } =
            serde_json::from_value(value).map_err(|error| damaged(&error))?;
        match model.remove("kind") {
            Some(Value::String(kind)) => Ok(Header { kind, description: model, facts }),
            _ => Err(damaged(&"it names no kind of model")),
        }
    }

    /// Checks that the file called `name` is of kind `expected`.
    pub fn require(&self, name: &str, expected: &str) -> Result<()> {
        match self.kind == expected {
            true => Ok(()),
            false => {
                let (got, expected) = (indefinite(&self.kind), indefinite(expected));
                Err(Error::checkpoint(name, format!("holds {got}, expected {expected}")))
            }
        }
    }

    /// The description, in the type of its kind.
    pub fn description<D: DeserializeOwned>(&self, name: &str) -> Result<D> {
        serde_json::from_value(Value::Object(self.description.clone()))
            .map_err(|error| Error::checkpoint(name, format!("its header is damaged ({error})")))
    }

    /// The safetensors metadata that hold this header.
    pub fn metadata(&self) -> Result<HashMap<String, String>> {
        let mut model = self.description.clone();
        model.insert("kind".into(), self.kind.clone().into());
        let written = Written { version: FORMAT_VERSION, model, facts: self.facts.clone() };
        let text = serde_json::to_string(&written).map_err(|error| Error::Internal(error.into()))?;
        Ok(HashMap::from([(KEY.to_string(), text)]))
    }
}

/// A kind with its article, if it takes one: "a student", "trajectories".
fn indefinite(kind: &str) -> String {
    match kind.ends_with('s') {
        true => kind.to_string(),
        false => format!("a {kind}"),
    }
}
