//! The observables phi(t, x): a basis over [`InputCoordinates`], in a fixed or a moving frame, as it is or
//! linearly mixed.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Blocks, InputCoordinates, Observables, StudentConfig};
use crate::error::Result;
use crate::nets::{Dual, FourierFeatures, Mlp, MlpConfig, Network, Parameters, Polynomial};
use crate::tensor::RandomSource;

/// What observables are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A perceptron with a linear skip.
    #[default]
    Network,
    /// Random cosines.
    Fourier,
    /// Monomials of t and of x in the data's principal axes; `degree` decides how many.
    Polynomial,
}

/// What the basis is of: the features themselves, or the features as they were at time 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    /// phi(t, x) = h(t, x).
    #[default]
    Fixed,
    /// phi(t, x) = h(t, x) e^{t Λ}. An eigenfunction of a flow is e^{lambda t} times a constant of motion, so
    /// that h has no rotation to learn, only what does not change along a path. In a fixed frame the network
    /// has to make the product itself, and follows the generator half as well (docs/distillation.md).
    Moving,
}

/// A closed set of networks, because handles are cloned.
enum Functions {
    Network(Mlp),
    Fourier(FourierFeatures),
    Polynomial(Polynomial),
}

impl Functions {
    fn new(
        name: &str,
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let (inputs, outputs) = (config.inputs(), config.basis_size());
        Ok(match config.basis {
            Basis::Network => {
                let (width, depth) = (config.width, config.depth);
                let network = MlpConfig { inputs, outputs, width, depth, skip: true };
                Functions::Network(Mlp::new(name, &network, parameters, random)?)
            }
            Basis::Fourier => {
                Functions::Fourier(FourierFeatures::new(name, inputs, outputs, parameters, random)?)
            }
            Basis::Polynomial => {
                // The raw half of the coordinates: standardised ones are no polynomials of (t, x).
                let (dimension, extra) = (config.dimension(), config.conditioning.size());
                let variables: Vec<i64> =
                    (0..=dimension).chain(1 + 2 * dimension..1 + 2 * dimension + extra).collect();
                Functions::Polynomial(Polynomial::new(&variables, extra, config.degree, parameters.device()))
            }
        })
    }

    fn network(&self) -> &dyn Network {
        match self {
            Functions::Network(network) => network,
            Functions::Fourier(network) => network,
            Functions::Polynomial(network) => network,
        }
    }

    fn shallow_clone(&self) -> Self {
        match self {
            Functions::Network(network) => Functions::Network(network.shallow_clone()),
            Functions::Fourier(network) => Functions::Fourier(network.shallow_clone()),
            Functions::Polynomial(network) => Functions::Polynomial(network.shallow_clone()),
        }
    }
}

pub struct Lift {
    functions: Functions,
    /// Λ of a moving frame.
    frame: Option<Blocks>,
    /// phi = [1, t, x, functions] · mixing, `[2 + d + basis, k]`.
    mixing: Option<Tensor>,
}

impl Lift {
    /// Registers its parameters under `name`; `mixing` is shared by the lifts of a student.
    pub fn new(
        name: &str,
        config: &StudentConfig,
        mixing: Option<&Tensor>,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let functions = Functions::new(name, config, parameters, random)?;
        Ok(Lift { functions, frame: None, mixing: mixing.map(Tensor::shallow_clone) })
    }

    /// Multiplies the basis by e^{t Λ}.
    pub fn set_frame(&mut self, frame: Option<Blocks>) {
        self.frame = frame;
    }

    /// Observables at (t, x); `condition` is `[B, c]`, already encoded as numbers.
    pub fn encode(
        &self,
        coordinates: &InputCoordinates,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Observables {
        let mut input = coordinates.forward(t, x);
        if let Some(condition) = condition {
            input = Tensor::cat(&[&input, condition], 1);
        }
        let mut features = self.functions.network().forward(&input);
        if let Some(frame) = &self.frame {
            features = frame.propagate(&features, t);
        }
        let mut g = Observables { t: t.shallow_clone(), x: x.shallow_clone(), features };
        if let Some(mixing) = &self.mixing {
            g.features = g.assemble().matmul(mixing);
        }
        g
    }

    /// Observables at (t, x) and J phi · (1, velocity): the left-hand side of dg/dt = g L.
    pub fn encode_with_tangent(
        &self,
        coordinates: &InputCoordinates,
        t: &Tensor,
        x: &Tensor,
        velocity: &Tensor,
        condition: Option<&Tensor>,
    ) -> (Observables, Tensor) {
        let time = Dual::new(t.shallow_clone(), t.ones_like());
        let state = Dual::new(x.shallow_clone(), velocity.shallow_clone());
        let mut input = coordinates.forward_with_tangent(&time, &state);
        if let Some(condition) = condition {
            input = Dual::cat(&[input, Dual::new(condition.shallow_clone(), condition.zeros_like())]);
        }
        let Dual { mut primal, mut tangent } = self.functions.network().forward_with_tangent(&input);
        if let Some(frame) = &self.frame {
            // (h e^{tΛ})' = h' e^{tΛ} + h e^{tΛ} Λ
            primal = frame.propagate(&primal, t);
            tangent = frame.propagate(&tangent, t) + frame.rate(&primal);
        }
        let mut g = Observables { t: t.shallow_clone(), x: x.shallow_clone(), features: primal };
        if let Some(mixing) = &self.mixing {
            let ones = t.ones_like().unsqueeze(1);
            let rate = Tensor::cat(&[&ones.zeros_like(), &ones, velocity, &tangent], 1);
            g.features = g.assemble().matmul(mixing);
            tangent = rate.matmul(mixing);
        }
        (g, tangent)
    }

    pub fn shallow_clone(&self) -> Self {
        Lift {
            functions: self.functions.shallow_clone(),
            frame: self.frame.as_ref().map(Blocks::shallow_clone),
            mixing: self.mixing.as_ref().map(Tensor::shallow_clone),
        }
    }
}
