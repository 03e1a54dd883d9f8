//! Log-likelihood by the instantaneous change of variables: along dx/dt = v,
//! d log p_t(x_t)/dt = -div v(t, x_t) (Chen et al., "Neural ordinary differential equations", 2018;
//! METHOD.md, "Teacher"). x and the running divergence are solved as one state `[B, d + 1]` from t = 1
//! (data) to t = 0, where p is the standard normal density.

use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::source::{check_density, log_density};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};
use crate::ode::{integrate_between, Along, SolveOptions};
use crate::tensor::{check_batch, chunks, finite_densities, in_halves, RandomSource};
use crate::velocity::{Source, VelocityField};

/// Dimension up to which [`Divergence::Auto`] is exact.
pub const EXACT_LIMIT: i64 = 32;

/// Largest number of rows in one call of the field: samples times probes (or dimensions).
const CHUNK_ROWS: i64 = 8192;

/// How the divergence of the field is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Divergence {
    /// Exact up to [`EXACT_LIMIT`] dimensions, Hutchinson's estimate above.
    #[default]
    Auto,
    /// The trace of the Jacobian, one vector-Jacobian product for each dimension.
    Exact,
    /// The mean of e^T J e over Rademacher probes e, which are drawn once per solution. Unbiased in log p,
    /// but with variance (Grathwohl et al., FFJORD, 2019).
    Hutchinson,
}

impl FromStr for Divergence {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Divergence::Auto),
            "exact" => Ok(Divergence::Exact),
            "hutchinson" => Ok(Divergence::Hutchinson),
            _ => Err(Error::argument("divergence", "'auto', 'exact' or 'hutchinson'", format!("{name:?}"))),
        }
    }
}

/// Options of [`log_prob`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DensityOptions {
    pub divergence: Divergence,
    /// Number of Hutchinson's probes for each sample.
    pub probes: i64,
    /// Random seed of Hutchinson's probes.
    pub seed: u64,
    pub solve: SolveOptions,
}

impl Default for DensityOptions {
    fn default() -> Self {
        DensityOptions { divergence: Divergence::Auto, probes: 1, seed: 0, solve: SolveOptions::default() }
    }
}

/// log p(x) in nats of `x` `[B, *event]` under the field's flow from its source: `[B]`, in
/// the field's dtype and on its device. Reports under the stage `"density"`.
///
/// # Errors
/// As [`crate::ode::solve`]; [`Error::Argument`] for `probes` below 1; [`Error::NonFinite`] naming `x` if a
/// density overflows the dtype.
pub fn log_prob(
    field: &dyn VelocityField,
    x: &Tensor,
    options: &DensityOptions,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<Tensor> {
    let batch = check_batch("x", x, field.event_shape())?;
    field.conditioning().check(condition, batch)?;
    check_density(&field.source())?;
    if let Some((standard, units)) = field.standard()? {
        let z = units.standard_data(&x.to_device(field.device()))?;
        options.solve.validate()?;
        let options = DensityOptions { solve: options.solve.in_units(&units), ..options.clone() };
        let density = log_prob(&*standard, &z, &options, condition, monitor)?;
        return Ok(density - field.event_size() as f64 * units.scale().ln());
    }
    if options.probes < 1 {
        return Err(Error::argument("probes", "at least 1", options.probes));
    }
    let (device, kind, size) = (field.device(), field.dtype(), field.event_size());
    let x = x.to_device(device).to_kind(kind).f_reshape([batch, size])?;
    let condition = condition.map(|c| c.to_device(device));
    let exact = match options.divergence {
        Divergence::Auto => size <= EXACT_LIMIT,
        Divergence::Exact => true,
        Divergence::Hutchinson => false,
    };
    let count = if exact { size } else { options.probes };
    let mut source = RandomSource::new(options.seed).fork("density probes");
    let chunk = (CHUNK_ROWS / count).max(1);
    let mut parts = Vec::new();
    let start = Instant::now();
    for (first, rows) in chunks(batch, chunk) {
        let probes = if exact {
            Tensor::eye(size, (kind, device)).f_repeat([rows, 1])?
        } else {
            // Drawn chunk by chunk to bound memory. The draws depend only on the seed, d and the number of
            // probes.
            let signs = source.uniform(&[rows * count, size], Kind::Float, device)?.ge(0.5);
            signs.to_kind(kind) * 2.0 - 1.0
        };
        in_halves(rows, rows, |offset, rows| {
            let samples = |x: &Tensor| x.narrow(0, first + offset, rows);
            let part = Part {
                field,
                rows,
                count,
                probes: probes.narrow(0, offset * count, rows * count),
                weight: if exact { 1.0 } else { 1.0 / count as f64 },
                condition: condition.as_ref().map(|c| repeat(&samples(c), count)).transpose()?,
                source: field.source(),
                own_condition: condition.as_ref().map(samples),
            };
            parts.push(part.solve(&samples(&x), options, monitor)?);
            Ok(())
        })?;
        monitor.report(&Progress {
            stage: "density",
            step: (first + rows) as u64,
            total: batch as u64,
            seconds: start.elapsed().as_secs_f64(),
            values: vec![],
        })?;
    }
    finite_densities(Tensor::f_cat(&parts, 0)?)
}

/// Repeats each row `count` times, with its copies next to one another.
fn repeat(x: &Tensor, count: i64) -> Result<Tensor> {
    Ok(x.f_repeat_interleave_self_int(count, 0, None)?)
}

/// A chunk of samples, with the vectors that probe their Jacobians.
struct Part<'a> {
    field: &'a dyn VelocityField,
    rows: i64,
    /// Number of probes for each sample.
    count: i64,
    /// `[rows * count, d]`
    probes: Tensor,
    /// Weight of each e^T J e in the divergence.
    weight: f64,
    /// `[rows * count, ...]`
    condition: Option<Tensor>,
    source: Source,
    /// `[rows, ...]`
    own_condition: Option<Tensor>,
}

impl Part<'_> {
    fn solve(&self, x: &Tensor, options: &DensityOptions, monitor: &mut dyn Monitor) -> Result<Tensor> {
        let size = x.size()[1];
        let log_volume = Tensor::zeros([self.rows, 1], (x.kind(), x.device()));
        let state = Tensor::cat(&[x, &log_volume], 1);
        let derivative = |t: f64, y: &Tensor| self.derivative(t, y, size);
        let (ends, along, breaks) = ([1.0, 0.0], Along::augmented(self.field), self.field.breaks());
        let solution =
            integrate_between(derivative, &state, &ends, &options.solve, &along, &breaks, monitor)?;
        let end = solution.endpoint();
        // In float64, since the sum of squares and the change of volume may nearly cancel.
        let noise = end.narrow(1, 0, size).to_kind(Kind::Double);
        let mut shape = vec![self.rows];
        shape.extend(self.field.event_shape());
        let noise = noise.f_view(shape.as_slice())?;
        let log_noise = log_density(&self.source, &noise, options, self.own_condition.as_ref(), monitor)?;
        // The last coordinate was solved backwards in time from 0 with slope -div v, so it holds the integral
        // of div v.
        Ok((log_noise - end.select(1, size).to_kind(Kind::Double)).to_kind(x.kind()))
    }

    /// (v, -div v) of the state `[rows, d + 1]`.
    fn derivative(&self, t: f64, state: &Tensor, size: i64) -> Result<Tensor> {
        let expanded = self.rows * self.count;
        let mut shape = vec![expanded];
        shape.extend(self.field.event_shape());
        let x = repeat(&state.narrow(1, 0, size), self.count)?.f_reshape(shape.as_slice())?;
        let time = Tensor::f_full([expanded], t, (x.kind(), x.device()))?;
        let probes = self.probes.f_reshape(shape.as_slice())?;
        let (v, product) = self.field.velocity_and_vjp(&time, &x, &probes, self.condition.as_ref())?;
        let grouped = [self.rows, self.count, size];
        let v = v.f_reshape(grouped)?.select(1, 0);
        let traces = (product * probes).f_reshape([self.rows, self.count * size])?;
        let divergence = traces.f_sum_dim_intlist([1i64].as_slice(), true, x.kind())?;
        Ok(Tensor::f_cat(&[v, divergence * -self.weight], 1)?)
    }
}
