//! Data that are not held whole.

use tch::Tensor;

use crate::error::Result;

/// Portions of data, one after another and without an end.
pub trait Portions: Send {
    /// The next samples `[N, *event]`, and the condition of each where there are conditions.
    ///
    /// # Errors
    /// Whatever the source fails on.
    fn portion(&mut self) -> Result<(Tensor, Option<Tensor>)>;
}
