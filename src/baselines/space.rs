//! What networks see of a state, and the units that they answer in.

use tch::{Device, Kind, Tensor};

use crate::nets::Dual;
use crate::nets::InputCoordinates;
use crate::tensor::shared;

/// The data's scales, as they are known from stored trajectories.
pub struct Space {
    pub(super) coordinates: InputCoordinates,
}

impl Space {
    /// A space whose scales are 1 until they are set.
    pub(super) fn identity(dimension: i64, table_times: i64, kind: Kind, device: Device) -> Self {
        Space { coordinates: InputCoordinates::identity(dimension, table_times, kind, device) }
    }

    /// The networks' inputs, concatenated: times, flat states and all else: t `[B]`, x `[B, d]`, `others` `[B, n]` each.
    pub fn see(&self, t: &Tensor, x: &Tensor, others: &[Option<&Tensor>]) -> Tensor {
        let mut parts = vec![self.coordinates.forward(t, x)];
        parts.extend(others.iter().flatten().map(|other| other.shallow_clone()));
        Tensor::cat(&parts, 1)
    }

    /// [`Space::see`] with one time for all states.
    pub fn see_at(&self, time: f64, x: &Tensor, condition: Option<&Tensor>) -> Tensor {
        let t = Tensor::full([x.size()[0]], time, (x.kind(), x.device()));
        self.see(&t, x, &[condition])
    }

    /// [`Space::see`] and its derivative along (t', x', others').
    pub fn see_with_tangent(&self, t: &Dual, x: &Dual, others: Vec<Dual>) -> Dual {
        let mut parts = vec![self.coordinates.forward_with_tangent(t, x)];
        parts.extend(others);
        Dual::cat(&parts)
    }

    /// Data from numbers of order one: `[B, d]`.
    pub fn data(&self, answer: &Tensor) -> Tensor {
        self.coordinates.center() + answer * self.coordinates.deviation()
    }

    /// Velocities between standard normal noise and data from numbers of order one: `[B, d]`.
    pub fn velocity(&self, answer: &Tensor) -> Tensor {
        self.coordinates.center() + answer * self.velocity_unit()
    }

    /// The deviation of x1 - x0 in one coordinate, for independent ends: `[]`.
    pub fn velocity_unit(&self) -> Tensor {
        (self.coordinates.deviation().square() + 1.0).sqrt()
    }
}

shared!(Space { coordinates });
