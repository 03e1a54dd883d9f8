//! Displacements of paths since noise, accumulated chunk by chunk: their mean, their covariance in time, and
//! the coefficients of each path in a few functions of time. Memory grows with the number of paths but hardly
//! with the number of times.

use tch::{Device, Kind, Tensor};

use super::time::trapezium;
use crate::error::{Error, Result};
use crate::tensor::{check_finite, event_size, hash, shape_text, FNV_OFFSET};

/// Share of a chunk's energy, relative to the first chunk's mean, that may lie outside the functions of time.
const NEGLIGIBLE: f64 = 1e-11;

/// The sums over all paths so far, in float64 on the CPU.
pub struct Displacements {
    pub(super) event_shape: Vec<i64>,
    pub(super) times: Vec<f64>,
    pub(super) weights: Vec<f64>,
    pub(super) count: i64,
    /// Mean displacement of the first chunk, `[T, d]`. It is subtracted before summing, so that a large drift
    /// does not cost precision.
    reference: Option<Tensor>,
    /// Sums relative to the reference: displacements `[T, d]`, and second moments in time `[T, T]`.
    sum: Tensor,
    second: Tensor,
    /// Mean squares of the states at each time, summed over paths, `[T]`. They determine the size of rounding
    /// errors.
    squares: Tensor,
    /// Functions of time that span the displacements, orthonormal under the weights: `[T, q]`.
    basis: Tensor,
    /// The noise `[B, d]` and coefficients in those functions, `[B, q, d]`, of each chunk, in the paths'
    /// dtype. Coefficients of functions that were added later are 0.
    noise: Vec<Tensor>,
    coefficients: Vec<Tensor>,
    kind: Kind,
}

/// All paths, centred.
pub(super) struct Moved {
    /// Mean displacement, `[T, d]`.
    pub drift: Tensor,
    /// Covariance in time, summed over dimensions, `[T, T]`.
    pub covariance: Tensor,
    pub basis: Tensor,
    /// `[n, d]`, centred, and its mean `[d]`.
    pub noise: Tensor,
    pub noise_mean: Tensor,
    /// `[n, q, d]`, centred, in the paths' dtype.
    pub coefficients: Tensor,
    /// Energy of the rounding errors of the paths' dtype, integrated over time.
    pub rounding: f64,
    /// Hash that identifies the noise.
    pub digest: u64,
}

impl Displacements {
    /// # Errors
    /// [`Error::Argument`] naming `times` if they are fewer than four or do not increase from 0;
    /// [`Error::Shape`] naming `event_shape` if a size is not positive.
    pub fn new(event_shape: &[i64], times: &[f64]) -> Result<Self> {
        if event_shape.is_empty() || event_shape.iter().any(|size| *size < 1) {
            return Err(Error::shape("event_shape", "positive sizes", shape_text(event_shape)));
        }
        if !are_times(times) {
            let expected = "four or more increasing times that start at 0";
            return Err(Error::argument("times", expected, format!("{times:?}")));
        }
        let all = times.len() as i64;
        let zeros = |size: &[i64]| Tensor::f_zeros(size, (Kind::Double, Device::Cpu));
        Ok(Displacements {
            event_shape: event_shape.to_vec(),
            times: times.to_vec(),
            weights: trapezium(times),
            count: 0,
            reference: None,
            sum: zeros(&[all, event_size(event_shape)])?,
            second: zeros(&[all, all])?,
            squares: zeros(&[all])?,
            basis: zeros(&[all, 0])?,
            noise: Vec::new(),
            coefficients: Vec::new(),
            kind: Kind::Float,
        })
    }

    /// Adds the states of some paths at all times, `[T, B, *event]`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Argument`] or [`Error::NonFinite`] naming `paths`.
    pub fn add(&mut self, paths: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let rows = check_paths(paths, self.times.len(), &self.event_shape)?;
        let (times, d) = (self.times.len() as i64, event_size(&self.event_shape));
        let states = paths.reshape([times, rows, d]).to_device(Device::Cpu);
        let exact = states.to_kind(Kind::Double);
        let mean = |x: &Tensor, axes: &[i64]| x.mean_dim(axes, false, Kind::Double);
        let moved = &exact - exact.narrow(0, 0, 1);
        if self.count == 0 {
            self.kind = if paths.kind() == Kind::Double { Kind::Double } else { Kind::Float };
            self.reference = Some(mean(&moved, &[1]));
        }
        let moved = match &self.reference {
            Some(reference) => moved - reference.unsqueeze(1),
            None => moved,
        };
        let flat = moved.reshape([times, rows * d]);
        let second = flat.f_matmul(&flat.tr())?;
        self.widen(&second)?;
        let coefficients = self.weighted_basis().tr().f_matmul(&flat)?;
        let coefficients = coefficients.reshape([-1, rows, d]).transpose(0, 1);
        self.second += second;
        self.sum += moved.sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        self.squares += mean(&exact.square(), &[2]).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        self.count += rows;
        // Copies, so that a chunk does not keep its whole paths in memory.
        self.coefficients.push(coefficients.to_kind(self.kind).contiguous());
        self.noise.push(states.select(0, 0).to_kind(self.kind).copy());
        Ok(())
    }

    pub fn count(&self) -> i64 {
        self.count
    }

    /// Adds to the basis the leading functions of this second moment that lie outside of it.
    fn widen(&mut self, second: &Tensor) -> Result<()> {
        let scale = Tensor::from_slice(&self.weights).sqrt();
        let weighted = second * scale.unsqueeze(0) * scale.unsqueeze(1);
        let total = weighted.trace().double_value(&[]);
        let known = &self.basis * scale.unsqueeze(1);
        let outside =
            Tensor::f_eye(known.size()[0], (Kind::Double, Device::Cpu))? - known.f_matmul(&known.tr())?;
        let (values, vectors) = outside.f_matmul(&weighted)?.f_matmul(&outside)?.f_linalg_eigh("L")?;
        let kept = values.gt((total * NEGLIGIBLE).max(1e-300)).sum(Kind::Int64).int64_value(&[]);
        if kept > 0 {
            // Orthogonal to the known functions, because only the part outside of them was decomposed.
            let leading = vectors.flip([1i64]).narrow(1, 0, kept) / scale.unsqueeze(1);
            self.basis = Tensor::f_cat(&[&self.basis, &leading], 1)?;
        }
        Ok(())
    }

    /// The basis times the weights. Its transpose maps displacements to coefficients.
    fn weighted_basis(&self) -> Tensor {
        &self.basis * Tensor::from_slice(&self.weights).unsqueeze(1)
    }

    /// # Errors
    /// [`Error::Argument`] naming `n` for fewer than 16 paths; [`Error::Divergence`] if all samples move
    /// alike.
    pub(super) fn finish(mut self) -> Result<Moved> {
        let Some(reference) = self.reference.take().filter(|_| self.count >= 16) else {
            return Err(Error::argument("n", "at least 16 paths", self.count));
        };
        let (n, functions) = (self.count as f64, self.basis.size()[1]);
        let mean = &self.sum / n;
        let covariance = &self.second / n - mean.f_matmul(&mean.tr())?;
        let centre = self.weighted_basis().tr().f_matmul(&mean)?;
        let noise = Tensor::f_cat(&self.noise, 0)?;
        let digest = digest(&noise)?;
        let padded = self.coefficients.drain(..).map(|part| {
            let missing = functions - part.size()[1];
            if missing == 0 {
                Ok(part)
            } else {
                part.f_constant_pad_nd([0, 0, 0, missing])
            }
        });
        let mut coefficients = Tensor::f_cat(&padded.collect::<std::result::Result<Vec<_>, _>>()?, 0)?;
        coefficients -= centre.to_kind(self.kind);
        let noise = noise.to_kind(Kind::Double);
        let noise_mean = noise.mean_dim([0i64].as_slice(), false, Kind::Double);
        let noise = noise - &noise_mean;
        let precision: f64 = if self.kind == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let weights = Tensor::from_slice(&self.weights);
        let size = weights.dot(&self.squares).double_value(&[]) / n * noise.size()[1] as f64;
        let rounding = precision.powi(2) * size;
        let moved = weights.dot(&covariance.diagonal(0, 0, 1)).double_value(&[]);
        if moved <= 4.0 * rounding {
            return Err(Error::Divergence("paths: all samples move alike, so there is no spectrum".into()));
        }
        let drift = mean + reference;
        let basis = self.basis;
        Ok(Moved { drift, covariance, basis, noise, noise_mean, coefficients, rounding, digest })
    }
}

/// Whether times are four or more that increase from 0.
pub(super) fn are_times(times: &[f64]) -> bool {
    times.len() >= 4
        && times[0] == 0.0
        && times.windows(2).all(|pair| pair[0] < pair[1])
        && times[times.len() - 1].is_finite()
}

/// Checks that `paths` are states `[T, B, *event]`, finite, `B >= 1`; returns `B`.
pub(super) fn check_paths(paths: &Tensor, times: usize, event_shape: &[i64]) -> Result<i64> {
    let size = paths.size();
    if size.len() != event_shape.len() + 2 || size[0] != times as i64 || size[2..] != event_shape[..] {
        let event: String = event_shape.iter().map(|size| format!(", {size}")).collect();
        return Err(Error::shape("paths", format!("({times}, B{event})"), shape_text(&size)));
    }
    if size[1] == 0 {
        return Err(Error::argument("paths", "at least one path", "none"));
    }
    check_finite("paths", paths)?;
    Ok(size[1])
}

/// FNV-1a of the values in float32: the same noise has the same digest in every process.
fn digest(noise: &Tensor) -> Result<u64> {
    let values = Vec::<f32>::try_from(noise.to_kind(Kind::Float).contiguous().reshape([-1]))?;
    Ok(hash(FNV_OFFSET, values.iter().flat_map(|value| value.to_le_bytes())))
}
