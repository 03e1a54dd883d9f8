//! Mixed precision. While a [`Lowered`] guard exists, the matrix products of linear layers run in bfloat16 or
//! float16. Everything else (biases, activations, losses, weights) keeps its dtype. libtorch's own autocast is not
//! used, because tch does not give access to its dtype.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

thread_local! {
    static LOWERED: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// Precision of the network's matrix products during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The model's own dtype, float32 or float64.
    #[default]
    Float32,
    Bf16,
    /// Half precision with dynamic loss scaling; on CUDA only.
    Fp16,
}

impl Precision {
    /// The dtype to lower products to, if any.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Precision::Float32 => None,
            Precision::Bf16 => Some(Kind::BFloat16),
            Precision::Fp16 => Some(Kind::Half),
        }
    }

    /// # Errors
    /// [`Error::Argument`] for float16 on a device other than CUDA.
    pub fn check(self, device: Device) -> Result<()> {
        match self {
            Precision::Fp16 if !device.is_cuda() => {
                Err(Error::argument("precision", "'float32' or 'bf16' on a CPU", "'fp16'"))
            }
            _ => Ok(()),
        }
    }
}

/// A guard that sets the precision of this thread's products until it is dropped.
#[must_use]
pub struct Lowered {
    before: Option<Kind>,
}

impl Lowered {
    /// Lowers the precision of products to `kind`; `None` is full precision.
    pub fn to(kind: Option<Kind>) -> Self {
        Lowered { before: lower(kind) }
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        LOWERED.set(self.before);
    }
}

/// Sets the precision of this thread's products permanently, and returns the previous one.
pub fn lower(kind: Option<Kind>) -> Option<Kind> {
    LOWERED.replace(kind)
}

/// Present precision of products; `None` is full precision.
pub(super) fn lowered() -> Option<Kind> {
    LOWERED.get()
}

/// `input [B, inputs]` times the transpose of `weight [outputs, inputs]`, in the dtype of `input`.
pub(super) fn product(input: &Tensor, weight: &Tensor) -> Tensor {
    match lowered() {
        None => input.matmul(&weight.tr()),
        Some(kind) => input.to_kind(kind).matmul(&weight.to_kind(kind).tr()).to_kind(input.kind()),
    }
}
