//! exp(tau L) applied to the readout columns only: what sampling needs, and no more.

use tch::{Device, Kind, Tensor};

use super::Observables;
use crate::tensor::shared;

/// x(t + tau) = constant + t · time + x · state + phi · features, for one fixed tau.
#[derive(Debug)]
pub struct Propagator {
    /// `[d]`.
    pub constant: Tensor,
    /// `[d]`.
    pub time: Tensor,
    /// `[d, d]`; `None` is the identity.
    pub state: Option<Tensor>,
    /// `[k, d]`.
    pub features: Tensor,
}

impl Propagator {
    /// The parts of columns over [1, t, x, phi], `[m, d]`.
    pub fn from_matrix(columns: &Tensor) -> Propagator {
        let size = columns.size();
        let (features, dimension) = (size[0] - 2 - size[1], size[1]);
        Propagator {
            constant: columns.select(0, 0),
            time: columns.select(0, 1),
            state: Some(columns.narrow(0, 2, dimension)),
            features: columns.narrow(0, 2 + dimension, features),
        }
    }

    /// x(t + tau): `[B, d]`.
    pub fn apply(&self, g: &Observables) -> Tensor {
        let moved = match &self.state {
            Some(state) => g.x.matmul(state),
            None => g.x.shallow_clone(),
        };
        (moved + &self.constant + g.t.unsqueeze(1) * &self.time).addmm(&g.features, &self.features)
    }

    /// All of `propagators` at once, as one product: `[T, B, d]`.
    pub fn apply_many(propagators: &[Propagator], g: &Observables) -> Tensor {
        let (batch, dimension) = (g.x.size()[0], g.x.size()[1]);
        let stack = |part: fn(&Propagator) -> Tensor| {
            Tensor::cat(&propagators.iter().map(part).collect::<Vec<_>>(), -1)
        };
        let constant = stack(|p| p.constant.shallow_clone());
        let time = stack(|p| p.time.shallow_clone());
        let moved = match propagators.iter().any(|p| p.state.is_some()) {
            false => g.x.repeat([1, propagators.len() as i64]),
            true => g.x.matmul(&stack(|p| match &p.state {
                Some(state) => state.shallow_clone(),
                None => Tensor::eye(p.constant.size()[0], (p.constant.kind(), p.constant.device())),
            })),
        };
        let features = stack(|p| p.features.shallow_clone());
        (moved + constant + g.t.unsqueeze(1) * time)
            .addmm(&g.features, &features)
            .view([batch, -1, dimension])
            .transpose(0, 1)
            .contiguous()
    }

    pub fn to_device_and_kind(&self, device: Device, kind: Kind) -> Propagator {
        let convert = |tensor: &Tensor| tensor.to_device(device).to_kind(kind);
        Propagator {
            constant: convert(&self.constant),
            time: convert(&self.time),
            state: self.state.as_ref().map(convert),
            features: convert(&self.features),
        }
    }
}

shared!(Propagator { constant, time, state, features });
