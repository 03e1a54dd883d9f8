//! Linear solves for the linear parts of a student, instead of training. Given observables, the generator
//! solves the least-squares problem J g (1, v) = g L at points of the flow (generator EDMD; Klus et al.,
//! 1909.10638). Given observables and eigenvalues, the readout of the spectral form solves another one, x_t -
//! x_s = b0 tau + b1 (s tau + tau²/2) + phi(s, x_s) K(tau) B.

mod normal_equations;
mod rows;

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::data::Trajectories;
use crate::distill::{DistillConfig, Method, Weights};
use crate::error::{Error, Result};
use crate::koopman::{Direction, Generator, Student};
use crate::monitor::{Monitor, Progress, Until};
use crate::tensor::shape_text;
use crate::training::Stopped;
use crate::velocity::VelocityField;

pub use normal_equations::{ridge_curve, select_ridge, NormalEquations, RidgeChoice};
use rows::Places;

/// Points of the flow with the teacher's velocity, in the student's dtype and on its device.
#[derive(Debug)]
pub struct FlowPoints {
    /// Times `[B]`.
    pub t: Tensor,
    /// States `[B, d]`.
    pub x: Tensor,
    /// Velocities `[B, d]`.
    pub velocity: Tensor,
    /// Conditions in the student's encoding, `[B, c]`.
    pub condition: Option<Tensor>,
}

/// Two states on each of `B` trajectories, and the weights of their errors.
#[derive(Debug)]
pub struct StatePairs {
    /// Times of encoding, `[B]`.
    pub s: Tensor,
    /// Times of decoding, `[B]`.
    pub t: Tensor,
    /// States at s, `[B, d]`.
    pub x_s: Tensor,
    /// States at t, `[B, d]`.
    pub x_t: Tensor,
    /// Weights `[B]`, at least 0.
    pub weight: Tensor,
    /// Direction of the lift that encodes.
    pub direction: Direction,
    /// Conditions in the student's encoding, `[B, c]`.
    pub condition: Option<Tensor>,
}

/// The part of a student that a linear solve replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Solved {
    /// The columns of x and phi in a dense generator.
    Generator,
    /// Readout and drift of a spectral generator.
    Readout,
}

/// Outcome of a linear solve.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClosedFormReport {
    pub method: Method,
    pub solved: Solved,
    pub ridge: f64,
    /// Unexplained share of the held-out targets, averaged over the targets: [`NormalEquations::residual`].
    pub residual: f64,
    /// Number of training rows.
    pub rows: i64,
    pub seconds: f64,
    /// The trained student's held-out score: the sum of endpoint, path and inversion error.
    pub trained_score: Option<f64>,
    /// Held-out score of the solved student; `None` if its flow diverges.
    pub solved_score: Option<f64>,
    /// Whether the student has the solution.
    pub kept: bool,
}

/// Number of rows per regressor, so that the held-out residual depends on the basis and not on the sample
/// size.
const ROWS_PER_REGRESSOR: i64 = 256;
const ROW_LIMITS: (i64, i64) = (1 << 15, 1 << 17);

/// Least candidate ridge in float32 and in float64. Candidates are the powers of ten up to [`LARGEST_RIDGE`].
/// With a smaller ridge solutions are so large that rounding to the student's dtype costs more than they
/// gain.
const SMALLEST_RIDGE: (f64, f64) = (1e-9, 1e-12);
const LARGEST_RIDGE: f64 = 10.0;

/// Candidates whose residual is within this factor of the lowest are compared by their held-out score.
const SHORTLIST: f64 = 10.0;

/// The normal equations of J g (1, v) = g L over `points`, with regressors g `[m]` and targets (v, J phi (1,
/// v)) `[d + k]`. They include all lifts of the student, which share one generator. The monitor is called
/// after every chunk; when the time is up, the remaining chunks are left out.
///
/// # Errors
/// Any error of the points or the monitor; [`Error::NonFinite`] for values that are not finite.
pub fn generator_equations(
    student: &Student,
    points: impl IntoIterator<Item = Result<FlowPoints>>,
    monitor: &mut dyn Monitor,
) -> Result<NormalEquations> {
    let _guard = tch::no_grad_guard();
    let m = student.config().size();
    let mut sums = NormalEquations::new(m, m - 2);
    for chunk in points {
        let FlowPoints { t, x, velocity, condition } = chunk?;
        for &direction in student.config().directions() {
            let (g, tangent) =
                student.lift_flat_with_tangent(&t, &x, &velocity, direction, condition.as_ref());
            sums.add(&g.assemble(), &Tensor::f_cat(&[&velocity, &tangent], 1)?)?;
        }
        if out_of_time(monitor)? {
            break;
        }
    }
    Ok(sums)
}

/// The weighted normal equations of a spectral student's readout over `pairs`, with regressors
/// (tau, s tau + tau²/2, phi K(tau)) `[2 + k]` and targets x_t - x_s `[d]`. The monitor is called as in
/// [`generator_equations`].
///
/// # Errors
/// [`Error::Argument`] naming `generator` if it is not spectral; otherwise as [`generator_equations`].
pub fn readout_equations(
    student: &Student,
    pairs: impl IntoIterator<Item = Result<StatePairs>>,
    monitor: &mut dyn Monitor,
) -> Result<NormalEquations> {
    let _guard = tch::no_grad_guard();
    let Generator::Spectral(generator) = student.generator() else {
        return Err(Error::argument("generator", "a spectral generator", "another"));
    };
    let config = student.config();
    let mut sums = NormalEquations::new(2 + config.observables, config.dimension());
    for chunk in pairs {
        let StatePairs { s, t, x_s, x_t, weight, direction, condition } = chunk?;
        let g = student.lift_flat(&s, &x_s, direction, condition.as_ref());
        let tau = &t - &s;
        let integrated = generator.integrated(&g.features, &tau);
        let quadratic = &tau * (&s + &tau * 0.5);
        let root = weight.sqrt().unsqueeze(1);
        let regressors = Tensor::f_cat(&[tau.unsqueeze(1), quadratic.unsqueeze(1), integrated], 1)?;
        sums.add(&(regressors * &root), &((x_t - x_s) * root))?;
        if out_of_time(monitor)? {
            break;
        }
    }
    Ok(sums)
}

/// Installs a solution in a student. For a dense generator it has the columns of x and phi, `[m, d + k]`; the
/// columns of the constant and of time stay exact. For a spectral generator it has drift and readout, `[2 +
/// k, d]`.
///
/// # Errors
/// [`Error::Shape`]; [`Error::NonFinite`].
pub fn install(student: &mut Student, solution: &Tensor) -> Result<()> {
    match student.generator() {
        Generator::Levels(_) => Err(no_solve()),
        Generator::Dense(_) => student.set_generator_columns(solution),
        Generator::Spectral(_) => {
            let rows = student.config().observables;
            let expected = [2 + rows, student.config().dimension()];
            if solution.size() != expected {
                let (expected, got) = (shape_text(&expected), shape_text(&solution.size()));
                return Err(Error::shape("solution", expected, got));
            }
            student.set_spectral_readout(&solution.narrow(0, 2, rows), &solution.narrow(0, 0, 2))
        }
    }
}

/// The last stage of a distillation whose method has a linear solve.
pub(in crate::distill) struct ClosedForm<'a> {
    pub teacher: &'a dyn VelocityField,
    pub trajectories: &'a Trajectories,
    pub config: &'a DistillConfig,
    pub weights: &'a Weights,
    /// The held-out score, as for the best state in training; lower is better.
    pub score: &'a Score<'a>,
    /// The time after which no further rows are added to the sums.
    pub deadline: Option<Instant>,
}

type Score<'a> = dyn Fn(&Student, &mut dyn Monitor) -> Result<f64> + 'a;

/// Share of the remaining time for the sums of training rows. The sums of held-out rows follow.
const TRAINING_SHARE: f64 = 0.6;

impl ClosedForm<'_> {
    /// Runs the linear solve. [`Method::ClosedForm`] always keeps the solution. [`Method::Refine`] keeps it
    /// if its score is better than that of the trained student. [`Method::Gradient`] does nothing. With
    /// [`Method::Refine`] an interrupt leaves the trained student unchanged and sets `stopped`; with
    /// [`Method::ClosedForm`] it is an error.
    pub fn finish(
        &self,
        student: &mut Student,
        stopped: &mut Stopped,
        monitor: &mut dyn Monitor,
    ) -> Result<Option<ClosedFormReport>> {
        match self.config.method {
            Method::Gradient => Ok(None),
            Method::ClosedForm => self.solve(student, None, monitor).map(Some),
            Method::Refine if *stopped == Stopped::Interrupted => Ok(None),
            Method::Refine => {
                let trained = student.parameters().flat()?.copy();
                let outcome = (self.score)(student, monitor)
                    .and_then(|score| self.solve(student, Some(score), monitor));
                if !matches!(&outcome, Ok(report) if report.kept) {
                    student.set_parameters(&trained)?;
                }
                match outcome {
                    Err(Error::Interrupted(_)) => {
                        *stopped = Stopped::Interrupted;
                        Ok(None)
                    }
                    other => other.map(Some),
                }
            }
        }
    }

    fn solve(
        &self,
        student: &mut Student,
        trained_score: Option<f64>,
        monitor: &mut dyn Monitor,
    ) -> Result<ClosedFormReport> {
        let _guard = tch::no_grad_guard();
        let started = Instant::now();
        let places = Places::both(self.trajectories, self.config.training.seed);
        let [training, held_out] = places.map(|places| places.hurried(self.deadline.is_some()));
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(started));
        let early = left.and_then(|left| started.checked_add(left.mul_f64(TRAINING_SHARE)));
        let rows = (ROWS_PER_REGRESSOR * student.config().size()).clamp(ROW_LIMITS.0, ROW_LIMITS.1);
        let held_out_rows = (held_out.rows * (self.trajectories.path_times() - 1)).min(rows / 4);
        let (solved, train, check) = match student.generator() {
            Generator::Levels(_) => return Err(no_solve()),
            Generator::Dense(_) => {
                let train = training.points(self.teacher, rows);
                let train = generator_equations(student, train, &mut Until::new(monitor, early))?;
                let check = held_out.points(self.teacher, held_out_rows);
                let check = generator_equations(student, check, &mut Until::new(monitor, self.deadline))?;
                (Solved::Generator, train, check)
            }
            Generator::Spectral(_) => {
                let weights = self.weights;
                let train = training.pairs(weights, rows / 4);
                let train = readout_equations(student, train, &mut Until::new(monitor, early))?;
                let check = held_out.pairs(weights, (held_out_rows / 4).max(1));
                let check = readout_equations(student, check, &mut Until::new(monitor, self.deadline))?;
                (Solved::Readout, train, check)
            }
        };
        let (RidgeChoice { ridge, residual, solution }, solved_score) =
            self.choose(student, &train, &check, monitor)?;
        if solved_score.is_none() && trained_score.is_none() {
            let message = format!("the flow of the linear solution with ridge {ridge:e} is not finite");
            return Err(Error::Divergence(message));
        }
        let kept = trained_score.is_none_or(|trained| solved_score.is_some_and(|score| score < trained));
        if kept {
            install(student, &solution)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let mut values = vec![("ridge".to_string(), ridge), ("residual".to_string(), residual)];
        values.extend(solved_score.map(|score| ("held_out_score".to_string(), score)));
        monitor.report(&Progress { stage: "closed_form", step: 1, total: 1, seconds, values })?;
        let (method, rows) = (self.config.method, train.count());
        Ok(ClosedFormReport {
            method,
            solved,
            ridge,
            residual,
            rows,
            seconds,
            trained_score,
            solved_score,
            kept,
        })
    }

    /// The solution for the given ridge, or for the ridge with the lowest held-out score among those whose
    /// held-out residual is near the lowest. The residual alone prefers generators so large that their
    /// exponential is worse: with 16 random observables of a Gaussian the score was 0.57 instead of 0.26. The
    /// score is `None` if no flow is finite.
    fn choose(
        &self,
        student: &mut Student,
        train: &NormalEquations,
        held_out: &NormalEquations,
        monitor: &mut dyn Monitor,
    ) -> Result<(RidgeChoice, Option<f64>)> {
        let smallest = if student.kind() == Kind::Double { SMALLEST_RIDGE.1 } else { SMALLEST_RIDGE.0 };
        let decades = (LARGEST_RIDGE / smallest).log10().round() as i32;
        let candidates = match self.config.ridge {
            Some(ridge) => vec![ridge],
            None => (0..=decades).map(|decade| smallest * 10f64.powi(decade)).collect(),
        };
        let curve = ridge_curve(train, held_out, &candidates)?;
        let lowest = curve.iter().map(|choice| choice.residual).fold(f64::INFINITY, f64::min);
        let mut best: Option<(RidgeChoice, Option<f64>)> = None;
        for choice in curve {
            if choice.residual > SHORTLIST * lowest {
                continue;
            }
            install(student, &choice.solution)?;
            let score = match (self.score)(student, monitor) {
                Ok(score) => Some(score).filter(|score| score.is_finite()),
                Err(Error::Divergence(_)) => None,
                Err(error) => return Err(error),
            };
            let of = |score: Option<f64>| score.unwrap_or(f64::INFINITY);
            if best.as_ref().is_none_or(|(_, lowest)| of(score) < of(*lowest)) {
                best = Some((choice, score));
            }
            let usable = best.as_ref().is_some_and(|(_, score)| score.is_some());
            if out_of_time(&mut Until::new(monitor, self.deadline))? && usable {
                break;
            }
        }
        best.ok_or_else(|| {
            Error::argument("ridge", "a ridge with a finite solution", format!("{candidates:?}"))
        })
    }
}

/// Calls the monitor and returns whether the time is up.
fn out_of_time(monitor: &mut dyn Monitor) -> Result<bool> {
    match monitor.tick() {
        Err(Error::OutOfTime) => Ok(true),
        other => other.map(|()| false),
    }
}

fn no_solve() -> Error {
    Error::argument("method", "'gradient' for a hierarchy, which has no linear readout", "a linear solve")
}
