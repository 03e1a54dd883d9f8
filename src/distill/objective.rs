//! The objective: a sum of named, weighted terms.
//! Target and phase terms: paper, section 3 and its ablation; consistency: the generator equation
//! J g (1, v) = g L, simulation-free.

use tch::{Kind, Tensor};

use super::{regularisers, Batch, Pairs, Points, Scaling, Weights};
use crate::error::Result;
use crate::koopman::{Direction, Observables, Student};
use crate::velocity::VelocityField;

/// One summand: `weight * value` is minimised.
#[derive(Debug)]
pub struct Term {
    pub name: &'static str,
    pub weight: f64,
    /// A scalar.
    pub value: Tensor,
}

pub struct Objective<'a> {
    pub weights: Weights,
    pub scaling: Scaling,
    pub teacher: &'a dyn VelocityField,
}

/// The terms of one step as they are formed; those of weight 0 are left out.
struct Sum {
    terms: Vec<Term>,
}

impl Sum {
    fn add(&mut self, name: &'static str, weight: f64, value: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        if weight > 0.0 {
            self.terms.push(Term { name, weight, value: value()? });
        }
        Ok(())
    }
}

impl Objective<'_> {
    /// The terms whose weight is positive.
    pub fn terms(&self, student: &Student, batch: &Batch) -> Result<Vec<Term>> {
        let w = &batch.turn.map_or_else(|| self.weights.clone(), |turn| self.weights.at_turn(turn));
        let needs_noise = [w.endpoint, w.path, w.phase].iter().any(|w| *w > 0.0);
        let needs_pairs = [w.target, w.phase, w.reconstruction, w.latent_moments].iter().any(|w| *w > 0.0);
        let (endpoint, pairs) = (batch.endpoint.as_ref(), batch.pairs.as_ref());
        let encoded =
            encode_forward(student, endpoint.filter(|_| needs_noise), pairs.filter(|_| needs_pairs));
        let mut groups: Vec<Group> = Vec::new();
        let mut group = |name, weight, g: &Observables, pairs| {
            groups.push(Group { name, weight, g: g.shallow_clone(), pairs });
        };
        if let (Some(g), Some(endpoint), Some(path)) = (&encoded.noise, endpoint, &batch.path) {
            group("endpoint", w.endpoint, g, endpoint);
            group("path", w.path, g, path);
        }
        if let (Some(g), Some(pairs)) = (&encoded.pairs, pairs) {
            group("target", w.target, g, pairs);
        }
        let needs_inverse = w.inverse > 0.0 || w.round_trip > 0.0;
        if let Some(inverse) = batch.inverse.as_ref().filter(|_| needs_inverse) {
            let Pairs { s, x_s, condition, .. } = inverse;
            let g = student.lift_flat(s, x_s, Direction::Backward, condition.as_ref());
            group("inverse", w.inverse, &g, inverse);
        }
        groups.retain(|group| group.weight > 0.0 || group.name == "inverse");

        let mut sum = Sum { terms: Vec::new() };
        for (group, decoded) in groups.iter().zip(decode(student, &groups)?) {
            let Group { name, weight, pairs, .. } = group;
            sum.add(name, *weight, || {
                Ok(self.scaling.state_error(&(&decoded - &pairs.x_t), &pairs.precision))
            })?;
            if *name == "inverse" {
                sum.add("round_trip", w.round_trip, || self.round_trip(student, &decoded, pairs))?;
            }
        }
        if let Some(endpoint) = endpoint {
            sum.add("re_encoding", w.re_encoding, || {
                self.re_encoding(student, endpoint, batch.re_encodings)
            })?;
        }
        if let (Some(noise), Some(endpoint), Some(g), Some(pairs)) =
            (&encoded.noise, endpoint, &encoded.pairs, pairs)
        {
            sum.add("phase", w.phase, || {
                // From noise to data is what a spectrum is read for, and seldom among the pairs.
                let rows = (endpoint.count() / 2).max(1);
                let ends = self.phase(student, &noise.rows(0, rows), &endpoint.rows(0, rows))?;
                Ok((self.phase(student, g, pairs)? + ends) * 0.5)
            })?;
        }
        if let (Some(g), Some(pairs)) = (&encoded.pairs, pairs) {
            if !student.reads_exactly() {
                sum.add("reconstruction", w.reconstruction, || {
                    let error = student.decode(g) - &pairs.x_s;
                    Ok(self.scaling.state_error(&error, &pairs.source_precision))
                })?;
            }
            sum.add("latent_moments", w.latent_moments, || Ok(regularisers::latent_moments(g)))?;
        }
        if let Some(points) = &batch.points {
            sum.add("consistency", w.consistency, || {
                Ok(self.scaling.consistency(student, points, &points.velocity(self.teacher)?))
            })?;
        }
        let generator = student.generator();
        sum.add("unitarity", w.unitarity, || Ok(regularisers::unitarity(generator)))?;
        sum.add("stability", w.stability, || Ok(regularisers::stability(generator)))?;
        sum.add("orthogonality", w.orthogonality, || Ok(regularisers::orthogonality(generator)))?;
        Ok(sum.terms)
    }

    /// The student's own noise for the data of `pairs`, generated from again and compared with the data.
    fn round_trip(&self, student: &Student, noise: &Tensor, pairs: &Pairs) -> Result<Tensor> {
        let g = student.lift_flat(&pairs.t, noise, Direction::Forward, pairs.condition.as_ref());
        let again = student.decode_after(&g, &pairs.tau().neg())?;
        Ok(self.scaling.state_error(&(again - &pairs.x_s), &pairs.source_precision))
    }

    /// Noise carried to t = 1 in `count` re-encodings of the student's own states, all of it differentiated.
    fn re_encoding(&self, student: &Student, pairs: &Pairs, count: i64) -> Result<Tensor> {
        let rows = (pairs.count() / RE_ENCODED_SHARE).max(1);
        let condition = pairs.condition.as_ref().map(|c| c.narrow(0, 0, rows));
        let mut x = pairs.x_s.narrow(0, 0, rows);
        let tau = x.new_ones([rows], (x.kind(), x.device())) / count as f64;
        for step in 0..count {
            let g = student.lift_flat(&(&tau * step as f64), &x, Direction::Forward, condition.as_ref());
            x = student.decode_after(&g, &tau)?;
        }
        let error = x - pairs.x_t.narrow(0, 0, rows);
        Ok(self.scaling.state_error(&error, &pairs.precision.narrow(0, 0, rows)))
    }

    /// ||phi(s, x_s) e^{(t - s) Λ} - phi(t, x_t)||².
    fn phase(&self, student: &Student, g: &Observables, pairs: &Pairs) -> Result<Tensor> {
        let moved = student.generator().propagate(g, &pairs.tau())?;
        let target = student.lift_flat(&pairs.t, &pairs.x_t, Direction::Forward, pairs.condition.as_ref());
        Ok(self.scaling.feature_error(&(moved.features - &target.features), &target.features))
    }
}

impl Scaling {
    /// Mean over the batch of ||error||² in units of the summed variance at the target time; absolute: the
    /// mean square of a coordinate.
    fn state_error(self, error: &Tensor, precision: &Tensor) -> Tensor {
        let kind = error.kind();
        match self {
            Scaling::Relative => (error.square().sum_dim_intlist(1, false, kind) * precision).mean(kind),
            Scaling::Absolute => error.square().mean(kind),
        }
    }

    /// The same for errors of features or rates, in units of the summed variance of `reference`, taken as
    /// given: differentiating through it would reward large features.
    fn feature_error(self, error: &Tensor, reference: &Tensor) -> Tensor {
        let kind = error.kind();
        match self {
            Scaling::Relative => {
                let variance = reference.detach().var_dim(0, false, false).sum(kind).clamp_min(1e-8);
                error.square().sum_dim_intlist(1, false, kind).mean(kind) / variance
            }
            Scaling::Absolute => error.square().mean(kind),
        }
    }

    /// ||J g (1, v) - g L||² over the columns of x and phi, each in units of its own variance.
    pub(super) fn consistency(self, student: &Student, points: &Points, velocity: &Tensor) -> Tensor {
        let Points { t, x, condition, .. } = points;
        let (g, tangent) =
            student.lift_flat_with_tangent(t, x, velocity, Direction::Forward, condition.as_ref());
        let (state_rate, feature_rate) = student.generator().rate(&g);
        self.feature_error(&(state_rate - velocity), velocity)
            + self.feature_error(&(feature_rate - &tangent), &tangent)
    }
}

/// One in so many of the noise samples is re-encoded: each costs up to eight lifts.
const RE_ENCODED_SHARE: i64 = 4;

/// Encodings to be decoded at their pairs' target times.
struct Group<'a> {
    name: &'static str,
    weight: f64,
    g: Observables,
    pairs: &'a Pairs,
}

/// x at the target times of all groups, in one propagation: small operations cost by their number.
fn decode(student: &Student, groups: &[Group]) -> Result<Vec<Tensor>> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let g = Observables::cat(&groups.iter().map(|group| &group.g).collect::<Vec<_>>());
    let tau = Tensor::cat(&groups.iter().map(|group| group.pairs.tau()).collect::<Vec<_>>(), 0);
    let lengths: Vec<i64> = groups.iter().map(|group| group.pairs.count()).collect();
    Ok(student.decode_after(&g, &tau)?.split_with_sizes(&lengths, 0))
}

struct Encoded {
    noise: Option<Observables>,
    pairs: Option<Observables>,
}

/// Encodes both groups through one product each layer.
fn encode_forward(student: &Student, noise: Option<&Pairs>, pairs: Option<&Pairs>) -> Encoded {
    let groups: Vec<&Pairs> = [noise, pairs].into_iter().flatten().collect();
    if groups.is_empty() {
        return Encoded { noise: None, pairs: None };
    }
    let join = |part: fn(&Pairs) -> &Tensor| {
        Tensor::cat(&groups.iter().map(|group| part(group)).collect::<Vec<_>>(), 0)
    };
    let conditions: Vec<&Tensor> = groups.iter().filter_map(|group| group.condition.as_ref()).collect();
    let condition = (!conditions.is_empty()).then(|| Tensor::cat(&conditions, 0));
    let g = student.lift_flat(&join(|p| &p.s), &join(|p| &p.x_s), Direction::Forward, condition.as_ref());
    let first = noise.map_or(0, Pairs::count);
    Encoded { noise: noise.map(|_| g.rows(0, first)), pairs: pairs.map(|group| g.rows(first, group.count())) }
}

/// Sum of the weighted terms.
pub(super) fn total(terms: &[Term], kind: Kind) -> Tensor {
    let weighted: Vec<Tensor> = terms.iter().map(|term| &term.value * term.weight).collect();
    Tensor::stack(&weighted, 0).sum(kind)
}
