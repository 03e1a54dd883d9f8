//! A user's distance between images, for example between a network's features of them.

use tch::Tensor;

use crate::error::Result;

/// A distance between flat samples `x` and `target`, `[B, d]` each.
pub trait FeatureDistance: Send {
    /// The distance, a scalar, and its gradient in `x`, `[B, d]`.
    fn value_and_gradient(&self, x: &Tensor, target: &Tensor) -> Result<(Tensor, Tensor)>;
}

/// The distance as a term of the objective: a scalar with the value and with the gradient in `x` that the
/// distance returns.
pub(in crate::distill) fn term(
    distance: &dyn FeatureDistance,
    x: &Tensor,
    target: &Tensor,
) -> Result<Tensor> {
    let (value, gradient) = distance.value_and_gradient(&x.detach(), target)?;
    let product = (x * gradient).sum(x.kind());
    Ok(&product - product.detach() + value)
}
