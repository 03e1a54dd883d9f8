//! What a network's velocity is trained to be.

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
    /// Regression on the velocity of the pair that x_t lies between: its flow is the data's (Lipman et al., arXiv
    /// 2210.02747).
    #[default]
    FlowMatching,
    /// Regression on the rate of the curve of least acceleration between pairs of positions and velocities.
    Acceleration,
    /// One straight line from any point of a segment to the segment's end.
    Consistency(Consistency),
}

/// Velocity consistency (Yang et al., arXiv 2407.02398, with several segments): with f(t, x) = x + (e - t) v(t, x), e
/// the end of the segment that t is in,
///
/// |f(t, x_t) - f'(r, x_r)|^2 + alpha |v(t, x_t) - v'(r, x_r)|^2,  r = t + delta,
///
/// for two points of one pair's line; f' and v' are those of the averaged weights, without gradients. f' averages
/// over the pairs through x_r, which biases it by about delta times their spread. From
/// `boundary` on, as a share of the segment, the pair's own point at e stands for f', which is what ties f to the
/// data; the second term is left out there. Training begins with that alone, as the authors' two stages do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consistency {
    /// Equal segments of [0, 1], 1 to 64: as many Euler steps as sampling takes.
    pub segments: i64,
    /// Time from t to r, in (0, 1 / segments).
    pub delta: f64,
    /// Weight of the second term, at least 0.
    pub alpha: f64,
    /// Share of a segment from which on the pair's own point stands for f', in (0, 1].
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
    /// # Errors
    /// Names the first option out of its range, or `path` where lines are not straight.
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
    /// Whatever building a second network answers.
    pub(super) fn over(self, field: &NetworkField) -> Result<Loss<'_>> {
        let average = match self {
            Objective::FlowMatching | Objective::Acceleration => None,
            Objective::Consistency(_) => Some(field.twin()?),
        };
        Ok(Loss { objective: self, field, average })
    }
}

/// What one step learns from.
pub(super) enum Batch {
    Pairs(Pairs),
    Points(Points),
}

/// Points on curves.
pub(super) struct Points {
    /// `[B]`
    pub t: Tensor,
    /// `[B, *event]`
    pub x: Tensor,
    /// The curve's velocity `[B, *event]`.
    pub u: Tensor,
    /// How much each point counts, and the rate at which that grows, `[B]` each.
    pub growth: Option<[Tensor; 2]>,
}

/// Coupled rows and their times.
pub(super) struct Pairs {
    /// `[B]`
    pub t: Tensor,
    /// `[B, *event]`
    pub x0: Tensor,
    /// `[B, *event]`
    pub x1: Tensor,
    pub condition: Option<Tensor>,
}

/// An objective and its networks.
pub(super) struct Loss<'a> {
    objective: Objective,
    field: &'a NetworkField,
    /// A second network, which holds the averaged weights.
    average: Option<NetworkField>,
}

impl Loss<'_> {
    /// The loss of a batch, differentiable in the field's parameters, when the share `done` of training is behind;
    /// `average` are the averaged parameters, and `mask` begins the step's dropout.
    pub fn loss(
        &self,
        batch: &Batch,
        path: Path,
        average: &Tensor,
        done: f64,
        mask: impl Fn() -> dropout::Training,
    ) -> Result<Tensor> {
        let Pairs { t, x0, x1, condition } = match batch {
            Batch::Pairs(pairs) => pairs,
            Batch::Points(Points { t, x, u, growth }) => {
                let _dropout = mask();
                return match growth {
                    Some([masses, rates]) => self.field.growing_loss(t, x, u, masses, rates),
                    None => self.field.loss(t, x, u, None),
                };
            }
        };
        let condition = condition.as_ref();
        if self.objective == Objective::Acceleration {
            let (x, u) = least_acceleration(t, x0, x1)?;
            let _dropout = mask();
            return self.field.loss(t, &x, &u, condition);
        }
        let x = path.sample(t, x0, x1)?;
        let (Objective::Consistency(options), Some(twin)) = (self.objective, &self.average) else {
            let u = path.target(t, x0, x1)?;
            let _dropout = mask();
            return self.field.loss(t, &x, &u, condition);
        };
        let (v, unit) = {
            let _dropout = mask();
            self.field.velocity_in_units(t, &x, condition)?
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
                // Never beyond the segment, whose velocity is another one.
                let r = (t + options.delta).minimum(&end);
                let _dropout = mask();
                let later = twin.velocity_in_units(&r, &path.sample(&r, x0, x1)?, condition)?.0;
                let rest = (&end - &r).unsqueeze(1);
                let inside = rest.gt((1.0 - boundary) / segments);
                let carried = along(&r)? + rest * &later;
                Ok(Target { f: carried.where_self(&inside, &anchor), v: later.where_self(&inside, &v) })
            })?,
        };
        // In the units of the regression loss, which a linear path has at all times.
        let square = |gap: Tensor| (gap / &unit).square().mean(unit.kind());
        Ok(square(f - target.f) + square(v - target.v) * options.alpha)
    }
}

/// Targets of f and v.
struct Target {
    f: Tensor,
    v: Tensor,
}
