//! Data sets that are not held in memory as a whole.

use tch::Tensor;

use crate::error::Result;

/// An endless sequence of portions of data.
pub trait Portions: Send {
    /// The next samples `[N, *event]`, and the condition of each, if there are conditions.
    ///
    /// # Errors
    /// Any error of the source.
    fn portion(&mut self) -> Result<(Tensor, Option<Tensor>)>;
}
