//! The parametrisations of L behind one interface.

mod blocks;
mod dense;
mod eigen;
mod fused;
mod levels;
mod spectral;
mod stability;
mod taylor;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::koopman::{Observables, Propagator, StudentConfig};
use crate::nets::Parameters;
use crate::tensor::RandomSource;

pub(in crate::koopman) use blocks::GROWTH_BOUND;
pub use blocks::{exponential_integral, Blocks};
pub use dense::DenseGenerator;
pub use eigen::Eigenvectors;
pub(in crate::koopman) use eigen::RealEigenvectors;
pub use levels::{FeatureMap, LevelBlocks, LevelGenerator};
pub use spectral::SpectralGenerator;
use stability::Columns;
pub use stability::Stability;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum GeneratorKind {
    /// 2x2 and 1x1 blocks with a linear readout: elementwise exponentials.
    #[default]
    Spectral,
    /// A full matrix, as in the paper, exact in the constant and time coordinates.
    Dense,
    /// Blocks of every feature map of a U-Net, for students whose readout is a decoder.
    Levels,
}

impl GeneratorKind {
    /// The name in options and messages.
    pub fn name(self) -> &'static str {
        match self {
            GeneratorKind::Spectral => "spectral",
            GeneratorKind::Dense => "dense",
            GeneratorKind::Levels => "levels",
        }
    }
}

#[derive(Debug)]
pub enum Generator {
    Spectral(SpectralGenerator),
    Dense(DenseGenerator),
    Levels(LevelGenerator),
}

impl Generator {
    pub fn new(
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        Ok(match config.generator {
            GeneratorKind::Spectral => {
                Generator::Spectral(SpectralGenerator::new(config, parameters, random)?)
            }
            GeneratorKind::Dense => Generator::Dense(DenseGenerator::new(config, parameters, random)?),
            GeneratorKind::Levels => Generator::Levels(LevelGenerator::new(config, parameters, random)?),
        })
    }

    /// Kind and device of the parameters.
    pub fn options(&self) -> (Kind, Device) {
        match self {
            Generator::Spectral(generator) => generator.options(),
            Generator::Dense(generator) => generator.options(),
            Generator::Levels(generator) => generator.options(),
        }
    }

    /// L as a float64 matrix `[m, m]` on the CPU, dg/dt = g L.
    pub fn matrix(&self) -> Tensor {
        match self {
            Generator::Spectral(generator) => generator.matrix(),
            Generator::Dense(generator) => generator.matrix(),
            Generator::Levels(generator) => generator.matrix(),
        }
    }

    /// The features of g exp(tau L), with one tau per sample.
    ///
    /// # Errors
    /// [`crate::Error::Divergence`] if a dense generator is too large for its exponential to be computed.
    pub fn propagate_features(&self, g: &Observables, tau: &Tensor) -> Result<Tensor> {
        match self {
            Generator::Spectral(generator) => Ok(generator.propagate_features(&g.features, tau)),
            Generator::Dense(generator) => Ok(generator.propagate(g, tau)?.features),
            Generator::Levels(generator) => Ok(generator.blocks().propagate(&g.features, tau)),
        }
    }

    /// Whether propagating the state requires propagating all of g.
    pub fn carries_all(&self) -> bool {
        matches!(self, Generator::Dense(_))
    }

    /// The state and feature columns of g L: (dx/dt `[B, d]`, dphi/dt `[B, k]`).
    pub fn rate(&self, g: &Observables) -> (Tensor, Tensor) {
        match self {
            Generator::Spectral(generator) => generator.rate(g),
            Generator::Dense(generator) => generator.rate(g),
            Generator::Levels(generator) => generator.rate(g),
        }
    }

    /// The feature columns of g L, `[B, k]`, in float64, since the residual of a good student is below the
    /// rounding error of float32. L is formed only if it is dense.
    pub fn feature_rate(&self, g: &Observables) -> Tensor {
        let features = g.features.to_kind(Kind::Double);
        match self {
            Generator::Spectral(generator) => generator.blocks().rate(&features),
            Generator::Levels(generator) => generator.blocks().rate(&features),
            Generator::Dense(generator) => {
                let (matrix, k) = (generator.matrix().to_device(features.device()), features.size()[1]);
                let columns = matrix.narrow(1, matrix.size()[1] - k, k);
                g.assemble().to_kind(Kind::Double).matmul(&columns)
            }
        }
    }

    /// g exp(tau L) with one tau per sample, `[B]`; differentiable in everything.
    pub fn propagate(&self, g: &Observables, tau: &Tensor) -> Result<Observables> {
        match self {
            Generator::Spectral(generator) => Ok(generator.propagate(g, tau)),
            Generator::Dense(generator) => generator.propagate(g, tau),
            Generator::Levels(generator) => Ok(generator.propagate(g, tau)),
        }
    }

    /// x(t + tau) with one tau per sample: `[B, d]`. The spectral form does not compute phi(t + tau) for it.
    pub fn propagate_state(&self, g: &Observables, tau: &Tensor) -> Result<Tensor> {
        match self {
            Generator::Spectral(generator) => Ok(generator.propagate_state(g, tau)),
            Generator::Dense(generator) => Ok(generator.propagate(g, tau)?.x),
            Generator::Levels(_) => Err(no_state()),
        }
    }

    /// exp(tau L): `[m, m]`, float64 on the CPU.
    pub fn exponential(&self, tau: f64) -> Result<Tensor> {
        match self {
            Generator::Spectral(generator) => generator.exponential(tau),
            Generator::Dense(generator) => generator.exponential(tau),
            Generator::Levels(generator) => Ok(generator.exponential(tau)),
        }
    }

    /// The state's columns of exp(tau L), computed in float64.
    pub fn propagator(&self, tau: f64) -> Result<Propagator> {
        match self {
            Generator::Spectral(generator) => generator.propagator(tau),
            Generator::Dense(generator) => generator.propagator(tau),
            Generator::Levels(_) => Err(no_state()),
        }
    }

    /// Eigenvalues of L as (real, imaginary) rows, `[m, 2]`, float64, conjugate pairs side by side.
    pub fn eigenvalues(&self) -> Result<Tensor> {
        match self {
            Generator::Spectral(generator) => Ok(generator.eigenvalues()),
            Generator::Dense(generator) => Ok(generator.matrix().f_linalg_eigvals()?.f_view_as_real()?),
            Generator::Levels(generator) => Ok(generator.eigenvalues()),
        }
    }

    pub fn shallow_clone(&self) -> Self {
        match self {
            Generator::Spectral(generator) => Generator::Spectral(generator.shallow_clone()),
            Generator::Dense(generator) => Generator::Dense(generator.shallow_clone()),
            Generator::Levels(generator) => Generator::Levels(generator.shallow_clone()),
        }
    }
}

/// Not reached: configurations combine this generator with a decoder, which does not use the state.
fn no_state() -> Error {
    Error::Internal(anyhow::anyhow!("the state is not among the observables of a hierarchical student"))
}
