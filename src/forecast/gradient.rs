//! Descent on errors of forecasts.
use super::fitting::Fitting;
use super::Forecaster;
use crate::error::Result;

pub fn train(model: Forecaster, _: &mut Fitting<'_>) -> Result<Forecaster> {
    Ok(model)
}
