//! What a teacher is trained on.

use tch::Tensor;

use crate::data::Portions;
use crate::velocity::{Source, VelocityField};

/// Data, and what comes with them.
pub struct Given<'a> {
    /// `[N, *event]`
    pub data: &'a Tensor,
    /// `[N]` labels or `[N, dim]` vectors, as the options say.
    pub condition: Option<&'a Tensor>,
    /// What the flow starts from.
    pub source: Source,
    /// Of each row `[N, *event]`, for [`crate::data::Coupling::Given`].
    pub noise: Option<&'a Tensor>,
    /// Where the data go on. `data` and `condition` are then the first portion, which statistics are taken of: another
    /// takes its place whenever there were as many batches as make up one pass.
    pub portions: Option<Box<dyn Portions>>,
    /// A network of the same shape whose weights training begins with.
    pub initial: Option<Box<dyn VelocityField>>,
}

impl<'a> Given<'a> {
    pub fn new(data: &'a Tensor, condition: Option<&'a Tensor>) -> Self {
        Given { data, condition, source: Source::Normal, noise: None, portions: None, initial: None }
    }
}
