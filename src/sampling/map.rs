//! The derivatives of the one-step map S from noise to samples: what polishing an inverse and changing variables
//! ask of a student.

use tch::{Kind, Tensor};

use super::chunks::{chunk_rows, threads};
use crate::error::{Error, Result};
use crate::koopman::{Direction, Horizon, Student};
use crate::monitor::Monitor;
use crate::tensor::in_chunks;

/// Largest number of coordinates that a Jacobian is formed for unasked.
pub const JACOBIAN_LIMIT: i64 = 1024;

/// Values of the Jacobians that exist at once.
const JACOBIAN_VALUES: i64 = 1 << 22;
/// A product keeps the intermediates of every layer, where a sampler keeps one.
const LAYERS_KEPT: i64 = 8;

/// S of one student. Noise is flat, `[B, d]`; `condition` is as the network takes it, `[B, c]`.
pub struct SampleMap<'a> {
    student: &'a Student,
    horizon: Horizon,
}

impl<'a> SampleMap<'a> {
    /// # Errors
    /// [`Error::Divergence`] where exp(L) is not finite.
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
    /// Whatever libtorch refuses.
    pub fn pull(&self, noise: &Tensor, covectors: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.backwards(noise, condition, 1, |x, _| x * covectors)?.squeeze_dim(1))
    }

    /// J `directions`, row by row: `[R, d]` for noise of R rows.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `determinant` where a network decodes: its readout carries no tangents.
    pub fn push(&self, noise: &Tensor, directions: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let t = noise.new_zeros([noise.size()[0]], (noise.kind(), noise.device()));
        let tangent = |velocity: &Tensor| {
            self.student.lift_flat_with_tangent(&t, noise, velocity, Direction::Forward, condition).1
        };
        // Tangents are those along (1, velocity): less that of time alone.
        let features = tangent(directions) - tangent(&directions.zeros_like());
        self.horizon.derivative(directions, &features).ok_or_else(|| {
            Error::argument("determinant", "'exact' where a network decodes", "an estimate by products")
        })
    }

    /// Rows of `covectors` `[B, K, d]` times J of noise `[B, d]`: `[B, K, d]`. One evaluation of the map, and K ways
    /// back through it.
    ///
    /// # Errors
    /// As [`SampleMap::pull`]; whatever the monitor answers.
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

    /// The gradients of `seed(S(noise), place)`, summed, for each of `count` places: `[R, count, d]`.
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
    /// As [`SampleMap::pull`]; whatever the monitor answers.
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
            // Many samples fill a product by themselves, and the map is evaluated once for all axes.
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

    /// The Jacobian in one pass forwards, where the observables are a perceptron and the readout is linear: tangents of
    /// all axes share the values of the layers.
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
                Error::Internal(anyhow::anyhow!("a student whose map is a perceptron's for some rows alone"))
            })
        })?;
        // [axis of the noise, coordinate of the sample] to its transpose.
        Ok(Some(pushed.transpose(1, 2).contiguous()))
    }

    /// J^T J `vectors`, row by row.
    ///
    /// # Errors
    /// As [`SampleMap::push`] and [`SampleMap::pull`]; whatever the monitor answers.
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

    /// `work(first row, rows)` over `total` rows, in pieces of bounded memory.
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
