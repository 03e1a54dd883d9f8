//! The options that every trainer has, checked in one place, and how a trainer's options are read from JSON.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use tch::{Device, Kind};

use super::Optimizer;
use crate::error::{Error, Result};
use crate::tensor::{parse_device, parse_dtype};

/// Options of gradient training. A trainer's own options hold them under their names, as one flat JSON object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingOptions {
    /// Number of steps, at least 1; `None` is decided by the size of a sample.
    pub steps: Option<u64>,
    /// Samples or pairs of one step; `None` is decided by the trainer.
    pub batch_size: Option<i64>,
    /// Peak learning rate, positive; `None` is decided by the size of a sample.
    pub learning_rate: Option<f64>,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    pub optimizer: Optimizer,
    /// Strength of the weight decay, at least 0: of the weights themselves for `adamw`, through the gradient
    /// for `adam`.
    pub weight_decay: f64,
    /// Decay of the averaged weights, in [0, 1); 0 does not average.
    pub ema_decay: f64,
    /// Largest gradient norm that is applied, at least 0; 0 does not clip, and neither does the `null` of files
    /// from before 0 could be said.
    #[serde(deserialize_with = "zero_for_null")]
    pub clip_norm: f64,
    /// Number of times that a diverging training goes back to its best state, at half the learning rate.
    pub max_restarts: u64,
    /// Limit in seconds, positive. The learning rate then follows the clock where that is ahead of the steps,
    /// and results are no longer the same from run to run.
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
    /// Checks every range; `batch_sizes` are those that the trainer can take. Options left open pass.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Dtype`] or [`Error::Device`] naming the first option out of its range.
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

    /// Where and in what dtype a model is trained.
    ///
    /// # Errors
    /// [`Error::Dtype`] or [`Error::Device`] for an unknown name, or a GPU that is not there.
    pub fn place(&self) -> Result<(Kind, Device)> {
        Ok((parse_dtype(&self.dtype)?, parse_device(&self.device)?))
    }
}

/// The value of an option that is decided by now.
///
/// # Errors
/// [`Error::Internal`] where it was left open.
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

/// An option that does not exist, or whose value is of another type.
#[derive(Debug)]
pub struct OptionError {
    /// The option's name; a dot leads into options of options.
    pub option: String,
    pub reason: String,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.reason)
    }
}

/// The options of one trainer, as one flat JSON object. What is left out has the trainer's default.
///
/// serde's own `default` and `deny_unknown_fields` know nothing of the shared options' defaults, which are not
/// the same for all trainers, or of their names. The macro `json_options` implements the trait.
pub trait JsonOptions: Serialize + Default {
    /// Reads an object that names every option.
    fn read_complete(
        object: Value,
    ) -> std::result::Result<Self, serde_path_to_error::Error<serde_json::Error>>;

    /// Reads an object that names some options.
    ///
    /// # Errors
    /// Names an option that does not exist or whose value is of another type.
    fn from_json(given: Value) -> std::result::Result<Self, OptionError> {
        let refuse = |option: &str, reason: String| OptionError { option: option.into(), reason };
        let Value::Object(given) = given else {
            return Err(refuse("config", "expected an object".into()));
        };
        let defaults = serde_json::to_value(Self::default());
        let mut complete = match defaults {
            Ok(Value::Object(defaults)) => defaults,
            Ok(_) => return Err(refuse("config", "the defaults are no object".into())),
            Err(error) => return Err(refuse("config", error.to_string())),
        };
        for (name, value) in given {
            let Some(slot) = complete.get_mut(&name) else {
                return Err(refuse(&name, unknown(&name, &complete)));
            };
            *slot = value;
            // One option at a time: an error is then that of this option, whose name flattening loses.
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
