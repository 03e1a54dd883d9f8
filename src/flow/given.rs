//! The training data of a teacher.

use tch::Tensor;

use super::config::TeacherConfig;
use crate::data::Portions;
use crate::error::{Error, Result};
use crate::tensor::{check_finite, shape_text};
use crate::velocity::{Source, VelocityField};

/// Data, with everything that belongs to them.
pub struct Given<'a> {
    /// Data `[N, *event]`.
    pub data: &'a Tensor,
    /// Labels `[N]` or vectors `[N, dim]`, as the options require.
    pub condition: Option<&'a Tensor>,
    /// Source distribution of the flow.
    pub source: Source,
    /// Noise of each row, `[N, *event]`, for [`crate::data::Coupling::Given`].
    pub noise: Option<&'a Tensor>,
    /// Further portions of the data. `data` and `condition` are then the first portion, on which statistics
    /// are measured. After one pass over a portion the next one replaces it.
    pub portions: Option<Box<dyn Portions>>,
    /// A network of the same shape, with whose weights training begins.
    pub initial: Option<Box<dyn VelocityField>>,
}

impl<'a> Given<'a> {
    pub fn new(data: &'a Tensor, condition: Option<&'a Tensor>) -> Self {
        Given { data, condition, source: Source::Normal, noise: None, portions: None, initial: None }
    }
}

/// Checks shapes and values of data and noise.
///
/// # Errors
/// An error that names the argument with a wrong shape or with values that are not finite.
pub(super) fn check_data(config: &TeacherConfig, data: &Tensor, noise: Option<&Tensor>) -> Result<()> {
    let size = data.size();
    if size.len() < 2 || data.numel() == 0 {
        return Err(Error::shape("data", "(N, *event) with N at least 1", shape_text(&size)));
    }
    check_finite("data", data)?;
    config.coupling.check_noise(data, noise, config.flip)
}
