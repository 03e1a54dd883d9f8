//! Paths, chunk by chunk, as what they have moved since noise: their mean, their covariance in time, and each path
//! in a few functions of time. Memory grows with the number of paths but hardly with the number of times.

use tch::{Device, Kind, Tensor};

use super::time::trapezium;
use crate::error::{Error, Result};
use crate::tensor::{check_finite, event_size, shape_text};

/// Energy, as a share of the first chunk's, below which a function of time is left out.
const NEGLIGIBLE: f64 = 1e-11;

/// The sums over all paths so far, in float64 on the CPU.
pub struct Displacements {
    pub(super) event_shape: Vec<i64>,
    pub(super) times: Vec<f64>,
    pub(super) weights: Vec<f64>,
    pub(super) count: i64,
    /// `[T, d]`.
    sum: Option<Tensor>,
    /// Second moments in time, `[T, T]`.
    second: Tensor,
    /// Orthonormal functions of time under the weights, that the first chunk's displacements lie in: `[T, q]`.
    basis: Option<Tensor>,
    /// The noise `[B, d]` and what it becomes in those functions, `[B, q, d]`, of each chunk; in the paths' dtype.
    noise: Vec<Tensor>,
    coefficients: Vec<Tensor>,
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
    /// Tells the noise from other noise.
    pub digest: u64,
}

impl Displacements {
    /// # Errors
    /// [`Error::Argument`] naming `times` where they are fewer than four, or do not increase from 0.
    pub fn new(event_shape: &[i64], times: &[f64]) -> Result<Self> {
        let increasing = times.windows(2).all(|pair| pair[0] < pair[1]);
        if times.len() < 4 || times[0] != 0.0 || !increasing || !times[times.len() - 1].is_finite() {
            let expected = "four or more increasing times from 0 on";
            return Err(Error::argument("times", expected, format!("{times:?}")));
        }
        let all = times.len() as i64;
        Ok(Displacements {
            event_shape: event_shape.to_vec(),
            times: times.to_vec(),
            weights: trapezium(times),
            count: 0,
            sum: None,
            second: Tensor::f_zeros([all, all], (Kind::Double, Device::Cpu))?,
            basis: None,
            noise: Vec::new(),
            coefficients: Vec::new(),
        })
    }

    /// Adds the states of some paths at all times, `[T, B, *event]`. Put many into the first call: it settles the
    /// functions of time.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`] naming `paths`.
    pub fn add(&mut self, paths: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let (size, times) = (paths.size(), self.times.len() as i64);
        if size.len() != self.event_shape.len() + 2 || size[0] != times || size[2..] != self.event_shape[..] {
            let event: String = self.event_shape.iter().map(|size| format!(", {size}")).collect();
            return Err(Error::shape("paths", format!("({times}, B{event})"), shape_text(&size)));
        }
        if size[1] == 0 {
            return Err(Error::argument("paths", "at least one path", "none"));
        }
        check_finite("paths", paths)?;
        let d = event_size(&self.event_shape);
        let kind = if paths.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let noise = paths.select(0, 0).reshape([-1, d]).to_device(Device::Cpu).to_kind(kind);
        let moved = paths.reshape([times, -1, d]).to_device(Device::Cpu).to_kind(Kind::Double);
        let moved = &moved - moved.narrow(0, 0, 1);
        let flat = moved.reshape([times, -1]);
        let second = flat.f_matmul(&flat.tr())?;
        if self.basis.is_none() {
            self.basis = Some(self.functions(&second)?);
        }
        let basis = self.weighted_basis()?;
        let coefficients = basis.tr().f_matmul(&flat)?.reshape([-1, size[1], d]).transpose(0, 1);
        self.second += second;
        let sum = moved.sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        self.sum = Some(match self.sum.take() {
            Some(before) => before + sum,
            None => sum,
        });
        self.count += size[1];
        // The result's own copy, so that no chunk keeps more than it needs.
        self.coefficients.push(coefficients.to_kind(kind).contiguous());
        self.noise.push(noise.copy());
        Ok(())
    }

    pub fn count(&self) -> i64 {
        self.count
    }

    /// Leading functions of time of this second moment, orthonormal under the weights.
    fn functions(&self, second: &Tensor) -> Result<Tensor> {
        let scale = Tensor::from_slice(&self.weights).sqrt();
        let weighted = second * scale.unsqueeze(0) * scale.unsqueeze(1);
        let (values, vectors) = weighted.f_linalg_eigh("L")?;
        let total = values.sum(Kind::Double).double_value(&[]).max(1e-300);
        let kept = values.gt(total * NEGLIGIBLE).sum(Kind::Int64).int64_value(&[]).max(1);
        let leading = vectors.flip([1i64]).narrow(1, 0, kept);
        Ok((leading / scale.unsqueeze(1)).contiguous())
    }

    /// The basis times the weights: its transpose takes displacements to coefficients.
    fn weighted_basis(&self) -> Result<Tensor> {
        let basis = self.basis.as_ref().map(Tensor::shallow_clone).unwrap_or_default();
        Ok(basis.f_mul(&Tensor::from_slice(&self.weights).unsqueeze(1))?)
    }

    /// # Errors
    /// [`Error::Argument`] naming `n` for fewer than 16 paths; [`Error::Divergence`] where nothing moves.
    pub(super) fn finish(self) -> Result<Moved> {
        if self.count < 16 {
            return Err(Error::argument("n", "at least 16 paths", self.count));
        }
        let (Some(sum), Some(basis)) = (self.sum.as_ref(), self.basis.as_ref()) else {
            return Err(Error::argument("n", "at least 16 paths", 0));
        };
        let drift = sum / self.count as f64;
        let covariance = &self.second / self.count as f64 - drift.f_matmul(&drift.tr())?;
        let centre = self.weighted_basis()?.tr().f_matmul(&drift)?;
        let (basis, noise) = (basis.shallow_clone(), Tensor::f_cat(&self.noise, 0)?);
        let digest = digest(&noise)?;
        let mut coefficients = Tensor::f_cat(&self.coefficients, 0)?;
        drop(self.coefficients);
        coefficients -= centre.to_kind(coefficients.kind());
        let noise = noise.to_kind(Kind::Double);
        let noise_mean = noise.mean_dim([0i64].as_slice(), false, Kind::Double);
        let noise = noise - &noise_mean;
        let moved = covariance.diagonal(0, 0, 1).sum(Kind::Double).double_value(&[]);
        if moved <= 1e-20 * noise.square().mean(Kind::Double).double_value(&[]) {
            return Err(Error::Divergence(
                "paths: all samples move alike, so that there is no spectrum".into(),
            ));
        }
        Ok(Moved { drift, covariance, basis, noise, noise_mean, coefficients, digest })
    }
}

/// FNV-1a of the values in float32: the same noise has the same digest in every process.
fn digest(noise: &Tensor) -> Result<u64> {
    let values = Vec::<f32>::try_from(noise.to_kind(Kind::Float).contiguous().reshape([-1]))?;
    Ok(values.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, value| {
        (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3)
    }))
}
