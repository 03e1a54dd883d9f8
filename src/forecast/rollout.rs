//! Forecasts: observables evolve linearly, and states are decoded from them and encoded again.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::solve::semidefinite;
use super::Forecaster;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::{chunks, RandomSource};

/// The arguments of a forecast.
pub struct Request<'a> {
    /// Stacks of standardised states, `[B, h d]`.
    pub stack: &'a Tensor,
    /// Conditions, `[B, c]`.
    pub condition: Option<&'a Tensor>,
    /// Times since the last row of the stacks, at least 0, in any order.
    pub times: &'a [f64],
    /// Number of steps between encodings; `None` means only one encoding.
    pub re_encode: Option<u64>,
    /// Inputs from the last row on, `[N, B, u]`, each of which is constant until the next step. The N steps must
    /// reach the last of the times.
    pub inputs: Option<&'a Tensor>,
    /// Number of random ensemble members; 0 means one forecast without noise.
    pub members: i64,
    pub seed: u64,
}

/// Maximum number of rows that are forecast at once.
const CHUNK_ROWS: i64 = 4096;

/// Distance from a step, as a share of the step, below which a time counts as that step.
const ON_GRID: f64 = 1e-6;
/// Maximum number of steps of a forecast.
const LONGEST: f64 = 1e7;

/// Forecasts standardised states `[T, B, d]`, or `[T, members, B, d]` with ensemble members.
///
/// # Errors
/// Errors naming `times` or `inputs`; [`Error::Divergence`] if a forecast overflows; errors of the monitor.
pub fn forecast(model: &Forecaster, request: &Request<'_>, monitor: &mut dyn Monitor) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    if let Some(bad) = request.times.iter().find(|time| !(time.is_finite() && **time >= 0.0)) {
        return Err(Error::argument("times", "finite times since the last row of at least 0", bad));
    }
    if let Some(far) = request.times.iter().find(|time| **time > LONGEST * model.facts.step) {
        return Err(Error::argument("times", format!("at most {LONGEST:.0} steps ahead"), far));
    }
    let (batch, members) = (request.stack.size()[0], request.members.max(1));
    let each = |x: &Tensor, rows: i64, from: i64, axis: i64| {
        x.narrow(axis, from, rows).repeat_interleave_self_int(members, axis, None)
    };
    let mut parts = Vec::new();
    for (first, rows) in chunks(batch, (CHUNK_ROWS / members).max(1)) {
        let inputs = request.inputs.map(|inputs| each(inputs, rows, first, 1));
        let condition = request.condition.map(|c| each(c, rows, first, 0));
        let noise = match request.members {
            0 => None,
            _ => Some(Noise::new(model, request, first as u64)?),
        };
        let mut run = Run {
            model,
            stack: each(request.stack, rows, first, 0),
            condition,
            inputs,
            noise,
            re_encode: request.re_encode,
            exponentials: HashMap::new(),
        };
        let states = match model.facts.continuous {
            true => run.by_rates(request.times, monitor)?,
            false => run.by_steps(request.times, monitor)?,
        };
        let shape = [states.size()[0], rows, members, states.size()[2]];
        parts.push(states.f_view(shape)?.transpose(1, 2));
    }
    let states = Tensor::f_cat(&parts, 2)?;
    if !crate::tensor::all_finite(&states) {
        return Err(Error::Divergence(
            "the forecast overflows float64, because the model grows without bound; forecast fewer steps"
                .into(),
        ));
    }
    Ok(if request.members == 0 { states.squeeze_dim(1) } else { states })
}

/// The process noise that is added in every step.
struct Noise {
    random: RandomSource,
    /// A square root of the noise covariance, `[m, m]`, or `[d, d]` for the state if every step encodes again.
    root: Tensor,
}

impl Noise {
    fn new(model: &Forecaster, request: &Request<'_>, first: u64) -> Result<Self> {
        let own = &model.evolution;
        let of_state = match model.facts.continuous {
            true => request.re_encode.is_some(),
            false => request.re_encode == Some(1),
        };
        let covariance = match of_state {
            true => own.next_state()?.covariance,
            false => own.covariance.shallow_clone(),
        };
        let (values, vectors) = semidefinite(&covariance)?.f_linalg_eigh("L")?;
        let root = (&vectors * values.clamp_min(0.0).sqrt()).tr();
        let random = RandomSource::new(request.seed).fork("members").fork_numbered("rows", first);
        Ok(Noise { random, root })
    }

    /// A draw from a separate random stream, which does not change the other draws.
    fn aside(&self, step: usize, rows: i64) -> Result<Tensor> {
        let mut random = self.random.fork_numbered("between", step as u64);
        let fresh = random.normal(&[rows, self.root.size()[0]], Kind::Double, Device::Cpu)?;
        Ok(fresh.to_device(self.root.device()).f_matmul(&self.root)?)
    }

    fn draw(&mut self, rows: i64) -> Result<Tensor> {
        let fresh = self.random.normal(&[rows, self.root.size()[0]], Kind::Double, Device::Cpu)?;
        Ok(fresh.to_device(self.root.device()).f_matmul(&self.root)?)
    }
}

struct Run<'a> {
    model: &'a Forecaster,
    stack: Tensor,
    condition: Option<Tensor>,
    inputs: Option<Tensor>,
    noise: Option<Noise>,
    re_encode: Option<u64>,
    /// Cache of exp(L t) and the effect of inputs, with the bits of t as the key.
    exponentials: HashMap<u64, Exponential>,
}

/// exp(L t), `[m, m]`, and the effect of inputs, which is the integral of B exp(L s) over s in [0, t], `[u, m]`.
struct Exponential {
    own: Tensor,
    driven: Option<Tensor>,
}

impl Run<'_> {
    fn encode(&self) -> Result<Tensor> {
        self.model.encode(&self.stack, self.condition.as_ref())
    }

    fn exponential(&mut self, time: f64) -> Result<&Exponential> {
        let key = time.to_bits();
        if !self.exponentials.contains_key(&key) {
            let own = &self.model.evolution;
            let Some(generator) = &own.generator else {
                let step = self.model.facts.step;
                let expected =
                    format!("multiples of the data's step {step}, since this model has no generator");
                return Err(Error::argument("times", expected, time));
            };
            let drive = own.drive.as_ref().map(|drive| self.rate_of_inputs(generator, drive)).transpose()?;
            let made = driven_exponential(generator, drive.as_ref(), &Tensor::from(time))?;
            let m = generator.size()[0];
            let part = |first: i64, rows: i64| made.narrow(0, first, rows).narrow(1, 0, m);
            let driven = own.drive.as_ref().map(|drive| part(m, drive.size()[0]));
            self.exponentials.insert(key, Exponential { own: part(0, m), driven });
        }
        self.exponentials
            .get(&key)
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("a cached exponential is missing")))
    }

    /// The matrix B of dg/dt = g L + u B, from the effect `drive` of inputs over a whole step.
    fn rate_of_inputs(&self, generator: &Tensor, drive: &Tensor) -> Result<Tensor> {
        if self.model.facts.continuous {
            return Ok(drive.shallow_clone());
        }
        let m = generator.size()[0];
        let eye = Tensor::f_eye(m, (Kind::Double, generator.device()))?;
        let step = driven_exponential(generator, Some(&eye), &Tensor::from(self.model.facts.step))?;
        // The integral of exp(L s) over a step, which maps B to `drive`.
        let whole = step.narrow(0, m, m).narrow(1, 0, m).contiguous();
        Ok(Tensor::f_linalg_solve(&whole, drive, false)?)
    }

    /// Inputs of a step, `[B, u]`.
    fn inputs_of(&self, step: usize) -> Result<Option<Tensor>> {
        let Some(inputs) = &self.inputs else { return Ok(None) };
        if step as i64 >= inputs.size()[0] {
            let got = format!("{} steps", inputs.size()[0]);
            return Err(Error::argument("inputs", format!("inputs for more than {got}"), got));
        }
        Ok(Some(inputs.select(0, step as i64)))
    }

    /// The effect of a step's inputs through the matrix `drive` `[u, any]`.
    fn drive_by(&self, step: usize, drive: &Option<Tensor>) -> Result<Option<Tensor>> {
        match (self.inputs_of(step)?, drive) {
            (Some(inputs), Some(drive)) => Ok(Some(inputs.f_matmul(drive)?)),
            _ => Ok(None),
        }
    }

    /// Standardised states at a time `rest`, shorter than a step, after the observables `g` at step `now`.
    fn between(&mut self, g: &Tensor, now: usize, rest: f64) -> Result<Tensor> {
        let share = (rest / self.model.facts.step).sqrt();
        let inputs = self.inputs_of(now)?;
        let Exponential { own, driven } = self.exponential(rest)?;
        let mut moved = g.f_matmul(own)?;
        if let (Some(inputs), Some(driven)) = (inputs, driven) {
            moved += inputs.f_matmul(driven)?;
        }
        let own = &self.model.evolution;
        // The noise comes from a separate stream, so that times between steps do not change later states.
        let state = match &self.noise {
            None => moved.f_matmul(&own.readout)?,
            Some(noise) => {
                let drawn = noise.aside(now, g.size()[0])? * share;
                match self.re_encode {
                    Some(1) => moved.f_matmul(&own.readout)? + drawn,
                    _ => (moved + drawn).f_matmul(&own.readout)?,
                }
            }
        };
        Ok(if self.re_encode.is_some() { self.model.clipped(&state) } else { state })
    }

    /// States at times, computed with one step of the data after another.
    fn by_steps(&mut self, times: &[f64], monitor: &mut dyn Monitor) -> Result<Tensor> {
        let step = self.model.facts.step;
        // Each time is split into a whole number of steps and the rest.
        let places: Vec<(usize, f64)> = times
            .iter()
            .map(|time| {
                let steps = time / step;
                match (steps - steps.round()).abs() < ON_GRID.max(steps * 1e-12) {
                    true => (steps.round() as usize, 0.0),
                    false => (steps.floor() as usize, (steps - steps.floor()) * step),
                }
            })
            .collect();
        let last = places.iter().map(|(whole, _)| *whole).max().unwrap_or(0);
        let mut found: Vec<Option<Tensor>> = times.iter().map(|_| None).collect();
        let own = &self.model.evolution;
        let (d, rows) = (self.model.sizes.dimension(), self.stack.size()[0]);
        let newest = |stack: &Tensor| stack.narrow(1, 0, d).shallow_clone();
        // A state that is encoded again may be predicted more accurately than by K.
        let short = self.re_encode.is_some().then(|| own.next_state()).transpose()?;
        let mut g: Option<Tensor> = None;
        let mut since = 0;
        let mut state = newest(&self.stack);
        for now in 0..=last {
            monitor.tick()?;
            for (place, (whole, rest)) in places.iter().enumerate() {
                if *whole != now {
                    continue;
                }
                found[place] = Some(match *rest == 0.0 {
                    true => state.shallow_clone(),
                    false => {
                        let g = g.as_ref().map_or_else(|| self.encode(), |g| Ok(g.shallow_clone()))?;
                        self.between(&g, now, *rest)?
                    }
                });
            }
            if now == last {
                break;
            }
            let noise = self.noise.as_mut().map(|noise| noise.draw(rows)).transpose()?;
            if let (Some(1), Some(short)) = (self.re_encode, &short) {
                let mut next = self.encode()?.f_matmul(&short.columns)?;
                if let Some(driven) = self.drive_by(now, &short.drive)? {
                    next += driven;
                }
                if let Some(noise) = noise {
                    next += noise;
                }
                state = self.model.clipped(&next);
                self.stack = self.model.shifted(&self.stack, &state);
                continue;
            }
            let before = g.take().map_or_else(|| self.encode(), Ok)?;
            let mut next = before.f_matmul(&own.transition)?;
            let driven = self.drive_by(now, &own.drive)?;
            for addition in driven.iter().chain(&noise) {
                next += addition;
            }
            since += 1;
            state = match &short {
                None => next.f_matmul(&own.readout)?,
                Some(short) => {
                    let mut state = before.f_matmul(&short.columns)?;
                    let driven = self.drive_by(now, &short.drive)?;
                    let noise = noise.map(|noise| noise.f_matmul(&own.readout)).transpose()?;
                    for addition in driven.iter().chain(&noise) {
                        state += addition;
                    }
                    self.model.clipped(&state)
                }
            };
            self.stack = self.model.shifted(&self.stack, &state);
            match self.re_encode == Some(since) {
                true => since = 0,
                false => g = Some(next),
            }
        }
        let states: Option<Vec<Tensor>> = found.into_iter().collect();
        Ok(Tensor::f_stack(&states.unwrap_or_default(), 0)?)
    }

    /// States at times along dg/dt = g L from one encoding, or along the vector field dz/dt that the encoding of each
    /// state gives.
    fn by_rates(&mut self, times: &[f64], monitor: &mut dyn Monitor) -> Result<Tensor> {
        let mut order: Vec<usize> = (0..times.len()).collect();
        order.sort_by(|a, b| times[*a].total_cmp(&times[*b]));
        let mut found: Vec<Option<Tensor>> = times.iter().map(|_| None).collect();
        let step = self.model.facts.step;
        let (mut now, mut state, rows) = (0.0, self.stack.shallow_clone(), self.stack.size()[0]);
        let mut g = self.encode()?;
        for place in order {
            // Integrates from one step to the next, because inputs change and noise is added at steps.
            while now < times[place] {
                monitor.tick()?;
                let index = (now / step + ON_GRID).floor();
                let to = times[place].min((index + 1.0) * step);
                let length = to - now;
                let share = (length / step).sqrt();
                if self.re_encode.is_none() {
                    let inputs = self.inputs_of(index as usize)?;
                    let Exponential { own, driven } = self.exponential(length)?;
                    g = g.f_matmul(own)?;
                    if let (Some(inputs), Some(driven)) = (inputs, driven) {
                        g += inputs.f_matmul(driven)?;
                    }
                    if let Some(noise) = self.noise.as_mut() {
                        g += noise.draw(rows)? * share;
                    }
                    state = g.f_matmul(&self.model.evolution.readout)?;
                } else {
                    let driven = self.drive_by(index as usize, &self.model.evolution.drive)?;
                    state = self.model.advanced(&state, self.condition.as_ref(), driven.as_ref(), length)?;
                    if let Some(noise) = self.noise.as_mut() {
                        state += noise.draw(rows)? * share;
                    }
                }
                now = to;
            }
            found[place] = Some(state.shallow_clone());
        }
        let states: Option<Vec<Tensor>> = found.into_iter().collect();
        Ok(Tensor::f_stack(&states.unwrap_or_default(), 0)?)
    }
}

/// exp([[L, 0], [B, 0]] t) for t, one number or `[S, 1, 1]`: it contains exp(L t) and, below it, the effect of
/// constant inputs.
///
/// # Errors
/// Errors of libtorch.
pub(super) fn driven_exponential(generator: &Tensor, drive: Option<&Tensor>, t: &Tensor) -> Result<Tensor> {
    let Some(drive) = drive else { return Ok((generator * t).f_linalg_matrix_exp()?) };
    let (u, m) = drive.size2()?;
    let rows = Tensor::f_cat(&[generator, drive], 0)?;
    let none = Tensor::f_zeros([m + u, u], (Kind::Double, generator.device()))?;
    Ok((Tensor::f_cat(&[rows, none], 1)? * t).f_linalg_matrix_exp()?)
}

/// Number of Runge-Kutta steps in one step of the data.
const SUBSTEPS: usize = 4;

impl Forecaster {
    /// Standardised states `[B, d]` after the time `time`, along the vector field dz/dt = (g(z) L) C.
    pub(super) fn advanced(
        &self,
        z: &Tensor,
        condition: Option<&Tensor>,
        driven: Option<&Tensor>,
        time: f64,
    ) -> Result<Tensor> {
        let time = Tensor::f_full([1, 1], time, self.options())?;
        self.advanced_each(z, condition, driven, &time)
    }

    /// [`Forecaster::advanced`] with a separate time for each state, `[B, 1]`.
    pub(super) fn advanced_each(
        &self,
        z: &Tensor,
        condition: Option<&Tensor>,
        driven: Option<&Tensor>,
        times: &Tensor,
    ) -> Result<Tensor> {
        let own = &self.evolution;
        let Some(generator) = &own.generator else {
            return Err(Error::Internal(anyhow::anyhow!("a model without a generator has no rates")));
        };
        let short = generator.f_matmul(&own.readout)?;
        let field = |z: &Tensor| -> Result<Tensor> {
            let rate = self.encode(z, condition)?.f_matmul(&short)?;
            Ok(match driven {
                Some(driven) => rate + driven.f_matmul(&own.readout)?,
                None => rate,
            })
        };
        let h = times / SUBSTEPS as f64;
        let mut z = z.shallow_clone();
        for _ in 0..SUBSTEPS {
            let first = field(&z)?;
            let second = field(&(&z + &h * &first * 0.5))?;
            let third = field(&(&z + &h * &second * 0.5))?;
            let fourth = field(&(&z + &h * &third))?;
            z = self.clipped(&(&z + &h / 6.0 * (first + second * 2.0 + third * 2.0 + fourth)));
        }
        Ok(z)
    }
}
