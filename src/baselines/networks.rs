//! The networks of a method behind one interface, which the trainer, the sampler and the files use.

use tch::Tensor;

use super::{BaselineModel, Kdm, MeanVelocity, Method, PlainNetwork, Source, Space};
use crate::error::Result;
use crate::nets::Parameters;
use crate::tensor::RandomSource;

/// The networks of one method. It is an enum and not a trait object because handles are cloned.
pub enum Networks {
    Plain(PlainNetwork),
    Kdm(Kdm),
    MeanVelocity(MeanVelocity),
}

impl Networks {
    pub fn new(
        model: &BaselineModel,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        Ok(match model.method {
            Method::PlainNetwork => Networks::Plain(PlainNetwork::new(model, parameters, random)?),
            Method::Kdm => Networks::Kdm(Kdm::new(model, parameters, random)?),
            Method::MeanVelocity => Networks::MeanVelocity(MeanVelocity::new(model, parameters, random)?),
        })
    }

    /// The loss of one step, a scalar, differentiable in the parameters.
    ///
    /// # Errors
    /// Any error of the teacher.
    pub fn loss(&self, space: &Space, source: &Source, step: u64) -> Result<Tensor> {
        match self {
            Networks::Plain(network) => Ok(network.loss(space, source, step)),
            Networks::Kdm(networks) => Ok(networks.loss(space, source, step)),
            Networks::MeanVelocity(network) => network.loss(space, source, step),
        }
    }

    /// Whether the method has a path of states between noise and data.
    pub fn have_path(&self) -> bool {
        matches!(self, Networks::MeanVelocity(_))
    }

    /// Carries flat states x `[B, d]` from one time to another. A method without a path ignores the times and
    /// maps noise to data.
    pub fn carry(
        &self,
        space: &Space,
        x: &Tensor,
        (from, to): (f64, f64),
        condition: Option<&Tensor>,
    ) -> Tensor {
        let time = |time: f64| Tensor::full([x.size()[0]], time, (x.kind(), x.device()));
        match self {
            Networks::Plain(network) => network.endpoint(space, x, condition),
            Networks::Kdm(networks) => networks.endpoint(space, x, condition),
            Networks::MeanVelocity(network) => network.flow(space, x, &time(from), &time(to), condition),
        }
    }

    pub fn shallow_clone(&self) -> Self {
        match self {
            Networks::Plain(network) => Networks::Plain(network.shallow_clone()),
            Networks::Kdm(networks) => Networks::Kdm(networks.shallow_clone()),
            Networks::MeanVelocity(network) => Networks::MeanVelocity(network.shallow_clone()),
        }
    }
}
