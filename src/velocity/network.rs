//! A velocity field given by a network: a multilayer perceptron, or a U-Net for images.

mod copies;
mod torchcfm;

use tch::{Device, Kind, Tensor};

use super::body::Body;
use super::gaussian::find_tensor;
use super::scales::{Scaled, Scales};
use super::standard::Standard;
use super::{
    Conditioning, EvaluationCounter, FieldDescription, FieldState, Mixing, Moments, NetworkFieldConfig,
    Source, SourceDescription, Units, VelocityField,
};
use crate::error::{Error, Result};
use crate::nets::{Parameters, UNetConfig, AUGMENTATION_MAP};
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::{check_batch, check_finite, dtype_name, event_size, parse_dtype, RandomSource, Share};

/// v(t, x, c) by a multilayer perceptron over [x, time embedding, condition] with a linear skip connection from input
/// to output, or by a U-Net.
///
/// Input and output are scaled as in Karras et al. (arXiv 2206.00364), so that data of any scale train alike. For data
/// of mean m and standard deviation d in each coordinate and a path x_t = a x1 + s x0, the input of the network is
/// (x - a m) / sqrt(a^2 d^2 + s^2), and the unit of its output is sqrt(a'^2 d^2 + s'^2) around a' m. For a source
/// other than noise, s is multiplied by the deviation of the source, and the mean of the source is added. With
/// [`Preconditioning::Edm`] the network's output is added to the best linear prediction of the velocity instead.
///
/// If the scale of the data differs much from that of the noise, the path is decided in a short time near one of its
/// ends. Such data are therefore learnt in standardised coordinates, and `units` converts back. Losses and
/// [`NetworkField::velocity_in_units`] refer to the standardised coordinates, [`VelocityField::velocity`] to the
/// original ones.
pub struct NetworkField {
    config: NetworkFieldConfig,
    device: Device,
    dtype: Kind,
    data: Standard,
    condition: Standard,
    /// Mean and deviation of the source; `None` if it is noise.
    origin: Option<Standard>,
    /// Mean and deviation of the growth rate, `[1]`; `None` for a field without growth.
    growth: Option<Standard>,
    source: Source,
    units: Option<Units>,
    body: Body,
    parameters: Parameters,
    counter: EvaluationCounter,
}

impl NetworkField {
    /// An untrained field for `data` `[N, *event]` and, if the conditioning is by vectors, `condition` `[N, dim]`. Its
    /// parameters require gradients until [`NetworkField::freeze`].
    ///
    /// # Errors
    /// Errors that name the wrong option or argument.
    pub fn new(
        config: NetworkFieldConfig,
        data: &Tensor,
        condition: Option<&Tensor>,
        device: Device,
        random: &mut RandomSource,
    ) -> Result<Self> {
        config.check()?;
        let count = check_batch("data", data, &config.event_shape)?;
        config.conditioning.check(condition, count)?;
        let data = match (config.scaled, &config.unet) {
            (false, _) => Standard::identity(event_size(&config.event_shape)),
            (true, Some(_)) => Standard::of_channels(data)?,
            (true, None) => Standard::of(&data.f_reshape([count, -1])?),
        };
        let condition = match (config.conditioning, condition) {
            (Conditioning::Vector { .. }, Some(vectors)) => Standard::of(vectors),
            _ => Standard::identity(config.conditioning.size()),
        };
        NetworkField::build(config, &data, &condition, device, random)
    }

    /// A field with initial weights, whose statistics are those of standardised data.
    ///
    /// # Errors
    /// Errors that name the wrong option.
    pub fn untrained(config: &NetworkFieldConfig, device: Device, random: &mut RandomSource) -> Result<Self> {
        config.check()?;
        let data = match config.scaled {
            true => Standard::identity(event_size(&config.event_shape)),
            false => Standard::identity(0),
        };
        let condition = Standard::identity(config.conditioning.size());
        NetworkField::build(config.clone(), &data, &condition, device, random)
    }

    fn build(
        config: NetworkFieldConfig,
        data: &Standard,
        condition: &Standard,
        device: Device,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let dtype = parse_dtype(&config.dtype)?;
        let mut parameters = Parameters::new(dtype, device);
        let body = Body::new(&config, (dtype, device), &mut parameters, random)?;
        parameters.pack();
        Ok(NetworkField {
            device,
            dtype,
            data: data.to(device, dtype),
            condition: condition.to(device, dtype),
            growth: config.growth.then(|| Standard::identity(1).to(device, dtype)),
            origin: None,
            source: Source::Normal,
            units: None,
            body,
            parameters,
            counter: EvaluationCounter::default(),
            config,
        })
    }

    /// Rebuilds the field that [`VelocityField::state`] described.
    ///
    /// # Errors
    /// Errors that name an option out of its range, or a tensor that is missing, unknown, of another shape or not
    /// finite. For a file, [`crate::store`] converts them to [`Error::Checkpoint`].
    pub fn from_state(
        config: &NetworkFieldConfig,
        tensors: &[(String, Tensor)],
        device: Device,
    ) -> Result<Self> {
        config.check()?;
        tensors.iter().try_for_each(|(name, tensor)| check_finite(name, tensor))?;
        // Checked before the description's memory is allocated.
        let weights = tensors.iter().filter(|(name, _)| name.starts_with("network."));
        let stored: i64 = weights.map(|(_, tensor)| tensor.numel() as i64).sum();
        if config.parameter_count() != Some(stored) {
            let expected = format!("{} weights", config.parameter_count().unwrap_or_default());
            return Err(Error::argument("network", expected, stored));
        }
        let data = match config.scaled {
            true => Standard::stored(tensors, "data", event_size(&config.event_shape))?,
            // Unused, and images may have any size.
            false => Standard::identity(0),
        };
        let condition = match config.conditioning {
            Conditioning::Vector { dim } => Standard::stored(tensors, "condition", dim)?,
            _ => Standard::identity(config.conditioning.size()),
        };
        let mut random = RandomSource::new(0);
        let mut field = NetworkField::build(config.clone(), &data, &condition, device, &mut random)?;
        if !config.source.is_normal() {
            let size = if config.scaled { event_size(&config.event_shape) } else { 0 };
            let origin = match config.scaled {
                true => Standard::stored(tensors, "origin", size)?,
                false => Standard::identity(0),
            };
            let own: Vec<_> = tensors
                .iter()
                .filter(|(name, _)| Source::owns(name))
                .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
                .collect();
            field.source = Source::from_state(&config.source, &own, &config.event_shape, device)?;
            field.origin = Some(origin.to(device, field.dtype));
        }
        if config.growth {
            field.growth = Some(Standard::stored(tensors, "growth", 1)?.to(device, field.dtype));
        }
        field.parameters.restore(|name| find_tensor(tensors, name).map(Tensor::shallow_clone))?;
        if tensors.iter().any(|(name, _)| name.starts_with("units.")) {
            let take = |name: &str| find_tensor(tensors, name).map(Tensor::shallow_clone);
            let units = Units::stored(config.path, event_size(&config.event_shape), take)?;
            field = field.in_units(&units);
        }
        let known = field.tensors();
        if let Some((name, _)) = tensors.iter().find(|(name, _)| known.iter().all(|(own, _)| own != name)) {
            return Err(Error::argument(name, "a tensor of a network field", "an unknown tensor"));
        }
        field.freeze();
        Ok(field)
    }

    /// The same field for data in other units: `units` converts from the data that the field was trained on.
    pub fn in_units(self, units: &Units) -> NetworkField {
        NetworkField { units: Some(units.to(self.dtype, self.device)), ..self }
    }

    /// The same field with another source. `pool` `[N, *event]` are samples of it, which determine the scales.
    ///
    /// # Errors
    /// Errors of libtorch. A source that cannot be stored is accepted; saving the field then fails.
    pub fn starting_from(self, source: Source, pool: &Tensor) -> Result<NetworkField> {
        if source.is_normal() {
            return Ok(self);
        }
        let origin = match (self.config.scaled, &self.config.unet) {
            (false, _) => Standard::identity(0),
            (true, Some(_)) => Standard::of_channels(pool)?,
            (true, None) => Standard::of(&pool.f_reshape([pool.size()[0], -1])?),
        };
        // The description of a source that cannot be stored; saving such a field reports the error.
        let description = source.state().map_or(SourceDescription::Sampler, |(description, _)| description);
        let config = NetworkFieldConfig { source: description, ..self.config };
        Ok(NetworkField { config, origin: Some(origin.to(self.device, self.dtype)), source, ..self })
    }

    /// The same field with the scale of growth rates like `rates` `[N, 1]`.
    pub fn growing_like(self, rates: &Tensor) -> NetworkField {
        NetworkField { growth: Some(Standard::of(rates).to(self.device, self.dtype)), ..self }
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.parameters.named();
        tensors.retain(|(name, _)| !name.ends_with(AUGMENTATION_MAP));
        tensors.extend(self.units.iter().flat_map(Units::named));
        let mut add = |name: &str, standard: &Standard| {
            tensors.push((format!("{name}.mean"), standard.mean.copy()));
            tensors.push((format!("{name}.scale"), standard.scale.copy()));
        };
        if self.config.scaled {
            add("data", &self.data);
            self.origin.iter().for_each(|origin| add("origin", origin));
            self.growth.iter().for_each(|growth| add("growth", growth));
        }
        if matches!(self.config.conditioning, Conditioning::Vector { .. }) {
            add("condition", &self.condition);
        }
        tensors.extend(self.source.state().map(|(_, own)| own).unwrap_or_default());
        tensors
    }

    pub fn config(&self) -> &NetworkFieldConfig {
        &self.config
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Average number of times that one sample uses each weight: once in a perceptron, and once per 16 pixels in a
    /// U-Net (an estimate of the average over its levels).
    pub fn reuse(&self) -> i64 {
        match &self.config.unet {
            Some(_) => (self.config.event_shape[1..].iter().product::<i64>() / 16).max(1),
            None => 1,
        }
    }

    /// Ends training: evaluations no longer record a graph for the parameters.
    pub fn freeze(&self) {
        for tensor in self.parameters.tensors() {
            let _ = tensor.set_requires_grad(false);
        }
    }

    /// The same field without the map of augmentations, which only training uses. Its weights are copies.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn without_augmentation(self) -> Result<NetworkField> {
        if self.config.augmented == 0 {
            return Ok(self);
        }
        let config = NetworkFieldConfig { augmented: 0, ..self.config };
        let mut parameters = Parameters::new(self.dtype, self.device);
        let home = (self.dtype, self.device);
        let body = Body::new(&config, home, &mut parameters, &mut RandomSource::new(0))?;
        parameters.pack();
        let known = self.parameters.named();
        parameters.restore(|name| find_tensor(&known, name).map(Tensor::shallow_clone))?;
        Ok(NetworkField { config, body, parameters, ..self })
    }

    /// The output of the network `[B, dim]`, and what it is scaled by. `augmentation` `[B, n]` are the numbers that a
    /// network is told of the augmentation of each row; nothing was augmented without them.
    fn evaluate(
        &self,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
        augmentation: Option<&Tensor>,
    ) -> Result<Scaled> {
        let batch = t.size()[0];
        let x = x.f_reshape([batch, -1])?;
        let scales = self.scales(t);
        let size = x.size()[1];
        let input = scales.input(&x);
        let told = self.body.told(self.encoded(condition), augmentation)?;
        let whole = self.body.forward(t, input.shallow_clone(), told)?;
        let growth = if whole.size()[1] > size { Some(whole.f_select(1, size)?) } else { None };
        let mut answer = whole.f_narrow(1, 0, size)?;
        if self.config.phase {
            let half = size / 2;
            let part = |x: &Tensor, from: i64| x.narrow(1, from, half);
            let rate = (part(&x, half) - part(&scales.centre, 0)) / part(&scales.unit, 0);
            answer = Tensor::f_cat(&[rate, part(&answer, half)], 1)?;
        }
        Ok(Scaled { growth, answer, input, scales })
    }

    /// The condition encoded and scaled for the network.
    fn encoded(&self, condition: Option<&Tensor>) -> Option<Tensor> {
        let encoded = self.config.conditioning.encode(condition, self.dtype);
        encoded.map(|c| (c - &self.condition.mean) / &self.condition.scale)
    }

    /// The scales of the network's input and output at times `[B]`.
    fn scales(&self, t: &Tensor) -> Scales {
        if !self.config.scaled {
            return Scales::identity(self.dtype, self.device);
        }
        Scales::at(t, self.config.path, self.config.preconditioning, &self.data, self.origin.as_ref())
    }

    /// v(t, x) and the deviation of each coordinate's velocity, each `[B, dim]`, for training. Differentiable in the
    /// parameters; does not count as an evaluation.
    pub fn velocity_in_units(
        &self,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        self.augmented_velocity_in_units(t, x, condition, None)
    }

    /// [`NetworkField::velocity_in_units`] for rows whose augmentations have the numbers `augmentation` `[B, n]`.
    pub fn augmented_velocity_in_units(
        &self,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
        augmentation: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let scaled = self.evaluate(t, x, condition, augmentation)?;
        Ok((scaled.velocity(), scaled.scales.spread))
    }

    /// The regression loss: the mean square of (v - u) in the units of the network's output. A field that always
    /// returns the mean, or the best linear prediction with [`super::Preconditioning::Edm`], has loss 1 for
    /// independent pairs. Differentiable in the parameters. `augmentation` as in
    /// [`NetworkField::augmented_velocity_in_units`].
    pub fn loss(
        &self,
        t: &Tensor,
        x: &Tensor,
        u: &Tensor,
        condition: Option<&Tensor>,
        augmentation: Option<&Tensor>,
    ) -> Result<Tensor> {
        let scaled = self.evaluate(t, x, condition, augmentation)?;
        Ok(scaled.answer.f_mse_loss(&scaled.target(u)?, tch::Reduction::Mean)?)
    }

    /// [`NetworkField::loss`] plus the loss of the growth rate on `rates` `[B]`, for points weighted by `masses`
    /// `[B]`. The minimisers are the means over the mass at (t, x), which the equation d rho/dt + div(rho v) = g rho
    /// needs.
    pub fn growing_loss(
        &self,
        t: &Tensor,
        x: &Tensor,
        u: &Tensor,
        masses: &Tensor,
        rates: &Tensor,
    ) -> Result<Tensor> {
        let scaled = self.evaluate(t, x, None, None)?;
        let (Some(growth), Some(standard)) = (&scaled.growth, &self.growth) else {
            return Err(Error::Internal(anyhow::anyhow!("growing_loss called for a network without growth")));
        };
        let target = scaled.target(u)?;
        let rates = (rates - &standard.mean) / &standard.scale;
        let gap = (scaled.answer - target).square().f_mean_dim([1].as_slice(), false, self.dtype)?;
        Ok((masses * (gap + (growth - rates).square())).mean(self.dtype) / masses.mean(self.dtype))
    }

    fn shared(&self) -> NetworkField {
        NetworkField {
            config: self.config.clone(),
            device: self.device,
            dtype: self.dtype,
            data: self.data.shallow_clone(),
            condition: self.condition.shallow_clone(),
            origin: self.origin.as_ref().map(Standard::shallow_clone),
            growth: self.growth.as_ref().map(Standard::shallow_clone),
            source: self.source.shallow_clone(),
            units: self.units.as_ref().map(Units::shallow_clone),
            body: self.body.shallow_clone(),
            parameters: self.parameters.shallow_clone(),
            counter: self.counter.clone(),
        }
    }
}

impl Share for NetworkField {
    fn shallow_clone(&self) -> Self {
        self.shared()
    }
}

impl VelocityField for NetworkField {
    fn event_shape(&self) -> &[i64] {
        &self.config.event_shape
    }

    fn conditioning(&self) -> Conditioning {
        self.config.conditioning
    }

    fn device(&self) -> Device {
        self.device
    }

    fn dtype(&self) -> Kind {
        self.dtype
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        if x.kind() != self.dtype {
            return Err(Error::dtype("x", dtype_name(self.dtype), dtype_name(x.kind())));
        }
        self.counter.add(1);
        let _threads = IntraOpThreads::for_work(self.parameters.count(), x.size()[0] * self.reuse());
        let field =
            |t: &Tensor, x: &Tensor| Ok(self.velocity_in_units(t, x, condition)?.0.f_reshape(x.size())?);
        match &self.units {
            Some(units) => units.velocity(t, x, field),
            None => field(t, x),
        }
    }

    fn growth(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Option<Tensor>> {
        let Some(standard) = &self.growth else { return Ok(None) };
        self.counter.add(1);
        let rate = self.evaluate(t, x, condition, None)?.growth;
        Ok(rate.map(|rate| rate * &standard.scale + &standard.mean))
    }

    fn work(&self) -> Result<Option<f64>> {
        Ok(Some((self.parameters.count() * self.reuse()) as f64))
    }

    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }

    fn network(&self) -> Option<&NetworkField> {
        Some(self)
    }

    fn unet(&self) -> Option<&UNetConfig> {
        self.config.unet.as_ref()
    }

    fn feature_maps(
        &self,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Vec<Tensor>>> {
        self.counter.add(1);
        let (t, x) = match &self.units {
            Some(units) => units.standard(t, x)?,
            None => (t.shallow_clone(), x.shallow_clone()),
        };
        let x = self.scales(&t).input(&x.f_reshape([t.size()[0], -1])?);
        self.body.feature_maps(&t, &x, self.encoded(condition).as_ref())
    }

    fn source(&self) -> Source {
        self.source.shallow_clone()
    }

    fn moments(&self) -> Result<Option<Moments>> {
        if !self.config.scaled || self.units.is_some() {
            return Ok(None);
        }
        Moments::of_coordinates(&self.data.mean, &self.data.scale, &self.config.event_shape).map(Some)
    }

    fn mixing(&self) -> Option<Mixing> {
        // Points on a curve are not mixtures of its ends.
        (!self.config.phase && !self.config.curves).then_some(Mixing::Path(self.config.path))
    }

    fn standard(&self) -> Result<Option<(Box<dyn VelocityField>, Units)>> {
        let standard = |units: &Units| -> (Box<dyn VelocityField>, Units) {
            (Box::new(NetworkField { units: None, ..self.shared() }), units.shallow_clone())
        };
        Ok(self.units.as_ref().map(standard))
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(self.shared())
    }

    fn kind_name(&self) -> &'static str {
        "network"
    }

    fn state(&self) -> Option<FieldState> {
        // A field whose source cannot be stored cannot be stored either.
        self.source.state().ok()?;
        let config = NetworkFieldConfig { augmented: 0, ..self.config.clone() };
        let description = FieldDescription::Network(Box::new(config));
        Some(FieldState { description, tensors: self.tensors() })
    }
}
