//! Convolutions, normalisation, residual and attention blocks, named and laid out as in torchcfm's
//! `UNetModel` (after Dhariwal & Nichol, arXiv 2105.05233). Weights follow the dtype of the activations.

use tch::Tensor;

use super::super::fused_norm::{channels_last, fusible, spread};
use super::super::init::linear_uniform;
use super::super::linear::Linear;
use super::super::{dropout, Norm, Parameters, Signal};
use super::UNetConfig;
use crate::error::Result;
use crate::tensor::{shared, RandomSource, Share};

/// The state with which layers are built: the parameters that they register, and the source of initial weights.
pub(super) struct Builder<'a> {
    pub parameters: &'a mut Parameters,
    pub random: &'a mut RandomSource,
}

impl Builder<'_> {
    pub fn linear(&mut self, name: &str, inputs: i64, outputs: i64) -> Result<Linear> {
        Linear::new(name, inputs, outputs, self.parameters, self.random)
    }
}

/// A convolution that keeps the size with stride 1, or halves it with stride 2.
pub(super) struct Convolution {
    weight: Tensor, // [outputs, inputs, side, side], or [outputs, inputs, 1] over positions
    bias: Tensor,   // [outputs]
    stride: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Initial {
    Usual,
    /// Zeros, so that a residual block starts as the identity.
    Zero,
}

impl Convolution {
    pub fn new(
        name: &str,
        (inputs, outputs): (i64, i64),
        side: i64,
        stride: i64,
        initial: Initial,
        build: &mut Builder,
    ) -> Result<Self> {
        Self::of_shape(name, &[outputs, inputs, side, side], stride, initial, build)
    }

    /// A convolution with kernel size 1 over flattened positions, `[B, inputs, positions]`.
    pub fn pointwise(
        name: &str,
        (inputs, outputs): (i64, i64),
        initial: Initial,
        build: &mut Builder,
    ) -> Result<Self> {
        Self::of_shape(name, &[outputs, inputs, 1], 1, initial, build)
    }

    fn of_shape(
        name: &str,
        shape: &[i64],
        stride: i64,
        initial: Initial,
        build: &mut Builder,
    ) -> Result<Self> {
        let (kind, device) = (build.parameters.kind(), build.parameters.device());
        let fan_in = shape[1..].iter().product();
        let (weight, bias) = match initial {
            Initial::Usual => (
                linear_uniform(shape, fan_in, kind, device, build.random)?,
                linear_uniform(&shape[..1], fan_in, kind, device, build.random)?,
            ),
            Initial::Zero => {
                (Tensor::f_zeros(shape, (kind, device))?, Tensor::f_zeros(&shape[..1], (kind, device))?)
            }
        };
        Ok(Convolution {
            weight: build.parameters.add(format!("{name}.weight"), weight),
            bias: build.parameters.add(format!("{name}.bias"), bias),
            stride,
        })
    }

    pub fn apply<S: Signal>(&self, input: &S) -> S {
        let kind = input.primal().kind();
        let (weight, bias) = (self.weight.to_kind(kind), self.bias.to_kind(kind));
        // The same layout as the images, because oneDNN may take its layout from either of them.
        let weight = if fusible(input.primal()) { channels_last(&weight) } else { weight };
        let convolve = |input: &Tensor, bias: Option<&Tensor>| match weight.dim() {
            // With channels last in memory, this is a plain matrix product.
            3 if input.transpose(1, 2).is_contiguous() => {
                input.transpose(1, 2).linear(&weight.squeeze_dim(2), bias).transpose(1, 2)
            }
            3 => input.conv1d(&weight, bias, [1], [0], [1], 1),
            _ => {
                let padding = weight.size()[2] / 2;
                input.conv2d(&weight, bias, [self.stride; 2], [padding; 2], [1, 1], 1)
            }
        };
        input.affine(convolve, &bias)
    }
}

shared!(Convolution { weight, bias; stride });

/// Normalisation of groups of channels.
pub(super) struct GroupNorm {
    weight: Tensor, // [C]
    bias: Tensor,   // [C]
    groups: i64,
}

impl GroupNorm {
    pub fn new(name: &str, channels: i64, config: &UNetConfig, build: &mut Builder) -> Result<Self> {
        let options = (build.parameters.kind(), build.parameters.device());
        let weight = Tensor::f_ones([channels], options)?;
        let bias = Tensor::f_zeros([channels], options)?;
        Ok(GroupNorm {
            weight: build.parameters.add(format!("{name}.weight"), weight),
            bias: build.parameters.add(format!("{name}.bias"), bias),
            groups: config.groups_of(channels),
        })
    }

    pub fn apply<S: Signal>(&self, input: &S) -> S {
        let (weight, bias) = self.factors(input);
        input.group_norm(Norm { groups: self.groups, silu: false }, &weight, &bias)
    }

    /// Group normalisation followed by SiLU.
    pub fn activate<S: Signal>(&self, input: &S) -> S {
        let (weight, bias) = self.factors(input);
        input.group_norm(Norm { groups: self.groups, silu: true }, &weight, &bias)
    }

    /// Group normalisation, a second scale and shift by `[B, C]` each, and SiLU.
    fn activate_modulated<S: Signal>(&self, input: &S, scale: &S, shift: &S) -> S {
        let (weight, bias) = self.factors(input);
        let norm = Norm { groups: self.groups, silu: true };
        input.group_norm_modulated(norm, &weight, &bias, scale, shift)
    }

    fn factors<S: Signal>(&self, input: &S) -> (Tensor, Tensor) {
        let kind = input.primal().kind();
        (self.weight.to_kind(kind), self.bias.to_kind(kind))
    }
}

shared!(GroupNorm { weight, bias; groups });

/// A change of an image's size without weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Resampling {
    Keep,
    /// Doubles the size by nearest neighbours.
    Up,
    /// Halves the size by means of 2x2 pixels.
    Down,
}

impl Resampling {
    pub fn apply<S: Signal>(self, input: &S) -> S {
        match self {
            Resampling::Keep => input.map(Tensor::shallow_clone),
            Resampling::Up => input.map(|x| {
                let size = x.size();
                x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None)
            }),
            Resampling::Down => input.map(|x| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)),
        }
    }
}

/// Two convolutions with a skip connection, shifted (or scaled and shifted) by the embedding of time and condition.
pub(super) struct ResidualBlock {
    norm_in: GroupNorm,
    conv_in: Convolution,
    embedding: Linear,
    norm_out: GroupNorm,
    conv_out: Convolution,
    skip: Option<Convolution>,
    resampling: Resampling,
    scale_shift: bool,
    dropout: f64,
}

impl ResidualBlock {
    pub fn new(
        name: &str,
        (inputs, outputs): (i64, i64),
        resampling: Resampling,
        config: &UNetConfig,
        build: &mut Builder,
    ) -> Result<Self> {
        let shifts = if config.scale_shift { 2 * outputs } else { outputs };
        let norm_in = GroupNorm::new(&format!("{name}.in_layers.0"), inputs, config, build)?;
        let conv_in =
            Convolution::new(&format!("{name}.in_layers.2"), (inputs, outputs), 3, 1, Initial::Usual, build)?;
        let embedding = build.linear(&format!("{name}.emb_layers.1"), config.embedding_size(), shifts)?;
        let norm_out = GroupNorm::new(&format!("{name}.out_layers.0"), outputs, config, build)?;
        let conv_out = Convolution::new(
            &format!("{name}.out_layers.3"),
            (outputs, outputs),
            3,
            1,
            Initial::Zero,
            build,
        )?;
        let skip = match inputs == outputs {
            true => None,
            false => {
                let name = format!("{name}.skip_connection");
                Some(Convolution::new(&name, (inputs, outputs), 1, 1, Initial::Usual, build)?)
            }
        };
        Ok(ResidualBlock {
            norm_in,
            conv_in,
            embedding,
            norm_out,
            conv_out,
            skip,
            resampling,
            scale_shift: config.scale_shift,
            dropout: config.dropout,
        })
    }

    pub fn apply<S: Signal>(&self, input: &S, embedding: &S) -> S {
        let hidden = self.resampling.apply(&self.norm_in.activate(input));
        let hidden = self.conv_in.apply(&hidden);
        let kind = hidden.primal().kind();
        let shifts = self.embedding.apply(&embedding.silu()).map(|x| x.to_kind(kind));
        let hidden = match self.scale_shift {
            true => {
                let parts = shifts.pieces(2, 1);
                self.norm_out.activate_modulated(&hidden, &parts[0], &parts[1])
            }
            false => self.norm_out.activate(&hidden.add(&shifts.map(spread))),
        };
        let hidden = self.conv_out.apply(&dropout::apply(&hidden, self.dropout));
        let input = self.resampling.apply(input);
        match &self.skip {
            Some(skip) => skip.apply(&input).add(&hidden),
            None => input.add(&hidden),
        }
    }

    pub fn shallow_clone(&self) -> Self {
        ResidualBlock {
            norm_in: self.norm_in.shallow_clone(),
            conv_in: self.conv_in.shallow_clone(),
            embedding: self.embedding.shallow_clone(),
            norm_out: self.norm_out.shallow_clone(),
            conv_out: self.conv_out.shallow_clone(),
            skip: self.skip.as_ref().map(Convolution::shallow_clone),
            ..*self
        }
    }
}

/// Self-attention over the positions of an image.
pub(super) struct AttentionBlock {
    norm: GroupNorm,
    qkv: Convolution,
    out: Convolution,
    heads: i64,
    /// Whether channels are split into q, k and v first and into heads second (torchcfm's
    /// `use_new_attention_order`).
    qkv_first: bool,
}

impl AttentionBlock {
    pub fn new(name: &str, channels: i64, config: &UNetConfig, build: &mut Builder) -> Result<Self> {
        let norm = GroupNorm::new(&format!("{name}.norm"), channels, config, build)?;
        let qkv =
            Convolution::pointwise(&format!("{name}.qkv"), (channels, 3 * channels), Initial::Usual, build)?;
        let out =
            Convolution::pointwise(&format!("{name}.proj_out"), (channels, channels), Initial::Zero, build)?;
        Ok(AttentionBlock { norm, qkv, out, heads: config.heads_of(channels), qkv_first: config.qkv_first })
    }

    pub fn apply<S: Signal>(&self, input: &S) -> S {
        let size = input.primal().size();
        let (batch, channels, positions) = (size[0], size[1], size[2] * size[3]);
        let (heads, width) = (self.heads, channels / self.heads);
        let in_rows = |x: &Tensor| x.reshape([batch, channels, positions]);
        let rows = input.map(in_rows);
        let all = self.qkv.apply(&self.norm.apply(input).map(in_rows));
        // q, k and v, each [B, heads, positions, width].
        let split = |x: &Tensor, first: &[i64; 5], order: [i64; 5]| x.reshape(first).permute(order);
        let all = match self.qkv_first {
            true => all.map(|x| split(x, &[batch, 3, heads, width, positions], [1, 0, 2, 4, 3])),
            false => all.map(|x| split(x, &[batch, heads, 3, width, positions], [2, 0, 1, 4, 3])),
        };
        let parts: Vec<S> = all.pieces(3, 0).iter().map(|part| part.map(|x| x.squeeze_dim(0))).collect();
        let mixed = S::attention(&parts[0], &parts[1], &parts[2]);
        let mixed = mixed.map(|x| x.transpose(2, 3).reshape([batch, channels, positions]));
        rows.add(&self.out.apply(&mixed)).map(|x| x.reshape(size.as_slice()))
    }
}

shared!(AttentionBlock { norm, qkv, out; heads, qkv_first });

/// One entry of a stage.
pub(super) enum Layer {
    Convolution(Convolution),
    Residual(ResidualBlock),
    Attention(AttentionBlock),
    /// Doubles the size, then applies a convolution.
    Upsample(Convolution),
}

impl Layer {
    pub fn apply<S: Signal>(&self, input: &S, embedding: &S) -> S {
        match self {
            Layer::Convolution(layer) => layer.apply(input),
            Layer::Residual(layer) => layer.apply(input, embedding),
            Layer::Attention(layer) => layer.apply(input),
            Layer::Upsample(layer) => layer.apply(&Resampling::Up.apply(input)),
        }
    }
}

impl Share for Layer {
    fn shallow_clone(&self) -> Self {
        match self {
            Layer::Convolution(layer) => Layer::Convolution(layer.shallow_clone()),
            Layer::Residual(layer) => Layer::Residual(layer.shallow_clone()),
            Layer::Attention(layer) => Layer::Attention(layer.shallow_clone()),
            Layer::Upsample(layer) => Layer::Upsample(layer.shallow_clone()),
        }
    }
}

/// A sequence of layers.
pub(super) struct Stage(pub Vec<Layer>);

impl Stage {
    pub fn apply<S: Signal>(&self, input: &S, embedding: &S) -> S {
        self.0.iter().fold(input.map(Tensor::shallow_clone), |hidden, layer| layer.apply(&hidden, embedding))
    }
}

impl Share for Stage {
    fn shallow_clone(&self) -> Self {
        Stage(self.0.shallow_clone())
    }
}
