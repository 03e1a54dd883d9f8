//! The input coordinates of the networks and the units of their outputs.

use tch::{Device, Kind, Tensor};

use crate::nets::Dual;
use crate::nets::InputCoordinates;
use crate::tensor::shared;

/// The scales of the data, measured on stored trajectories.
pub struct Space {
    pub(super) coordinates: InputCoordinates,
}

impl Space {
    /// A space whose scales are 1 until they are set.
    pub(super) fn identity(dimension: i64, table_times: i64, kind: Kind, device: Device) -> Self {
        Space { coordinates: InputCoordinates::identity(dimension, table_times, kind, device) }
    }

    /// The networks' inputs, concatenated: times t `[B]`, flat states x `[B, d]` and each of `others` `[B,
    /// n]`.
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

    /// Data `[B, d]` from network outputs, which are of order one.
    pub fn data(&self, answer: &Tensor) -> Tensor {
        self.coordinates.center() + answer * self.coordinates.deviation()
    }

    /// Velocities `[B, d]` between standard normal noise and data, from network outputs, which are of order
    /// one.
    pub fn velocity(&self, answer: &Tensor) -> Tensor {
        self.coordinates.center() + answer * self.velocity_unit()
    }

    /// The standard deviation of x1 - x0 in one coordinate, for independent x0 and x1: `[]`.
    pub fn velocity_unit(&self) -> Tensor {
        (self.coordinates.deviation().square() + 1.0).sqrt()
    }
}

shared!(Space { coordinates });
