//! The student: one or two lifts and a generator, with everything needed to rebuild it.

use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::horizons::Horizons;
use super::{
    Blocks, BothWeights, Frame, Generator, Heads, Horizon, Lift, Noising, Observables, Rates, Readout,
    StudentConfig,
};
use crate::error::{Error, Result};
use crate::monitor::EvaluationCounter;
use crate::nets::InputCoordinates;
use crate::nets::Parameters;
use crate::tensor::{
    check_batch, check_finite, expand_time, finite_or_divergence, parse_dtype, shape_text, shared,
    RandomSource, Share,
};
use crate::velocity::{Source, SourceDescription, Units};

/// Direction along the flow in which the observables will be propagated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// A student, which works in coordinates of its own. They are the data's, unless the data are far from
/// standardised: then they are standard coordinates, and `units` converts between the two. Methods that check
/// their arguments use states, times and velocities in the data's coordinates. All other methods use the
/// student's own. Observables, including time, are always in the student's own.
pub struct Student {
    config: StudentConfig,
    /// In the student's dtype, on its device.
    units: Option<Units>,
    source: Source,
    parameters: Parameters,
    coordinates: InputCoordinates,
    forward: Lift,
    backward: Option<Lift>,
    generator: Generator,
    readout: Readout,
    heads: Heads,
    noising: Noising,
    counter: EvaluationCounter,
    /// Averaged and last weights, if training averaged them.
    pub(super) both: Option<BothWeights>,
    /// Cached horizons of the current parameters. Clones share the parameters, so they share the cache too.
    horizons: Arc<Mutex<Horizons>>,
}

impl Student {
    /// An untrained student, whose input coordinates are the identity.
    pub fn new(config: StudentConfig, seed: u64, device: Device) -> Result<Self> {
        config.validate()?;
        let kind = parse_dtype(&config.dtype)?;
        let mut random = RandomSource::new(seed).fork("student weights");
        let mut parameters = Parameters::new(kind, device);
        let dimension = config.dimension();
        let coordinates = match config.unet {
            Some(_) => {
                InputCoordinates::identity_of_channels(&config.event_shape, config.table_times, kind, device)
            }
            None => InputCoordinates::identity(dimension, config.table_times, kind, device),
        };
        let mixing = match config.mixing {
            Some(basis) => {
                // Selects the last k of [1, t, x, basis], until a conversion or a file overwrites it.
                let initial = Tensor::f_eye_m(2 + dimension + basis, config.observables, (kind, device))?;
                Some(parameters.add("mixing", initial.f_flip([0, 1])?))
            }
            None => None,
        };
        let mut lift = |name: &str| Lift::new(name, &config, mixing.as_ref(), &mut parameters, &mut random);
        let mut forward = lift("forward")?;
        let mut backward = match config.lifts {
            2 => Some(lift("backward")?),
            _ => None,
        };
        let generator = Generator::new(&config, &mut parameters, &mut random)?;
        if config.frame == Frame::Moving {
            let frame = match &generator {
                Generator::Levels(generator) => Rates::Levels(generator.blocks().shallow_clone()),
                Generator::Spectral(generator) if config.shares_frame() => {
                    Rates::Flat(generator.blocks().shallow_clone())
                }
                _ => {
                    let size = config.basis_size();
                    Rates::Flat(Blocks::new("frame", size, None, &mut parameters, &mut random)?)
                }
            };
            for lift in [Some(&mut forward), backward.as_mut()].into_iter().flatten() {
                lift.set_frame(Some(frame.shallow_clone()));
            }
        }
        let readout = Readout::new(&config, &mut parameters, &mut random)?;
        // Registered last, so that the parameters of a student without what only training uses are the first
        // ones of a student with it.
        let heads = Heads::new(&config, &mut parameters)?;
        let noising = Noising::new(&config, &mut parameters, device)?;
        parameters.pack();
        let units = match config.units {
            Some(path) => Some(Units::new(path, &Tensor::f_zeros(dimension, (kind, device))?, 1.0)?),
            None => None,
        };
        Ok(Student {
            config,
            units,
            source: Source::Normal,
            parameters,
            coordinates,
            forward,
            backward,
            generator,
            readout,
            heads,
            noising,
            counter: EvaluationCounter::default(),
            both: None,
            horizons: Arc::default(),
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

    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    pub fn noising(&self) -> &Noising {
        &self.noising
    }

    pub fn noising_mut(&mut self) -> &mut Noising {
        &mut self.noising
    }

    /// Number of batched lift evaluations so far (NFE), shared by clones.
    pub fn evaluations(&self) -> u64 {
        self.counter.get()
    }

    /// Sets the conversion from standard coordinates to the data's, before training.
    pub fn set_units(&mut self, units: &Units) {
        self.config.units = Some(units.path());
        self.units = Some(units.to(self.kind(), self.device()));
    }

    /// Sets the source of samples, before training.
    pub fn set_source(&mut self, source: Source) {
        // A file describes a source that it cannot hold as a sampler.
        self.config.source =
            source.state().map_or(SourceDescription::Sampler, |(description, _)| description);
        self.source = source;
    }

    /// The source of samples.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The conversion from the student's coordinates to the data's; `None` if they are the same.
    pub fn units(&self) -> Option<&Units> {
        self.units.as_ref()
    }

    /// Converts a time of the data's path to the student's own time.
    pub fn own_time(&self, t: f64) -> f64 {
        self.units.as_ref().map_or(t, |units| units.time(t))
    }

    /// Converts the student's own time to a time of the data's path.
    pub fn data_time(&self, own: f64) -> f64 {
        self.units.as_ref().map_or(own, |units| units.inverse().time(own))
    }

    /// Converts times `[B]` and flat states `[B, d]` to the student's own coordinates.
    pub fn own_states(&self, t: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
        match &self.units {
            Some(units) => units.standard(t, x),
            None => Ok((t.shallow_clone(), x.shallow_clone())),
        }
    }

    /// Converts flat data `[B, d]` to the student's own coordinates. (Noise is the same in both.)
    pub fn own_data(&self, x: &Tensor) -> Result<Tensor> {
        match &self.units {
            Some(units) => units.standard_at(1.0, x),
            None => Ok(x.shallow_clone()),
        }
    }

    /// Converts flat states `[B, d]` at one of the student's own times to the data's coordinates.
    /// Differentiable.
    pub fn states(&self, own_time: f64, x: &Tensor) -> Result<Tensor> {
        match &self.units {
            Some(units) => units.inverse().standard_at(own_time, x),
            None => Ok(x.shallow_clone()),
        }
    }

    /// Length, in the data's coordinates, of one unit of the student's own coordinates, at one of its own
    /// times.
    pub fn length(&self, own_time: f64) -> Result<f64> {
        let Some(units) = &self.units else { return Ok(1.0) };
        let back =
            Units::new(units.path(), &Tensor::f_zeros(1, (Kind::Double, Device::Cpu))?, units.scale())?;
        let one = Tensor::f_ones([1, 1], (Kind::Double, Device::Cpu))?;
        Ok(back.inverse().standard_at(own_time, &one)?.double_value(&[0, 0]))
    }

    /// Replaces the input statistics, before training.
    pub fn set_coordinates(&mut self, coordinates: InputCoordinates) {
        self.coordinates = coordinates;
    }

    pub fn coordinates(&self) -> &InputCoordinates {
        &self.coordinates
    }

    /// Sets the columns of x and phi of a dense generator, `[m, d + k]`; a stable one takes the nearest
    /// that its structure allows.
    ///
    /// # Errors
    /// [`Error::Argument`] for a spectral student; [`Error::Shape`], [`Error::NonFinite`] name `columns`.
    pub fn set_generator_columns(&self, columns: &Tensor) -> Result<()> {
        let Generator::Dense(generator) = &self.generator else {
            return Err(self.wrong_generator("'dense', which has columns"));
        };
        generator.set_columns(columns)
    }

    /// Sets B, `[k, d]`, and (b0, b1), `[2, d]`, of a spectral generator: x' = b0 + t b1 + phi B.
    ///
    /// # Errors
    /// [`Error::Argument`] for a dense student; [`Error::Shape`], [`Error::NonFinite`] name the tensor.
    pub fn set_spectral_readout(&self, readout: &Tensor, drift: &Tensor) -> Result<()> {
        let Generator::Spectral(generator) = &self.generator else {
            return Err(self.wrong_generator("'spectral', which has a readout of phi"));
        };
        generator.set_readout(readout, drift)
    }

    /// Overwrites all parameters with a flat snapshot.
    pub fn set_parameters(&mut self, flat: &Tensor) -> Result<()> {
        let mut own = self.parameters.flat()?;
        tch::no_grad(|| own.f_copy_(flat))?;
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
        let told = self.config.told(direction, t, condition);
        self.lift(direction).encode(&self.coordinates, t, x, told.as_ref())
    }

    /// As [`Student::lift_flat`] at one time for all samples. What depends on time only is computed once.
    pub fn lift_flat_at(
        &self,
        time: f64,
        x: &Tensor,
        direction: Direction,
        condition: Option<&Tensor>,
    ) -> Observables {
        let one = Tensor::full([1], time, (self.kind(), self.device()));
        let t = one.expand([x.size()[0]], false);
        // A U-Net takes a time for each image.
        if self.config.unet.is_some() {
            return self.lift_flat(&t, x, direction, condition);
        }
        self.counter.add(1);
        let told = self.config.told(direction, &t, condition);
        self.lift(direction).encode(&self.coordinates, &one, x, told.as_ref())
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
        let told = self.config.told(direction, t, condition);
        self.lift(direction).encode_with_tangent(&self.coordinates, t, x, velocity, told.as_ref())
    }

    /// Derivatives of the features of noise `[B, d]` along each of its coordinates, `[B, d, k]`; `None`
    /// unless the observables are a perceptron.
    pub fn slopes_of_noise(&self, noise: &Tensor, condition: Option<&Tensor>) -> Option<Tensor> {
        self.counter.add(1);
        let told = self.config.told(Direction::Forward, &noise.select(1, 0), condition);
        self.lift(Direction::Forward).slopes_of_noise(&self.coordinates, noise, told.as_ref())
    }

    /// Checks a caller's samples and flattens them to `[B, d]` on the student's device.
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

    /// Checks a caller's condition and encodes it as network input.
    pub fn condition_input(&self, condition: Option<&Tensor>, batch: i64) -> Result<Option<Tensor>> {
        self.config.conditioning.check(condition, batch)?;
        Ok(self.encode_condition(condition))
    }

    /// A checked condition as network input, on the student's device.
    pub(crate) fn encode_condition(&self, condition: Option<&Tensor>) -> Option<Tensor> {
        let encoded = self.config.conditioning.encode(condition, self.kind());
        encoded.map(|encoded| encoded.to_device(self.device()))
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
        let (t, x) = self.own_states(&t, &x)?;
        Ok(tch::no_grad(|| self.lift_flat(&t, &x, direction, condition.as_ref()).assemble()))
    }

    /// Observables and their exact derivative along (1, velocity), in the student's own time: (g `[B, m]`,
    /// J g (1, v) `[B, m]`). If `velocity` is the teacher's, the second is g L for a perfect student.
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
        let velocity = match &self.units {
            Some(units) => units.standard_velocity(&t, &x, &velocity)?,
            None => velocity,
        };
        let (t, x) = self.own_states(&t, &x)?;
        let (g, tangent) = self.lift_flat_with_tangent(&t, &x, &velocity, direction, condition.as_ref());
        let ones = t.ones_like().unsqueeze(1);
        let state_rate = velocity.narrow(1, 0, self.config.state_size());
        Ok((g.assemble(), Tensor::f_cat(&[ones.zeros_like(), ones, state_rate, tangent], 1)?))
    }

    /// Whether x is an exact slice of g.
    pub fn reads_exactly(&self) -> bool {
        matches!(self.readout, Readout::Slice)
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
            let got = format!("values up to {off:.3e} away from 1");
            return Err(Error::argument("g", "observables whose first coordinate is the constant 1", got));
        }
        Ok(size[0])
    }

    /// g exp(tau L): `[B, m]`, for tau `[B]` or one number, of either sign.
    ///
    /// # Errors
    /// [`Error::Divergence`] if the result is not finite.
    pub fn propagate(&self, g: &Tensor, tau: &Tensor) -> Result<Tensor> {
        let batch = self.check_observables(g)?;
        let tau = expand_time("tau", tau, batch)?.to_device(self.device()).to_kind(self.kind());
        let g = g.to_device(self.device()).to_kind(self.kind());
        let start = Observables::split(&g, self.config.state_size());
        let moved = tch::no_grad(|| self.generator.propagate(&start, &tau))?.assemble();
        finite_or_divergence(&moved, "propagate")?;
        Ok(moved)
    }

    /// x of observables, by the student's readout: `[B, m] -> [B, *event]`.
    pub fn readout(&self, g: &Tensor) -> Result<Tensor> {
        self.check_observables(g)?;
        let g = g.to_device(self.device()).to_kind(self.kind());
        let g = Observables::split(&g, self.config.state_size());
        let mut x = tch::no_grad(|| self.decode(&g));
        if let Some(units) = &self.units {
            x = units.inverse().standard(&g.t, &x)?.1;
        }
        finite_or_divergence(&x, "readout")?;
        Ok(self.unflatten(&x))
    }

    /// x of observables in the student's own coordinates: `[B, d]`, differentiable.
    pub fn decode(&self, g: &Observables) -> Tensor {
        self.readout.decode(g)
    }

    /// x of observables and its derivative along g L, each `[B, d]`.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn decode_with_rate(&self, g: &Observables) -> Result<(Tensor, Tensor)> {
        let (state_rate, feature_rate) = self.generator.rate(g);
        self.readout.decode_with_rate(g, &state_rate, &feature_rate)
    }

    /// x(t + tau) with one tau per sample, `[B]`: `[B, d]`, differentiable. For a slice, only x is
    /// propagated.
    ///
    /// # Errors
    /// [`Error::Divergence`] if a dense generator is too large for its exponential to be computed.
    pub fn decode_after(&self, g: &Observables, tau: &Tensor) -> Result<Tensor> {
        match &self.readout {
            Readout::Slice => self.generator.propagate_state(g, tau),
            readout => Ok(readout.decode(&self.generator.propagate(g, tau)?)),
        }
    }

    /// Propagator of one tau, computed from the current parameters.
    pub fn fresh_horizon(&self, tau: f64) -> Result<Horizon> {
        Horizon::new(&self.generator, &self.readout, tau)
    }

    /// Propagator of any linear motion of the observables, `[m, m]` in float64.
    pub fn horizon_of(&self, motion: &Tensor) -> Result<Horizon> {
        let options = (self.kind(), self.device());
        Horizon::from_matrix(motion, &self.readout, self.config.dimension(), options)
    }

    /// C of x = g C in float64 on the CPU, `[m, d]`; `None` if a network decodes x.
    pub fn readout_columns(&self) -> Result<Option<Tensor>> {
        self.readout.columns(self.config.dimension(), self.config.size())
    }

    /// Propagator of one tau, from a cache that is valid until the parameters are written.
    pub fn horizon(&self, tau: f64) -> Result<Horizon> {
        let mut kept = self.horizons.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(horizon) = kept.find(self.parameters.version(), tau) {
            return Ok(horizon);
        }
        let horizon = self.fresh_horizon(tau)?;
        kept.keep(tau, &horizon);
        Ok(horizon)
    }

    /// x(t + tau) for one tau: `[B, d]`, without gradients in L.
    pub fn advance(&self, g: &Observables, tau: f64) -> Result<Tensor> {
        self.horizon(tau)?.apply(g)
    }

    /// Parameters and input statistics, by name.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.parameters.named();
        tensors.extend(self.coordinates.named());
        tensors.extend(self.noising.named());
        tensors.extend(self.units.iter().flat_map(Units::named));
        tensors.extend(self.source.state().map(|(_, own)| own).unwrap_or_default());
        tensors.extend(self.both.iter().flat_map(BothWeights::named));
        tensors
    }

    /// Overwrites parameters and input statistics with tensors taken by name.
    pub fn restore(&mut self, mut take: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        self.parameters.restore(&mut take)?;
        if let Some(path) = self.config.units {
            self.units =
                Some(Units::stored(path, self.config.dimension(), &mut take)?.to(self.kind(), self.device()));
        }
        self.noising.restore(&mut take)?;
        self.coordinates.restore(&mut take)
    }
}

shared!(Student { units, source, parameters, coordinates, forward, backward, generator, readout, heads, noising, both; config, counter, horizons });
