//! The student: one or two lifts and a generator, with everything needed to rebuild it.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{BothWeights, Generator, GeneratorKind, InputCoordinates, Lift, Observables, Propagator};
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::evaluations::EvaluationCounter;
use crate::nets::{MlpConfig, Parameters};
use crate::tensor::{
    check_batch, check_finite, event_size, expand_time, parse_dtype, shape_text, RandomSource,
};

/// Which way along the flow the observables will be propagated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// The architecture of a student: what a checkpoint stores to rebuild it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentConfig {
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    /// k, the number of learned observables phi.
    pub observables: i64,
    pub generator: GeneratorKind,
    /// 1, or 2 for separate observables in each direction of time under one generator.
    pub lifts: i64,
    pub width: i64,
    pub depth: i64,
    /// Rows of the table of running statistics in [`InputCoordinates`].
    pub table_times: i64,
    pub dtype: String,
}

impl StudentConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option.
    pub fn validate(&self) -> Result<()> {
        if self.event_shape.is_empty() || self.event_shape.iter().any(|size| *size < 1) {
            let got = shape_text(&self.event_shape);
            return Err(Error::argument("event_shape", "one or more positive sizes", got));
        }
        let size = self.event_shape.iter().try_fold(1i64, |size, next| size.checked_mul(*next));
        if size.is_none_or(|size| size > MAX_DIMENSION) {
            let got = shape_text(&self.event_shape);
            return Err(Error::argument("event_shape", format!("at most {MAX_DIMENSION} values"), got));
        }
        let ranges = [
            ("observables", self.observables, 1, 1 << 20),
            ("lifts", self.lifts, 1, 2),
            ("width", self.width, 1, 1 << 16),
            ("depth", self.depth, 0, 64),
            ("table_times", self.table_times, 2, 1 << 16),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::argument(name, format!("an integer from {low} to {high}"), value));
            }
        }
        parse_dtype(&self.dtype).map(|_| ())
    }

    /// d, the number of values in one sample.
    pub fn dimension(&self) -> i64 {
        event_size(&self.event_shape)
    }

    /// m = 2 + d + k.
    pub fn size(&self) -> i64 {
        2 + self.dimension() + self.observables
    }
}

/// Principal axes are a square matrix of this side: more than can be held.
const MAX_DIMENSION: i64 = 1 << 20;

pub struct Student {
    config: StudentConfig,
    parameters: Parameters,
    coordinates: InputCoordinates,
    forward: Lift,
    backward: Option<Lift>,
    generator: Generator,
    counter: EvaluationCounter,
    /// Where training averaged them.
    pub(super) both: Option<BothWeights>,
    /// Folded readouts of the horizons used so far; emptied when the parameters change.
    propagators: RefCell<Vec<(f64, Propagator)>>,
}

/// Horizons kept at once: paths may ask for many.
const CACHED_PROPAGATORS: usize = 256;

impl Student {
    /// An untrained student, whose input coordinates are the identity.
    pub fn new(config: StudentConfig, seed: u64, device: Device) -> Result<Self> {
        config.validate()?;
        let kind = parse_dtype(&config.dtype)?;
        let mut random = RandomSource::new(seed).fork("student weights");
        let mut parameters = Parameters::new(kind, device);
        let dimension = config.dimension();
        let coordinates = InputCoordinates::identity(dimension, config.table_times, kind, device);
        let network = MlpConfig {
            inputs: coordinates.size() + config.conditioning.size(),
            outputs: config.observables,
            width: config.width,
            depth: config.depth,
            skip: true,
        };
        let forward = Lift::new("forward", &network, &mut parameters, &mut random)?;
        let backward = match config.lifts {
            2 => Some(Lift::new("backward", &network, &mut parameters, &mut random)?),
            _ => None,
        };
        let generator =
            Generator::new(config.generator, dimension, config.observables, &mut parameters, &mut random)?;
        parameters.pack();
        Ok(Student {
            config,
            parameters,
            coordinates,
            forward,
            backward,
            generator,
            counter: EvaluationCounter::default(),
            both: None,
            propagators: RefCell::default(),
        })
    }

    pub fn config(&self) -> &StudentConfig {
        &self.config
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    pub fn kind(&self) -> Kind {
        self.parameters.kind()
    }

    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    /// Number of batched lift evaluations so far (NFE), shared by clones.
    pub fn evaluations(&self) -> u64 {
        self.counter.get()
    }

    /// Replaces the input statistics, before training.
    pub fn set_coordinates(&mut self, coordinates: InputCoordinates) {
        self.coordinates = coordinates;
    }

    /// Overwrites all parameters with a flat snapshot.
    pub fn set_parameters(&mut self, flat: &Tensor) -> Result<()> {
        let mut own = self.parameters.flat()?;
        tch::no_grad(|| own.f_copy_(flat))?;
        self.propagators.borrow_mut().clear();
        Ok(())
    }

    fn lift(&self, direction: Direction) -> &Lift {
        match (direction, &self.backward) {
            (Direction::Backward, Some(lift)) => lift,
            _ => &self.forward,
        }
    }

    /// Observables of checked, flattened samples: `t` `[B]`, `x` `[B, d]`, `condition` as given by
    /// [`Conditioning::encode`]. Differentiable; counts one evaluation.
    pub fn lift_flat(
        &self,
        t: &Tensor,
        x: &Tensor,
        direction: Direction,
        condition: Option<&Tensor>,
    ) -> Observables {
        self.counter.add(1);
        self.lift(direction).encode(&self.coordinates, t, x, condition)
    }

    /// Observables and J phi · (1, velocity), of checked, flattened samples.
    pub fn lift_flat_with_tangent(
        &self,
        t: &Tensor,
        x: &Tensor,
        velocity: &Tensor,
        direction: Direction,
        condition: Option<&Tensor>,
    ) -> (Observables, Tensor) {
        self.counter.add(1);
        self.lift(direction).encode_with_tangent(&self.coordinates, t, x, velocity, condition)
    }

    /// Checks samples from outside and flattens them to `[B, d]` on the student's device.
    pub fn flatten(&self, argument: &str, x: &Tensor) -> Result<Tensor> {
        let batch = check_batch(argument, x, &self.config.event_shape)?;
        Ok(x.to_device(self.device()).to_kind(self.kind()).reshape([batch, -1]))
    }

    /// `[B, d]` back to `[B, *event]`.
    pub fn unflatten(&self, x: &Tensor) -> Tensor {
        let mut shape = vec![x.size()[0]];
        shape.extend(&self.config.event_shape);
        x.reshape(shape)
    }

    /// Checks a condition from outside and turns it into network input.
    pub fn condition_input(&self, condition: Option<&Tensor>, batch: i64) -> Result<Option<Tensor>> {
        self.config.conditioning.check(condition, batch)?;
        Ok(self
            .config
            .conditioning
            .encode(condition, self.kind())
            .map(|encoded| encoded.to_device(self.device())))
    }

    /// g(t, x): `[B, m]`, for t `[B]` or one number and x `[B, *event]`.
    pub fn encode(
        &self,
        t: &Tensor,
        x: &Tensor,
        direction: Direction,
        condition: Option<&Tensor>,
    ) -> Result<Tensor> {
        let x = self.flatten("x", x)?;
        let t = expand_time("t", t, x.size()[0])?.to_device(self.device()).to_kind(self.kind());
        let condition = self.condition_input(condition, x.size()[0])?;
        Ok(tch::no_grad(|| self.lift_flat(&t, &x, direction, condition.as_ref()).assemble()))
    }

    /// Observables and their exact derivative along (1, velocity): (g `[B, m]`, J g (1, v) `[B, m]`).
    /// For a perfect student the second is g L where `velocity` is the teacher's.
    pub fn encode_with_tangent(
        &self,
        t: &Tensor,
        x: &Tensor,
        velocity: &Tensor,
        direction: Direction,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let x = self.flatten("x", x)?;
        let velocity = self.flatten("velocity", velocity)?;
        let batch = x.size()[0];
        if velocity.size()[0] != batch {
            let (expected, got) = (shape_text(&x.size()), shape_text(&velocity.size()));
            return Err(Error::shape("velocity", expected, got));
        }
        let t = expand_time("t", t, batch)?.to_device(self.device()).to_kind(self.kind());
        let condition = self.condition_input(condition, batch)?;
        let _guard = tch::no_grad_guard();
        let (g, tangent) = self.lift_flat_with_tangent(&t, &x, &velocity, direction, condition.as_ref());
        let ones = t.ones_like().unsqueeze(1);
        Ok((g.assemble(), Tensor::f_cat(&[ones.zeros_like(), ones, velocity, tangent], 1)?))
    }

    fn check_observables(&self, g: &Tensor) -> Result<i64> {
        let size = g.size();
        let m = self.config.size();
        if size.len() != 2 || size[1] != m {
            return Err(Error::shape("g", format!("(B, {m})"), shape_text(&size)));
        }
        if size[0] == 0 {
            return Err(Error::argument("g", "at least one sample", "an empty batch"));
        }
        check_finite("g", g)?;
        let off = (g.select(1, 0) - 1.0).abs().max().double_value(&[]);
        if off > 1e-3 {
            let got = format!("values up to {off:.3e} away from it");
            return Err(Error::argument("g", "observables whose first coordinate is the constant 1", got));
        }
        Ok(size[0])
    }

    /// g exp(tau L): `[B, m]`, for tau `[B]` or one number, of either sign.
    ///
    /// # Errors
    /// [`Error::Divergence`] where the result is not finite.
    pub fn propagate(&self, g: &Tensor, tau: &Tensor) -> Result<Tensor> {
        let batch = self.check_observables(g)?;
        let tau = expand_time("tau", tau, batch)?.to_device(self.device()).to_kind(self.kind());
        let g = g.to_device(self.device()).to_kind(self.kind());
        let start = Observables::split(&g, self.config.dimension());
        let moved = tch::no_grad(|| self.generator.propagate(&start, &tau))?.assemble();
        finite_or_divergence(&moved, "propagate")?;
        Ok(moved)
    }

    /// x of observables: `[B, m] -> [B, *event]`, an exact slice.
    pub fn readout(&self, g: &Tensor) -> Result<Tensor> {
        self.check_observables(g)?;
        let g = g.to_device(self.device()).to_kind(self.kind());
        Ok(self.unflatten(&Observables::split(&g, self.config.dimension()).x))
    }

    /// The readout columns of exp(tau L), computed once for each tau.
    pub fn propagator(&self, tau: f64) -> Result<Propagator> {
        let mut cache = self.propagators.borrow_mut();
        if let Some((_, propagator)) = cache.iter().find(|(cached, _)| *cached == tau) {
            return Ok(propagator.shallow_clone());
        }
        let propagator = tch::no_grad(|| self.generator.propagator(tau))?;
        if cache.len() >= CACHED_PROPAGATORS {
            cache.clear();
        }
        cache.push((tau, propagator.shallow_clone()));
        Ok(propagator)
    }

    /// Parameters and input statistics, by name.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.parameters.named();
        tensors.extend(self.coordinates.named());
        tensors.extend(self.both.iter().flat_map(BothWeights::named));
        tensors
    }

    /// Overwrites parameters and input statistics with tensors taken by name.
    pub fn restore(&mut self, mut take: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        self.parameters.restore(&mut take)?;
        self.coordinates.restore(&mut take)?;
        self.propagators.borrow_mut().clear();
        Ok(())
    }

    /// A second handle: parameters and counter are shared, not copied.
    pub fn shallow_clone(&self) -> Self {
        Student {
            config: self.config.clone(),
            parameters: self.parameters.shallow_clone(),
            coordinates: self.coordinates.shallow_clone(),
            forward: self.forward.shallow_clone(),
            backward: self.backward.as_ref().map(Lift::shallow_clone),
            generator: self.generator.shallow_clone(),
            counter: self.counter.clone(),
            both: self.both.as_ref().map(BothWeights::shallow_clone),
            propagators: RefCell::new(
                self.propagators.borrow().iter().map(|(tau, p)| (*tau, p.shallow_clone())).collect(),
            ),
        }
    }
}

/// A result that overflowed is an unstable operator's doing, not a value to hand out.
pub(crate) fn finite_or_divergence(x: &Tensor, what: &str) -> Result<()> {
    match check_finite(what, x) {
        Err(Error::NonFinite { message, .. }) => Err(Error::Divergence(format!("{what}: {message}"))),
        other => other,
    }
}
