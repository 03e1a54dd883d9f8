//! The objective: a sum of named, weighted terms.
//! Target and phase terms: paper, section 3 and its ablation; consistency: the generator equation
//! J g (1, v) = g L, simulation-free.

use tch::{Kind, Tensor};

use super::{Batch, Pairs, Weights};
use crate::error::Result;
use crate::koopman::{Direction, Observables, Student};
use crate::nets::precision::Lowered;
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
    pub teacher: &'a dyn VelocityField,
}

/// Mean over the batch of ||error||² in units of the variance at the target time.
fn relative_square(error: &Tensor, precision: &Tensor) -> Tensor {
    let kind = error.kind();
    (error.square().sum_dim_intlist(1, false, kind) * precision).mean(kind)
}

/// Mean over the batch of ||error||² in units of the summed variance of `reference`, taken as given.
fn variance_relative_square(error: &Tensor, reference: &Tensor) -> Tensor {
    let kind = error.kind();
    let variance = reference.detach().var_dim(0, false, false).sum(kind).clamp_min(1e-8);
    error.square().sum_dim_intlist(1, false, kind).mean(kind) / variance
}

impl Objective<'_> {
    /// The terms whose weight is positive.
    pub fn terms(&self, student: &Student, batch: &Batch) -> Result<Vec<Term>> {
        let weights = &self.weights;
        let needs_noise = weights.endpoint > 0.0 || weights.path > 0.0;
        let needs_pairs = weights.pairs > 0.0 || weights.phase > 0.0;
        let encoded = encode_forward(
            student,
            needs_noise.then_some(&batch.endpoint),
            needs_pairs.then_some(&batch.pairs),
        );
        let mut groups: Vec<(&'static str, f64, Observables, &Pairs)> = Vec::new();
        if let Some(g) = &encoded.noise {
            groups.push(("endpoint", weights.endpoint, g.shallow_clone(), &batch.endpoint));
            groups.push(("path", weights.path, g.shallow_clone(), &batch.path));
        }
        if let Some(g) = &encoded.pairs {
            groups.push(("pairs", weights.pairs, g.shallow_clone(), &batch.pairs));
        }
        if weights.inverse > 0.0 || weights.round_trip > 0.0 {
            let Pairs { s, x_s, condition, .. } = &batch.inverse;
            let g = student.lift_flat(s, x_s, Direction::Backward, condition.as_ref());
            groups.push(("inverse", weights.inverse, g, &batch.inverse));
        }
        groups.retain(|(name, weight, ..)| *weight > 0.0 || *name == "inverse");

        let mut terms = Vec::new();
        for ((name, weight, _, pairs), decoded) in groups.iter().zip(decode(student, &groups)?) {
            if *weight > 0.0 {
                let value = relative_square(&(&decoded - &pairs.x_t), &pairs.precision);
                terms.push(Term { name, weight: *weight, value });
            }
            if *name == "inverse" && weights.round_trip > 0.0 {
                let value = round_trip(student, &decoded, pairs)?;
                terms.push(Term { name: "round_trip", weight: weights.round_trip, value });
            }
        }
        if let Some(g) = encoded.pairs.filter(|_| weights.phase > 0.0) {
            let value = phase(student, &g, &batch.pairs)?;
            terms.push(Term { name: "phase", weight: weights.phase, value });
        }
        if weights.consistency > 0.0 {
            let value = self.consistency(student, &batch.pairs)?;
            terms.push(Term { name: "consistency", weight: weights.consistency, value });
        }
        Ok(terms)
    }

    /// ||J g (1, v) - g L||² over the columns of x and phi, each in units of its own variance.
    fn consistency(&self, student: &Student, pairs: &Pairs) -> Result<Tensor> {
        let teacher = self.teacher;
        let (kind, device) = (teacher.dtype(), teacher.device());
        let mut shape = vec![pairs.count()];
        shape.extend(teacher.event_shape());
        // The target of the regression keeps its precision.
        let full = Lowered::to(None);
        let velocity = tch::no_grad(|| {
            let x = pairs.x_s.to_kind(kind).to_device(device).reshape(shape.as_slice());
            let condition = pairs.teacher_condition.as_ref().map(|c| c.to_device(device));
            teacher.velocity(&pairs.s.to_kind(kind).to_device(device), &x, condition.as_ref())
        })?;
        drop(full);
        let velocity = velocity.to_kind(student.kind()).to_device(student.device()).reshape_as(&pairs.x_s);
        let (g, tangent) = student.lift_flat_with_tangent(
            &pairs.s,
            &pairs.x_s,
            &velocity,
            Direction::Forward,
            pairs.condition.as_ref(),
        );
        let (state_rate, feature_rate) = student.generator().rate(&g);
        Ok(variance_relative_square(&(state_rate - &velocity), &velocity)
            + variance_relative_square(&(feature_rate - &tangent), &tangent))
    }
}

/// x at the target times of all groups, in one propagation: small operations cost by their number.
fn decode(student: &Student, groups: &[(&'static str, f64, Observables, &Pairs)]) -> Result<Vec<Tensor>> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let g = Observables::cat(&groups.iter().map(|(_, _, g, _)| g).collect::<Vec<_>>());
    let tau = Tensor::cat(&groups.iter().map(|(.., pairs)| pairs.tau()).collect::<Vec<_>>(), 0);
    let lengths: Vec<i64> = groups.iter().map(|(.., pairs)| pairs.count()).collect();
    Ok(student.generator().propagate_state(&g, &tau)?.split_with_sizes(&lengths, 0))
}

/// The student's own noise for the data of `pairs`, generated from again and compared with the data.
fn round_trip(student: &Student, noise: &Tensor, pairs: &Pairs) -> Result<Tensor> {
    let g = student.lift_flat(&pairs.t, noise, Direction::Forward, pairs.condition.as_ref());
    let again = student.generator().propagate_state(&g, &pairs.tau().neg())?;
    Ok(relative_square(&(again - &pairs.x_s), &pairs.source_precision))
}

/// ||phi(s, x_s) e^{(t - s) Λ} - phi(t, x_t)||² in units of the variance of phi(t, x_t).
fn phase(student: &Student, g: &Observables, pairs: &Pairs) -> Result<Tensor> {
    let moved = student.generator().propagate(g, &pairs.tau())?;
    let target = student.lift_flat(&pairs.t, &pairs.x_t, Direction::Forward, pairs.condition.as_ref());
    Ok(variance_relative_square(&(moved.features - &target.features), &target.features))
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
