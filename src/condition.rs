//! Conditions: class labels or continuous vectors, which a velocity field or a student may depend on besides
//! time and state. [`crate::tensor`] checks and encodes their tensors.

use serde::{Deserialize, Serialize};

/// The kind of condition of a field, besides t and x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Conditioning {
    #[default]
    None,
    /// Class labels: an integer tensor `[B]` with values in `0..classes`.
    Labels { classes: i64 },
    /// A continuous vector: a float tensor `[B, dim]`.
    Vector { dim: i64 },
}

impl Conditioning {
    /// Number of columns of the network input: see [`Conditioning::encode`].
    pub fn size(&self) -> i64 {
        match self {
            Conditioning::None => 0,
            Conditioning::Labels { classes } => *classes,
            Conditioning::Vector { dim } => *dim,
        }
    }
}
