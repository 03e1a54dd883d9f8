//! Storage of velocity fields in files.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::{
    ChainField, EmpiricalField, FieldDescription, FieldState, GaussianField, GuidedField, NetworkField,
    ReversedField, Source, SourcedField, VelocityField, WindowField,
};
use crate::error::{Error, Result};
use crate::store::{Stored, Tensors};

/// A field without its tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TeacherDescription {
    pub description: FieldDescription,
}

impl Stored for Box<dyn VelocityField> {
    const KIND: &'static str = "teacher";
    type Description = TeacherDescription;

    fn description(&self) -> Result<TeacherDescription> {
        Ok(TeacherDescription { description: own_state(&**self)?.description })
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(own_state(&**self)?.tensors)
    }

    fn rebuild(
        TeacherDescription { description }: TeacherDescription,
        tensors: &mut Tensors,
        device: Device,
    ) -> Result<Self> {
        build(&description, &tensors.take_all(), device)
    }
}

/// The state of a field, or an error if koopflow cannot store it.
pub(super) fn own_state(field: &dyn VelocityField) -> Result<FieldState> {
    field.state().ok_or_else(|| {
        let kind = match field.source() {
            Source::Flow(below) if below.state().is_none() => below.kind_name(),
            _ => field.kind_name(),
        };
        let advice = match kind {
            "torchscript" => "keep its TorchScript file and load that again",
            _ => "save the wrapped module itself and attach it again",
        };
        Error::teacher(format!(
            "a teacher of kind '{kind}' wraps code that koopflow does not own and cannot be saved; {advice}"
        ))
    })
}

pub(super) fn build(
    description: &FieldDescription,
    tensors: &[(String, Tensor)],
    device: Device,
) -> Result<Box<dyn VelocityField>> {
    Ok(match description {
        FieldDescription::Gaussian { event_shape } => {
            Box::new(GaussianField::from_state(event_shape, tensors, device)?)
        }
        FieldDescription::Empirical { event_shape } => {
            Box::new(EmpiricalField::from_state(event_shape, tensors, device)?)
        }
        FieldDescription::Network(config) => Box::new(NetworkField::from_state(config, tensors, device)?),
        FieldDescription::Guided { scale, model } => {
            let (model_tensors, null) = GuidedField::split_state(tensors)?;
            Box::new(GuidedField::new(build(model, &model_tensors, device)?, *scale, &null)?)
        }
        FieldDescription::Window { from, to, model } => {
            Box::new(WindowField::new(build(model, tensors, device)?, *from, *to)?)
        }
        FieldDescription::Sourced { source, model } => {
            let [of_model, of_source] = SourcedField::split_state(tensors);
            let model = build(model, &of_model, device)?;
            let source = Source::from_state(source, &of_source, model.event_shape(), device)?;
            Box::new(SourcedField::new(model, source))
        }
        FieldDescription::Chain { breaks, models } => {
            let parts = ChainField::split_state(tensors, models.len());
            let blocks = models.iter().zip(&parts).map(|(model, own)| build(model, own, device));
            Box::new(ChainField::new(blocks.collect::<Result<_>>()?, Some(breaks))?)
        }
        FieldDescription::Reversed { model } => {
            Box::new(ReversedField::new(build(model, &ReversedField::split_state(tensors), device)?))
        }
    })
}
