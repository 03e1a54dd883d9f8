//! Gaussian kernels about points of the data, made orthonormal in their own space: Nyström's features (Williams and
//! Seeger, Advances in Neural Information Processing Systems 13, 2001).

use tch::{Kind, Tensor};

use super::{Dual, Network, Parameters};
use crate::error::Result;
use crate::tensor::shared;

/// `[B, inputs] -> [B, centres]`: k(z, c) K^{-1/2} with k(z, c) = exp(-|z - c|^2 / (2 l^2)) and K the kernel between the
/// centres, so that a ridge of their weights is the norm of the kernel's own space.
pub struct KernelFeatures {
    centres: Tensor,   // [k, inputs]
    whitening: Tensor, // [k, k]
    length: Tensor,    // [1]
}

/// Eigenvalues of K below this share of the largest are left out of its inverse square root.
const SMALLEST: f64 = 1e-12;

impl KernelFeatures {
    /// Registers its parameters under `name`, about `centres` `[k, inputs]`.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn new(name: &str, centres: &Tensor, length: f64, parameters: &mut Parameters) -> Result<Self> {
        let (kind, device) = (parameters.kind(), parameters.device());
        let centres = centres.to_kind(Kind::Double).to_device(device);
        let own = gaussian(&centres, &centres, &Tensor::from_slice(&[length]).to_device(device));
        let (values, vectors) = own.f_linalg_eigh("L")?;
        let floor = values.max().double_value(&[]) * SMALLEST;
        let scale = values.f_clamp_min(floor)?.rsqrt() * values.f_gt(floor)?.to_kind(Kind::Double);
        let whitening = (&vectors * scale).f_matmul(&vectors.tr())?;
        Ok(KernelFeatures {
            centres: parameters.add(format!("{name}.centres"), centres),
            whitening: parameters.add(format!("{name}.whitening"), whitening),
            length: parameters.add(format!("{name}.length"), Tensor::from_slice(&[length]).to_kind(kind)),
        })
    }

    /// The same before there are data: for a file to fill.
    pub fn empty(name: &str, inputs: i64, outputs: i64, parameters: &mut Parameters) -> Self {
        let options = (parameters.kind(), parameters.device());
        KernelFeatures {
            centres: parameters.add(format!("{name}.centres"), Tensor::zeros([outputs, inputs], options)),
            whitening: parameters
                .add(format!("{name}.whitening"), Tensor::zeros([outputs, outputs], options)),
            length: parameters.add(format!("{name}.length"), Tensor::ones([1], options)),
        }
    }
}

shared!(KernelFeatures { centres, whitening, length });

/// exp(-|z - c|^2 / (2 l^2)): `[B, k]`.
fn gaussian(z: &Tensor, centres: &Tensor, length: &Tensor) -> Tensor {
    let scaled = (z / length, centres / length);
    // |z|^2 - 2 z c + |c|^2: rounding may leave it below 0.
    let square = |x: &Tensor| x.square().sum_dim_intlist([1i64].as_slice(), true, x.kind());
    let distances = square(&scaled.0) - scaled.0.matmul(&scaled.1.tr()) * 2.0 + square(&scaled.1).tr();
    (distances.clamp_min(0.0) * -0.5).exp()
}

impl Network for KernelFeatures {
    fn forward(&self, input: &Tensor) -> Tensor {
        gaussian(input, &self.centres, &self.length).matmul(&self.whitening)
    }

    fn forward_with_tangent(&self, input: &Dual) -> Dual {
        let kernel = gaussian(&input.primal, &self.centres, &self.length);
        // dk = -k (z - c) . dz / l^2
        let along =
            (&input.primal * &input.tangent).sum_dim_intlist([1i64].as_slice(), true, input.primal.kind());
        let rate = (input.tangent.matmul(&self.centres.tr()) - along) / self.length.square();
        Dual::new(kernel.matmul(&self.whitening), (&kernel * rate).matmul(&self.whitening))
    }
}
