//! The generator of a hierarchical student: one Λ for every feature map of a U-Net, acting on its channels
//! and shared by its pixels (as the block-diagonal operators of Hierarchical Koopman Diffusion, arXiv
//! 2510.12220), or a separate Λ for each pixel. The state is not among the observables: a decoder computes
//! it.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::koopman::{Blocks, Observables, StudentConfig};
use crate::nets::Parameters;
use crate::tensor::{shared, RandomSource};

/// A feature map of `channels` x `pixels` values, flattened with its pixels innermost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureMap {
    pub channels: i64,
    pub height: i64,
    pub width: i64,
}

impl FeatureMap {
    pub fn pixels(&self) -> i64 {
        self.height * self.width
    }

    pub fn size(&self) -> i64 {
        self.channels * self.pixels()
    }
}

/// Λ of all feature maps, side by side.
#[derive(Debug)]
pub struct LevelBlocks {
    /// Blocks of each map, and the number of pixels that share them.
    maps: Vec<(Blocks, i64)>,
}

impl LevelBlocks {
    /// Registers `<name>.<map>.growth` and `.frequency`.
    pub fn new(
        name: &str,
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let mut maps = Vec::new();
        for (index, map) in config.feature_maps().iter().enumerate() {
            let (features, shared) = match config.per_pixel {
                true => (map.size(), 1),
                false => (map.channels, map.pixels()),
            };
            maps.push((Blocks::new(&format!("{name}.{index}"), features, None, parameters, random)?, shared));
        }
        Ok(LevelBlocks { maps })
    }

    /// The blocks of each map and the number of pixels that share them.
    pub fn maps(&self) -> impl Iterator<Item = (&Blocks, i64)> {
        self.maps.iter().map(|(blocks, shared)| (blocks, *shared))
    }

    /// Applies `act` to the index, the blocks and the features `[B, features, shared]` of each map, and
    /// concatenates the results: `[B, k]`.
    fn each(&self, features: &Tensor, act: impl Fn(usize, &Blocks, &Tensor) -> Tensor) -> Tensor {
        let batch = features.size()[0];
        let sizes = |(blocks, shared): &(Blocks, i64)| blocks.features() * shared;
        let lengths: Vec<i64> = self.maps.iter().map(sizes).collect();
        let parts = features.split_with_sizes(&lengths, 1);
        let moved: Vec<Tensor> = parts
            .iter()
            .zip(&self.maps)
            .enumerate()
            .map(|(place, (part, (blocks, shared)))| {
                act(place, blocks, &part.view([batch, blocks.features(), *shared])).reshape([batch, -1])
            })
            .collect();
        Tensor::cat(&moved, 1)
    }

    /// phi e^{tau Λ}, `[B, k]`, for tau `[B]`, or `[1]` for all samples.
    pub fn propagate(&self, features: &Tensor, tau: &Tensor) -> Tensor {
        self.each(features, |_, blocks, part| blocks.propagate(part, tau))
    }

    /// phi Λ, `[B, k]`.
    pub fn rate(&self, features: &Tensor) -> Tensor {
        self.each(features, |_, blocks, part| blocks.rate(part))
    }

    /// Multiplies each eigenfunction by a number that all pixels share: `[B, k]`. `factors` holds real and
    /// imaginary parts `[2, r]` for each map, for one of each pair and then for the real ones, whose
    /// imaginary parts are ignored.
    pub fn multiply(&self, features: &Tensor, factors: &[Tensor]) -> Tensor {
        self.each(features, |place, blocks, part| blocks.multiply(part, &factors[place]))
    }

    pub fn shallow_clone(&self) -> Self {
        LevelBlocks {
            maps: self.maps.iter().map(|(blocks, shared)| (blocks.shallow_clone(), *shared)).collect(),
        }
    }
}

#[derive(Debug)]
pub struct LevelGenerator {
    blocks: LevelBlocks,
    options: (Kind, Device),
}

impl LevelGenerator {
    pub fn new(
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let options = (parameters.kind(), parameters.device());
        Ok(LevelGenerator { blocks: LevelBlocks::new("generator", config, parameters, random)?, options })
    }

    pub fn options(&self) -> (Kind, Device) {
        self.options
    }

    pub fn blocks(&self) -> &LevelBlocks {
        &self.blocks
    }

    /// Growth rate of every block, differentiable.
    pub fn growth(&self) -> Tensor {
        Tensor::cat(&self.blocks.maps().map(|(blocks, _)| blocks.growth()).collect::<Vec<_>>(), 0)
    }

    pub fn propagate(&self, g: &Observables, tau: &Tensor) -> Observables {
        Observables {
            t: &g.t + tau,
            x: g.x.shallow_clone(),
            features: self.blocks.propagate(&g.features, tau),
        }
    }

    pub fn rate(&self, g: &Observables) -> (Tensor, Tensor) {
        (g.x.shallow_clone(), self.blocks.rate(&g.features))
    }

    /// Λ in float64 on the CPU, without a graph.
    pub fn in_double(&self) -> LevelBlocks {
        let convert = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double);
        LevelBlocks {
            maps: self.blocks.maps().map(|(blocks, shared)| (blocks.map(convert), shared)).collect(),
        }
    }

    /// The number of features.
    fn features(&self) -> i64 {
        self.blocks.maps().map(|(blocks, shared)| blocks.features() * shared).sum()
    }

    /// A matrix over [1, t, phi]. It has `block` for phi, `diagonal` for the constant and time, and `time` as
    /// the entry from the constant to time.
    fn assemble(&self, time: f64, diagonal: f64, block: &Tensor) -> Tensor {
        let m = 2 + self.features();
        let matrix = Tensor::zeros([m, m], (Kind::Double, Device::Cpu));
        let _ = matrix.narrow(0, 0, 2).narrow(1, 0, 2).diagonal(0, 0, 1).fill_(diagonal);
        let _ = matrix.select(0, 0).select(0, 1).fill_(time);
        matrix.narrow(0, 2, m - 2).narrow(1, 2, m - 2).copy_(block);
        matrix
    }

    /// L, `[m, m]`, float64 on the CPU. Its size is the square of the number of features.
    pub fn matrix(&self) -> Tensor {
        let unit = Tensor::eye(self.features(), (Kind::Double, Device::Cpu));
        self.assemble(1.0, 0.0, &self.in_double().rate(&unit))
    }

    /// exp(tau L), `[m, m]`, float64 on the CPU.
    pub fn exponential(&self, tau: f64) -> Tensor {
        let unit = Tensor::eye(self.features(), (Kind::Double, Device::Cpu));
        self.assemble(tau, 1.0, &self.in_double().propagate(&unit, &Tensor::from_slice(&[tau])))
    }

    /// Eigenvalues `[m, 2]`: two zeros for the constant and time, and each eigenvalue of a map as often as
    /// pixels share it.
    pub fn eigenvalues(&self) -> Tensor {
        let exact = self.in_double();
        let still = Tensor::zeros([2, 2], (Kind::Double, Device::Cpu));
        let maps = exact.maps().map(|(blocks, shared)| blocks.eigenvalues().repeat([shared, 1]));
        Tensor::cat(&std::iter::once(still).chain(maps).collect::<Vec<_>>(), 0)
    }
}

shared!(LevelGenerator { blocks; options });
