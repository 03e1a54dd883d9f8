//! Warm starts: training that begins with the weights of another teacher.

use tch::Tensor;

use crate::error::{Error, Result};
use crate::nets::AUGMENTATION_MAP;
use crate::velocity::{FieldDescription, NetworkField, NetworkFieldConfig, VelocityField};

/// Copies the weights of `other`, a network of the same shape, to `field`. The scales of input and output of
/// `field` do not change. The map of augmentations, which no teacher keeps, starts at zero.
///
/// # Errors
/// [`Error::Argument`] naming `initial` if `other` is not a network, has another shape or learnt something else.
pub(super) fn begin_with(field: &NetworkField, other: &dyn VelocityField) -> Result<()> {
    let refuse = |got: String| {
        let expected = format!("a network of the same shape, {}", shape_of(field.config()));
        Error::argument("initial", expected, got)
    };
    let state = other.state().ok_or_else(|| refuse(format!("a teacher of kind '{}'", other.kind_name())))?;
    let config = match &state.description {
        FieldDescription::Network(config) => config,
        _ => return Err(refuse(format!("a teacher of kind '{}'", other.kind_name()))),
    };
    let (own, theirs) = (field.config().preconditioning, config.preconditioning);
    if own != theirs {
        let expected = format!("a network with preconditioning {own:?}, as in the options").to_lowercase();
        return Err(Error::argument("initial", expected, format!("{theirs:?}").to_lowercase()));
    }
    let parts = field.parameters().named().into_iter().map(|(name, own)| {
        let found =
            state.tensors.iter().find(|(other, tensor)| *other == name && tensor.size() == own.size());
        let found = found.map(|(_, tensor)| tensor);
        let found = if name.ends_with(AUGMENTATION_MAP) { Some(&own) } else { found };
        found.map(|tensor| tensor.to_device(own.device()).to_kind(own.kind()).reshape([-1]))
    });
    let parts: Option<Vec<Tensor>> = parts.collect();
    let parts = parts.ok_or_else(|| refuse(shape_of(config)))?;
    let (mut flat, values) = (field.parameters().flat()?, Tensor::f_cat(&parts, 0)?);
    tch::no_grad(|| flat.f_copy_(&values))?;
    Ok(())
}

/// A description of the options that determine the shapes of a network's weights.
fn shape_of(config: &NetworkFieldConfig) -> String {
    let shape = crate::tensor::shape_text(&config.event_shape);
    let condition = config.conditioning.size();
    match &config.unet {
        Some(_) => format!("a U-Net for {shape} with {condition} condition inputs"),
        None => format!(
            "a perceptron for {shape} of width {} and depth {} with {condition} condition inputs",
            config.width, config.depth
        ),
    }
}
