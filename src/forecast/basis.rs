//! The basis: the nonlinear observables psi of a standardised state.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::ForecasterConfig;
use crate::error::{Error, Result};
use crate::nets::{
    monomial_count, Dual, FourierFeatures, KernelFeatures, Mlp, MlpConfig, Network, Parameters, Polynomial,
};
use crate::tensor::{RandomSource, Share};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum BasisKind {
    /// Cosines with random frequencies.
    #[default]
    Fourier,
    /// Monomials.
    Polynomial,
    /// Gaussians centred at points of the data.
    Kernel,
    /// A perceptron, trained by gradient descent.
    Network,
}

/// The map psi from `[B, inputs]` to `[B, k]`.
pub enum Basis {
    Fourier(FourierFeatures),
    Polynomial(Polynomial),
    Kernel(KernelFeatures),
    Network(Mlp),
    /// No nonlinear observables: polynomials of degree 1, or `observables = 0`.
    None,
}

/// Candidate ranges for the lengths of Fourier frequencies.
pub const FOURIER_LENGTHS: [(f64, f64); 5] = [(0.15, 0.5), (0.3, 0.7), (0.5, 2.0), (0.5, 5.0), (1.5, 5.0)];
/// Candidate lengths of the kernel, in units of the median distance of the data.
pub const KERNEL_LENGTHS: [(f64, f64); 4] = [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0), (4.0, 4.0)];

/// The number of monomials of degree 2 to `degree` in `inputs` variables.
///
/// # Errors
/// [`Error::Argument`] naming `degree` if there are more than `most`.
pub fn polynomial_count(inputs: i64, degree: i64, most: i64) -> Result<i64> {
    monomial_count(inputs, 0, degree).filter(|count| *count <= most).ok_or_else(|| {
        let expected = format!("a degree with at most {most} monomials");
        Error::argument("degree", expected, format!("{degree} in {inputs} variables"))
    })
}

impl Basis {
    /// Builds the basis of `config` with `count` functions psi. The parameters of a kernel are zeros.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn new(
        config: &ForecasterConfig,
        inputs: i64,
        count: i64,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        if count == 0 {
            return Ok(Basis::None);
        }
        Ok(match config.basis {
            BasisKind::Fourier => {
                let lengths = config.lengths.unwrap_or(FOURIER_LENGTHS[2]);
                let features =
                    FourierFeatures::with_lengths("basis", lengths, inputs, count, parameters, random)?;
                Basis::Fourier(features)
            }
            BasisKind::Polynomial => {
                let variables: Vec<i64> = (0..inputs).collect();
                Basis::Polynomial(Polynomial::new(&variables, 0, config.degree, parameters.device()))
            }
            BasisKind::Kernel => Basis::Kernel(KernelFeatures::empty("basis", inputs, count, parameters)),
            BasisKind::Network => {
                let (width, depth) = (config.width, config.depth);
                let shape = MlpConfig { inputs, outputs: count, width, depth, skip: false };
                Basis::Network(Mlp::new("basis", &shape, parameters, random)?)
            }
        })
    }

    /// A kernel basis centred at points `[k, inputs]` of standardised data.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn kernel(centres: &Tensor, length: f64, parameters: &mut Parameters) -> Result<Self> {
        Ok(Basis::Kernel(KernelFeatures::new("basis", centres, length, parameters)?))
    }

    fn network(&self) -> Option<&dyn Network> {
        match self {
            Basis::Fourier(own) => Some(own),
            Basis::Polynomial(own) => Some(own),
            Basis::Kernel(own) => Some(own),
            Basis::Network(own) => Some(own),
            Basis::None => None,
        }
    }

    /// psi(z), `[B, k]`; `None` if there are no functions.
    pub fn forward(&self, z: &Tensor) -> Option<Tensor> {
        self.network().map(|network| network.forward(z))
    }

    pub fn forward_with_tangent(&self, z: &Dual) -> Option<Dual> {
        self.network().map(|network| network.forward_with_tangent(z))
    }
}

impl Share for Basis {
    fn shallow_clone(&self) -> Self {
        match self {
            Basis::Fourier(own) => Basis::Fourier(own.shallow_clone()),
            Basis::Polynomial(own) => Basis::Polynomial(own.shallow_clone()),
            Basis::Kernel(own) => Basis::Kernel(own.shallow_clone()),
            Basis::Network(own) => Basis::Network(own.shallow_clone()),
            Basis::None => Basis::None,
        }
    }
}
