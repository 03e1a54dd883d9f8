//! The U-Net of flow and diffusion models: an encoder that computes features at every level, and a decoder. A
//! hierarchical student uses the two separately. Parameters are named as in torchcfm's `UNetModel`, so that its
//! checkpoints can be read by name.

mod config;
mod layers;
mod torchcfm;

use tch::{Kind, Tensor};

pub use config::UNetConfig;
pub use torchcfm::config_of as torchcfm_config;

use super::fused_norm::{channels_last, fusible};
use super::linear::Linear;
use super::{precision, Dual, Parameters, Signal};
use crate::condition::Conditioning;
use crate::error::Result;
use crate::tensor::{shared, RandomSource};
use layers::{
    AttentionBlock, Builder, Convolution, GroupNorm, Initial, Layer, Resampling, ResidualBlock, Stage,
};

/// Longest period of the time embedding.
const LONGEST_PERIOD: f64 = 10_000.0;

/// End of the name of the map of augmentations.
pub const AUGMENTATION_MAP: &str = "map_augment.weight";

/// The embedding of time and condition as one vector, `[B, 4 channels]`.
struct Embedding {
    layers: [Linear; 2],
    /// One row for each class or coordinate of the condition, `[c, 4 channels]`.
    condition: Option<Tensor>,
    /// Rows `[n, 4 channels]` for further numbers after those of the condition, which may be left out: see
    /// [`UNetEncoder::tell_direction`] and [`UNet::tell_augmentation`].
    further: Option<Tensor>,
    /// Frequencies of the sinusoids, `[channels / 2]`.
    frequencies: Tensor,
    odd: bool,
}

impl Embedding {
    fn new(
        prefix: &str,
        config: &UNetConfig,
        conditioning: Conditioning,
        build: &mut Builder,
    ) -> Result<Self> {
        let (kind, device) = (build.parameters.kind(), build.parameters.device());
        let size = config.embedding_size();
        let layers = [
            build.linear(&format!("{prefix}time_embed.0"), config.channels, size)?,
            build.linear(&format!("{prefix}time_embed.2"), size, size)?,
        ];
        let condition = match conditioning.size() {
            0 => None,
            count => {
                let initial = build.random.normal(&[count, size], kind, device)?;
                Some(build.parameters.add(format!("{prefix}label_emb.weight"), initial))
            }
        };
        let half = config.channels / 2;
        let exponents =
            Tensor::f_arange(half, (Kind::Double, device))? * (-LONGEST_PERIOD.ln() / half as f64);
        let frequencies = (exponents.exp() * config.time_scale).to_kind(kind);
        let odd = config.channels % 2 == 1;
        Ok(Embedding { layers, condition, further: None, frequencies, odd })
    }

    /// The embedding of times `[B]` and a condition encoded as numbers, `[B, c]`.
    fn apply<S: Signal + Sinusoids>(&self, t: &S, condition: Option<&Tensor>) -> S {
        let waves = t.sinusoids(&self.frequencies);
        let waves = if self.odd { waves.map(|x| x.constant_pad_nd([0, 1])) } else { waves };
        let embedded = self.layers[1].apply(&self.layers[0].apply(&waves).silu());
        let rows: Vec<&Tensor> = self.condition.iter().chain(&self.further).collect();
        match condition.filter(|_| !rows.is_empty()) {
            Some(condition) => {
                let (rows, told) = (Tensor::cat(&rows, 0), condition.size()[1]);
                let rows = if told < rows.size()[0] { rows.narrow(0, 0, told) } else { rows };
                embedded.add(&S::constant(condition.matmul(&rows)))
            }
            None => embedded,
        }
    }
}

shared!(Embedding { layers, condition, further, frequencies; odd });

/// The sinusoidal features [cos(w t), sin(w t)] of times `[B]`.
pub trait Sinusoids {
    fn sinusoids(&self, frequencies: &Tensor) -> Self;
}

impl Sinusoids for Tensor {
    fn sinusoids(&self, frequencies: &Tensor) -> Self {
        let phase = self.unsqueeze(1) * frequencies;
        Tensor::cat(&[phase.cos(), phase.sin()], 1)
    }
}

impl Sinusoids for Dual {
    fn sinusoids(&self, frequencies: &Tensor) -> Self {
        let phase = self.primal.unsqueeze(1) * frequencies;
        let rate = self.tangent.unsqueeze(1) * frequencies;
        let (cosine, sine) = (phase.cos(), phase.sin());
        let tangent = Tensor::cat(&[-(&sine * &rate), &cosine * &rate], 1);
        Dual::new(Tensor::cat(&[cosine, sine], 1), tangent)
    }
}

/// The encoder, including the middle block: a map from (t, x) to features at every level.
pub struct UNetEncoder {
    embedding: Embedding,
    input: Vec<Stage>,
    middle: Stage,
}

/// The number of channels and the downsampling factor of each feature map of the encoder: first those of the skip
/// connections, from the full resolution to the lowest, then that of the middle block.
pub fn feature_maps(config: &UNetConfig) -> Vec<(i64, i64)> {
    let mut maps = vec![(config.level_channels(0), 1)];
    for level in 0..config.levels() {
        let (channels, factor) = (config.level_channels(level), 1 << level);
        maps.extend((0..config.blocks).map(|_| (channels, factor)));
        if level + 1 < config.levels() {
            maps.push((channels, 2 * factor));
        }
    }
    maps.push((config.level_channels(config.levels() - 1), 1 << (config.levels() - 1)));
    maps
}

impl UNetEncoder {
    /// Builds an encoder of images with `inputs` channels, and registers its parameters with the prefix `prefix`.
    pub fn new(
        prefix: &str,
        config: &UNetConfig,
        inputs: i64,
        conditioning: Conditioning,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let build = &mut Builder { parameters, random };
        let embedding = Embedding::new(prefix, config, conditioning, build)?;
        let mut channels = config.level_channels(0);
        let name = |index: usize, layer: usize| format!("{prefix}input_blocks.{index}.{layer}");
        let first = Convolution::new(&name(0, 0), (inputs, channels), 3, 1, Initial::Usual, build)?;
        let mut input = vec![Stage(vec![Layer::Convolution(first)])];
        for level in 0..config.levels() {
            for _ in 0..config.blocks {
                let (index, outputs) = (input.len(), config.level_channels(level));
                let sizes = (channels, outputs);
                let mut layers = vec![Layer::Residual(ResidualBlock::new(
                    &name(index, 0),
                    sizes,
                    Resampling::Keep,
                    config,
                    build,
                )?)];
                channels = outputs;
                if config.attends(level) {
                    layers.push(Layer::Attention(AttentionBlock::new(
                        &name(index, 1),
                        channels,
                        config,
                        build,
                    )?));
                }
                input.push(Stage(layers));
            }
            if level + 1 < config.levels() {
                let (name, sizes) = (name(input.len(), 0), (channels, channels));
                input.push(Stage(vec![match config.residual_resampling {
                    true => {
                        Layer::Residual(ResidualBlock::new(&name, sizes, Resampling::Down, config, build)?)
                    }
                    false => {
                        let name = format!("{name}.op");
                        Layer::Convolution(Convolution::new(&name, sizes, 3, 2, Initial::Usual, build)?)
                    }
                }]));
            }
        }
        let sizes = (channels, channels);
        let name = |layer: usize| format!("{prefix}middle_block.{layer}");
        let middle = Stage(vec![
            Layer::Residual(ResidualBlock::new(&name(0), sizes, Resampling::Keep, config, build)?),
            Layer::Attention(AttentionBlock::new(&name(1), channels, config, build)?),
            Layer::Residual(ResidualBlock::new(&name(2), sizes, Resampling::Keep, config, build)?),
        ]);
        Ok(UNetEncoder { embedding, input, middle })
    }

    /// Adds the direction of time as one more number of the condition. Its row of weights starts at zero.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn tell_direction(
        &mut self,
        prefix: &str,
        config: &UNetConfig,
        parameters: &mut Parameters,
    ) -> Result<()> {
        let row = Tensor::f_zeros([1, config.embedding_size()], (parameters.kind(), parameters.device()))?;
        self.embedding.further = Some(parameters.add(format!("{prefix}direction"), row));
        Ok(())
    }

    fn features<S: Signal>(&self, x: &S, embedding: &S) -> Vec<S> {
        let mut maps: Vec<S> = Vec::with_capacity(self.input.len() + 1);
        for stage in &self.input {
            let next = stage.apply(maps.last().unwrap_or(x), embedding);
            maps.push(next);
        }
        let middle = self.middle.apply(maps.last().unwrap_or(x), embedding);
        maps.push(middle);
        maps
    }

    /// Features of images `[B, C, H, W]` at times `[B]`, in the order of [`feature_maps`].
    pub fn apply<S: Signal + Sinusoids>(&self, t: &S, x: &S, condition: Option<&Tensor>) -> Vec<S> {
        self.features(&lower(x), &self.embedding.apply(t, condition))
    }
}

shared!(UNetEncoder { embedding, input, middle });

/// The layers of the decoder: a map from features and an embedding to an image.
struct Ascent {
    output: Vec<Stage>,
    norm: GroupNorm,
    last: Convolution,
}

impl Ascent {
    fn new(prefix: &str, config: &UNetConfig, outputs: i64, build: &mut Builder) -> Result<Self> {
        let mut maps = feature_maps(config);
        let mut channels = maps.pop().map_or(0, |(channels, _)| channels);
        let mut output: Vec<Stage> = Vec::new();
        for level in (0..config.levels()).rev() {
            for block in 0..=config.blocks {
                let joined = maps.pop().map_or(0, |(channels, _)| channels);
                let index = output.len();
                let name = |layer: usize| format!("{prefix}output_blocks.{index}.{layer}");
                let sizes = (channels + joined, config.level_channels(level));
                let mut layers = vec![Layer::Residual(ResidualBlock::new(
                    &name(0),
                    sizes,
                    Resampling::Keep,
                    config,
                    build,
                )?)];
                channels = sizes.1;
                if config.attends(level) {
                    let block = AttentionBlock::new(&name(layers.len()), channels, config, build)?;
                    layers.push(Layer::Attention(block));
                }
                if level > 0 && block == config.blocks {
                    let (name, sizes) = (name(layers.len()), (channels, channels));
                    layers.push(match config.residual_resampling {
                        true => {
                            Layer::Residual(ResidualBlock::new(&name, sizes, Resampling::Up, config, build)?)
                        }
                        false => {
                            let name = format!("{name}.conv");
                            Layer::Upsample(Convolution::new(&name, sizes, 3, 1, Initial::Usual, build)?)
                        }
                    });
                }
                output.push(Stage(layers));
            }
        }
        let norm = GroupNorm::new(&format!("{prefix}out.0"), channels, config, build)?;
        let last =
            Convolution::new(&format!("{prefix}out.2"), (channels, outputs), 3, 1, Initial::Zero, build)?;
        Ok(Ascent { output, norm, last })
    }

    /// Decodes feature maps in the order of [`feature_maps`], the last of which is that of the middle block.
    fn image<S: Signal>(&self, maps: &[S], embedding: &S) -> S {
        let (skips, middle) = maps.split_at(maps.len() - 1);
        let start = middle[0].map(Tensor::shallow_clone);
        let hidden = self
            .output
            .iter()
            .zip(skips.iter().rev())
            .fold(start, |hidden, (stage, skip)| stage.apply(&hidden.join(skip), embedding));
        self.last.apply(&self.norm.activate(&hidden))
    }
}

shared!(Ascent { output, norm, last });

/// A decoder with its own embedding, without an encoder.
pub struct UNetDecoder {
    embedding: Embedding,
    ascent: Ascent,
}

impl UNetDecoder {
    /// Builds a decoder to images with `outputs` channels, and registers its parameters with the prefix `prefix`.
    pub fn new(
        prefix: &str,
        config: &UNetConfig,
        outputs: i64,
        conditioning: Conditioning,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let build = &mut Builder { parameters, random };
        let embedding = Embedding::new(prefix, config, conditioning, build)?;
        Ok(UNetDecoder { embedding, ascent: Ascent::new(prefix, config, outputs, build)? })
    }

    /// Decodes feature maps in the order of [`feature_maps`] at times `[B]` to an image `[B, outputs, H, W]`.
    pub fn apply<S: Signal + Sinusoids>(&self, t: &S, maps: &[S], condition: Option<&Tensor>) -> S {
        let kind = t.primal().kind();
        let maps: Vec<S> = maps.iter().map(lower).collect();
        let image = self.ascent.image(&maps, &self.embedding.apply(t, condition));
        image.map(|x| x.to_kind(kind))
    }
}

shared!(UNetDecoder { embedding, ascent });

/// A U-Net from (t `[B]`, x `[B, inputs, H, W]`) to `[B, outputs, H, W]`.
pub struct UNet {
    encoder: UNetEncoder,
    ascent: Ascent,
}

impl UNet {
    /// Builds a U-Net and registers its parameters with the prefix `prefix` and the names of torchcfm.
    pub fn new(
        prefix: &str,
        config: &UNetConfig,
        (inputs, outputs): (i64, i64),
        conditioning: Conditioning,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let encoder = UNetEncoder::new(prefix, config, inputs, conditioning, parameters, random)?;
        let build = &mut Builder { parameters, random };
        Ok(UNet { encoder, ascent: Ascent::new(prefix, config, outputs, build)? })
    }

    /// Computes a value, or a value and its tangent, in one pass.
    pub fn apply<S: Signal + Sinusoids>(&self, t: &S, x: &S, condition: Option<&Tensor>) -> S {
        let kind = x.primal().kind();
        let embedding = self.encoder.embedding.apply(t, condition);
        let maps = self.encoder.features(&lower(x), &embedding);
        self.ascent.image(&maps, &embedding).map(|x| x.to_kind(kind))
    }
}

impl UNet {
    /// The same as [`UNetEncoder::tell_direction`].
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn tell_direction(
        &mut self,
        prefix: &str,
        config: &UNetConfig,
        parameters: &mut Parameters,
    ) -> Result<()> {
        self.encoder.tell_direction(prefix, config, parameters)
    }

    /// Adds `count` numbers of an augmentation after those of the condition, by a linear map without a bias that is
    /// added to the embedding of time (Karras et al., arXiv 2206.00364, appendix F.2). It starts at zero. Without these
    /// numbers, or with zeros, the network is as if it had no such map.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn tell_augmentation(
        &mut self,
        prefix: &str,
        config: &UNetConfig,
        count: i64,
        parameters: &mut Parameters,
    ) -> Result<()> {
        let options = (parameters.kind(), parameters.device());
        let rows = Tensor::f_zeros([count, config.embedding_size()], options)?;
        self.encoder.embedding.further = Some(parameters.add(format!("{prefix}{AUGMENTATION_MAP}"), rows));
        Ok(())
    }

    /// The encoder's features of images `[B, C, H, W]` at times `[B]`, in the order of [`feature_maps`].
    pub fn feature_maps(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Vec<Tensor> {
        self.encoder.apply(t, x, condition)
    }
}

shared!(UNet { encoder, ascent });

/// Converts `x` to the dtype that products are lowered to and, on CUDA, to channels last in memory, which tensor cores
/// need. On a CPU, images in single precision get channels last, because oneDNN's convolutions then take a sixth to a
/// half less time (`experiments.benches.unet_speed`).
fn lower<S: Signal>(x: &S) -> S {
    match precision::lowered() {
        None if fusible(x.primal()) => x.map(channels_last),
        None => x.map(Tensor::shallow_clone),
        Some(kind) => x.map(|x| {
            let x = x.to_kind(kind);
            match x.device().is_cuda() {
                true => channels_last(&x),
                false => x,
            }
        }),
    }
}
