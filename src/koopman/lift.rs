//! The learned observables phi(t, x): a perceptron with a linear skip over [`InputCoordinates`].

use tch::Tensor;

use super::{InputCoordinates, Observables};
use crate::error::Result;
use crate::nets::{Dual, Mlp, MlpConfig, Network, Parameters};
use crate::tensor::RandomSource;

pub struct Lift {
    network: Mlp,
}

impl Lift {
    /// Registers its parameters under `name`.
    pub fn new(
        name: &str,
        config: &MlpConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        Ok(Lift { network: Mlp::new(name, config, parameters, random)? })
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
        Observables { t: t.shallow_clone(), x: x.shallow_clone(), features: self.network.forward(&input) }
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
        let features = self.network.forward_with_tangent(&input);
        let observables =
            Observables { t: t.shallow_clone(), x: x.shallow_clone(), features: features.primal };
        (observables, features.tangent)
    }

    pub fn shallow_clone(&self) -> Self {
        Lift { network: self.network.shallow_clone() }
    }
}
