//! The options that every trainer has, checked in one place, and the reading of a trainer's options from
//! JSON.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use tch::{Device, Kind};

use super::Optimizer;
use crate::error::{Error, Result};
use crate::tensor::{parse_device, parse_dtype};

/// Options of gradient training. In JSON they stand beside the trainer's own options, in one flat object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingOptions {
    /// Number of steps, at least 1. `None` chooses it by the size of a sample.
    pub steps: Option<u64>,
    /// Number of samples or pairs per step. With `None` the trainer chooses it.
    pub batch_size: Option<i64>,
    /// Peak learning rate, positive. `None` chooses it by the size of a sample.
    pub learning_rate: Option<f64>,
    /// Number of steps of linear warm-up.
    pub warmup_steps: u64,
    pub optimizer: Optimizer,
    /// Strength of the weight decay, at least 0. It is decoupled for `adamw` and part of the gradient for
    /// `adam`.
    pub weight_decay: f64,
    /// Decay of the averaged weights, in [0, 1). 0 does not average.
    pub ema_decay: f64,
    /// Largest gradient norm that is applied, at least 0. 0 does not clip. Older files write `null` for 0.
    #[serde(deserialize_with = "zero_for_null")]
    pub clip_norm: f64,
    /// Largest number of restarts. After a divergence, a restart returns to the best state and halves the
    /// learning rate.
    pub max_restarts: u64,
    /// Time limit in seconds, positive. The learning rate then follows the clock if that is ahead of the
    /// steps, so that results differ from run to run.
    pub max_seconds: Option<f64>,
    pub seed: u64,
    /// `"cpu"`, `"cuda"`, `"cuda:N"` or `"auto"`.
    pub device: String,
    /// `"float32"` or `"float64"`.
    pub dtype: String,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        TrainingOptions {
            steps: None,
            batch_size: None,
            learning_rate: None,
            warmup_steps: 100,
            optimizer: Optimizer::Adam,
            weight_decay: 0.0,
            ema_decay: 0.999,
            clip_norm: 1.0,
            max_restarts: 3,
            max_seconds: None,
            seed: 0,
            device: "cpu".into(),
            dtype: "float32".into(),
        }
    }
}

impl TrainingOptions {
    /// Checks every range. `batch_sizes` is the range of batch sizes of the trainer. Options that are `None`
    /// pass.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Dtype`] or [`Error::Device`] naming the first option out of range.
    pub fn check(&self, batch_sizes: RangeInclusive<i64>) -> Result<()> {
        if self.steps.is_some_and(|steps| !(1..=i64::MAX as u64).contains(&steps)) {
            let got = self.steps.unwrap_or_default();
            return Err(Error::argument("steps", format!("an integer from 1 to {}", i64::MAX), got));
        }
        if let Some(size) = self.batch_size.filter(|size| !batch_sizes.contains(size)) {
            let (low, high) = batch_sizes.into_inner();
            return Err(Error::argument("batch_size", format!("an integer from {low} to {high}"), size));
        }
        for (name, value) in [("learning_rate", self.learning_rate), ("max_seconds", self.max_seconds)] {
            if let Some(value) = value {
                check_positive(&[(name, value)])?;
            }
        }
        for (name, value) in [("weight_decay", self.weight_decay), ("clip_norm", self.clip_norm)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::argument(name, "a number of at least 0", value));
            }
        }
        if !(0.0..1.0).contains(&self.ema_decay) {
            return Err(Error::argument("ema_decay", "at least 0 and below 1", self.ema_decay));
        }
        self.place().map(drop)
    }

    /// The dtype and the device of training.
    ///
    /// # Errors
    /// [`Error::Dtype`] or [`Error::Device`] for an unknown name or a missing GPU.
    pub fn place(&self) -> Result<(Kind, Device)> {
        Ok((parse_dtype(&self.dtype)?, parse_device(&self.device)?))
    }
}

/// The value of an option whose default has been filled in.
///
/// # Errors
/// [`Error::Internal`] if it is still `None`.
pub(crate) fn decided<T>(name: &str, option: Option<T>) -> Result<T> {
    option.ok_or_else(|| Error::Internal(anyhow::anyhow!("the option {name} was left open")))
}

/// Checks options that are positive numbers.
///
/// # Errors
/// [`Error::Argument`] naming the first one that is not.
pub fn check_positive(options: &[(&str, f64)]) -> Result<()> {
    for (name, value) in options {
        if !(value.is_finite() && *value > 0.0) {
            return Err(Error::argument(name, "a positive number", value));
        }
    }
    Ok(())
}

fn zero_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(0.0))
}

/// An unknown option, or an option with a value of the wrong type.
#[derive(Debug)]
pub struct OptionError {
    /// The option's name. Names of nested options contain dots.
    pub option: String,
    pub reason: String,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.reason)
    }
}

/// The options of one trainer, as one flat JSON object. Missing options have the trainer's defaults.
///
/// serde's own `default` and `deny_unknown_fields` do not work with flattened options, whose defaults differ
/// between trainers. The macro `json_options` implements the trait.
pub trait JsonOptions: Serialize + Default {
    /// Reads an object that names every option.
    fn read_complete(
        object: Value,
    ) -> std::result::Result<Self, serde_path_to_error::Error<serde_json::Error>>;

    /// Reads an object that names some options.
    ///
    /// # Errors
    /// An error that names an unknown option or an option with a value of the wrong type.
    fn from_json(given: Value) -> std::result::Result<Self, OptionError> {
        let refuse = |option: &str, reason: String| OptionError { option: option.into(), reason };
        let Value::Object(given) = given else {
            return Err(refuse("config", "expected a JSON object".into()));
        };
        let defaults = serde_json::to_value(Self::default());
        let mut complete = match defaults {
            Ok(Value::Object(defaults)) => defaults,
            Ok(_) => return Err(refuse("config", "the default options are not a JSON object".into())),
            Err(error) => return Err(refuse("config", error.to_string())),
        };
        for (name, value) in given {
            let Some(slot) = complete.get_mut(&name) else {
                return Err(refuse(&name, unknown(&name, &complete)));
            };
            *slot = value;
            // Options are read one at a time, so that an error can name its option: serde's flattening loses
            // the name.
            Self::read_complete(Value::Object(complete.clone())).map_err(|error| {
                let path = error.path().to_string();
                let option = if path.starts_with(&name) { path } else { name };
                refuse(&option, error.into_inner().to_string())
            })?;
        }
        Self::read_complete(Value::Object(complete)).map_err(|error| refuse("config", error.to_string()))
    }
}

fn unknown(name: &str, known: &Map<String, Value>) -> String {
    let names: Vec<String> = known.keys().map(|name| format!("`{name}`")).collect();
    format!("unknown field `{name}`, expected one of {}", names.join(", "))
}

/// [`JsonOptions::from_json`] for serde.
pub fn deserialize<'de, D: Deserializer<'de>, C: JsonOptions>(
    deserializer: D,
) -> std::result::Result<C, D::Error> {
    C::from_json(Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Implements serde's traits and [`JsonOptions`] for a struct of options that derives both traits with
/// `#[serde(remote = "Self")]`.
macro_rules! json_options {
    ($options:ty) => {
        impl serde::Serialize for $options {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                <$options>::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $options {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                $crate::training::deserialize(deserializer)
            }
        }

        impl $crate::training::JsonOptions for $options {
            fn read_complete(
                object: serde_json::Value,
            ) -> std::result::Result<Self, serde_path_to_error::Error<serde_json::Error>> {
                let mut track = serde_path_to_error::Track::new();
                let path = serde_path_to_error::Deserializer::new(object, &mut track);
                <$options>::deserialize(path)
                    .map_err(|error| serde_path_to_error::Error::new(track.path(), error))
            }
        }
    };
}

pub(crate) use json_options;
