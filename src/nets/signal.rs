//! The signal that passes through a network: a value, or a value with its tangent. Blocks are written once for both,
//! so that values and tangents cannot disagree.

use tch::{Device, Tensor};

use super::fused_norm::{fusible, spread, Norm, NORM_EPSILON};
use super::Dual;

/// The operations of layers on a [`Tensor`] or a [`Dual`]. The batch is dimension 0, and channels are dimension 1.
pub trait Signal: Sized {
    fn primal(&self) -> &Tensor;

    /// A signal with a tangent of zero.
    fn constant(value: Tensor) -> Self;

    /// Applies a linear map that is the same for all rows of the batch, such as a reshape, a resampling or a product.
    fn map(&self, map: impl Fn(&Tensor) -> Tensor) -> Self;

    /// Applies a linear map to the rows and adds `bias`, one number for each channel.
    fn affine(&self, map: impl Fn(&Tensor, Option<&Tensor>) -> Tensor, bias: &Tensor) -> Self;

    fn add(&self, other: &Self) -> Self;

    fn silu(&self) -> Self;

    /// Normalises each group of channels, then scales and shifts each channel by `weight` and `bias`, `[C]` each. SiLU
    /// follows if `norm` includes it.
    fn group_norm(&self, norm: Norm, weight: &Tensor, bias: &Tensor) -> Self;

    /// The same, followed by a multiplication with 1 + `scale` and an addition of `shift`, each `[B, C]`, before SiLU.
    fn group_norm_modulated(
        &self,
        norm: Norm,
        weight: &Tensor,
        bias: &Tensor,
        scale: &Self,
        shift: &Self,
    ) -> Self;

    /// softmax(q k^T / sqrt(c)) v over `[B, heads, positions, c]`.
    fn attention(query: &Self, key: &Self, value: &Self) -> Self;

    /// Concatenates along channels.
    fn join(&self, other: &Self) -> Self;

    /// Concatenates any number of signals along channels.
    fn join_all(parts: &[Self]) -> Self;

    /// Splits into `count` equal pieces along `dimension`.
    fn pieces(&self, count: i64, dimension: i64) -> Vec<Self>;
}

/// Reshapes `[C]` so that it broadcasts over a batch of any rank along dimension 1.
fn along_channels(values: &Tensor, rank: usize) -> Tensor {
    let mut shape = vec![1; rank];
    shape[1] = -1;
    values.view(shape.as_slice())
}

impl Signal for Tensor {
    fn primal(&self) -> &Tensor {
        self
    }

    fn constant(value: Tensor) -> Self {
        value
    }

    fn map(&self, map: impl Fn(&Tensor) -> Tensor) -> Self {
        map(self)
    }

    fn affine(&self, map: impl Fn(&Tensor, Option<&Tensor>) -> Tensor, bias: &Tensor) -> Self {
        map(self, Some(bias))
    }

    fn add(&self, other: &Self) -> Self {
        self + other
    }

    fn silu(&self) -> Self {
        Tensor::silu(self)
    }

    fn group_norm(&self, norm: Norm, weight: &Tensor, bias: &Tensor) -> Self {
        if fusible(self) {
            let each = |x: &Tensor| x.unsqueeze(0).expand([self.size()[0], -1], false);
            return fused(norm, self, &each(weight), &each(bias));
        }
        let y = Tensor::group_norm(self, norm.groups, Some(weight), Some(bias), NORM_EPSILON, true);
        norm.activated(y)
    }

    fn group_norm_modulated(
        &self,
        norm: Norm,
        weight: &Tensor,
        bias: &Tensor,
        scale: &Self,
        shift: &Self,
    ) -> Self {
        let factor = scale + 1.0;
        if fusible(self) {
            return fused(norm, self, &(weight * &factor), &(bias * &factor + shift));
        }
        let y = Tensor::group_norm(self, norm.groups, Some(weight), Some(bias), NORM_EPSILON, true);
        let y = spread(shift) + y * spread(&factor);
        norm.activated(y)
    }

    fn attention(query: &Self, key: &Self, value: &Self) -> Self {
        Tensor::scaled_dot_product_attention(query, key, value, None::<Tensor>, 0.0, false, None, false)
    }

    fn join(&self, other: &Self) -> Self {
        Tensor::cat(&[self, other], 1)
    }

    fn join_all(parts: &[Self]) -> Self {
        Tensor::cat(parts, 1)
    }

    fn pieces(&self, count: i64, dimension: i64) -> Vec<Self> {
        self.chunk(count, dimension)
    }
}

/// Panics on errors of libtorch, like tch's own operators.
fn fused(norm: Norm, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Tensor {
    norm.fused(x, scale, shift).unwrap_or_else(|error| panic!("{error}"))
}

impl Dual {
    /// Applies `map` once to the value and the tangent, stacked along the batch.
    fn stacked(&self, map: impl Fn(&Tensor) -> Tensor) -> (Tensor, Tensor) {
        let batch = self.primal.size()[0];
        let both = map(&Tensor::cat(&[&self.primal, &self.tangent], 0));
        (both.narrow(0, 0, batch), both.narrow(0, batch, batch))
    }

    /// Group normalisation with `scale` and `shift` `[B, C]`.
    fn normalised(&self, norm: Norm, scale: &Self, shift: &Self) -> Self {
        match fusible(&self.primal) {
            true => norm.fused_dual(self, scale, shift).unwrap_or_else(|error| panic!("{error}")),
            false => norm.composed_dual(self, scale, shift),
        }
    }
}

impl Signal for Dual {
    fn primal(&self) -> &Tensor {
        &self.primal
    }

    fn constant(value: Tensor) -> Self {
        let tangent = value.zeros_like();
        Dual::new(value, tangent)
    }

    fn map(&self, map: impl Fn(&Tensor) -> Tensor) -> Self {
        Dual::new(map(&self.primal), map(&self.tangent))
    }

    fn affine(&self, map: impl Fn(&Tensor, Option<&Tensor>) -> Tensor, bias: &Tensor) -> Self {
        // For images two separate products are faster than one product of stacked copies.
        if self.primal.dim() > 2 && self.primal.device() == Device::Cpu {
            return Dual::new(map(&self.primal, Some(bias)), map(&self.tangent, None));
        }
        let (primal, tangent) = self.stacked(|both| map(both, None));
        let bias = along_channels(bias, primal.dim());
        Dual::new(primal + bias, tangent)
    }

    fn add(&self, other: &Self) -> Self {
        Dual::new(&self.primal + &other.primal, &self.tangent + &other.tangent)
    }

    /// d(x σ(x)) = σ(x) (1 + x (1 - σ(x))) dx.
    fn silu(&self) -> Self {
        let gate = self.primal.sigmoid();
        let value = &self.primal * &gate;
        let slope = &gate * (1.0 + &self.primal - &value);
        Dual::new(value, slope * &self.tangent)
    }

    fn group_norm(&self, norm: Norm, weight: &Tensor, bias: &Tensor) -> Self {
        let rows = [self.primal.size()[0], -1];
        let each = |x: &Tensor| Self::constant(x.unsqueeze(0).expand(rows, false));
        self.normalised(norm, &each(weight), &each(bias))
    }

    fn group_norm_modulated(
        &self,
        norm: Norm,
        weight: &Tensor,
        bias: &Tensor,
        scale: &Self,
        shift: &Self,
    ) -> Self {
        let factor = &scale.primal + 1.0;
        let both = |x: &Tensor| Dual::new(x * &factor, x * &scale.tangent);
        self.normalised(norm, &both(weight), &both(bias).add(shift))
    }

    /// With w = softmax(s): dw = w (ds - sum(w ds)), and d(w v) = dw v + w dv.
    fn attention(query: &Self, key: &Self, value: &Self) -> Self {
        let scale = 1.0 / (query.primal.size()[3] as f64).sqrt();
        let scores = |q: &Tensor, k: &Tensor| q.matmul(&k.transpose(2, 3)) * scale;
        let weights = scores(&query.primal, &key.primal).softmax(-1, query.primal.kind());
        let rates = scores(&query.tangent, &key.primal) + scores(&query.primal, &key.tangent);
        let mean = (&weights * &rates).sum_dim_intlist([-1].as_slice(), true, rates.kind());
        let changes = &weights * (rates - mean);
        let tangent = changes.matmul(&value.primal) + weights.matmul(&value.tangent);
        Dual::new(weights.matmul(&value.primal), tangent)
    }

    fn join(&self, other: &Self) -> Self {
        Dual::cat_along(&[self, other], 1)
    }

    fn join_all(parts: &[Self]) -> Self {
        Dual::cat_along(&parts.iter().collect::<Vec<_>>(), 1)
    }

    fn pieces(&self, count: i64, dimension: i64) -> Vec<Self> {
        let (primal, tangent) = (self.primal.chunk(count, dimension), self.tangent.chunk(count, dimension));
        primal.into_iter().zip(tangent).map(|(primal, tangent)| Dual::new(primal, tangent)).collect()
    }
}
