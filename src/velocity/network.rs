//! (to come)
use serde::{Deserialize, Serialize};

pub struct NetworkField;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkFieldConfig {}
