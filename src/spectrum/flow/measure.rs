//! Computation of the spectrum of a flow from its paths.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::affine::{axes, take_affine, Affine};
use super::components::{shuffled, Components};
use super::displacements::Displacements;
use super::rates::{to_tensor, Motion};
use super::temporal::{second_moment, Temporal, CLOUD};
use super::time::{count, functions, orthonormal};
use super::{Facts, FlowSpectrum};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::RandomSource;

/// Options of [`measure`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reading {
    /// Number of rates, where a conjugate pair counts as two. `None` is the smallest number that `tolerance`
    /// allows.
    pub rates: Option<usize>,
    /// Share of the motion of held-out paths that rates may leave unexplained.
    pub tolerance: f64,
    /// Largest number of components that are kept.
    pub components: i64,
    /// Random seed of the resamples.
    pub seed: u64,
}

impl Default for Reading {
    fn default() -> Self {
        Reading { rates: None, tolerance: 1e-3, components: 256, seed: 0 }
    }
}

impl Reading {
    fn check(&self, times: usize) -> Result<()> {
        let most = times - 2;
        if let Some(rates) = self.rates.filter(|rates| *rates < 1 || *rates > most) {
            return Err(Error::argument("rates", format!("an integer from 1 to {most}"), rates));
        }
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            return Err(Error::argument("tolerance", "a share in (0, 1)", self.tolerance));
        }
        if self.components < 1 {
            return Err(Error::argument("components", "at least 1", self.components));
        }
        Ok(())
    }
}

/// The spectrum of the flow of these paths.
///
/// # Errors
/// [`Error::Argument`] for options out of their range or fewer than 16 paths; [`Error::Divergence`] if all
/// samples move alike.
pub fn measure(paths: Displacements, reading: &Reading, monitor: &mut dyn Monitor) -> Result<FlowSpectrum> {
    let _guard = tch::no_grad_guard();
    reading.check(paths.times.len())?;
    let (event_shape, times, weights) =
        (paths.event_shape.clone(), paths.times.clone(), paths.weights.clone());
    let (n, random) = (paths.count, RandomSource::new(reading.seed).fork("spectrum of a flow"));
    let mut moved = paths.finish()?;
    let order = shuffled(n, &random.fork("order"));
    let temporal = Temporal { times: &times, weights: &weights, moved: &moved, order: &order };
    let rates = temporal.rates(reading.rates, reading.tolerance)?;
    monitor.tick()?;
    let cloud = temporal.cloud(&rates.chosen.rates, &random)?;
    let halves = [rates.halves[0].rates.clone(), rates.halves[1].rates.clone()];
    monitor.tick()?;
    let Affine { map, freedom } = take_affine(&mut moved)?;
    monitor.tick()?;
    // The remainder in the basis of time. Below it is corrected for what the affine part explains by chance.
    let left = second_moment(&moved.coefficients)?;
    let of_times = |square: &Tensor| -> Result<Tensor> {
        Ok(moved.basis.f_matmul(square)?.f_matmul(&moved.basis.tr())?)
    };
    let affine_motion = &moved.covariance - of_times(&left)?;
    let affine_rates = Motion::new(&times, &weights, &affine_motion)?.fit(count(&rates.chosen.rates))?;
    let left = of_times(&left)?.diagonal(0, 0, 1) * (n as f64 / (n as f64 - freedom));
    let total = moved.covariance.diagonal(0, 0, 1);
    let left = left.minimum(&total);
    let drift = moved.drift.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
    let shares = Tensor::f_stack(&[&drift, &(&total - &left).clamp_min(0.0), &left], 1)?;
    let over_time = Tensor::from_slice(&weights).f_matmul(&shares)?;
    let [drift, affine, nonlinear] = [0, 1, 2].map(|part| over_time.double_value(&[part]));
    let motion = affine + nonlinear;

    // The functions of time, orthonormal under the weights, and the change of basis to them.
    let roots: Vec<f64> = weights.iter().map(|weight| weight.sqrt()).collect();
    let own = to_tensor(&functions(&rates.basis, &times))?;
    let rooted = functions(&rates.basis, &times) * ndarray::Array1::from(roots).insert_axis(ndarray::Axis(1));
    let mix = to_tensor(&orthonormal(&rooted).1)?;
    let weighted = &moved.basis * Tensor::from_slice(&weights).unsqueeze(1);
    let change = weighted.tr().f_matmul(&own.f_matmul(&mix)?)?;
    let (r, d) = (mix.size()[0], moved.noise.size()[1]);
    let map = change.tr().f_matmul(&map.f_reshape([-1, d * d])?)?.f_reshape([r, d, d])?;
    let z = change.tr().f_matmul(&moved.coefficients.to_kind(Kind::Double))?.f_reshape([n, r * d])?;
    moved.coefficients = Tensor::new();
    monitor.tick()?;
    let most = reading.components.min(n / 4).max(1);
    let found = Components::of(&z, freedom, (motion, moved.rounding), most, &order, &random)?;
    monitor.tick()?;
    let count = found.modes.size()[0];
    let axes = axes(&map, &z, &own.f_matmul(&mix)?.select(0, -1))?;
    let facts = Facts {
        event_shape,
        paths: n,
        noise: format!("{:016x}", moved.digest),
        rates: rates.chosen.rates,
        basis: rates.basis,
        candidates: rates.candidates,
        halves,
        affine_rates: affine_rates.rates,
        unexplained: rates.unexplained,
        bound: rates.bound,
        drift,
        motion,
        affine,
        nonlinear,
        unresolved: motion * rates.unresolved,
        freedom,
        edge: found.edge,
        standing: found.standing,
        groups: found.groups,
        agreement: found.agreement,
        axis_groups: axes.groups,
        sizes: [times.len() as i64, CLOUD as i64, axes.values.size()[0], count, found.energies.size()[0]],
    };
    let arrays = vec![
        ("times", Tensor::from_slice(&times)),
        ("drift", moved.drift),
        ("shares", shares),
        ("covariance", moved.covariance),
        ("mix", mix),
        ("cloud", cloud),
        ("regions", rates.regions),
        ("noise_mean", moved.noise_mean),
        ("affine", map),
        ("axes", axes.axes),
        ("axis_values", axes.values),
        ("axis_modes", axes.modes),
        ("energies", found.energies),
        ("interval", found.interval),
        ("modes", found.modes.f_reshape([count, r, d])?),
        ("amplitudes", found.amplitudes),
    ];
    FlowSpectrum::assemble(facts, arrays)
}
