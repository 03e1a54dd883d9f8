//! What a teacher is trained on.

use tch::Tensor;

use super::config::TeacherConfig;
use crate::data::Portions;
use crate::error::{Error, Result};
use crate::tensor::{check_finite, shape_text};
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

/// # Errors
/// Names the argument that is of another shape than the options ask for, or not finite.
pub(super) fn check_data(config: &TeacherConfig, data: &Tensor, noise: Option<&Tensor>) -> Result<()> {
    let size = data.size();
    if size.len() < 2 || data.numel() == 0 {
        return Err(Error::shape("data", "(N, *event) with N at least 1", shape_text(&size)));
    }
    check_finite("data", data)?;
    config.coupling.check_noise(data, noise, config.flip)
}
