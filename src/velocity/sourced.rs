//! A velocity field with another source than its model.

use tch::Tensor;

use super::source::without_source;
use super::{
    Expectation, FieldDescription, FieldState, Mixing, Moments, Source, SourceDescription, Units,
    VelocityField,
};
use crate::error::Result;
use crate::tensor::Share;

/// The field `model` whose flow starts from `source` at time 0.
pub struct SourcedField {
    model: Box<dyn VelocityField>,
    source: Source,
}

impl SourcedField {
    pub fn new(model: Box<dyn VelocityField>, source: Source) -> Self {
        SourcedField { model, source }
    }

    /// Splits the tensors of [`VelocityField::state`] into those of the model and those of the source.
    pub(super) fn split_state(tensors: &[(String, Tensor)]) -> [Vec<(String, Tensor)>; 2] {
        let part = |of_source: bool| {
            let own = tensors.iter().filter(|(name, _)| Source::owns(name) == of_source);
            own.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
        };
        [part(false), part(true)]
    }
}

impl VelocityField for SourcedField {
    answers_as!(model);

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.model.velocity(t, x, condition)
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        self.model.velocity_and_vjp(t, x, cotangent, condition)
    }

    fn work(&self) -> Result<Option<f64>> {
        self.model.work()
    }

    fn growth(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Option<Tensor>> {
        self.model.growth(t, x, condition)
    }

    fn source(&self) -> Source {
        self.source.shallow_clone()
    }

    fn breaks(&self) -> Vec<f64> {
        self.model.breaks()
    }

    fn mixing(&self) -> Option<Mixing> {
        self.model.mixing()
    }

    fn expectation(
        &self,
        of: Expectation,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        self.model.expectation(of, t, x, condition)
    }

    fn moments(&self) -> Result<Option<Moments>> {
        self.model.moments()
    }

    /// None, because standardised coordinates are defined only for flows from noise to data.
    fn standard(&self) -> Result<Option<(Box<dyn VelocityField>, Units)>> {
        Ok(None)
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(SourcedField::new(self.model.shallow_clone(), self.source.shallow_clone()))
    }

    fn kind_name(&self) -> &'static str {
        self.model.kind_name()
    }

    fn state(&self) -> Option<FieldState> {
        // The model's own source is not used.
        let FieldState { description, mut tensors } = without_source(self.model.state()?);
        let (source, of_source): (SourceDescription, _) = self.source.state().ok()?;
        tensors.extend(of_source);
        let description = FieldDescription::Sourced { source, model: Box::new(description) };
        Some(FieldState { description, tensors })
    }
}
