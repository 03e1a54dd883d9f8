//! Gradient accumulation: one step's gradient, summed over micro-batches.

use tch::{Device, Tensor};

use super::{Objective, Term, Weights};
use crate::data::{Batch, FreshNoise, Pairs, Points};
use crate::distill::objective::{total, CORRECTION, NOISING};
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::nets::dropout;
use crate::nets::precision::{Lowered, Precision};
use crate::tensor::threads;
use crate::world::World;

impl Pairs {
    /// Part `index` of `count` parts of nearly equal length.
    fn part(&self, index: i64, count: i64) -> Pairs {
        let edge = |index: i64| self.count() * index / count;
        self.rows(edge(index), edge(index + 1) - edge(index))
    }
}

impl Points {
    /// Part `index` of `count` parts of nearly equal length.
    fn part(&self, index: i64, count: i64) -> Points {
        let edge = |index: i64| self.count() * index / count;
        self.rows(edge(index), edge(index + 1) - edge(index))
    }
}

impl Batch {
    /// Part `index` of `count` parts of nearly equal length.
    pub(super) fn part(&self, index: i64, count: i64) -> Batch {
        let part = |pairs: &Option<Pairs>| pairs.as_ref().map(|pairs| pairs.part(index, count));
        let edge = |rows: i64, index: i64| rows * index / count;
        Batch {
            endpoint: part(&self.endpoint),
            path: part(&self.path),
            pairs: part(&self.pairs),
            inverse: part(&self.inverse),
            path_rows: edge(self.path_rows, index + 1) - edge(self.path_rows, index),
            round_trip: edge(self.round_trip, index + 1) - edge(self.round_trip, index),
            ends: edge(self.ends, index + 1) - edge(self.ends, index),
            points: self.points.as_ref().map(|points| points.part(index, count)),
            fresh: self.fresh.as_ref().map(|fresh| {
                let edge = |index: i64| fresh.count() * index / count;
                fresh.rows(edge(index), edge(index + 1) - edge(index))
            }),
            sampler_steps: self.sampler_steps,
        }
    }

    /// Number of rows over which a term averages; `None` for terms that depend only on the student.
    fn rows_of(&self, term: &str) -> Option<i64> {
        match term {
            "endpoint" | "re_encoding" | "feature_distance" => self.endpoint.as_ref().map(Pairs::count),
            "path" | "levels" => self.path.as_ref().map(|_| self.path_rows),
            "inverse" => self.inverse.as_ref().map(Pairs::count),
            "round_trip" => self.inverse.as_ref().map(|_| self.round_trip),
            CORRECTION | NOISING => self.fresh.as_ref().map(FreshNoise::count),
            "consistency" => self.points.as_ref().map(Points::count),
            "unitarity" | "stability" | "orthogonality" => None,
            _ => self.pairs.as_ref().map(Pairs::count),
        }
    }

    /// The weight of this part, one of `count` parts of `whole`, for each term. The mean over `whole` is the
    /// sum of the parts' means times these weights.
    fn shares(&self, whole: &Batch, count: i64) -> Vec<(&'static str, f64)> {
        let share = |term: &str| match (self.rows_of(term), whole.rows_of(term)) {
            (Some(own), Some(all)) => own as f64 / all.max(1) as f64,
            _ => 1.0 / count as f64,
        };
        let names = Weights::NONE.entries().into_iter().map(|(name, _)| name);
        names.chain([NOISING]).map(|name| (name, share(name))).collect()
    }
}

/// One rank's share of the gradient of the objective and of its terms' values. The sums over all ranks are
/// the whole gradient and the values.
///
/// The gradient is accumulated over `accumulate` micro-batches, and only one graph is held in memory at a
/// time. Phase and consistency terms divide by the statistics of their micro-batch instead of the whole
/// batch. Re-encoding, paths and round trips use their share of rows of each micro-batch. Dropout masks
/// depend on the seed and the step.
pub(super) fn gradient(
    objective: &Objective,
    student: &Student,
    batch: &Batch,
    (world, accumulate): (&World, i64),
    precision: Precision,
    scale: f64,
    (seed, step): (u64, u64),
) -> Result<(Tensor, Vec<Term>)> {
    let mut sum: Option<(Tensor, Vec<Term>)> = None;
    let mut add = |part: Option<(Tensor, Vec<Term>)>| -> Result<()> {
        match (&mut sum, part) {
            (_, None) => {}
            (None, part) => sum = part,
            (Some((whole, values)), Some((gradient, terms))) => {
                let _ = whole.f_add_(&gradient)?;
                for term in terms {
                    match values.iter_mut().find(|own| own.name == term.name) {
                        Some(own) => own.value = &own.value + &term.value,
                        None => values.push(term),
                    }
                }
            }
        }
        Ok(())
    };
    let rank = (!world.is_alone()).then(|| batch.part(world.rank(), world.size()));
    let ours = rank.as_ref().unwrap_or(batch);
    let parts = accumulate * world.size();
    for index in 0..accumulate {
        let part = (accumulate > 1).then(|| ours.part(index, accumulate));
        let own = part.as_ref().unwrap_or(ours);
        let shares = own.shares(batch, parts);
        let (side, levels) = (objective.side(own)?, objective.levels(student, own)?);
        let (second, theirs) = (student.shallow_clone(), shares.clone());
        // Dropout masks differ between micro-batches and between the two sides of each.
        let place = (world.rank() * accumulate + index) as u64;
        let masks = step.wrapping_mul(parts as u64).wrapping_add(place).wrapping_mul(2);
        let aside = move || {
            let _dropout = dropout::Training::with(seed, masks + 1);
            differentiate(&second, &theirs, precision, scale, |student| side.terms(student))
        };
        let here = || {
            let _dropout = dropout::Training::with(seed, masks);
            differentiate(student, &shares, precision, scale, |student| {
                objective.forward_terms(student, own, levels.as_ref())
            })
        };
        // The two sides are independent graphs of similar cost.
        let (forward, side) = match student.device() {
            Device::Cpu if objective.weights.sides() > 1 => threads::beside(here, aside)?,
            _ => (here(), aside()),
        };
        add(forward?)?;
        add(side?)?;
    }
    let (gradient, terms) =
        sum.ok_or_else(|| Error::Internal(anyhow::anyhow!("a step without micro-batches")))?;
    Ok((if scale == 1.0 { gradient } else { gradient / scale }, terms))
}

/// The scaled gradient of some terms and their values, each times its share; `None` if there are no terms.
fn differentiate(
    student: &Student,
    shares: &[(&'static str, f64)],
    precision: Precision,
    scale: f64,
    form: impl FnOnce(&Student) -> Result<Vec<Term>>,
) -> Result<Option<(Tensor, Vec<Term>)>> {
    let mut terms = {
        let _lowered = Lowered::to(precision.kind());
        form(student)?
    };
    if terms.is_empty() {
        return Ok(None);
    }
    for term in &mut terms {
        let share = shares.iter().find(|(name, _)| *name == term.name).map_or(1.0, |(_, share)| *share);
        if share != 1.0 {
            term.value = &term.value * share;
        }
    }
    let gradient = student.parameters().gradient(&(total(&terms, student.kind()) * scale))?;
    terms.iter_mut().for_each(|term| term.value = term.value.detach());
    Ok(Some((gradient, terms)))
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::data::{BatchRows, PairDraw, Regime, Trajectories, TrajectoryPlan};
    use crate::distill::{DistillConfig, Fidelity, Scaling};
    use crate::monitor::Silent;
    use crate::tensor::RandomSource;
    use crate::training::{RowWeights, TrainingOptions};
    use crate::velocity::{GaussianField, VelocityField};
    use crate::world::ALONE;

    /// Terms that are means over all rows, and some that depend only on the student.
    fn weights() -> Weights {
        Weights {
            unitarity: 0.1,
            stability: 0.1,
            orthogonality: 0.1,
            ..Weights::preset(Fidelity::Endpoint, true, Regime::Few)
        }
    }

    fn setting(rows: BatchRows) -> (GaussianField, Student, Batch) {
        let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
        let mean = Tensor::from_slice(&[1.0, -2.0]);
        let field = GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap();
        let plan = TrajectoryPlan {
            count: 128,
            path_steps: 8,
            fixed: None,
            seed: 3,
            kind: Kind::Double,
            device: Device::Cpu,
            max_seconds: None,
        };
        let paths = Trajectories::generate(&field, &plan, None, &mut Silent).unwrap();
        let config = DistillConfig {
            observables: Some(6),
            width: Some(12),
            path_steps: Some(8),
            training: TrainingOptions { dtype: "float64".into(), ..DistillConfig::default().training },
            ..DistillConfig::default()
        };
        let recipe = config.resolve(&[2], field.conditioning()).unwrap();
        let student = Student::new(recipe.student, 1, Device::Cpu).unwrap();
        let batch = paths.batch(&RandomSource::new(7), 11, rows, PairDraw::default());
        (field, student, batch)
    }

    #[test]
    fn micro_batches_add_up_to_the_whole_gradient() {
        let (field, student, batch) = setting(BatchRows::from(30));
        let objective = Objective {
            weights: weights(),
            scaling: Scaling::Relative,
            row_weights: RowWeights::OFF,
            teacher: &field,
            feature_distance: None,
        };
        let at = |count, scale| {
            gradient(&objective, &student, &batch, (&ALONE, count), Precision::Float32, scale, (0, 0))
                .unwrap()
        };
        let (whole, terms) = at(1, 1.0);
        // 4 divides neither 30 nor 15.
        for (count, scale) in [(2, 1.0), (4, 1.0), (7, 1.0), (4, 1024.0)] {
            let (parts, values) = at(count, scale);
            let gap = (&parts - &whole).norm().double_value(&[]) / whole.norm().double_value(&[]);
            assert!(gap < 1e-12, "{count} parts: {gap:e}");
            for (own, all) in values.iter().zip(&terms) {
                let gap = (&own.value - &all.value).double_value(&[]).abs();
                assert!(gap < 1e-12, "{}: {gap:e}", own.name);
            }
        }
    }

    #[test]
    fn parts_keep_each_path_with_its_noise_and_every_row_once() {
        let rows = BatchRows::of(64, Regime::Several);
        let (_, _, batch) = setting(rows);
        for count in [1, 2, 3, rows.most_parts()] {
            let parts: Vec<Batch> = (0..count).map(|index| batch.part(index, count)).collect();
            for part in &parts {
                let (endpoint, path) = (part.endpoint.as_ref().unwrap(), part.path.as_ref().unwrap());
                assert!(endpoint.x_s.equal(&path.x_s));
                let pairs = part.pairs.as_ref().unwrap().count();
                assert!(pairs.min(part.path_rows).min(part.round_trip).min(part.ends) >= 2);
                assert!(part.round_trip <= part.inverse.as_ref().unwrap().count());
            }
            let sum = |of: fn(&Batch) -> i64| parts.iter().map(of).sum::<i64>();
            assert_eq!(sum(|part| part.path_rows), rows.path);
            assert_eq!(sum(|part| part.round_trip), rows.round_trip);
            assert_eq!(sum(|part| part.ends), rows.ends);
            for name in ["endpoint", "path", "target", "inverse", "round_trip"] {
                let shares = parts.iter().flat_map(|part| part.shares(&batch, count));
                let all: f64 = shares.filter(|(own, _)| *own == name).map(|(_, share)| share).sum();
                assert!((all - 1.0).abs() < 1e-12, "{name}: {all}");
            }
        }
    }

    #[test]
    fn low_precision_is_near_and_not_equal() {
        let (field, student, batch) = setting(BatchRows::from(30));
        let objective = Objective {
            weights: weights(),
            scaling: Scaling::Relative,
            row_weights: RowWeights::OFF,
            teacher: &field,
            feature_distance: None,
        };
        let at = |precision| {
            gradient(&objective, &student, &batch, (&ALONE, 1), precision, 1.0, (0, 0)).unwrap().0
        };
        let (full, low) = (at(Precision::Float32), at(Precision::Bf16));
        let gap = (&low - &full).norm().double_value(&[]) / full.norm().double_value(&[]);
        // bfloat16 has 8 significant bits.
        assert!(gap > 1e-5 && gap < 0.1, "{gap:e}");
        assert!(at(Precision::Float32).equal(&full), "the guard is gone");
    }
}
