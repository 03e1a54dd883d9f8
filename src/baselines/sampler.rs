//! Sampling from a baseline: data and, for a method with a path, the states between noise and data.

use tch::Tensor;

use super::Baseline;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::threads::IntraOpThreads;
use crate::tensor::{check_batch, finite_or_divergence, in_chunks};

/// Number of values of the widest intermediate tensor of a chunk. It bounds memory and the time between two
/// calls of the monitor.
const CHUNK_VALUES: i64 = 1 << 22;

impl Baseline {
    /// Data `[B, *event]` for noise `x0` `[B, *event]`, by `steps` maps over equal spans of time.
    ///
    /// # Errors
    /// An error that names the wrong argument; [`Error::Divergence`] if samples are not finite; any error of
    /// the monitor.
    pub fn sample(
        &self,
        x0: &Tensor,
        condition: Option<&Tensor>,
        steps: i64,
        monitor: &mut dyn Monitor,
    ) -> Result<Tensor> {
        let limit = if self.networks.have_path() { 10_000 } else { 1 };
        if !(1..=limit).contains(&steps) {
            return Err(Error::argument("steps", format!("an integer from 1 to {limit}"), steps));
        }
        let time = |step: i64| step as f64 / steps as f64;
        let samples = self.map(x0, condition, 1, monitor, |x, condition| {
            let stride = |x: Tensor, step: i64| self.carry(&x, (time(step), time(step + 1)), condition);
            Ok(self.states(1.0, &(0..steps).fold(x.shallow_clone(), stride))?.unsqueeze(0))
        })?;
        Ok(samples.squeeze_dim(0))
    }

    /// States `[T, B, *event]` at `times` in [0, 1] of the path from noise `x0` `[B, *event]`. Each time
    /// takes one map.
    ///
    /// # Errors
    /// As [`Baseline::sample`]; [`Error::Argument`] if the method has no path.
    pub fn sample_path(
        &self,
        x0: &Tensor,
        times: &[f64],
        condition: Option<&Tensor>,
        monitor: &mut dyn Monitor,
    ) -> Result<Tensor> {
        if !self.networks.have_path() {
            let got = format!("{:?}", self.model().method);
            return Err(Error::argument("method", "a method with a path (MeanVelocity)", got));
        }
        if times.is_empty() || times.iter().any(|time| !(0.0..=1.0).contains(time)) {
            return Err(Error::argument("times", "one or more times in [0, 1]", format!("{times:?}")));
        }
        self.map(x0, condition, times.len() as i64, monitor, |x, condition| {
            let state = |time: &f64| {
                let own = self.units.as_ref().map_or(*time, |units| units.time(*time));
                self.states(own, &self.carry(x, (0.0, own), condition))
            };
            Ok(Tensor::f_stack(&times.iter().map(state).collect::<Result<Vec<_>>>()?, 0)?)
        })
    }

    fn carry(&self, x: &Tensor, span: (f64, f64), condition: Option<&Tensor>) -> Tensor {
        self.counter.add(1);
        self.networks.carry(&self.space, x, span, condition)
    }

    /// Flat states in the data's coordinates, from states at a time of the baseline's own path.
    fn states(&self, own_time: f64, x: &Tensor) -> Result<Tensor> {
        match &self.units {
            Some(units) => units.inverse().standard_at(own_time, x),
            None => Ok(x.shallow_clone()),
        }
    }

    /// Applies `work` to flat samples and their encoded condition, chunk by chunk: `[states, B, *event]`.
    fn map(
        &self,
        x0: &Tensor,
        condition: Option<&Tensor>,
        states: i64,
        monitor: &mut dyn Monitor,
        work: impl Fn(&Tensor, Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let model = self.model();
        let batch = check_batch("x0", x0, &model.event_shape)?;
        model.conditioning.check(condition, batch)?;
        let x = x0.to_device(self.device()).to_kind(self.kind()).f_reshape([batch, -1])?;
        let condition = model.conditioning.encode(condition, self.kind()).map(|c| c.to_device(self.device()));
        let widest = model.width.max(model.inputs()).max(states * model.dimension());
        let rows = (CHUNK_VALUES / widest).max(1);
        let _threads = IntraOpThreads::for_work(self.parameters().count(), rows.min(batch));
        let samples = in_chunks(batch, rows, 1, |start, length| {
            let part = |tensor: &Tensor| tensor.narrow(0, start, length);
            let made = work(&part(&x), condition.as_ref().map(part).as_ref())?;
            monitor.tick()?;
            Ok(made)
        })?;
        finite_or_divergence(&samples, "samples")?;
        let mut shape = vec![states, batch];
        shape.extend(&model.event_shape);
        Ok(samples.f_reshape(shape)?)
    }
}
