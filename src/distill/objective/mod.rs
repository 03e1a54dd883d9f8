//! The objective: a sum of named, weighted terms. The target and phase terms are those of the paper's section
//! 3 and its ablation. The consistency term is the generator equation J g (1, v) = g L, which needs no
//! simulation.

mod correction;
mod feature_distance;
mod levels;
mod regularisers;
mod weights;

use tch::{Kind, Tensor};

use crate::data::{Batch, FreshNoise, Pairs, Points};
use crate::distill::Scaling;
use crate::error::Result;
use crate::koopman::{weight_of_encoding, Direction, Observables, Student};
use crate::training::RowWeights;
use crate::velocity::VelocityField;

pub(in crate::distill) use correction::{copy_of_teacher, CORRECTION, NOISING};
pub use feature_distance::FeatureDistance;
pub(in crate::distill) use levels::{heads_of, TeacherLevels};
pub use weights::{Fidelity, Weights};

/// One term of the objective, which adds `weight * value` to the loss.
#[derive(Debug)]
pub struct Term {
    pub name: &'static str,
    pub weight: f64,
    /// Value of the term, a scalar.
    pub value: Tensor,
}

pub struct Objective<'a> {
    pub weights: Weights,
    pub scaling: Scaling,
    /// Adaptive weights of rows, by their errors of states.
    pub row_weights: RowWeights,
    pub teacher: &'a dyn VelocityField,
    /// The distance that the term `feature_distance` measures.
    pub feature_distance: Option<&'a dyn FeatureDistance>,
}

/// Collects the terms of one step. Terms of weight 0 are not computed.
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
    /// The same objective with only the terms of [`Weights::of_endpoint`].
    pub(in crate::distill) fn of_endpoint(&self) -> Self {
        Objective { weights: self.weights.of_endpoint(), ..*self }
    }

    /// The terms whose weight is positive.
    pub fn terms(&self, student: &Student, batch: &Batch) -> Result<Vec<Term>> {
        let levels = self.levels(student, batch)?;
        let mut terms = self.forward_terms(student, batch, levels.as_ref())?;
        terms.extend(self.side(batch)?.terms(student)?);
        Ok(terms)
    }

    /// Terms that begin with an encoding at noise or along a path, and terms that depend only on the student.
    /// All points are encoded by one call of the lift and decoded after one propagation, because the cost of
    /// small operations depends on their number. `levels` holds the teacher's feature maps for the term
    /// `levels`.
    pub(in crate::distill) fn forward_terms(
        &self,
        student: &Student,
        batch: &Batch,
        levels: Option<&TeacherLevels>,
    ) -> Result<Vec<Term>> {
        let w = &self.weights;
        let on = |weights: &[f64]| weights.iter().any(|weight| *weight > 0.0);
        // The phase term needs rows from noise to data: the spectrum describes this map, and it is rare among
        // the pairs.
        let ends = |pairs: &Pairs| pairs.rows(0, batch.ends.clamp(1, pairs.count()));
        let noise = match &batch.endpoint {
            Some(pairs) if on(&[w.endpoint, w.path, w.levels, w.feature_distance]) => {
                Some(pairs.shallow_clone())
            }
            Some(pairs) if w.phase > 0.0 => Some(ends(pairs)),
            _ => None,
        };
        let noise = noise.as_ref();
        let pairs =
            batch.pairs.as_ref().filter(|_| on(&[w.target, w.phase, w.reconstruction, w.latent_moments]));
        let own = match batch.endpoint.as_ref().filter(|_| w.re_encoding > 0.0) {
            Some(pairs) => Some(re_encoded(student, pairs, batch.sampler_steps)?),
            None => None,
        };
        let fresh = batch.fresh.as_ref().filter(|_| w.correction > 0.0);
        let unsolved = fresh.map(FreshNoise::pairs);
        let ends = noise.map(ends);
        let moved = [ends.as_ref(), pairs].map(|pairs| pairs.filter(|_| w.phase > 0.0));
        let sources = [noise, pairs, own.as_ref(), unsolved.as_ref()].into_iter().flatten();
        let targets = moved.into_iter().flatten();
        let mut encoded = encode(student, sources, targets).into_iter();
        let mut next = |present: bool| if present { encoded.next() } else { None };
        let noise_g = next(noise.is_some());
        let pairs_g = next(pairs.is_some());
        let own_g = next(own.is_some());
        let fresh_g = next(unsolved.is_some());
        let targets = moved.map(|pairs| next(pairs.is_some()));

        let mut groups: Vec<Group> = Vec::new();
        let mut group = |name, weight, g: &Option<Observables>, pairs: Option<&'_ Pairs>| {
            if let (Some(g), Some(pairs)) = (g, pairs) {
                groups.push(Group { name, weight, g: g.shallow_clone(), pairs: pairs.shallow_clone() });
            }
        };
        group("endpoint", w.endpoint.max(w.feature_distance), &noise_g, noise);
        let path = decoded_path(batch).filter(|_| on(&[w.path, w.levels]));
        let path_g = noise_g.as_ref().zip(path.as_ref()).map(|(g, path)| g.rows(0, path.count()));
        group("path", w.path, &path_g, path.as_ref());
        group("target", w.target, &pairs_g, pairs);
        group("re_encoding", w.re_encoding, &own_g, own.as_ref());
        group(CORRECTION, w.correction, &fresh_g, unsolved.as_ref());
        // A dense generator propagates all of g, even if only the state is needed.
        let whole = w.phase > 0.0 && student.generator().carries_all();
        groups.retain(|group| group.weight > 0.0 || whole && matches!(group.name, "endpoint" | "target"));
        let (states, features) = decode(student, &groups, whole)?;
        let carried = |name: &str| {
            let place = groups.iter().position(|group| group.name == name)?;
            features.get(place)
        };

        let mut sum = Sum { terms: Vec::new() };
        for (group, decoded) in groups.iter().zip(&states) {
            let Group { name, weight, pairs, .. } = group;
            if let (&CORRECTION, Some(fresh)) = (name, fresh) {
                sum.terms.extend(self.correction(student, decoded, fresh)?);
                continue;
            }
            // Endpoints are decoded for two terms, `endpoint` and `feature_distance`.
            let weight = if *name == "endpoint" { w.endpoint } else { *weight };
            sum.add(name, weight, || Ok(self.state_error(&(decoded - &pairs.x_t), &pairs.precision)))?;
            if let ("endpoint", Some(distance)) = (*name, self.feature_distance) {
                sum.add("feature_distance", w.feature_distance, || {
                    let [x, target] = [decoded, &pairs.x_t].map(|x| student.states(1.0, x));
                    feature_distance::term(distance, &x?, &target?)
                })?;
            }
        }
        if let ([Some(ends), Some(pairs)], [Some(at_ends), Some(at_pairs)], Some(noise_g), Some(pairs_g)) =
            (moved, &targets, &noise_g, &pairs_g)
        {
            sum.add("phase", w.phase, || {
                let [to_ends, to_pairs] = match (carried("endpoint"), carried("target")) {
                    (Some(from_noise), Some(from_pairs)) => {
                        [from_noise.narrow(0, 0, ends.count()), from_pairs.shallow_clone()]
                    }
                    _ => {
                        let start = Observables::cat(&[&noise_g.rows(0, ends.count()), pairs_g]);
                        let tau = Tensor::cat(&[ends.tau(), pairs.tau()], 0);
                        let features = student.generator().propagate_features(&start, &tau)?;
                        let part = |row: i64, count: i64| features.narrow(0, row, count);
                        [part(0, ends.count()), part(ends.count(), pairs.count())]
                    }
                };
                let error = |moved: &Tensor, target: &Observables| {
                    self.scaling.feature_error(&(moved - &target.features), &target.features)
                };
                Ok((error(&to_ends, at_ends) + error(&to_pairs, at_pairs)) * 0.5)
            })?;
        }
        if let (Some(g), Some(levels)) = (&path_g, levels) {
            sum.add("levels", w.levels, || levels.error(student, g, self.scaling))?;
        }
        if let (Some(g), Some(pairs)) = (&pairs_g, pairs) {
            if !student.reads_exactly() {
                sum.add("reconstruction", w.reconstruction, || {
                    let error = student.decode(g) - &pairs.x_s;
                    Ok(self.state_error(&error, &pairs.source_precision))
                })?;
            }
            sum.add("latent_moments", w.latent_moments, || Ok(regularisers::latent_moments(g)))?;
        }
        let generator = student.generator();
        sum.add("unitarity", w.unitarity, || Ok(regularisers::unitarity(generator)))?;
        sum.add("stability", w.stability, || Ok(regularisers::stability(generator)))?;
        sum.add("orthogonality", w.orthogonality, || Ok(regularisers::orthogonality(generator)))?;
        Ok(sum.terms)
    }

    /// The teacher's feature maps for the term `levels`; `None` if its weight is 0 or the student has no
    /// heads.
    pub(in crate::distill) fn levels(
        &self,
        student: &Student,
        batch: &Batch,
    ) -> Result<Option<TeacherLevels>> {
        let wanted = self.weights.levels > 0.0 && !student.config().heads.is_empty();
        let path = decoded_path(batch).filter(|_| wanted);
        path.map(|path| TeacherLevels::ask(self.teacher, path, student.kind())).transpose()
    }

    /// The remaining terms, with the teacher's velocities if they need them.
    pub(in crate::distill) fn side(&self, batch: &Batch) -> Result<SideTerms> {
        let Weights { inverse, round_trip, consistency, .. } = self.weights;
        let points = match batch.points.as_ref().filter(|_| consistency > 0.0) {
            Some(points) => Some((points.shallow_clone(), points.velocity(self.teacher)?)),
            None => None,
        };
        let wanted = inverse > 0.0 || round_trip > 0.0;
        let inverse = batch.inverse.as_ref().filter(|_| wanted).map(Pairs::shallow_clone);
        let (weights, round_trip) = (self.weights.clone(), batch.round_trip);
        let (scaling, row_weights) = (self.scaling, self.row_weights);
        Ok(SideTerms { weights, scaling, row_weights, inverse, round_trip, points })
    }

    fn state_error(&self, error: &Tensor, precision: &Tensor) -> Tensor {
        self.scaling.state_error(error, precision, self.row_weights)
    }
}

/// The terms that begin at data, and consistency. They share no encoding with the other terms, so both groups
/// can be computed in parallel.
pub(in crate::distill) struct SideTerms {
    weights: Weights,
    scaling: Scaling,
    row_weights: RowWeights,
    inverse: Option<Pairs>,
    /// Number of rows of `inverse` that are mapped on to data again.
    round_trip: i64,
    /// Points and the teacher's velocity there.
    points: Option<(Points, Tensor)>,
}

impl SideTerms {
    pub fn terms(&self, student: &Student) -> Result<Vec<Term>> {
        let w = &self.weights;
        let state_error =
            |error: &Tensor, precision: &Tensor| self.scaling.state_error(error, precision, self.row_weights);
        let mut sum = Sum { terms: Vec::new() };
        if let Some(pairs) = &self.inverse {
            let Pairs { s, x_s, condition, .. } = pairs;
            let g = student.lift_flat(s, x_s, Direction::Backward, condition.as_ref());
            let noise = student.decode_after(&g, &pairs.tau())?;
            sum.add("inverse", w.inverse, || Ok(state_error(&(&noise - &pairs.x_t), &pairs.precision)))?;
            sum.add("round_trip", w.round_trip, || {
                // Data generated from the student's own noise for these data are compared with them.
                let rows = self.round_trip.clamp(1, pairs.count());
                let (pairs, noise) = (pairs.rows(0, rows), noise.narrow(0, 0, rows));
                let condition = pairs.condition.as_ref();
                let g = student.lift_flat(&pairs.t, &noise, Direction::Forward, condition);
                let again = student.decode_after(&g, &pairs.tau().neg())?;
                Ok(state_error(&(again - &pairs.x_s), &pairs.source_precision))
            })?;
        }
        if let Some((points, velocity)) = &self.points {
            sum.add("consistency", w.consistency, || {
                Ok(self.scaling.consistency(student, points, velocity))
            })?;
        }
        Ok(sum.terms)
    }
}

impl Scaling {
    /// Mean over the batch of ||error||², divided by the summed variance at the target time. With absolute
    /// scaling it is the mean square of a coordinate.
    fn state_error(self, error: &Tensor, precision: &Tensor, rows: RowWeights) -> Tensor {
        let (kind, squares) = (error.kind(), error.square());
        match self {
            Scaling::Relative => rows.mean(&(squares.sum_dim_intlist(1, false, kind) * precision)),
            Scaling::Absolute if rows == RowWeights::OFF => squares.mean(kind),
            Scaling::Absolute => rows.mean(&squares.mean_dim(1, false, kind)),
        }
    }

    /// The same for errors of features or rates, divided by the summed variance of `reference`. No gradient
    /// flows through this variance, because that would reward large features.
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

    /// ||J g (1, v) - g L||² over the columns of x and of phi, each group divided by its own variance.
    pub(in crate::distill) fn consistency(
        self,
        student: &Student,
        points: &Points,
        velocity: &Tensor,
    ) -> Tensor {
        let Points { t, x, condition, .. } = points;
        let (g, tangent) =
            student.lift_flat_with_tangent(t, x, velocity, Direction::Forward, condition.as_ref());
        let (state_rate, feature_rate) = student.generator().rate(&g);
        let features = self.feature_error(&(feature_rate - &tangent), &tangent);
        match state_rate.size()[1] {
            0 => features,
            _ => self.feature_error(&(state_rate - velocity), velocity) + features,
        }
    }
}

/// The rows of noise that are mapped to a random time.
fn decoded_path(batch: &Batch) -> Option<Pairs> {
    batch.path.as_ref().map(|path| path.rows(0, batch.path_rows.clamp(1, path.count())))
}

/// Encodings that are decoded at the target times of their pairs.
struct Group {
    name: &'static str,
    weight: f64,
    g: Observables,
    pairs: Pairs,
}

/// x at the target times of all groups and, with `whole`, the features there. It takes one propagation,
/// because the cost of small operations depends on their number.
fn decode(student: &Student, groups: &[Group], whole: bool) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    if groups.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let g = Observables::cat(&groups.iter().map(|group| &group.g).collect::<Vec<_>>());
    let tau = Tensor::cat(&groups.iter().map(|group| group.pairs.tau()).collect::<Vec<_>>(), 0);
    let lengths: Vec<i64> = groups.iter().map(|group| group.pairs.count()).collect();
    if !whole {
        return Ok((student.decode_after(&g, &tau)?.split_with_sizes(&lengths, 0), Vec::new()));
    }
    let moved = student.generator().propagate(&g, &tau)?;
    let x = student.decode(&moved).split_with_sizes(&lengths, 0);
    Ok((x, moved.features.split_with_sizes(&lengths, 0)))
}

/// Ratio of the number of noise rows to the total number of re-encodings.
const RE_ENCODED_SHARE: i64 = 2;

/// Pairs from the states at which the student's own sampler of `steps` steps encodes again, to the teacher's
/// endpoint. No gradient flows through these states: the student learns to continue from them.
/// Differentiating through the whole sampler would cost as much as several plain steps. Pushing forward one
/// step is due to Brandstetter et al., 2202.03376.
fn re_encoded(student: &Student, pairs: &Pairs, steps: i64) -> Result<Pairs> {
    let _guard = tch::no_grad_guard();
    let count = (pairs.count() / (RE_ENCODED_SHARE * (steps - 1))).max(1);
    let pairs = pairs.rows(0, count);
    let condition = pairs.condition.as_ref();
    let tau = pairs.tau() / steps as f64;
    let (mut times, mut states) = (Vec::new(), Vec::new());
    let mut g = student.lift_flat(&pairs.s, &pairs.x_s, Direction::Forward, condition);
    for step in 1..steps {
        g = student.generator().propagate(&g, &tau)?;
        let t = &pairs.s + &tau * step as f64;
        let x = student.decode(&g);
        if step + 1 < steps {
            let fresh = student.lift_flat(&t, &x, Direction::Forward, condition);
            g = g.blend(&fresh, weight_of_encoding(step, steps));
        }
        times.push(t);
        states.push(x);
    }
    let again = |tensor: &Tensor| {
        let mut repeats = vec![1; tensor.dim()];
        repeats[0] = steps - 1;
        tensor.repeat(repeats)
    };
    Ok(Pairs {
        s: Tensor::f_cat(&times, 0)?,
        t: again(&pairs.t),
        x_s: Tensor::f_cat(&states, 0)?,
        x_t: again(&pairs.x_t),
        precision: again(&pairs.precision),
        source_precision: again(&pairs.source_precision),
        condition: condition.map(again),
        teacher_condition: None,
    })
}

/// Encodes the starts of `sources` and the ends of `targets`, with one call of the lift.
fn encode<'a>(
    student: &Student,
    sources: impl Iterator<Item = &'a Pairs>,
    targets: impl Iterator<Item = &'a Pairs>,
) -> Vec<Observables> {
    let mut points: Vec<(&Tensor, &Tensor, Option<&Tensor>)> =
        sources.map(|pairs| (&pairs.s, &pairs.x_s, pairs.condition.as_ref())).collect();
    points.extend(targets.map(|pairs| (&pairs.t, &pairs.x_t, pairs.condition.as_ref())));
    if points.is_empty() {
        return Vec::new();
    }
    let t = Tensor::cat(&points.iter().map(|(t, ..)| *t).collect::<Vec<_>>(), 0);
    let x = Tensor::cat(&points.iter().map(|(_, x, _)| *x).collect::<Vec<_>>(), 0);
    let conditions: Vec<&Tensor> = points.iter().filter_map(|(.., condition)| *condition).collect();
    let condition = (!conditions.is_empty()).then(|| Tensor::cat(&conditions, 0));
    let g = student.lift_flat(&t, &x, Direction::Forward, condition.as_ref());
    g.split_rows(&points.iter().map(|(t, ..)| t.size()[0]).collect::<Vec<_>>())
}

/// The sum of the weighted terms.
pub(in crate::distill) fn total(terms: &[Term], kind: Kind) -> Tensor {
    let weighted: Vec<Tensor> = terms.iter().map(|term| &term.value * term.weight).collect();
    Tensor::stack(&weighted, 0).sum(kind)
}
