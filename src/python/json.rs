//! Configurations and histories pass between Python and Rust as JSON, which serde checks.

use serde::{de::DeserializeOwned, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::training::{JsonOptions, OptionError};

/// Parses a trainer's options. An error names the wrong option.
pub fn parse_options<T: JsonOptions>(options: &str) -> Result<T> {
    T::from_json(parse("config", options)?).map_err(|OptionError { option, reason }| {
        Error::argument(&option, "a known option of the right type", reason)
    })
}

/// Parses a configuration. An error names the wrong field.
pub fn parse_config<T: DeserializeOwned>(config: &str) -> Result<T> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(config)).map_err(|error| {
        let option = error.path().to_string();
        let inner = error.into_inner();
        // serde_json appends a position in the JSON text, which the user never sees.
        let text = inner.to_string();
        let reason = text.split(" at line ").next().unwrap_or(&text);
        let option = if option == "." { "config" } else { &option };
        Error::argument(option, "a known option of the right type", reason)
    })
}

pub fn parse(argument: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| Error::argument(argument, "valid JSON", error))
}

pub fn to_value<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::Internal(error.into()))
}
