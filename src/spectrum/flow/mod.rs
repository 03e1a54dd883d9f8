//! The spectrum of a flow: a canonical description that depends only on the paths, not on the model that
//! computes them.
//!
//! Any function of the noise times e^{lambda t} is an eigenfunction of a flow from noise to data, so the flow
//! does not determine the eigenvalues of a student. It does determine how far its samples have moved by time
//! t,
//!
//!   x(t) = x0 + b(t) + (x0 - m) A(t) + sum_k a_k(x0) V_k(t) + rest,
//!
//! with a drift b that all samples share, a part that is affine in the noise (of mean m), and the principal components
//! in space and time of what remains. All are sums of a few functions (e^{lambda_j t} - 1) / lambda_j with
//! rates lambda_j that all paths share.

mod affine;
mod agreement;
mod components;
mod displacements;
mod measure;
mod rates;
mod reach;
mod store;
mod temporal;
mod time;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use self::displacements::check_paths;
use self::time::functions;
use crate::error::{Error, Result};
use crate::tensor::{check_batch, event_size, exact, shape_text, Share};

pub use agreement::{Agreement, Found};
pub use displacements::Displacements;
pub use measure::{measure, Reading};
pub use time::Rate;

/// Facts of a flow's spectrum, without its arrays. Energies are mean squares over paths, summed over
/// dimensions and integrated over time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    pub event_shape: Vec<i64>,
    /// Number of paths.
    pub paths: i64,
    /// FNV-1a hash of their noise. The amplitudes of two spectra can be compared if it is the same.
    pub noise: String,
    pub rates: Vec<Rate>,
    /// Rates of the functions of time in which modes are expressed, at least as many as `rates`.
    pub basis: Vec<Rate>,
    /// The best 1, 2, ... rates, where a conjugate pair counts as two, for comparing flows.
    pub candidates: Vec<Vec<Rate>>,
    /// Rates of two random halves of the paths.
    pub halves: [Vec<Rate>; 2],
    /// Rates of the affine part.
    pub affine_rates: Vec<Rate>,
    /// Share of the motion of held-out paths that the best 1, 2, ... rates leave unexplained.
    pub unexplained: Vec<f64>,
    /// Unexplained share up to which other rates count as equally good.
    pub bound: f64,
    /// Energy of the mean displacement, of all other motion, and of the affine and the nonlinear part of
    /// that.
    pub drift: f64,
    pub motion: f64,
    pub affine: f64,
    pub nonlinear: f64,
    /// Energy of the motion that the functions of time leave unexplained.
    pub unresolved: f64,
    /// Degrees of freedom of the affine part.
    pub freedom: f64,
    pub edge: f64,
    pub standing: i64,
    pub groups: Vec<i64>,
    pub agreement: Vec<f64>,
    pub axis_groups: Vec<i64>,
    /// Numbers of times, of resamples in the cloud of rates, of affine axes, of components, and of their energies.
    pub sizes: [i64; 5],
}

impl Facts {
    /// The number of functions of time.
    fn functions(&self) -> i64 {
        time::count(&self.basis) as i64
    }

    /// Name and shape of every array.
    fn shapes(&self) -> Result<Vec<(&'static str, Vec<i64>)>> {
        let d = self
            .event_shape
            .iter()
            .try_fold(1i64, |all, size| all.checked_mul((*size > 0).then_some(*size)?));
        let Some(d) = d else {
            let got = shape_text(&self.event_shape);
            return Err(Error::argument("event_shape", "positive sizes", got));
        };
        let ([times, cloud, axes, count, energies], r, n) = (self.sizes, self.functions(), self.paths);
        Ok(vec![
            ("times", vec![times]),
            ("drift", vec![times, d]),
            ("shares", vec![times, 3]),
            ("covariance", vec![times, times]),
            ("mix", vec![r, r]),
            ("cloud", vec![cloud, time::count(&self.rates) as i64, 2]),
            ("regions", vec![time::count(&self.rates) as i64, reach::DIRECTIONS, 2]),
            ("noise_mean", vec![d]),
            ("affine", vec![r, d, d]),
            ("axes", vec![axes, d]),
            ("axis_values", vec![axes]),
            ("axis_modes", vec![axes, r, d]),
            ("energies", vec![energies]),
            ("interval", vec![count, 2]),
            ("modes", vec![count, r, d]),
            ("amplitudes", vec![n, count]),
        ])
    }
}

/// The spectrum of a flow (see the module). All arrays are float64 on the CPU. Modes are expressed in the
/// functions of time.
pub struct FlowSpectrum {
    facts: Facts,
    arrays: Vec<(&'static str, Tensor)>,
    times: Vec<f64>,
}

impl Share for FlowSpectrum {
    fn shallow_clone(&self) -> Self {
        FlowSpectrum {
            facts: self.facts.clone(),
            arrays: self.arrays.iter().map(|(name, array)| (*name, array.shallow_clone())).collect(),
            times: self.times.clone(),
        }
    }
}

/// Which parts of a sample to add up.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub drift: bool,
    pub affine: bool,
}

impl FlowSpectrum {
    fn assemble(facts: Facts, arrays: Vec<(&'static str, Tensor)>) -> Result<Self> {
        let times = arrays.iter().find(|(name, _)| *name == "times");
        let times = times.map(|(_, times)| Vec::<f64>::try_from(times)).transpose()?.unwrap_or_default();
        Ok(FlowSpectrum { facts, arrays, times })
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn times(&self) -> &[f64] {
        &self.times
    }

    /// One of the arrays by name.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `array` for another name.
    pub fn array(&self, name: &str) -> Result<&Tensor> {
        let found = self.arrays.iter().find(|(own, _)| *own == name).map(|(_, array)| array);
        found.ok_or_else(|| Error::argument("array", "the name of an array of a flow's spectrum", name))
    }

    fn dimension(&self) -> i64 {
        event_size(&self.facts.event_shape)
    }

    /// Values of the orthonormal functions of time at `times`: `[T, r]`.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn functions(&self, times: &[f64]) -> Result<Tensor> {
        Ok(rates::to_tensor(&functions(&self.facts.basis, times))?.f_matmul(self.array("mix")?)?)
    }

    /// The noise `[B, d]` of paths `[T, B, *event]`, and their displacements beyond the drift in the
    /// functions of time, `[B, r, d]`.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] naming `paths`.
    pub fn coefficients(&self, paths: &Tensor) -> Result<(Tensor, Tensor)> {
        let rows = check_paths(paths, self.times.len(), &self.facts.event_shape)?;
        let (times, d) = (self.times.len() as i64, self.dimension());
        let paths = exact(paths).reshape([times, -1, d]);
        let (noise, drift) = (paths.select(0, 0), self.array("drift")?.unsqueeze(1));
        let moved = (&paths - noise.unsqueeze(0) - drift).reshape([times, -1]);
        let weights = Tensor::from_slice(&time::trapezium(&self.times)).unsqueeze(1);
        let read = (self.functions(&self.times)? * weights).tr().f_matmul(&moved)?;
        Ok((noise, read.reshape([-1, rows, d]).transpose(0, 1).contiguous()))
    }

    /// Amplitudes a_k of paths `[T, B, *event]`: `[B, K]`.
    ///
    /// # Errors
    /// As [`FlowSpectrum::coefficients`].
    pub fn amplitudes(&self, paths: &Tensor) -> Result<Tensor> {
        let (noise, moved) = self.coefficients(paths)?;
        let affine = (noise - self.array("noise_mean")?).unsqueeze(0).f_matmul(self.array("affine")?)?;
        let left = (moved - affine.transpose(0, 1)).reshape([paths.size()[1], -1]);
        Ok(left.f_matmul(&self.flat_modes()?.tr())?)
    }

    /// Amplitudes of the affine axes for noise `[B, *event]`, which are standard normal: `[B, A]`.
    ///
    /// # Errors
    /// An error naming `x0`.
    pub fn axis_amplitudes(&self, x0: &Tensor) -> Result<Tensor> {
        Ok(self.centred(x0)?.f_matmul(&self.array("axes")?.tr())?)
    }

    /// The share of this flow's motion that `rates` leave unexplained.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn unexplained(&self, rates: &[Rate]) -> Result<f64> {
        let weights = time::trapezium(&self.times);
        Ok(rates::Motion::new(&self.times, &weights, self.array("covariance")?)?.unexplained(rates))
    }

    /// States at time `t`, `[B, *event]`: x0, the chosen parts, and the sum of `amplitudes` `[B, K]` times
    /// components.
    ///
    /// # Errors
    /// An error naming `x0`, `amplitudes` or `t`.
    pub fn states(&self, x0: &Tensor, amplitudes: &Tensor, t: f64, parts: Parts) -> Result<Tensor> {
        self.check_time(t)?;
        let centred = self.centred(x0)?;
        // A copy, because it is added to.
        let mut x = exact(x0).reshape([-1, self.dimension()]).copy();
        let at = self.functions(&[t])?.reshape([-1, 1, 1]);
        if parts.drift {
            x += self.drift(t)?;
        }
        if parts.affine {
            let map = self.array("affine")? * &at;
            x += centred.f_matmul(&map.sum_dim_intlist([0i64].as_slice(), false, Kind::Double))?;
        }
        let expected = [x.size()[0], self.facts.sizes[3]];
        if amplitudes.size() != expected {
            return Err(Error::shape("amplitudes", shape_text(&expected), shape_text(&amplitudes.size())));
        }
        x += exact(amplitudes).f_matmul(&self.modes_at(t)?)?;
        let mut shape = vec![-1];
        shape.extend(&self.facts.event_shape);
        Ok(x.reshape(shape).to_kind(x0.kind()))
    }

    /// V_k(t), `[K, d]`.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn modes_at(&self, t: f64) -> Result<Tensor> {
        let at = self.functions(&[t])?.reshape([1, -1, 1]);
        Ok((self.array("modes")? * at).sum_dim_intlist([1i64].as_slice(), false, Kind::Double))
    }

    /// States at `t`, `[B, *event]`, of paths `[T, B, *event]` if only the kept functions of the rates move:
    /// the sum of noise, drift and those. `keep` has one entry per function of [`Facts::basis`].
    ///
    /// # Errors
    /// An error naming `paths`, `keep` or `t`.
    pub fn with_rates(&self, paths: &Tensor, keep: &[bool], t: f64) -> Result<Tensor> {
        self.check_time(t)?;
        if keep.len() as i64 != self.facts.functions() {
            return Err(Error::shape("keep", shape_text(&[self.facts.functions()]), keep.len()));
        }
        let (noise, moved) = self.coefficients(paths)?;
        let own: Vec<f64> = functions(&self.facts.basis, &[t])
            .iter()
            .zip(keep)
            .map(|(value, keep)| if *keep { *value } else { 0.0 })
            .collect();
        let at = self.array("mix")?.tr().f_mv(&Tensor::from_slice(&own))?.reshape([1, -1, 1]);
        let x = noise + self.drift(t)? + (moved * at).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        let mut shape = vec![-1];
        shape.extend(&self.facts.event_shape);
        Ok(x.reshape(shape).to_kind(paths.kind()))
    }

    /// b(t), `[d]`, interpolated linearly between the times of the paths.
    fn drift(&self, t: f64) -> Result<Tensor> {
        let drift = self.array("drift")?;
        let after = self.times.partition_point(|time| *time < t).clamp(1, self.times.len() - 1);
        let (from, to) = (self.times[after - 1], self.times[after]);
        let weight = (t - from) / (to - from);
        Ok(drift.select(0, after as i64 - 1) * (1.0 - weight) + drift.select(0, after as i64) * weight)
    }

    fn check_time(&self, t: f64) -> Result<()> {
        let last = self.times.last().copied().unwrap_or(1.0);
        if !(0.0..=last).contains(&t) {
            return Err(Error::argument("t", format!("a time in [0, {last}]"), t));
        }
        Ok(())
    }

    fn centred(&self, x0: &Tensor) -> Result<Tensor> {
        check_batch("x0", x0, &self.facts.event_shape)?;
        Ok(exact(x0).reshape([-1, self.dimension()]) - self.array("noise_mean")?)
    }

    fn flat_modes(&self) -> Result<Tensor> {
        let modes = self.array("modes")?;
        Ok(modes.f_reshape([modes.size()[0], modes.size()[1] * modes.size()[2]])?)
    }
}
