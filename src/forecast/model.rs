//! A fitted forecaster: its observables, their evolution, and the readout of states.

use tch::{Device, Kind, Tensor};

use super::{Basis, ForecasterConfig};
use crate::error::{Error, Result};
use crate::nets::{Dual, Parameters};
use crate::tensor::{shape_text, shared};

/// The map of one step from observables to the next state, in float64. If every step encodes again, no other part of
/// K is needed.
#[derive(Debug)]
pub struct NextState {
    /// Columns of K, `[m, d]`.
    pub columns: Tensor,
    /// Effect of the inputs, `[u, d]`.
    pub drive: Option<Tensor>,
    /// Noise covariance of a step, `[d, d]`.
    pub covariance: Tensor,
}

shared!(NextState { columns, drive, covariance });

/// The evolution of observables, in float64.
#[derive(Debug)]
pub struct Evolution {
    /// Transition matrix K of one step, `[m, m]`.
    pub transition: Tensor,
    /// The next state, fitted with a smaller ridge than K. The regression of the state is accurate to all digits, but
    /// that of psi is not. A matrix K with columns of two ridges would be far from normal and have spurious
    /// eigenvalues.
    pub finer: Option<NextState>,
    /// Generator L, `[m, m]`; `None` if K has no usable logarithm.
    pub generator: Option<Tensor>,
    /// Effect of the inputs on the observables in one step, `[u, m]`, or on their rates for irregular times.
    pub drive: Option<Tensor>,
    /// Readout C of standardised states, `[m, d]`.
    pub readout: Tensor,
    /// Noise covariance Q of one step of the data, `[m, m]`.
    pub covariance: Tensor,
    /// Mean of J^T J for the derivative J of a step, which tells how a step amplifies noise, `[d, d]`.
    pub gain: Tensor,
    /// Mean of the observables over the data, `[m]`.
    pub mean: Tensor,
    /// Covariance of the observables over the data, `[m, m]`.
    pub spread: Tensor,
    /// Projection of all `m0` observables onto the combinations that are kept, `[m0, m]`; `None` if all are kept.
    pub projection: Option<Tensor>,
}

shared!(Evolution {
    transition,
    finer,
    generator,
    drive,
    readout,
    covariance,
    gain,
    mean,
    spread,
    projection
});

impl Evolution {
    /// The map of one step to the next state: [`Evolution::finer`], or the one given by K.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn next_state(&self) -> Result<NextState> {
        if let Some(finer) = &self.finer {
            return Ok(finer.shallow_clone());
        }
        let read = |x: &Tensor| x.f_matmul(&self.readout);
        Ok(NextState {
            columns: read(&self.transition)?,
            drive: self.drive.as_ref().map(read).transpose()?,
            covariance: self.readout.tr().f_matmul(&read(&self.covariance)?)?,
        })
    }

    /// Adds `covariance` `[d, d]` to the noise covariance of the state, for a model whose state is a slice of the
    /// observables.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn add_to_state(&mut self, covariance: &Tensor) -> Result<()> {
        let d = covariance.size()[0];
        let block = self.covariance.narrow(0, 1, d).narrow(1, 1, d);
        let _ = block.shallow_clone().f_add_(covariance)?;
        if let Some(finer) = &mut self.finer {
            finer.covariance = &finer.covariance + covariance;
        }
        Ok(())
    }
}

/// The conversion of rows to standardised states, in float64.
#[derive(Debug)]
pub struct Coordinates {
    /// Mean, standard deviation, minimum and maximum of each coordinate, `[4, d]`.
    pub table: Tensor,
    /// Mean and standard deviation of rows, `[2, D]`.
    pub rows: Tensor,
    /// Principal components that the coordinates refer to, `[D, d]`.
    pub frame: Option<Tensor>,
    /// Mean of rows, `[D]`, with principal components.
    pub centre: Option<Tensor>,
}

shared!(Coordinates { table, rows, frame, centre });

/// The sizes of a forecaster.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    pub event_shape: Vec<i64>,
    /// Number of principal components that a state consists of; `None` means that states are whole rows.
    #[serde(default)]
    pub components: Option<i64>,
    /// Number of rows that one encoding reads.
    pub history: i64,
    /// Number of inputs, u.
    pub inputs: i64,
    /// Number of conditions, c.
    pub conditions: i64,
    /// Number of nonlinear observables psi.
    pub psi: i64,
    /// Number of combinations of observables that are kept, not counting the constant; `None` means all observables.
    pub rank: Option<i64>,
}

impl Sizes {
    /// D, the size of a row.
    pub fn event_size(&self) -> i64 {
        self.event_shape.iter().product()
    }

    /// d, the size of a state.
    pub fn dimension(&self) -> i64 {
        self.components.unwrap_or(self.event_size())
    }

    /// Size of a stack of states, h d.
    pub fn stack(&self) -> i64 {
        self.history * self.dimension()
    }

    /// m0, the number of observables before they are combined.
    pub fn all(&self) -> i64 {
        1 + self.stack() + self.conditions + self.psi
    }

    /// m, the number of observables of the evolution.
    pub fn observables(&self) -> i64 {
        // The rank does not count the constant.
        self.rank.map_or(self.all(), |rank| rank + 1)
    }

    /// Number of inputs of psi.
    pub fn basis_inputs(&self) -> i64 {
        self.stack() + self.conditions
    }
}

pub struct Forecaster {
    pub(super) config: ForecasterConfig,
    pub(super) sizes: Sizes,
    pub(super) parameters: Parameters,
    pub(super) basis: Basis,
    pub(super) coordinates: Coordinates,
    pub(super) evolution: Evolution,
    pub(super) facts: Facts,
}

/// The scalar properties of a forecaster.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Length of one step, in units of time.
    pub step: f64,
    /// Number of steps between encodings in a forecast; `None` means only one encoding.
    pub re_encode: Option<u64>,
    /// Standard deviation of the observation noise, in standard deviations of the data.
    pub noise: f64,
    /// Whether the generator was fitted instead of K, for irregular times.
    pub continuous: bool,
}

shared!(Forecaster { parameters, basis, coordinates, evolution; config, sizes, facts });

impl Forecaster {
    pub fn config(&self) -> &ForecasterConfig {
        &self.config
    }

    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    pub fn evolution(&self) -> &Evolution {
        &self.evolution
    }

    /// Length of one step, in units of time.
    pub fn step(&self) -> f64 {
        self.facts.step
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Mean and standard deviation of rows of the data, `[2, D]`.
    pub fn statistics(&self) -> &Tensor {
        &self.coordinates.rows
    }

    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    pub(super) fn options(&self) -> (Kind, Device) {
        (Kind::Double, self.device())
    }

    fn coordinate(&self, row: i64) -> Tensor {
        self.coordinates.table.select(0, row)
    }

    /// Converts rows `[.., D]` to standardised states `[.., d]`.
    pub fn standard(&self, x: &Tensor) -> Tensor {
        let x = match (&self.coordinates.frame, &self.coordinates.centre) {
            (Some(frame), Some(centre)) => (x - centre).matmul(frame),
            _ => x.shallow_clone(),
        };
        (x - self.coordinate(0)) / self.coordinate(1)
    }

    /// Converts standardised states `[.., d]` to rows `[.., D]`.
    pub fn original(&self, z: &Tensor) -> Tensor {
        let own = z * self.coordinate(1) + self.coordinate(0);
        match (&self.coordinates.frame, &self.coordinates.centre) {
            (Some(frame), Some(centre)) => own.matmul(&frame.tr()) + centre,
            _ => own,
        }
    }

    /// Converts differences `[.., d]` of standardised states to differences of rows `[.., D]`.
    pub fn differences(&self, z: &Tensor) -> Tensor {
        let own = z * self.coordinate(1);
        match &self.coordinates.frame {
            Some(frame) => own.matmul(&frame.tr()),
            None => own,
        }
    }

    /// Standard deviations of rows `[B, D]` from covariances `[B, d, d]` of standardised states.
    pub fn deviations(&self, covariance: &Tensor) -> Tensor {
        let scale = self.coordinate(1);
        match &self.coordinates.frame {
            Some(frame) => {
                let scaled = frame * scale;
                let half = scaled.matmul(covariance);
                (half * scaled).sum_dim_intlist([2i64].as_slice(), false, Kind::Double).clamp_min(0.0).sqrt()
            }
            None => covariance.diagonal(0, 1, 2).clamp_min(0.0).sqrt() * scale,
        }
    }

    /// Clips standardised states to the range of the data plus the margin. Models without nonlinear observables do not
    /// clip.
    pub fn clipped(&self, z: &Tensor) -> Tensor {
        let Some(margin) = self.config.margin.filter(|_| self.sizes.psi > 0) else {
            return z.shallow_clone();
        };
        let standard = |row: i64| (self.coordinate(row) - self.coordinate(0)) / self.coordinate(1);
        let (low, high) = (standard(2), standard(3));
        let margin = (&high - &low) * margin;
        z.clamp_tensor(Some(low - &margin), Some(high + margin))
    }

    /// Converts standardised rows `[B, h, d]`, newest last, to stacks `[B, h d]`, newest first.
    pub fn stack(&self, rows: &Tensor) -> Tensor {
        rows.flip([1i64]).reshape([rows.size()[0], self.sizes.stack()])
    }

    /// The stack one step later, with `newest` `[B, d]` in front.
    pub fn shifted(&self, stack: &Tensor, newest: &Tensor) -> Tensor {
        let kept = self.sizes.stack() - self.sizes.dimension();
        match kept {
            0 => newest.shallow_clone(),
            _ => Tensor::cat(&[newest, &stack.narrow(1, 0, kept)], 1),
        }
    }

    fn basis_input(&self, stack: &Tensor, condition: Option<&Tensor>) -> Tensor {
        match condition {
            Some(condition) => Tensor::cat(&[stack, condition], 1),
            None => stack.shallow_clone(),
        }
    }

    /// All observables before they are combined, `[B, m0]`.
    pub(super) fn encode_all(&self, stack: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let input = self.basis_input(stack, condition);
        let one = Tensor::f_ones([stack.size()[0], 1], self.options())?;
        let mut parts = vec![one, input.shallow_clone()];
        parts.extend(self.basis.forward(&input));
        Ok(Tensor::f_cat(&parts, 1)?)
    }

    /// Observables g `[B, m]` of stacks `[B, h d]` and conditions `[B, c]`.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn encode(&self, stack: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let all = self.encode_all(stack, condition)?;
        match &self.evolution.projection {
            Some(projection) => Ok(all.f_matmul(projection)?),
            None => Ok(all),
        }
    }

    /// Derivatives of all observables along `directions` `[B, h d]`, before they are combined, `[B, m0]`.
    pub(super) fn tangent_all(
        &self,
        stack: &Tensor,
        directions: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Tensor> {
        let still = condition.map(Tensor::zeros_like);
        let input = self.basis_input(stack, condition);
        let tangent = self.basis_input(directions, still.as_ref());
        let none = Tensor::f_zeros([stack.size()[0], 1], self.options())?;
        let mut parts = vec![none, tangent.shallow_clone()];
        parts.extend(self.basis.forward_with_tangent(&Dual::new(input, tangent)).map(|dual| dual.tangent));
        Ok(Tensor::f_cat(&parts, 1)?)
    }

    /// The Jacobian dg/dz of the observables, `[B, h d, m]`.
    pub(super) fn slopes(&self, stack: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let (batch, n) = stack.size2()?;
        let each = |x: &Tensor| x.repeat_interleave_self_int(n, 0, None);
        let axes = Tensor::f_eye(n, self.options())?.repeat([batch, 1]);
        let along = self.tangent_all(&each(stack), &axes, condition.map(each).as_ref())?;
        let along = match &self.evolution.projection {
            Some(projection) => along.f_matmul(projection)?,
            None => along,
        };
        Ok(along.f_view([batch, n, -1])?)
    }

    /// Checks rows `[B, h, *event]` from outside and converts them to standardised stacks. With `history` 1, rows may
    /// also be `[B, *event]`.
    ///
    /// # Errors
    /// Errors naming `argument`.
    pub fn check_rows(&self, argument: &str, x: &Tensor) -> Result<Tensor> {
        let (event, size) = (&self.sizes.event_shape, x.size());
        let history = self.sizes.history;
        let single = history == 1 && size.get(1..) == Some(event.as_slice());
        let several = size.get(2..) == Some(event.as_slice()) && size.get(1) == Some(&history);
        if !(single || several) || size[0] == 0 {
            let expected = shape_text(&[&[-1, history], event.as_slice()].concat()).replace("-1", "B");
            return Err(Error::shape(argument, expected, shape_text(&size)));
        }
        crate::tensor::check_finite(argument, x)?;
        let rows = x.to_device(self.device()).to_kind(Kind::Double);
        let rows = rows.reshape([size[0], history, self.sizes.event_size()]);
        Ok(self.stack(&self.standard(&rows)))
    }

    /// Checks conditions `[B, c]` from outside.
    ///
    /// # Errors
    /// Errors naming `condition`.
    pub fn check_condition(&self, condition: Option<&Tensor>, batch: i64) -> Result<Option<Tensor>> {
        let expected = self.sizes.conditions;
        match condition {
            None if expected == 0 => Ok(None),
            None => {
                Err(Error::argument("condition", format!("an array of shape ({batch}, {expected})"), "none"))
            }
            Some(given) if expected > 0 && given.size() == [batch, expected] => {
                crate::tensor::check_finite("condition", given)?;
                Ok(Some(given.to_device(self.device()).to_kind(Kind::Double)))
            }
            Some(given) => {
                let expected = match expected {
                    0 => "none, since the model was fitted without conditions".to_string(),
                    _ => shape_text(&[batch, expected]),
                };
                Err(Error::shape("condition", expected, shape_text(&given.size())))
            }
        }
    }
}
