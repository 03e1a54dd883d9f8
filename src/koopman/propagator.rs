//! The columns of exp(tau L) that the readout needs, which are all that sampling needs.

use tch::{Device, Kind, Tensor};

use super::Observables;
use crate::error::Result;
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
    /// Splits columns over [1, t, x, phi], `[m, d]`, into their parts.
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
        let moved = self.displaced(g);
        match &self.state {
            Some(state) => moved + g.x.matmul(state),
            None => moved + &g.x,
        }
    }

    /// x(t + tau) without the contribution of the state.
    fn displaced(&self, g: &Observables) -> Tensor {
        // If all rows share one time, a single row is added to each.
        let t = match g.t.size().first() {
            Some(rows) if *rows > 0 && g.t.stride() == [0] => g.t.narrow(0, 0, 1),
            _ => g.t.shallow_clone(),
        };
        self.constant.addcmul(&t.unsqueeze(1), &self.time).addmm(&g.features, &self.features)
    }

    /// The propagators of several times side by side, with `[T d]` columns.
    pub fn joined(propagators: &[Propagator]) -> Propagator {
        let join = |part: &dyn Fn(&Propagator) -> Tensor| {
            Tensor::cat(&propagators.iter().map(part).collect::<Vec<_>>(), -1)
        };
        let eye =
            |p: &Propagator| Tensor::eye(p.constant.size()[0], (p.constant.kind(), p.constant.device()));
        Propagator {
            constant: join(&|p| p.constant.shallow_clone()),
            time: join(&|p| p.time.shallow_clone()),
            state: propagators
                .iter()
                .any(|p| p.state.is_some())
                .then(|| join(&|p| p.state.as_ref().map_or_else(|| eye(p), Tensor::shallow_clone))),
            features: join(&|p| p.features.shallow_clone()),
        }
    }

    /// Writes the states at the times that were [`Propagator::joined`] to `paths`, `[T, B, d]`.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn apply_into(&self, g: &Observables, paths: &Tensor) -> Result<()> {
        let (batch, dimension) = (g.x.size()[0], g.x.size()[1]);
        let by_time = |x: Tensor| x.f_view([batch, -1, dimension])?.f_transpose(0, 1);
        let state = match &self.state {
            Some(state) => by_time(g.x.f_matmul(state)?)?,
            None => g.x.f_unsqueeze(0)?,
        };
        // The pass that adds the state also puts times first in memory.
        let _ = by_time(self.displaced(g))?.f_add_out(paths, &state)?;
        Ok(())
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
