//! A reversed flow: from the data of the original flow to its source.

use tch::Tensor;

use super::{Expectation, FieldDescription, FieldState, Mixing, Source, VelocityField};
use crate::error::Result;

/// The prefix of the names of the model's tensors.
const MODEL: &str = "model.";

/// v(t, x) = -u(1 - t, x) for a field u. The flow leads from the end of the flow of u, at time 0, to its source, at
/// time 1.
pub struct ReversedField {
    model: Box<dyn VelocityField>,
}

impl ReversedField {
    pub fn new(model: Box<dyn VelocityField>) -> Self {
        ReversedField { model }
    }

    /// The tensors of the model among those of [`VelocityField::state`].
    pub(super) fn split_state(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
        let own = |(name, tensor): &(String, Tensor)| {
            Some((name.strip_prefix(MODEL)?.to_string(), tensor.shallow_clone()))
        };
        tensors.iter().filter_map(own).collect()
    }
}

impl VelocityField for ReversedField {
    answers_as!(model);

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.model.velocity(&(1.0 - t), x, condition)?.f_neg()?)
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (v, product) = self.model.velocity_and_vjp(&(1.0 - t), x, cotangent, condition)?;
        Ok((v.f_neg()?, product.f_neg()?))
    }

    /// The negative of the original rate.
    fn growth(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Option<Tensor>> {
        let rates = self.model.growth(&(1.0 - t), x, condition)?;
        Ok(rates.map(|rates| rates.f_neg()).transpose()?)
    }

    fn work(&self) -> Result<Option<f64>> {
        self.model.work()
    }

    /// The end of the original flow.
    fn source(&self) -> Source {
        Source::Flow(self.model.shallow_clone())
    }

    /// A path is symmetric under time reversal; a noise schedule is not.
    fn mixing(&self) -> Option<Mixing> {
        self.model.mixing().filter(|mixing| matches!(mixing, Mixing::Path(_)))
    }

    /// Noise and data are exchanged.
    fn expectation(
        &self,
        of: Expectation,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        let of = match of {
            Expectation::Data => Expectation::Noise,
            Expectation::Noise => Expectation::Data,
        };
        self.model.expectation(of, &(1.0 - t), x, condition)
    }

    fn breaks(&self) -> Vec<f64> {
        self.model.breaks().iter().rev().map(|t| 1.0 - t).collect()
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(ReversedField::new(self.model.shallow_clone()))
    }

    fn kind_name(&self) -> &'static str {
        "reversed"
    }

    fn state(&self) -> Option<FieldState> {
        let FieldState { description, tensors } = self.model.state()?;
        let tensors = tensors.into_iter().map(|(name, tensor)| (format!("{MODEL}{name}"), tensor)).collect();
        Some(FieldState { description: FieldDescription::Reversed { model: Box::new(description) }, tensors })
    }
}
