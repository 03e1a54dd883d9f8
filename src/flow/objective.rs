//! The training objectives of a teacher.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::error::{Error, Result};
use crate::flow::phase::least_acceleration;
use crate::flow::Path;
use crate::nets::dropout;
use crate::velocity::NetworkField;

/// The loss of [`crate::flow::train`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Regression on the velocity of the pair whose path goes through x_t (Lipman et al., arXiv 2210.02747).
    /// The flow of the learnt velocity leads to the data.
    #[default]
    FlowMatching,
    /// Regression on the derivative of the curve of least acceleration between pairs of positions and
    /// velocities.
    Acceleration,
    /// Velocity consistency: a straight line from any point of a segment to the segment's end.
    Consistency(Consistency),
}

/// Velocity consistency (Yang et al., arXiv 2407.02398, with several segments). Let e be the end of the segment
/// that contains t, and f(t, x) = x + (e - t) v(t, x). For two points on the line of one pair the loss is
///
/// |f(t, x_t) - f'(r, x_r)|^2 + alpha |v(t, x_t) - v'(r, x_r)|^2,  r = t + delta.
///
/// f' and v' use the averaged weights, without gradients. f' averages over the pairs through x_r, which
/// biases it by about delta times their spread. In the last part of each segment, from the share `boundary`
/// on, the pair's own point at e replaces f', which ties f to the data, and the second term is left out. In
/// the first steps of training this holds for the whole segment (`anchoring`), as in the first of the
/// authors' two stages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consistency {
    /// Number of equal segments of [0, 1], 1 to 64. Sampling takes one Euler step per segment.
    pub segments: i64,
    /// Time from t to r, in (0, 1 / segments).
    pub delta: f64,
    /// Weight of the second term, at least 0.
    pub alpha: f64,
    /// Share of a segment, in (0, 1], after which the pair's own point replaces f'.
    pub boundary: f64,
    /// Share of the steps for which the boundary is 0, in [0, 1).
    pub anchoring: f64,
}

impl Default for Consistency {
    fn default() -> Self {
        Consistency { segments: 1, delta: 0.1, alpha: 1e-5, boundary: 0.9, anchoring: 0.2 }
    }
}

impl Objective {
    /// Checks every range.
    ///
    /// # Errors
    /// An error that names the first option out of range, or `path` if the objective needs the linear path.
    pub fn check(&self, path: Path) -> Result<()> {
        if *self == Objective::Acceleration && path != Path::Linear {
            return Err(Error::argument("path", "'linear' for least acceleration", format!("{path:?}")));
        }
        let Objective::Consistency(options) = self else { return Ok(()) };
        let Consistency { segments, delta, alpha, boundary, anchoring } = *options;
        if path != Path::Linear {
            return Err(Error::argument("path", "'linear' for velocity consistency", format!("{path:?}")));
        }
        if !(1..=64).contains(&segments) {
            return Err(Error::argument("segments", "1 to 64", segments));
        }
        if !(delta > 0.0 && delta < 1.0 / segments as f64) {
            return Err(Error::argument("delta", "above 0 and below the length of a segment", delta));
        }
        if !(alpha.is_finite() && alpha >= 0.0) {
            return Err(Error::argument("alpha", "a number of at least 0", alpha));
        }
        if !(boundary > 0.0 && boundary <= 1.0) {
            return Err(Error::argument("boundary", "above 0, at most 1", boundary));
        }
        if !(0.0..1.0).contains(&anchoring) {
            return Err(Error::argument("anchoring", "at least 0 and below 1", anchoring));
        }
        Ok(())
    }

    /// This objective for one network.
    ///
    /// # Errors
    /// Any error of building a second network.
    pub(super) fn over(self, field: &NetworkField) -> Result<Loss<'_>> {
        let average = match self {
            Objective::FlowMatching | Objective::Acceleration => None,
            Objective::Consistency(_) => Some(field.twin()?),
        };
        Ok(Loss { objective: self, field, average })
    }
}

/// The batch of one step.
pub(super) enum Batch {
    Pairs(Pairs),
    Points(Points),
}

/// Points on curves.
pub(super) struct Points {
    /// Times `[B]`.
    pub t: Tensor,
    /// States `[B, *event]`.
    pub x: Tensor,
    /// Velocities of the curves `[B, *event]`.
    pub u: Tensor,
    /// Mass of each point and its growth rate, `[B]` each.
    pub growth: Option<[Tensor; 2]>,
}

/// Coupled rows and their times.
pub(super) struct Pairs {
    /// Times `[B]`.
    pub t: Tensor,
    /// Noise or source samples `[B, *event]`.
    pub x0: Tensor,
    /// Data `[B, *event]`.
    pub x1: Tensor,
    pub condition: Option<Tensor>,
    /// What the network is told of the augmentation of each row, `[B, n]`.
    pub augmentation: Option<Tensor>,
}

/// An objective and its networks.
pub(super) struct Loss<'a> {
    objective: Objective,
    field: &'a NetworkField,
    /// A second network, which holds the averaged weights.
    average: Option<NetworkField>,
}

impl Loss<'_> {
    /// The loss of a batch, differentiable in the field's parameters. `average` holds the averaged
    /// parameters, `done` is the share of training that is done, and `mask` turns on the dropout of the step.
    pub fn loss(
        &self,
        batch: &Batch,
        path: Path,
        average: &Tensor,
        done: f64,
        mask: impl Fn() -> dropout::Training,
    ) -> Result<Tensor> {
        let Pairs { t, x0, x1, condition, augmentation } = match batch {
            Batch::Pairs(pairs) => pairs,
            Batch::Points(Points { t, x, u, growth }) => {
                let _dropout = mask();
                return match growth {
                    Some([masses, rates]) => self.field.growing_loss(t, x, u, masses, rates),
                    None => self.field.loss(t, x, u, None, None),
                };
            }
        };
        let (condition, augmentation) = (condition.as_ref(), augmentation.as_ref());
        if self.objective == Objective::Acceleration {
            let (x, u) = least_acceleration(t, x0, x1)?;
            let _dropout = mask();
            return self.field.loss(t, &x, &u, condition, augmentation);
        }
        let x = path.sample(t, x0, x1)?;
        let (Objective::Consistency(options), Some(twin)) = (self.objective, &self.average) else {
            let u = path.target(t, x0, x1)?;
            let _dropout = mask();
            return self.field.loss(t, &x, &u, condition, augmentation);
        };
        let (v, unit) = {
            let _dropout = mask();
            self.field.augmented_velocity_in_units(t, &x, condition, augmentation)?
        };
        let along = |t: &Tensor| -> Result<Tensor> { Ok(path.sample(t, x0, x1)?.f_flatten(1, -1)?) };
        let segments = options.segments as f64;
        let end = ((t * segments).floor() + 1.0) / segments;
        let rest = (&end - t).unsqueeze(1);
        let f = x.f_flatten(1, -1)? + rest * &v;
        let boundary = if done < options.anchoring { 0.0 } else { options.boundary };
        let anchor = along(&end)?;
        let target = match boundary > 0.0 {
            false => Target { f: anchor, v: v.detach() },
            true => tch::no_grad(|| -> Result<Target> {
                twin.parameters().flat()?.f_copy_(average)?;
                // r stays in the segment: the next one has another velocity.
                let r = (t + options.delta).minimum(&end);
                let _dropout = mask();
                let x = path.sample(&r, x0, x1)?;
                let later = twin.augmented_velocity_in_units(&r, &x, condition, augmentation)?.0;
                let rest = (&end - &r).unsqueeze(1);
                let inside = rest.gt((1.0 - boundary) / segments);
                let carried = along(&r)? + rest * &later;
                Ok(Target { f: carried.where_self(&inside, &anchor), v: later.where_self(&inside, &v) })
            })?,
        };
        // Errors are in units of the velocity's deviation, which does not depend on time on a linear path.
        let square = |gap: Tensor| (gap / &unit).square().mean(unit.kind());
        Ok(square(f - target.f) + square(v - target.v) * options.alpha)
    }
}

/// Targets of f and v.
struct Target {
    f: Tensor,
    v: Tensor,
}
