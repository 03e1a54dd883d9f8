//! Derivatives of the one-step map S from noise to samples, for polishing an inverse and for densities.

use tch::{Kind, Tensor};

use super::chunks::{chunk_rows, threads};
use crate::error::{Error, Result};
use crate::koopman::{Direction, Horizon, Student};
use crate::monitor::Monitor;
use crate::tensor::in_chunks;

/// Largest number of coordinates for which Jacobians are formed by default.
pub const JACOBIAN_LIMIT: i64 = 1024;

/// Largest number of values in the Jacobians that are held at once.
const JACOBIAN_VALUES: i64 = 1 << 22;
/// Number of layers whose intermediate tensors a vector-Jacobian product keeps; a sampler keeps those of one.
const LAYERS_KEPT: i64 = 8;

/// The map S of one student. Noise is flat, `[B, d]`; `condition` is encoded, `[B, c]`.
pub struct SampleMap<'a> {
    student: &'a Student,
    horizon: Horizon,
}

impl<'a> SampleMap<'a> {
    /// # Errors
    /// [`Error::Divergence`] if exp(L) is not finite.
    pub fn new(student: &'a Student) -> Result<Self> {
        Ok(SampleMap { student, horizon: student.horizon(1.0)? })
    }

    /// Number of samples whose Jacobians may exist at once.
    pub fn samples_at_once(&self) -> i64 {
        (JACOBIAN_VALUES / self.student.config().dimension().pow(2)).max(1)
    }

    /// `covectors` J, row by row: `[R, d]` for noise of R rows.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn pull(&self, noise: &Tensor, covectors: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.backwards(noise, condition, 1, |x, _| x * covectors)?.squeeze_dim(1))
    }

    /// J `directions`, row by row: `[R, d]` for noise of R rows.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `determinant` for a student with a decoder network, whose readout has no
    /// tangents.
    pub fn push(&self, noise: &Tensor, directions: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let t = noise.new_zeros([noise.size()[0]], (noise.kind(), noise.device()));
        let tangent = |velocity: &Tensor| {
            self.student.lift_flat_with_tangent(&t, noise, velocity, Direction::Forward, condition).1
        };
        // Tangents are along (1, velocity), so the tangent of time alone is subtracted.
        let features = tangent(directions) - tangent(&directions.zeros_like());
        self.horizon.derivative(directions, &features).ok_or_else(|| {
            let expected = "'exact' for a student with a decoder network";
            Error::argument("determinant", expected, "an estimate from products")
        })
    }

    /// Rows of `covectors` `[B, K, d]` times J of noise `[B, d]`: `[B, K, d]`. Takes one evaluation of the
    /// map and K backward passes.
    ///
    /// # Errors
    /// As [`SampleMap::pull`]; any error of the monitor.
    pub fn pull_many(
        &self,
        noise: &Tensor,
        covectors: &Tensor,
        condition: Option<&Tensor>,
        monitor: &mut dyn Monitor,
    ) -> Result<Tensor> {
        let count = covectors.size()[1];
        self.chunked(noise.size()[0], monitor, |first, rows| {
            let part = |x: &Tensor| x.narrow(0, first, rows);
            let covectors = part(covectors);
            self.backwards(&part(noise), condition.map(part).as_ref(), count, |x, place| {
                x * covectors.select(1, place)
            })
        })
    }

    /// Gradients of the sum of `seed(S(noise), place)` with respect to the noise, for each of `count` places:
    /// `[R, count, d]`.
    fn backwards(
        &self,
        noise: &Tensor,
        condition: Option<&Tensor>,
        count: i64,
        seed: impl Fn(&Tensor, i64) -> Tensor,
    ) -> Result<Tensor> {
        let noise = noise.detach().set_requires_grad(true);
        tch::with_grad(|| -> Result<Tensor> {
            let t = noise.new_zeros([noise.size()[0]], (noise.kind(), noise.device()));
            let g = self.student.lift_flat(&t, &noise, Direction::Forward, condition);
            let x = self.horizon.apply(&g)?;
            let gradients = (0..count).map(|place| {
                let sum = seed(&x, place).sum(noise.kind());
                let mut found = Tensor::f_run_backward(&[sum], &[&noise], place + 1 < count, false)?;
                Ok(found.swap_remove(0))
            });
            Ok(Tensor::f_stack(&gradients.collect::<Result<Vec<_>>>()?, 1)?.detach())
        })
    }

    /// dS/dz, `[B, d, d]`, row i the derivative of coordinate i of the sample.
    ///
    /// # Errors
    /// As [`SampleMap::pull`]; any error of the monitor.
    pub fn jacobian(
        &self,
        noise: &Tensor,
        condition: Option<&Tensor>,
        monitor: &mut dyn Monitor,
    ) -> Result<Tensor> {
        let (count, dimension) = noise.size2()?;
        let device = noise.device();
        if let Some(jacobian) = self.along_axes(noise, condition, monitor)? {
            return Ok(jacobian);
        }
        if count >= dimension {
            // Many samples make products large enough by themselves, so the map is evaluated once for all
            // axes.
            return self.chunked(count, monitor, |first, rows| {
                let part = |x: &Tensor| x.narrow(0, first, rows);
                self.backwards(&part(noise), condition.map(part).as_ref(), dimension, |x, axis| {
                    x.select(1, axis)
                })
            });
        }
        let axes = Tensor::f_eye(dimension, (noise.kind(), device))?;
        let pieces = self.chunked(count * dimension, monitor, |first, rows| {
            let place = Tensor::f_arange_start(first, first + rows, (Kind::Int64, device))?;
            let sample = place.f_divide_scalar_mode(dimension, "floor")?;
            let axis = place.f_remainder(dimension)?;
            let condition = condition.map(|c| c.index_select(0, &sample));
            let noise = noise.index_select(0, &sample);
            self.pull(&noise, &axes.index_select(0, &axis), condition.as_ref())
        })?;
        Ok(pieces.f_view([count, dimension, dimension])?)
    }

    /// The Jacobian in one forward pass, if the observables are a perceptron and the readout is linear;
    /// otherwise `None`. The tangents of all axes share the values of the layers.
    fn along_axes(
        &self,
        noise: &Tensor,
        condition: Option<&Tensor>,
        monitor: &mut dyn Monitor,
    ) -> Result<Option<Tensor>> {
        let (count, dimension) = noise.size2()?;
        let axes = Tensor::f_eye(dimension, (noise.kind(), noise.device()))?;
        let part = |first: i64, rows: i64| {
            let condition = condition.map(|c| c.narrow(0, first, rows));
            self.student.slopes_of_noise(&noise.narrow(0, first, rows), condition.as_ref())
        };
        let derivative = |slopes: Tensor| self.horizon.derivative(&axes.unsqueeze(0), &slopes);
        if count == 0 || part(0, 1).and_then(derivative).is_none() {
            return Ok(None);
        }
        let rows = (chunk_rows(self.student, 1) / dimension).max(1);
        let _threads = threads(self.student, (rows * dimension).min(count * dimension));
        let pushed = in_chunks(count, rows, 0, |first, length| {
            monitor.tick()?;
            part(first, length).and_then(derivative).ok_or_else(|| {
                Error::Internal(anyhow::anyhow!("the Jacobian in one pass exists for some rows only"))
            })
        })?;
        // Transposes [axis of the noise, coordinate of the sample].
        Ok(Some(pushed.transpose(1, 2).contiguous()))
    }

    /// J^T J `vectors`, row by row.
    ///
    /// # Errors
    /// As [`SampleMap::push`] and [`SampleMap::pull`]; any error of the monitor.
    pub fn gram(
        &self,
        noise: &Tensor,
        vectors: &Tensor,
        condition: Option<&Tensor>,
        monitor: &mut dyn Monitor,
    ) -> Result<Tensor> {
        self.chunked(noise.size()[0], monitor, |first, rows| {
            let part = |x: &Tensor| x.narrow(0, first, rows);
            let (noise, condition) = (part(noise), condition.map(part));
            let pushed = self.push(&noise, &part(vectors), condition.as_ref())?;
            self.pull(&noise, &pushed, condition.as_ref())
        })
    }

    /// Calls `work(first row, rows)` for `total` rows, in chunks of bounded memory.
    fn chunked(
        &self,
        total: i64,
        monitor: &mut dyn Monitor,
        work: impl Fn(i64, i64) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let rows = (chunk_rows(self.student, 1) / LAYERS_KEPT).max(1);
        let _threads = threads(self.student, rows.min(total));
        in_chunks(total, rows, 0, |first, length| {
            let made = work(first, length)?;
            monitor.tick()?;
            Ok(made)
        })
    }
}
