//! Held-out errors of a student.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Scaling, TrainingData, Weights};
use crate::data::{Points, Trajectories};
use crate::error::{Error, Result};
use crate::koopman::{Direction, Observables, Student};
use crate::metrics::rms_length;
use crate::monitor::Monitor;
use crate::velocity::VelocityField;
use crate::world::{World, ALONE};

/// The held-out metric by which the best model is kept, and which plateaus and early stopping use. Smaller is
/// better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The sum of endpoint, path and inversion errors.
    #[default]
    Score,
    EndpointError,
    PathError,
    InversionError,
    PhaseError,
    ConsistencyResidual,
    /// No error: the latest state is kept. For losses that lower none of the errors.
    Latest,
}

/// Held-out errors of a student. Smaller is better, and a perfect student has 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOut {
    /// RMS error of data generated from noise in one step, divided by the data's total deviation.
    pub endpoint: f64,
    /// Mean RMS error of the same encodings at eighths of the path, in the same units.
    pub path: f64,
    /// RMS error of noise recovered from data, divided by the noise's total deviation.
    pub inversion: f64,
    /// RMS error of features propagated from noise to t = 1, against the features of the teacher's endpoint,
    /// divided by the total deviation of the latter (METHOD's phase error).
    pub phase: f64,
    /// RMS difference of J phi (1, v), the rate of change of the features, and (g L)_phi along the paths,
    /// divided by the RMS of the former.
    pub consistency: f64,
    /// The sum of the endpoint error and, if training includes them, path and inversion errors. Without
    /// trajectories it is the consistency residual, including that of x.
    pub score: f64,
}

impl Metric {
    /// Name in options and logs.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Score => "score",
            Metric::EndpointError => "endpoint_error",
            Metric::PathError => "path_error",
            Metric::InversionError => "inversion_error",
            Metric::PhaseError => "phase_error",
            Metric::ConsistencyResidual => "consistency_residual",
            Metric::Latest => "latest",
        }
    }
}

impl HeldOut {
    const UNKNOWN: HeldOut = HeldOut {
        endpoint: f64::NAN,
        path: f64::NAN,
        inversion: f64::NAN,
        phase: f64::NAN,
        consistency: f64::NAN,
        score: f64::NAN,
    };

    /// The value of a metric; the score for [`Metric::Latest`], by which a divergence still shows.
    pub fn metric(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Score | Metric::Latest => self.score,
            Metric::EndpointError => self.endpoint,
            Metric::PathError => self.path,
            Metric::InversionError => self.inversion,
            Metric::PhaseError => self.phase,
            Metric::ConsistencyResidual => self.consistency,
        }
    }

    /// Errors with the names that logs and [`Metric`] use.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        [
            Metric::EndpointError,
            Metric::PathError,
            Metric::InversionError,
            Metric::PhaseError,
            Metric::ConsistencyResidual,
            Metric::Score,
        ]
        .map(|metric| (metric.name(), self.metric(metric)))
    }
}

/// Least number of held-out trajectories in an evaluation, even under a time limit.
const FEW: i64 = 16;

/// Number of held-out trajectories of images in an evaluation. Each takes about thirty passes of a U-Net; an
/// evaluation on 512 trajectories took as long as a hundred steps.
const IMAGES: i64 = 128;

/// Measures students on held-out data. The teacher is evaluated only once, in advance.
pub enum Evaluator {
    Trajectories(HeldOutPaths),
    /// Points of the probability path and the teacher's velocity there, `[H, d]`.
    Points(Points, Tensor),
}

/// The held-out trajectories and the teacher's velocities along them.
pub struct HeldOutPaths {
    /// States `[H, T, d]`.
    states: Tensor,
    /// Conditions in the student's encoding.
    condition: Option<Tensor>,
    /// Inverse of the summed variance of noise.
    noise_precision: f64,
    /// Inverse of the summed variance of data.
    data_precision: f64,
    /// Time indices along the path, and the velocities there: `[H, d]` each.
    velocities: Vec<(i64, Tensor)>,
    /// Whether the path error is part of the score. An error that no term of the loss lowers would only add
    /// noise.
    follows: bool,
    /// Whether the inversion error is part of the score.
    inverts: bool,
}

impl Evaluator {
    /// Evaluates the teacher at eight times along the held-out trajectories, or not at all if there are
    /// held-out points. For `images`, which a U-Net takes, fewer trajectories are used. When the monitor
    /// reports that the time is up, no further times are evaluated.
    ///
    /// # Errors
    /// Any error of the teacher or the monitor.
    pub fn new(
        teacher: &dyn VelocityField,
        data: &TrainingData,
        weights: &Weights,
        images: bool,
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        match (&data.trajectories, &data.held_out_points) {
            (Some(trajectories), _) => {
                let inverts = weights.inverse > 0.0 || weights.round_trip > 0.0;
                let w = weights;
                let follows = [w.path, w.target, w.phase, w.consistency].iter().any(|weight| *weight > 0.0);
                let asked = (follows, inverts);
                let most = if images { IMAGES } else { i64::MAX };
                Ok(Evaluator::Trajectories(HeldOutPaths::new(teacher, trajectories, most, asked, monitor)?))
            }
            (None, Some((points, velocity))) => {
                Ok(Evaluator::Points(points.shallow_clone(), velocity.shallow_clone()))
            }
            (None, None) => Err(Error::Internal(anyhow::anyhow!("no held-out data were prepared"))),
        }
    }

    /// Reduces the held-out trajectories to a number for which one evaluation of `student` takes about
    /// `seconds`.
    ///
    /// # Errors
    /// As [`Evaluator::errors`].
    pub fn hurry(&mut self, student: &Student, seconds: f64, monitor: &mut dyn Monitor) -> Result<()> {
        let Evaluator::Trajectories(paths) = self else { return Ok(()) };
        let few = paths.first(FEW);
        let started = Instant::now();
        Evaluator::Trajectories(few).errors(student, monitor)?;
        let fitting = FEW as f64 * seconds / started.elapsed().as_secs_f64().max(1e-9);
        *paths = paths.first(fitting as i64);
        Ok(())
    }

    /// The errors of the student, measured by this rank alone. All are NaN if its propagation diverges.
    /// Without trajectories, errors that need them are NaN. The monitor is called several times.
    ///
    /// # Errors
    /// Errors of libtorch; any error of the monitor.
    pub fn errors(&self, student: &Student, monitor: &mut dyn Monitor) -> Result<HeldOut> {
        Ok(self.held_out(&self.sums(student, &ALONE, monitor)?))
    }

    /// This rank's sums over its share of the rows. [`Evaluator::held_out`] computes the errors from the sums
    /// over all ranks. The number of sums does not depend on the student.
    ///
    /// # Errors
    /// As [`Evaluator::errors`].
    pub fn sums(&self, student: &Student, world: &World, monitor: &mut dyn Monitor) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        let sums = match self {
            Evaluator::Trajectories(paths) => match paths.sums(student, world, monitor) {
                Err(Error::Divergence(_)) => return Ok(vec![f64::NAN; paths.sums_count()]),
                outcome => outcome?,
            },
            // These errors are relative to the RMS over all points, so only the leading rank measures them.
            Evaluator::Points(..) if !world.leads() => vec![0.0; 2],
            Evaluator::Points(points, velocity) => {
                let Points { t, x, condition, .. } = points;
                let (g, tangent) =
                    student.lift_flat_with_tangent(t, x, velocity, Direction::Forward, condition.as_ref());
                let (_, features) = student.generator().rate(&g);
                let consistency = rms_length(&(features - &tangent)) / rms_length(&tangent).max(1e-12);
                // The score includes x, because vanishing features would be consistent but useless.
                let residual = Scaling::Relative.consistency(student, points, velocity).double_value(&[]);
                vec![consistency, residual.sqrt()]
            }
        };
        Ok(sums)
    }

    /// Number of sums that [`Evaluator::sums`] returns.
    pub fn sums_count(&self) -> usize {
        match self {
            Evaluator::Trajectories(paths) => paths.sums_count(),
            Evaluator::Points(..) => 2,
        }
    }

    /// The errors from the sums over all rows.
    pub fn held_out(&self, sums: &[f64]) -> HeldOut {
        match (self, sums) {
            (Evaluator::Trajectories(paths), sums) => paths.held_out(sums),
            (Evaluator::Points(..), &[consistency, score]) => {
                HeldOut { consistency, score, ..HeldOut::UNKNOWN }
            }
            _ => HeldOut::UNKNOWN,
        }
    }
}

/// The error if a term of the loss lowers it, otherwise 0.
fn counted(asked: bool, error: f64) -> f64 {
    if asked {
        error
    } else {
        0.0
    }
}

/// The summed squares of errors `[N, d]`, times the inverse of a variance.
fn squares(error: &Tensor, precision: f64) -> f64 {
    error.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]) * precision
}

impl HeldOutPaths {
    fn new(
        teacher: &dyn VelocityField,
        trajectories: &Trajectories,
        most: i64,
        (follows, inverts): (bool, bool),
        monitor: &mut dyn Monitor,
    ) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let (states, condition) = trajectories.held_out();
        let count = states.size()[0].min(most);
        let first = |x: Tensor| x.narrow(0, 0, count);
        let (states, condition) = (first(states), condition.map(first));
        let last = states.size()[1] - 1;
        let mut times: Vec<i64> = (0..8).map(|eighth| last * eighth / 8).collect();
        times.dedup();
        let mut velocities = Vec::new();
        for index in times {
            let points = Points {
                t: Tensor::f_full([count], index as f64 / last as f64, (states.kind(), states.device()))?,
                x: states.select(1, index),
                condition: None,
                teacher_condition: trajectories.held_out_condition().map(first),
            };
            velocities.push((index, points.velocity_in_parts(teacher)?));
            match monitor.tick() {
                Err(Error::OutOfTime) => break,
                other => other?,
            }
        }
        let (noise_precision, data_precision) =
            (trajectories.precision_at(0), trajectories.precision_at(last));
        Ok(HeldOutPaths { states, condition, noise_precision, data_precision, velocities, follows, inverts })
    }

    /// The first `count` trajectories, but at least [`FEW`].
    fn first(&self, count: i64) -> Self {
        self.rows(0, count.max(FEW).min(self.states.size()[0]))
    }

    fn rows(&self, first: i64, count: i64) -> Self {
        let some = |x: &Tensor| x.narrow(0, first, count);
        HeldOutPaths {
            states: some(&self.states),
            condition: self.condition.as_ref().map(some),
            velocities: self.velocities.iter().map(|(index, velocity)| (*index, some(velocity))).collect(),
            ..*self
        }
    }

    fn last(&self) -> i64 {
        self.states.size()[1] - 1
    }

    /// Time indices between noise and data at which the path error is measured.
    fn looks(&self) -> Vec<i64> {
        (1..8).map(|eighth| (self.last() * eighth + 4) / 8).filter(|index| *index > 0).collect()
    }

    fn sums_count(&self) -> usize {
        6 + self.looks().len()
    }

    /// Sums over this rank's share of the rows: the number of rows; the squared errors of endpoint, inversion
    /// and phase; the squared consistency residual and the squared rate to which it is relative; the squared
    /// path error at each time of [`Self::looks`].
    fn sums(&self, student: &Student, world: &World, monitor: &mut dyn Monitor) -> Result<Vec<f64>> {
        // If there are fewer rows than ranks, every rank measures all rows.
        let rows = self.states.size()[0];
        let (first, count) = if rows < world.size() { (0, rows) } else { world.share(rows) };
        let own = self.rows(first, count);
        let last = own.last();
        let noise = own.encode(student, 0, Direction::Forward);
        monitor.tick()?;
        let error_at = |index: i64| -> Result<f64> {
            let decoded = student.fresh_horizon(index as f64 / last as f64)?.apply(&noise)?;
            Ok(squares(&(decoded - own.states.select(1, index)), own.data_precision))
        };
        let mut path = Vec::new();
        for index in own.looks() {
            path.push(error_at(index)?);
            monitor.tick()?;
        }
        let backward = own.encode(student, last, Direction::Backward);
        monitor.tick()?;
        let inverse = student.fresh_horizon(-1.0)?.apply(&backward)?;
        let inversion = squares(&(inverse - own.states.select(1, 0)), own.noise_precision);
        // The phase error is divided by the deviation over all rows, not only this rank's.
        let targets = self.encode(student, last, Direction::Forward).features;
        let variance = targets.var_dim(0, false, false).sum(Kind::Double).double_value(&[]);
        let moved = student.generator().propagate(&noise, &noise.t.ones_like())?.features;
        let phase = squares(&(moved - targets.narrow(0, first, count)), 1.0 / variance.max(1e-12));
        let (residual, rate) = own.consistency(student, monitor)?;
        let ends = [count as f64, error_at(last)?, inversion, phase, residual, rate];
        Ok([ends.as_slice(), path.as_slice()].concat())
    }

    fn held_out(&self, sums: &[f64]) -> HeldOut {
        let [rows, endpoint, inversion, phase, residual, rate, path @ ..] = sums else {
            return HeldOut::UNKNOWN;
        };
        let rms = |squares: &f64| (squares / rows).sqrt();
        let (endpoint, inversion, phase) = (rms(endpoint), rms(inversion), rms(phase));
        let path = path.iter().map(rms).sum::<f64>() / path.len().max(1) as f64;
        HeldOut {
            endpoint,
            path,
            inversion,
            phase,
            consistency: (residual / rate.max(1e-24)).sqrt(),
            score: endpoint + counted(self.follows, path) + counted(self.inverts, inversion),
        }
    }

    fn point(&self, student: &Student, index: i64) -> (Tensor, Tensor) {
        let x = self.states.select(1, index);
        let time = index as f64 / self.last() as f64;
        (Tensor::full([x.size()[0]], time, (student.kind(), student.device())), x)
    }

    fn encode(&self, student: &Student, index: i64, direction: Direction) -> Observables {
        let (t, x) = self.point(student, index);
        student.lift_flat(&t, &x, direction, self.condition.as_ref())
    }

    /// Summed squares of the residual and of the rate of change of the features.
    fn consistency(&self, student: &Student, monitor: &mut dyn Monitor) -> Result<(f64, f64)> {
        let (mut residual, mut rate) = (0.0, 0.0);
        for (index, velocity) in &self.velocities {
            let (t, x) = self.point(student, *index);
            let (g, tangent) =
                student.lift_flat_with_tangent(&t, &x, velocity, Direction::Forward, self.condition.as_ref());
            let (_, features) = student.generator().rate(&g);
            residual += squares(&(features - &tangent), 1.0);
            rate += squares(&tangent, 1.0);
            monitor.tick()?;
        }
        Ok((residual, rate))
    }
}
