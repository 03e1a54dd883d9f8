//! Training rows of the linear solves, drawn from stored trajectories: points with the teacher's velocity,
//! and pairs of states as in the objective's target terms.

use tch::{Kind, Tensor};

use crate::data::{Points, Trajectories};
use crate::distill::{FlowPoints, StatePairs, Weights};
use crate::error::Result;
use crate::koopman::Direction;
use crate::tensor::{chunks, RandomSource};
use crate::velocity::VelocityField;

/// Number of rows evaluated at once. It bounds memory and the time between two calls of the monitor.
const CHUNK_ROWS: i64 = 8192;
/// The same under a time limit, which needs more frequent calls.
const HURRIED_ROWS: i64 = 512;

/// Random places among stored states, in `rows` trajectories from number `start` on.
pub(in crate::distill) struct Places<'a> {
    trajectories: &'a Trajectories,
    start: i64,
    pub rows: i64,
    /// Number of rows evaluated at once.
    chunk: i64,
    random: RandomSource,
}

impl<'a> Places<'a> {
    /// Places on training trajectories and on held-out trajectories, drawn independently.
    pub fn both(trajectories: &'a Trajectories, seed: u64) -> [Places<'a>; 2] {
        let training = trajectories.training_count();
        let held_out = trajectories.states().size()[0] - training;
        let (random, chunk) = (RandomSource::new(seed).fork("closed form"), CHUNK_ROWS);
        [
            Places { trajectories, start: 0, rows: training, chunk, random: random.fork("training") },
            Places { trajectories, start: training, rows: held_out, chunk, random: random.fork("held out") },
        ]
    }

    /// The same places, in smaller chunks if `hurried` (under a time limit).
    pub fn hurried(self, hurried: bool) -> Self {
        Places { chunk: if hurried { HURRIED_ROWS } else { self.chunk }, ..self }
    }

    /// Indices of `count` random trajectories.
    fn draw(&mut self, count: i64) -> Tensor {
        let device = self.trajectories.device();
        self.random.integers(self.rows, count, device) + self.start
    }

    /// `count` random time indices in `from..to`.
    fn times(&mut self, from: i64, to: i64, count: i64) -> Tensor {
        self.random.integers(to - from, count, self.trajectories.device()) + from
    }

    /// `count` points in chunks, at any stored time before the last. At the last time a teacher of a finite
    /// data set is singular.
    pub fn points(
        mut self,
        teacher: &'a dyn VelocityField,
        count: i64,
    ) -> impl Iterator<Item = Result<FlowPoints>> + 'a {
        let last = self.trajectories.path_times() - 1;
        chunks(count, self.chunk).map(move |(_, size)| {
            let rows = self.draw(size);
            let index = self.times(0, last, size);
            let (x, t) = self.trajectories.at(&rows, &index);
            let (condition, teacher_condition) = self.trajectories.conditions_of(&rows);
            let points = Points { t, x, condition, teacher_condition };
            let velocity = points.velocity_in_parts(teacher)?;
            let Points { t, x, condition, .. } = points;
            Ok(FlowPoints { t, x, velocity, condition })
        })
    }

    /// The pairs of the objective's target terms in chunks, `count` for each term with a positive weight.
    pub fn pairs(
        mut self,
        weights: &Weights,
        count: i64,
    ) -> impl Iterator<Item = Result<StatePairs>> + use<'a> {
        let last = self.trajectories.path_times() - 1;
        let terms = [
            (Span::ToEnd, weights.endpoint),
            (Span::FromNoise, weights.path),
            (Span::Anywhere, weights.target),
            (Span::Backward, weights.inverse),
        ];
        let parts = chunks(count, self.chunk).map(|(_, size)| size);
        let wanted = terms.into_iter().filter(|(_, weight)| *weight > 0.0);
        let plan: Vec<_> =
            wanted.flat_map(|(span, weight)| parts.clone().map(move |size| (span, weight, size))).collect();
        let precision: Vec<f64> = (0..=last).map(|index| self.trajectories.precision_at(index)).collect();
        plan.into_iter().map(move |(span, weight, size)| {
            let rows = self.draw(size);
            let fixed = |index: i64| rows.full_like(index);
            let (from, to, direction) = match span {
                Span::ToEnd => (fixed(0), fixed(last), Direction::Forward),
                Span::FromNoise => (fixed(0), self.times(1, last + 1, size), Direction::Forward),
                Span::Anywhere => {
                    // As in training, half of them end at t = 1.
                    let from = self.times(0, last, size);
                    let ends = self.times(0, 2, size).eq(0);
                    let share = self.times(0, 1 << 30, size).to_kind(Kind::Double) / (1i64 << 30) as f64;
                    let further = (share * (from.neg() + last)).floor().to_kind(Kind::Int64) + &from + 1;
                    let to = further.clamp_max(last).where_self(&ends.logical_not(), &fixed(last));
                    (from, to, Direction::Forward)
                }
                Span::Backward => (fixed(last), fixed(0), Direction::Backward),
            };
            let (x_s, s) = self.trajectories.at(&rows, &from);
            let (x_t, t) = self.trajectories.at(&rows, &to);
            let table = Tensor::from_slice(&precision).to_kind(x_t.kind()).to_device(x_t.device());
            let weight = table.index_select(0, &to) * weight;
            let (condition, _) = self.trajectories.conditions_of(&rows);
            Ok(StatePairs { s, t, x_s, x_t, weight, direction, condition })
        })
    }
}

/// The target terms of the objective, by the times between which a state is mapped.
#[derive(Clone, Copy)]
enum Span {
    ToEnd,
    FromNoise,
    Anywhere,
    Backward,
}
