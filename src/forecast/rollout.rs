//! Forecasts: observables carried linearly, read off, and encoded anew.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::solve::semidefinite;
use super::Forecaster;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::{chunks, RandomSource};

/// What is asked of a forecast.
pub struct Request<'a> {
    /// Stacks of standardised states, `[B, h d]`, and conditions `[B, c]`.
    pub stack: &'a Tensor,
    pub condition: Option<&'a Tensor>,
    /// Times since the last row of the stacks, at least 0, in any order.
    pub times: &'a [f64],
    /// Steps between encodings; `None` never encodes anew.
    pub re_encode: Option<u64>,
    /// Held from each step to the next, from the last row on: `[N, B, u]`, where N steps reach the last of the times.
    pub inputs: Option<&'a Tensor>,
    /// Number of random members; 0 is the forecast without noise.
    pub members: i64,
    pub seed: u64,
}

/// Rows that are carried at once.
const CHUNK_ROWS: i64 = 4096;

/// Times nearer to a step than this share of it are the step's.
const ON_GRID: f64 = 1e-6;

/// Standardised states `[T, B, d]`, or `[T, members, B, d]` of members.
///
/// # Errors
/// Names `times` or `inputs`; [`Error::Divergence`] where a forecast overflows; whatever the monitor answers.
pub fn forecast(model: &Forecaster, request: &Request<'_>, monitor: &mut dyn Monitor) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    if let Some(bad) = request.times.iter().find(|time| !(time.is_finite() && **time >= 0.0)) {
        return Err(Error::argument("times", "times since the last row, at least 0", bad));
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
            "the forecast is beyond float64: the model grows without bound that far ahead".into(),
        ));
    }
    Ok(if request.members == 0 { states.squeeze_dim(1) } else { states })
}

/// Random additions to every step.
struct Noise {
    random: RandomSource,
    /// A root of the covariance: `[m, m]`, or `[d, d]` of the state where every step encodes anew.
    root: Tensor,
}

impl Noise {
    fn new(model: &Forecaster, request: &Request<'_>, first: u64) -> Result<Self> {
        let own = &model.evolution;
        let covariance = match request.re_encode {
            Some(1) => own.readout.tr().f_matmul(&own.covariance)?.f_matmul(&own.readout)?,
            _ => own.covariance.shallow_clone(),
        };
        let (values, vectors) = semidefinite(&covariance)?.f_linalg_eigh("L")?;
        let root = (&vectors * values.clamp_min(0.0).sqrt()).tr();
        let random = RandomSource::new(request.seed).fork("members").fork_numbered("rows", first);
        Ok(Noise { random, root })
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
    /// exp(L t) by the bits of t.
    exponentials: HashMap<u64, Tensor>,
}

impl Run<'_> {
    fn encode(&self) -> Result<Tensor> {
        self.model.encode(&self.stack, self.condition.as_ref())
    }

    fn exponential(&mut self, time: f64) -> Result<Tensor> {
        if let Some(known) = self.exponentials.get(&time.to_bits()) {
            return Ok(known.shallow_clone());
        }
        let Some(generator) = &self.model.evolution.generator else {
            let step = self.model.facts.step;
            let expected =
                format!("multiples of the data's step {step}: this model has no generator to go between");
            return Err(Error::argument("times", expected, time));
        };
        let made = (generator * time).f_linalg_matrix_exp()?;
        self.exponentials.insert(time.to_bits(), made.shallow_clone());
        Ok(made)
    }

    fn drive(&self, step: usize) -> Result<Option<Tensor>> {
        let (Some(inputs), Some(drive)) = (&self.inputs, &self.model.evolution.drive) else {
            return Ok(None);
        };
        if step as i64 >= inputs.size()[0] {
            let expected = format!("inputs for more than {} steps", inputs.size()[0]);
            return Err(Error::argument("inputs", expected, format!("{} steps", inputs.size()[0])));
        }
        Ok(Some(inputs.select(0, step as i64).f_matmul(drive)?))
    }

    /// States at times, from one step of the data to the next.
    fn by_steps(&mut self, times: &[f64], monitor: &mut dyn Monitor) -> Result<Tensor> {
        let step = self.model.facts.step;
        // Each time as a whole number of steps and the rest.
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
        // Where every step encodes anew, only what it moves the state by is formed.
        let short = (self.re_encode == Some(1)).then(|| own.transition.f_matmul(&own.readout)).transpose()?;
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
                        let between = self.exponential(*rest)?;
                        let g = g.as_ref().map_or_else(|| self.encode(), |g| Ok(g.shallow_clone()))?;
                        self.model.clipped(&g.f_matmul(&between)?.f_matmul(&own.readout)?)
                    }
                });
            }
            if now == last {
                break;
            }
            let driven = self.drive(now)?;
            let noise = self.noise.as_mut().map(|noise| noise.draw(rows)).transpose()?;
            if let Some(short) = &short {
                let mut next = self.encode()?.f_matmul(short)?;
                if let Some(driven) = &driven {
                    next += driven.f_matmul(&own.readout)?;
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
            for addition in [driven, noise].into_iter().flatten() {
                next += addition;
            }
            since += 1;
            state = next.f_matmul(&own.readout)?;
            if self.re_encode.is_some() {
                state = self.model.clipped(&state);
            }
            self.stack = self.model.shifted(&self.stack, &state);
            match self.re_encode == Some(since) {
                true => since = 0,
                false => g = Some(next),
            }
        }
        let states: Option<Vec<Tensor>> = found.into_iter().collect();
        Ok(Tensor::f_stack(&states.unwrap_or_default(), 0)?)
    }

    /// States at times along dg/dt = g L: by one encoding, or along the field dz/dt that every state's encoding gives.
    fn by_rates(&mut self, times: &[f64], monitor: &mut dyn Monitor) -> Result<Tensor> {
        let mut order: Vec<usize> = (0..times.len()).collect();
        order.sort_by(|a, b| times[*a].total_cmp(&times[*b]));
        let mut found: Vec<Option<Tensor>> = times.iter().map(|_| None).collect();
        let step = self.model.facts.step;
        let (mut now, mut state) = (0.0, self.stack.shallow_clone());
        let mut g = self.encode()?;
        for place in order {
            monitor.tick()?;
            let gap = times[place] - now;
            if gap > 0.0 && self.re_encode.is_none() {
                g = g.f_matmul(&self.exponential(gap)?)?;
                state = g.f_matmul(&self.model.evolution.readout)?;
            } else if gap > 0.0 {
                // Whole steps first, so that noise is that of steps.
                let pieces = (gap / step).ceil().max(1.0) as usize;
                for _ in 0..pieces {
                    let length = gap / pieces as f64;
                    let index = ((now / step) + 1e-9) as usize;
                    let driven = self.drive(index)?;
                    state = self.model.advanced(&state, self.condition.as_ref(), driven.as_ref(), length)?;
                    if let Some(noise) = self.noise.as_mut() {
                        let rows = state.size()[0];
                        state += noise.draw(rows)? * (length / step).sqrt();
                    }
                    now += length;
                }
            }
            now = times[place];
            found[place] = Some(state.shallow_clone());
        }
        let states: Option<Vec<Tensor>> = found.into_iter().collect();
        Ok(Tensor::f_stack(&states.unwrap_or_default(), 0)?)
    }
}

/// Steps of Runge and Kutta's in one of the data's.
const SUBSTEPS: usize = 4;

impl Forecaster {
    /// Standardised states `[B, d]` after a time, one number or `[B, 1]`, along the field that their encodings give:
    /// dz/dt = (g(z) L) C.
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
