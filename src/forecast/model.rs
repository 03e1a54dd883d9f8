//! A fitted forecaster: observables, how they evolve, and what is read off them.

use tch::{Device, Kind, Tensor};

use super::{Basis, ForecasterConfig};
use crate::error::{Error, Result};
use crate::nets::{Dual, Parameters};
use crate::tensor::{shape_text, shared};

/// What one step makes of the newest state: all that encoding anew asks for. float64.
#[derive(Debug)]
pub struct NextState {
    /// `[m, d]`
    pub columns: Tensor,
    /// What inputs add, `[u, d]`.
    pub drive: Option<Tensor>,
    /// Of what a step adds, `[d, d]`.
    pub covariance: Tensor,
}

shared!(NextState { columns, drive, covariance });

/// How observables evolve; float64.
#[derive(Debug)]
pub struct Evolution {
    /// K: `[m, m]`, over one step.
    pub transition: Tensor,
    /// The newest state by less of a ridge than K has. The regression of a state is exact to all digits, that of psi is
    /// not, and a K of both ridges is far from normal: its eigenvalues would be spurious.
    pub finer: Option<NextState>,
    /// L: `[m, m]`, where there is one.
    pub generator: Option<Tensor>,
    /// What inputs add in one step, `[u, m]`, or to the rate where times are irregular.
    pub drive: Option<Tensor>,
    /// C: `[m, d]`, standardised states.
    pub readout: Tensor,
    /// Q: covariance of what one step of the data adds, `[m, m]`.
    pub covariance: Tensor,
    /// Mean J^T J of a step's derivative: what a step makes of noise, `[d, d]`.
    pub gain: Tensor,
    /// Mean of the observables over the data `[m]`, and their covariance `[m, m]`.
    pub mean: Tensor,
    pub spread: Tensor,
    /// The first `r` combinations of `m` observables, `[m, r]`, where they are fewer.
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
    /// What a step makes of the newest state, by K where there is nothing finer.
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

    /// Lets a step add more to a state that is among the observables, `[d, d]`.
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

/// How rows become standardised states; float64.
#[derive(Debug)]
pub struct Coordinates {
    /// Mean, deviation, least and largest value of each coordinate, `[4, d]`.
    pub table: Tensor,
    /// Mean and deviation of rows, `[2, D]`.
    pub rows: Tensor,
    /// Principal components `[D, d]` that coordinates are along, and the rows' mean `[D]`.
    pub frame: Option<Tensor>,
    pub centre: Option<Tensor>,
}

shared!(Coordinates { table, rows, frame, centre });

/// How many there are of everything.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    pub event_shape: Vec<i64>,
    /// Principal components that states are made of; `None` takes rows as they are.
    #[serde(default)]
    pub components: Option<i64>,
    /// Rows that one encoding reads.
    pub history: i64,
    /// u and c.
    pub inputs: i64,
    pub conditions: i64,
    /// Number of psi.
    pub psi: i64,
    /// Combinations of observables that are kept; `None` is all.
    pub rank: Option<i64>,
}

impl Sizes {
    /// D, numbers of a row.
    pub fn event_size(&self) -> i64 {
        self.event_shape.iter().product()
    }

    /// d, numbers of a state.
    pub fn dimension(&self) -> i64 {
        self.components.unwrap_or(self.event_size())
    }

    /// Coordinates of a stack of states.
    pub fn stack(&self) -> i64 {
        self.history * self.dimension()
    }

    /// Observables before they are combined.
    pub fn all(&self) -> i64 {
        1 + self.stack() + self.conditions + self.psi
    }

    /// m.
    pub fn observables(&self) -> i64 {
        // The constant is not counted among combinations.
        self.rank.map_or(self.all(), |rank| rank + 1)
    }

    /// What psi reads.
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

/// Numbers of a forecaster that are no tensors.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Time of one step.
    pub step: f64,
    /// Steps after which a forecast encodes anew; `None` never does.
    pub re_encode: Option<u64>,
    /// Deviation of the observations' noise, in the data's.
    pub noise: f64,
    /// Whether the generator is what was fitted, of irregular times.
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

    /// Time of one step.
    pub fn step(&self) -> f64 {
        self.facts.step
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Mean and deviation of rows of the data, `[2, D]`.
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

    /// Standardised states `[.., d]` of rows `[.., D]`.
    pub fn standard(&self, x: &Tensor) -> Tensor {
        let x = match (&self.coordinates.frame, &self.coordinates.centre) {
            (Some(frame), Some(centre)) => (x - centre).matmul(frame),
            _ => x.shallow_clone(),
        };
        (x - self.coordinate(0)) / self.coordinate(1)
    }

    /// Rows of standardised states.
    pub fn original(&self, z: &Tensor) -> Tensor {
        let own = z * self.coordinate(1) + self.coordinate(0);
        match (&self.coordinates.frame, &self.coordinates.centre) {
            (Some(frame), Some(centre)) => own.matmul(&frame.tr()) + centre,
            _ => own,
        }
    }

    /// Differences of rows, of differences `[.., d]` of standardised states.
    pub fn differences(&self, z: &Tensor) -> Tensor {
        let own = z * self.coordinate(1);
        match &self.coordinates.frame {
            Some(frame) => own.matmul(&frame.tr()),
            None => own,
        }
    }

    /// Deviations of rows `[B, D]` of covariances of standardised states `[B, d, d]`.
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

    /// Standardised states within the data's box and its margin. Models without nonlinear observables know no box.
    pub fn clipped(&self, z: &Tensor) -> Tensor {
        let Some(margin) = self.config.margin.filter(|_| self.sizes.psi > 0) else {
            return z.shallow_clone();
        };
        let standard = |row: i64| (self.coordinate(row) - self.coordinate(0)) / self.coordinate(1);
        let (low, high) = (standard(2), standard(3));
        let margin = (&high - &low) * margin;
        z.clamp_tensor(Some(low - &margin), Some(high + margin))
    }

    /// Stacks `[B, h d]`, the newest first, of standardised rows `[B, h, d]`, the newest last.
    pub fn stack(&self, rows: &Tensor) -> Tensor {
        rows.flip([1i64]).reshape([rows.size()[0], self.sizes.stack()])
    }

    /// The stack a step later: `newest` `[B, d]` in front.
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

    /// Observables before they are combined, `[B, m0]`.
    pub(super) fn encode_all(&self, stack: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let input = self.basis_input(stack, condition);
        let one = Tensor::f_ones([stack.size()[0], 1], self.options())?;
        let mut parts = vec![one, input.shallow_clone()];
        parts.extend(self.basis.forward(&input));
        Ok(Tensor::f_cat(&parts, 1)?)
    }

    /// Observables g of stacks `[B, h d]` and conditions `[B, c]`: `[B, m]`.
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

    /// Derivatives of the observables along `directions` `[B, h d]`, before they are combined.
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

    /// Observables of every axis of the stack, dg/dz: `[B, h d, m]`.
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

    /// Rows `[B, h, *event]` or, where one is read, `[B, *event]` from outside, as standardised stacks.
    ///
    /// # Errors
    /// Names `argument`.
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

    /// Conditions `[B, c]` from outside.
    ///
    /// # Errors
    /// Names `condition`.
    pub fn check_condition(&self, condition: Option<&Tensor>, batch: i64) -> Result<Option<Tensor>> {
        let expected = self.sizes.conditions;
        match condition {
            None if expected == 0 => Ok(None),
            None => Err(Error::argument("condition", format!("({batch}, {expected}) numbers"), "none")),
            Some(given) if expected > 0 && given.size() == [batch, expected] => {
                crate::tensor::check_finite("condition", given)?;
                Ok(Some(given.to_device(self.device()).to_kind(Kind::Double)))
            }
            Some(given) => {
                let expected = match expected {
                    0 => "none: the model was fitted without".to_string(),
                    _ => shape_text(&[batch, expected]),
                };
                Err(Error::shape("condition", expected, shape_text(&given.size())))
            }
        }
    }
}
