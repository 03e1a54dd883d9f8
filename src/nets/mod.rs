//! Networks with forward-mode derivatives. libtorch's C++ interface has no forward mode, so every network has a
//! `forward_with_tangent` in addition to `forward`. It computes a value and its directional derivative with the same
//! batched products. Both are differentiable in the parameters.

mod coordinates;
pub mod dropout;
mod embedding;
mod fourier;
mod fused_norm;
mod init;
mod kernel;
mod linear;
mod mlp;
mod parameters;
mod polynomial;
pub mod precision;
mod signal;
mod unet;

use tch::Tensor;

pub use coordinates::InputCoordinates;
pub use embedding::TimeEmbedding;
pub use fourier::FourierFeatures;
pub use fused_norm::Norm;
pub use kernel::KernelFeatures;
pub use mlp::{Mlp, MlpConfig};
pub use parameters::Parameters;
pub use polynomial::{monomial_count, Polynomial};
pub use signal::Signal;
pub use unet::{
    feature_maps, torchcfm_config, Sinusoids, UNet, UNetConfig, UNetDecoder, UNetEncoder, AUGMENTATION_MAP,
};

/// A value and its derivative along one direction, with the same shape.
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
        Dual::cat_along(&parts.iter().collect::<Vec<_>>(), -1)
    }

    fn cat_along(parts: &[&Dual], dimension: i64) -> Dual {
        let primal: Vec<&Tensor> = parts.iter().map(|part| &part.primal).collect();
        let tangent: Vec<&Tensor> = parts.iter().map(|part| &part.tangent).collect();
        Dual::new(Tensor::cat(&primal, dimension), Tensor::cat(&tangent, dimension))
    }
}

/// A map from `[B, inputs]` to `[B, outputs]` with exact tangents.
pub trait Network: Send {
    fn forward(&self, input: &Tensor) -> Tensor;

    /// The value and J · tangent, in one pass.
    fn forward_with_tangent(&self, input: &Dual) -> Dual;
}
