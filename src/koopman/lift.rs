//! The observables phi(t, x): a basis over [`InputCoordinates`], in a fixed or a moving frame, with or
//! without a linear mixing.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Blocks, LevelBlocks, Observables, StudentConfig};
use crate::error::{Error, Result};
use crate::nets::InputCoordinates;
use crate::nets::{
    Dual, FourierFeatures, Mlp, MlpConfig, Network, Parameters, Polynomial, Signal, Sinusoids, UNet,
    UNetEncoder,
};
use crate::tensor::{shared, RandomSource, Share};

/// Kind of functions that the observables are made of.
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
    /// The output image of a U-Net, with any number of channels (the paper's observables for images).
    #[serde(rename = "unet")]
    UNet,
    /// Feature maps of every level of a U-Net's encoder.
    Hierarchy,
}

/// Quantity that the basis gives: the features themselves, or the features as they were at time 0.
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

/// Inputs of a perceptron, made from (t, x).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Inputs {
    /// [`InputCoordinates`], and a linear skip from them to the features.
    #[default]
    Standardised,
    /// t and x without standardisation and without a skip, as in the paper; kept for comparison.
    Raw,
}

/// Λ of a moving frame.
pub enum Rates {
    Flat(Blocks),
    Levels(LevelBlocks),
}

impl Rates {
    fn propagate(&self, features: &Tensor, tau: &Tensor) -> Tensor {
        match self {
            Rates::Flat(blocks) => blocks.propagate(features, tau),
            Rates::Levels(blocks) => blocks.propagate(features, tau),
        }
    }

    fn rate(&self, features: &Tensor) -> Tensor {
        match self {
            Rates::Flat(blocks) => blocks.rate(features),
            Rates::Levels(blocks) => blocks.rate(features),
        }
    }
}

impl Share for Rates {
    fn shallow_clone(&self) -> Self {
        match self {
            Rates::Flat(blocks) => Rates::Flat(blocks.shallow_clone()),
            Rates::Levels(blocks) => Rates::Levels(blocks.shallow_clone()),
        }
    }
}

/// The networks of all bases. An enum instead of a trait object, because handles are cloned.
enum Functions {
    Network(Mlp, Inputs),
    Fourier(FourierFeatures),
    Polynomial(Polynomial),
    /// A U-Net, and a linear map of each pixel's channels, `[outputs, inputs]`: without it, nonlinear layers
    /// would have to reproduce the noise that one step removes, pixel by pixel.
    UNet {
        network: UNet,
        skip: Tensor,
    },
    Hierarchy(UNetEncoder),
}

impl Functions {
    fn new(
        name: &str,
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let (inputs, outputs) = (config.inputs(), config.basis_size());
        let unet = || match &config.unet {
            Some(unet) => Ok(unet),
            None => Err(Error::Internal(anyhow::anyhow!("the configuration has no U-Net"))),
        };
        let (prefix, conditioning) = (format!("{name}."), config.conditioning);
        Ok(match config.basis {
            Basis::Network => {
                let (width, depth) = (config.width, config.depth);
                let skip = config.sees == Inputs::Standardised;
                let network = MlpConfig { inputs, outputs, width, depth, skip };
                Functions::Network(Mlp::new(name, &network, parameters, random)?, config.sees)
            }
            Basis::Fourier => {
                Functions::Fourier(FourierFeatures::new(name, inputs, outputs, parameters, random)?)
            }
            Basis::Polynomial => {
                // Takes the raw half of the coordinates: standardised ones are not polynomials in (t, x).
                let (dimension, extra) = (config.dimension(), config.conditioning.size());
                let variables: Vec<i64> =
                    (0..=dimension).chain(1 + 2 * dimension..1 + 2 * dimension + extra).collect();
                Functions::Polynomial(Polynomial::new(&variables, extra, config.degree, parameters.device()))
            }
            Basis::UNet => {
                let shape = &config.event_shape;
                let channels = (shape[0], outputs / (shape[1] * shape[2]));
                let mut network = UNet::new(&prefix, unet()?, channels, conditioning, parameters, random)?;
                if config.directed {
                    network.tell_direction(&prefix, unet()?, parameters)?;
                }
                // At the start of every path the velocity is about minus the noise.
                let options = (parameters.kind(), parameters.device());
                let skip = Tensor::f_eye_m(channels.1, channels.0, options)?.neg();
                Functions::UNet { network, skip: parameters.add(format!("{name}.skip"), skip) }
            }
            Basis::Hierarchy => {
                let channels = config.event_shape[0];
                let mut network =
                    UNetEncoder::new(&prefix, unet()?, channels, conditioning, parameters, random)?;
                if config.directed {
                    network.tell_direction(&prefix, unet()?, parameters)?;
                }
                Functions::Hierarchy(network)
            }
        })
    }

    /// Features `[B, k]` of times `[B]`, flat samples `[B, d]` and a condition `[B, c]`, values alone or with
    /// their tangents.
    fn apply<S: Lifted>(
        &self,
        coordinates: &InputCoordinates,
        t: &S,
        x: &S,
        condition: Option<&Tensor>,
    ) -> S {
        match self {
            Functions::Network(network, Inputs::Standardised) => {
                S::through(network, S::coordinates(coordinates, t, x), condition)
            }
            Functions::Network(network, Inputs::Raw) => S::through(network, S::raw(t, x), condition),
            Functions::Fourier(network) => S::through(network, S::coordinates(coordinates, t, x), condition),
            Functions::Polynomial(network) => {
                S::through(network, S::coordinates(coordinates, t, x), condition)
            }
            Functions::UNet { network, skip } => {
                let image = S::image(coordinates, t, x);
                let through = image.map(|x| skip.matmul(&x.flatten(2, 3)).flatten(1, 2));
                network.apply(t, &image, condition).map(flat).add(&through)
            }
            Functions::Hierarchy(network) => {
                let kind = x.primal().kind();
                let maps = network.apply(t, &S::image(coordinates, t, x), condition);
                let maps: Vec<S> = maps.iter().map(|map| map.map(|x| flat(x).to_kind(kind))).collect();
                S::join_all(&maps)
            }
        }
    }

    fn shallow_clone(&self) -> Self {
        match self {
            Functions::Network(network, sees) => Functions::Network(network.shallow_clone(), *sees),
            Functions::Fourier(network) => Functions::Fourier(network.shallow_clone()),
            Functions::Polynomial(network) => Functions::Polynomial(network.shallow_clone()),
            Functions::UNet { network, skip } => {
                Functions::UNet { network: network.shallow_clone(), skip: skip.shallow_clone() }
            }
            Functions::Hierarchy(network) => Functions::Hierarchy(network.shallow_clone()),
        }
    }
}

fn flat(x: &Tensor) -> Tensor {
    x.flatten(1, -1)
}

/// Values, or values with tangents, that pass through coordinates and network.
trait Lifted: Signal + Sinusoids {
    /// Applies the network to inputs `[B, inputs]` and a condition.
    fn through(network: &dyn Network, input: Self, condition: Option<&Tensor>) -> Self;

    /// [`InputCoordinates`] of (t, x).
    fn coordinates(coordinates: &InputCoordinates, t: &Self, x: &Self) -> Self;

    /// (t, x) side by side.
    fn raw(t: &Self, x: &Self) -> Self;

    /// Standardised images `[B, C, H, W]`.
    fn image(coordinates: &InputCoordinates, t: &Self, x: &Self) -> Self;
}

impl Lifted for Tensor {
    fn through(network: &dyn Network, input: Self, condition: Option<&Tensor>) -> Self {
        match condition {
            Some(condition) => network.forward(&Tensor::cat(&[&input, condition], 1)),
            None => network.forward(&input),
        }
    }

    fn coordinates(coordinates: &InputCoordinates, t: &Self, x: &Self) -> Self {
        coordinates.forward(t, x)
    }

    fn raw(t: &Self, x: &Self) -> Self {
        t.expand([x.size()[0]], false).unsqueeze(1).join(x)
    }

    fn image(coordinates: &InputCoordinates, t: &Self, x: &Self) -> Self {
        coordinates.image(t, x)
    }
}

impl Lifted for Dual {
    fn through(network: &dyn Network, mut input: Self, condition: Option<&Tensor>) -> Self {
        if let Some(condition) = condition {
            input = Dual::cat(&[input, Dual::constant(condition.shallow_clone())]);
        }
        network.forward_with_tangent(&input)
    }

    fn coordinates(coordinates: &InputCoordinates, t: &Self, x: &Self) -> Self {
        coordinates.forward_with_tangent(t, x)
    }

    fn raw(t: &Self, x: &Self) -> Self {
        t.map(|t| t.unsqueeze(1)).join(x)
    }

    fn image(coordinates: &InputCoordinates, t: &Self, x: &Self) -> Self {
        coordinates.image_with_tangent(t, x)
    }
}

pub struct Lift {
    functions: Functions,
    frame: Option<Rates>,
    /// phi = [1, t, x, functions] · mixing, `[2 + d + basis, k]`.
    mixing: Option<Tensor>,
    /// Number of coordinates of x that are observables.
    state: i64,
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
        let state = config.state_size();
        Ok(Lift { functions, frame: None, mixing: mixing.map(Tensor::shallow_clone), state })
    }

    /// Multiplies the basis by e^{t Λ}.
    pub fn set_frame(&mut self, frame: Option<Rates>) {
        self.frame = frame;
    }

    /// Observables at (t, x). `t` is `[B]`, or `[1]` unless the basis is a U-Net. `condition` is encoded,
    /// `[B, c]`, with the direction as its last column if the configuration is `directed`.
    pub fn encode(
        &self,
        coordinates: &InputCoordinates,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Observables {
        let mut features = self.functions.apply(coordinates, t, x, condition);
        if let Some(frame) = &self.frame {
            features = frame.propagate(&features, t);
        }
        let t = t.expand([x.size()[0]], false);
        let mut g = Observables { t, x: x.narrow(1, 0, self.state), features };
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
        let Dual { mut primal, mut tangent } = self.functions.apply(coordinates, &time, &state, condition);
        if let Some(frame) = &self.frame {
            // (h e^{tΛ})' = h' e^{tΛ} + h e^{tΛ} Λ
            primal = frame.propagate(&primal, t);
            tangent = frame.propagate(&tangent, t) + frame.rate(&primal);
        }
        let mut g = Observables { t: t.shallow_clone(), x: x.narrow(1, 0, self.state), features: primal };
        if let Some(mixing) = &self.mixing {
            let ones = t.ones_like().unsqueeze(1);
            let rate = Tensor::cat(&[&ones.zeros_like(), &ones, velocity, &tangent], 1);
            g.features = g.assemble().matmul(mixing);
            tangent = rate.matmul(mixing);
        }
        (g, tangent)
    }
}

impl Lift {
    /// Derivatives of the features of samples `[B, d]` at time 0 along each of their coordinates, `[B, d, k]`; `None` for
    /// functions other than perceptrons.
    pub fn slopes_of_noise(
        &self,
        coordinates: &InputCoordinates,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Option<Tensor> {
        let Functions::Network(network, sees) = &self.functions else { return None };
        let (count, d) = (x.size()[0], x.size()[1]);
        let inputs = |x: &Tensor| {
            let t = x.new_zeros([x.size()[0]], (x.kind(), x.device()));
            match sees {
                Inputs::Standardised => coordinates.forward(&t, x),
                Inputs::Raw => Tensor::raw(&t, x),
            }
        };
        // At one time the inputs are affine in x, so their derivatives are the changes by one unit of each
        // coordinate.
        let eye = Tensor::eye(d, (x.kind(), x.device()));
        let mut directions = inputs(&eye) - inputs(&eye.narrow(0, 0, 1).zeros_like());
        let mut input = inputs(x);
        if let Some(condition) = condition {
            let none = condition.new_zeros([d, condition.size()[1]], (x.kind(), x.device()));
            directions = Tensor::cat(&[directions, none], 1);
            input = Tensor::cat(&[&input, condition], 1);
        }
        // At time 0 a moving frame is the identity.
        let slopes = network.along_directions(&input, &directions);
        Some(match &self.mixing {
            None => slopes,
            Some(mixing) => {
                let still = eye.new_zeros([d, 2], (x.kind(), x.device()));
                let state = Tensor::cat(&[still, eye.narrow(1, 0, self.state)], 1);
                let state = state.unsqueeze(0).expand([count, d, -1], false);
                Tensor::cat(&[state, slopes], 2).matmul(mixing)
            }
        })
    }
}

shared!(Lift { functions, frame, mixing; state });
