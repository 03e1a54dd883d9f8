//! Nyström features (Williams and Seeger, Advances in Neural Information Processing Systems 13, 2001): Gaussian
//! kernels centred at data points, orthonormalised in the space of the kernel.

use tch::{Kind, Tensor};

use super::{Dual, Network, Parameters};
use crate::error::Result;
use crate::tensor::shared;

/// The map `[B, inputs] -> [B, centres]` given by k(z, c) K^{-1/2}, where k(z, c) = exp(-|z - c|^2 / (2 l^2)) and K is
/// the kernel matrix of the centres. With these features, a ridge penalty on the weights is the norm of the kernel's
/// space.
pub struct KernelFeatures {
    centres: Tensor,   // [k, inputs]
    whitening: Tensor, // [k, k]
    length: Tensor,    // [1]
}

/// Eigenvalues of K below this share of the largest one are left out of the inverse square root.
const SMALLEST: f64 = 1e-12;

impl KernelFeatures {
    /// Features with `centres` `[k, inputs]` and length scale `length`, whose parameters are registered under `name`.
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

    /// Features without data, whose parameters are then restored from a file.
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
    // |z|^2 - 2 z c + |c|^2, which may be negative by rounding.
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
