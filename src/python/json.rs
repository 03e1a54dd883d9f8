//! Configurations and histories cross as JSON: plain data with names, checked by serde.

use serde::{de::DeserializeOwned, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// A configuration; the message names the field that is wrong.
pub fn parse_config<T: DeserializeOwned>(config: &str) -> Result<T> {
    serde_json::from_str(config)
        .map_err(|error| Error::argument("config", "options of the right names and types", error))
}

pub fn parse(argument: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| Error::argument(argument, "JSON", error))
}

pub fn to_value<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::Internal(error.into()))
}
