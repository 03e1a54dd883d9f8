//! Measures of whether a student's observables follow a flow. They need little memory: a hierarchical student
//! has tens of thousands of features, so neither L nor the features of all samples are formed at once.

use tch::{Kind, Tensor};

use super::chunks::Samples;
use crate::error::{Error, Result};
use crate::koopman::{Direction, Student};
use crate::monitor::Monitor;
use crate::tensor::{expand_time, shape_text};

/// Phase error: the RMS over samples of phi(0, x0) exp(L) - phi(1, x1), over the total standard deviation of
/// phi(1, x1). It is small if features follow the flow from `x0` to `x1`, near 1 if they are unrelated to it,
/// and NaN if the features of `x1` do not vary.
///
/// # Errors
/// An error naming `x0`, `x1` or `condition`; [`Error::Divergence`] if features are not finite or the
/// generator cannot be propagated.
pub fn phase_error(
    student: &Student,
    x0: &Tensor,
    x1: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<f64> {
    let _guard = tch::no_grad_guard();
    let samples = Samples::new(student, "x0", x0, condition)?;
    let x1 = student.own_data(&rows_like(student, "x1", x1, samples.count())?)?;
    let mut spread = Spread::default();
    let squares = samples.map(0, monitor, |chunk| {
        let start = chunk.encode(student, 0.0, &chunk.x, Direction::Forward);
        let moved = student.generator().propagate_features(&start, &start.t.ones_like())?;
        let x1 = x1.narrow(0, chunk.start, moved.size()[0]);
        let reached = chunk.encode(student, 1.0, &x1, Direction::Forward).features.to_kind(Kind::Double);
        spread.add(&reached)?;
        squared_lengths(&(moved.to_kind(Kind::Double) - reached))
    })?;
    let (error, variance) = (squares.mean(Kind::Double).double_value(&[]), spread.variance());
    if !error.is_finite() || !variance.is_finite() {
        return Err(Error::Divergence("the student's features are not finite".into()));
    }
    Ok((error / variance).sqrt())
}

/// Consistency residual at one time: the RMS over samples of J phi (1, velocity) - (g L)_phi, over the RMS of
/// J phi (1, velocity), the features' own rate of change along the flow. NaN if no feature changes.
///
/// # Errors
/// An error naming `t`, `x`, `velocity` or `condition`; [`Error::Divergence`] if features are not finite.
pub fn consistency_residual(
    student: &Student,
    t: &Tensor,
    x: &Tensor,
    velocity: &Tensor,
    condition: Option<&Tensor>,
    monitor: &mut dyn Monitor,
) -> Result<f64> {
    let _guard = tch::no_grad_guard();
    let samples = Samples::new(student, "x", x, condition)?;
    let velocity = rows_like(student, "velocity", velocity, samples.count())?;
    let t = expand_time("t", t, samples.count())?.to_device(student.device()).to_kind(student.kind());
    let velocity = match student.units() {
        Some(units) => units.standard_velocity(&t, &samples.x, &velocity)?,
        None => velocity,
    };
    let (t, x) = student.own_states(&t, &samples.x)?;
    let samples = samples.with(&x);
    let squares = samples.map(0, monitor, |chunk| {
        let part = |tensor: &Tensor| tensor.narrow(0, chunk.start, chunk.x.size()[0]);
        let condition = chunk.condition.as_ref();
        let (t, velocity) = (part(&t), part(&velocity));
        let (g, actual) =
            student.lift_flat_with_tangent(&t, &chunk.x, &velocity, Direction::Forward, condition);
        let actual = actual.to_kind(Kind::Double);
        let missed = squared_lengths(&(&actual - student.generator().feature_rate(&g)))?;
        Ok(Tensor::f_stack(&[missed, squared_lengths(&actual)?], 1)?)
    })?;
    let means = squares.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let (residual, change) = (means.double_value(&[0]), means.double_value(&[1]));
    if !residual.is_finite() || !change.is_finite() {
        return Err(Error::Divergence("the student's features or their rates are not finite".into()));
    }
    Ok((residual / change).sqrt())
}

fn rows_like(student: &Student, argument: &str, x: &Tensor, count: i64) -> Result<Tensor> {
    let rows = student.flatten(argument, x)?;
    if rows.size()[0] != count {
        return Err(Error::shape(argument, format!("{count} samples"), shape_text(&x.size())));
    }
    Ok(rows)
}

/// ||x||^2 of each row, `[B]`.
fn squared_lengths(rows: &Tensor) -> Result<Tensor> {
    Ok(rows.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?)
}

fn sum_of_squares(x: &Tensor) -> f64 {
    x.square().sum(Kind::Double).double_value(&[])
}

/// Sum of the variances of columns whose rows arrive in chunks (Chan, Golub and LeVeque, 1979).
#[derive(Default)]
struct Spread {
    count: f64,
    /// `[k]`.
    mean: Option<Tensor>,
    /// Summed squares of the distances from the mean.
    squares: f64,
}

impl Spread {
    fn add(&mut self, rows: &Tensor) -> Result<()> {
        let count = rows.size()[0] as f64;
        let mean = rows.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
        self.squares += sum_of_squares(&(rows - &mean));
        let total = self.count + count;
        self.mean = Some(match self.mean.take() {
            None => mean,
            Some(before) => {
                let shift = mean - &before;
                self.squares += sum_of_squares(&shift) * self.count * count / total;
                before + shift * (count / total)
            }
        });
        self.count = total;
        Ok(())
    }

    /// Variance with divisor N.
    fn variance(&self) -> f64 {
        self.squares / self.count
    }
}
