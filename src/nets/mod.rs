//! Networks that carry tangents. libtorch's C++ interface has no forward-mode levels, so every layer
//! has, besides `forward`, a `forward_with_tangent` that sends a value and its directional derivative
//! through the same batched products; both are differentiable in the parameters.

mod embedding;
mod fourier;
mod init;
mod mlp;
mod parameters;
mod polynomial;
pub mod precision;

use tch::Tensor;

pub use embedding::TimeEmbedding;
pub use fourier::FourierFeatures;
pub use mlp::{Mlp, MlpConfig};
pub use parameters::Parameters;
pub use polynomial::{monomial_count, Polynomial};

/// A value and its derivative along one direction, of the same shape.
#[derive(Debug)]
pub struct Dual {
    pub primal: Tensor,
    pub tangent: Tensor,
}

impl Dual {
    pub fn new(primal: Tensor, tangent: Tensor) -> Self {
        Dual { primal, tangent }
    }

    /// Joins duals along the last dimension.
    pub fn cat(parts: &[Dual]) -> Dual {
        let primal: Vec<&Tensor> = parts.iter().map(|part| &part.primal).collect();
        let tangent: Vec<&Tensor> = parts.iter().map(|part| &part.tangent).collect();
        Dual::new(Tensor::cat(&primal, -1), Tensor::cat(&tangent, -1))
    }
}

/// A map from `[B, inputs]` to `[B, outputs]` with exact tangents.
pub trait Network: Send {
    fn forward(&self, input: &Tensor) -> Tensor;

    /// The value and J · tangent, in one pass.
    fn forward_with_tangent(&self, input: &Dual) -> Dual;
}
