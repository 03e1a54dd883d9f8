//! Propagation over one fixed tau. Everything in exp(tau L) and the readout that does not depend on the
//! sample is computed once.

use tch::{Device, Kind, Tensor};

use super::{Generator, Observables, Propagator, Readout};
use crate::error::Result;

/// x(t + tau) of observables at t, for one tau.
pub enum Horizon {
    /// The readout is linear, so it is folded into exp(tau L): one thin product.
    Thin(Propagator),
    /// All observables are propagated, then decoded.
    Decoded { motion: Motion, readout: Readout },
}

/// Propagation of all observables over one tau.
pub enum Motion {
    /// exp(tau L), `[m, m]`.
    Matrix(Tensor),
    /// Elementwise, tau `[1]`.
    Elementwise { generator: Generator, tau: Tensor },
}

impl Motion {
    /// # Errors
    /// [`crate::Error::Divergence`] if exp(tau L) is not finite.
    pub fn new(generator: &Generator, tau: f64) -> Result<Motion> {
        let _guard = tch::no_grad_guard();
        let (kind, device) = generator.options();
        Ok(match generator {
            Generator::Dense(_) => {
                Motion::Matrix(generator.exponential(tau)?.to_kind(kind).to_device(device).contiguous())
            }
            Generator::Spectral(_) | Generator::Levels(_) => Motion::Elementwise {
                generator: generator.shallow_clone(),
                tau: Tensor::from_slice(&[tau]).to_kind(kind).to_device(device),
            },
        })
    }

    /// g(t + tau).
    pub fn apply(&self, g: &Observables) -> Result<Observables> {
        match self {
            Motion::Matrix(matrix) => Ok(Observables::split(&g.assemble().matmul(matrix), g.x.size()[1])),
            Motion::Elementwise { generator, tau } => generator.propagate(g, tau),
        }
    }

    pub fn shallow_clone(&self) -> Motion {
        match self {
            Motion::Matrix(matrix) => Motion::Matrix(matrix.shallow_clone()),
            Motion::Elementwise { generator, tau } => {
                Motion::Elementwise { generator: generator.shallow_clone(), tau: tau.shallow_clone() }
            }
        }
    }
}

impl Horizon {
    /// # Errors
    /// [`crate::Error::Divergence`] if exp(tau L) is not finite.
    pub fn new(generator: &Generator, readout: &Readout, tau: f64) -> Result<Horizon> {
        let _guard = tch::no_grad_guard();
        Ok(match readout {
            Readout::Slice => Horizon::Thin(generator.propagator(tau)?),
            Readout::Linear(matrix) => {
                let (kind, device) = (matrix.kind(), matrix.device());
                let matrix = matrix.detach().to_device(Device::Cpu).to_kind(Kind::Double);
                let folded = generator.exponential(tau)?.f_matmul(&matrix)?;
                Horizon::Thin(Propagator::from_matrix(&folded).to_device_and_kind(device, kind))
            }
            Readout::Network(_) | Readout::Decoder { .. } => {
                let motion = Motion::new(generator, tau)?;
                Horizon::Decoded { motion, readout: readout.shallow_clone() }
            }
        })
    }

    /// Propagator of the motion g -> g `matrix`, `[m, m]` in float64 on the CPU.
    pub fn from_matrix(
        matrix: &Tensor,
        readout: &Readout,
        dimension: i64,
        (kind, device): (Kind, Device),
    ) -> Result<Horizon> {
        let _guard = tch::no_grad_guard();
        Ok(match readout.columns(dimension, matrix.size()[0])? {
            Some(columns) => {
                let thin = Propagator::from_matrix(&matrix.f_matmul(&columns)?);
                Horizon::Thin(thin.to_device_and_kind(device, kind))
            }
            None => {
                let motion = Motion::Matrix(matrix.to_kind(kind).to_device(device).contiguous());
                Horizon::Decoded { motion, readout: readout.shallow_clone() }
            }
        })
    }

    /// x(t + tau): `[B, d]`.
    pub fn apply(&self, g: &Observables) -> Result<Tensor> {
        let (motion, readout) = match self {
            Horizon::Thin(propagator) => return Ok(propagator.apply(g)),
            Horizon::Decoded { motion, readout } => (motion, readout),
        };
        Ok(readout.decode(&motion.apply(g)?))
    }

    /// Change of x(t + tau) for changes of the state, `[.., d]`, and of the features, `[.., k]`; `None` if a
    /// network decodes x.
    pub fn derivative(&self, state: &Tensor, features: &Tensor) -> Option<Tensor> {
        let Horizon::Thin(propagator) = self else { return None };
        let moved = features.matmul(&propagator.features);
        Some(match &propagator.state {
            Some(matrix) => moved + state.matmul(matrix),
            None => moved + state,
        })
    }

    /// All of `horizons` as one propagator; `None` unless all are thin.
    pub fn joined(horizons: &[Horizon]) -> Option<Propagator> {
        let thin = horizons.iter().map(|horizon| match horizon {
            Horizon::Thin(propagator) => Some(propagator.shallow_clone()),
            Horizon::Decoded { .. } => None,
        });
        Some(Propagator::joined(&thin.collect::<Option<Vec<_>>>()?))
    }

    /// x at the end of each of `horizons`, `[T, B, d]`. Takes one matrix product if all are thin.
    pub fn apply_many(horizons: &[Horizon], g: &Observables) -> Result<Tensor> {
        if let Some(joined) = Horizon::joined(horizons) {
            let size = g.x.size();
            let shape = [horizons.len() as i64, size[0], size[1]];
            let paths = Tensor::f_empty(shape, (g.features.kind(), g.features.device()))?;
            joined.apply_into(g, &paths)?;
            return Ok(paths);
        }
        let states = horizons.iter().map(|horizon| horizon.apply(g)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&states, 0)?)
    }

    /// Bytes of what was computed for this tau. Parameters do not count, since they are shared with the
    /// student.
    pub(super) fn bytes(&self) -> usize {
        let size = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        match self {
            Horizon::Thin(Propagator { constant, time, state, features }) => {
                [constant, time, features].into_iter().chain(state.as_ref()).map(size).sum()
            }
            Horizon::Decoded { motion: Motion::Matrix(matrix), .. } => size(matrix),
            Horizon::Decoded { motion: Motion::Elementwise { tau, .. }, .. } => size(tau),
        }
    }

    pub fn shallow_clone(&self) -> Horizon {
        match self {
            Horizon::Thin(propagator) => Horizon::Thin(propagator.shallow_clone()),
            Horizon::Decoded { motion, readout } => {
                Horizon::Decoded { motion: motion.shallow_clone(), readout: readout.shallow_clone() }
            }
        }
    }
}
