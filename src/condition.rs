//! What a velocity field or a student may depend on besides time and state: class labels or continuous vectors.
//! How their tensors are checked and encoded is said in [`crate::tensor`].

use serde::{Deserialize, Serialize};

/// What a field is conditioned on, besides t and x.
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
