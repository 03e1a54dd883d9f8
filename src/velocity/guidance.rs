//! Classifier-free guidance: v = v(t, x, null) + scale (v(t, x, c) - v(t, x, null)) (Ho and Salimans, arXiv
//! 2207.12598, in the form of Zheng et al., arXiv 2311.13443, for velocities).

use tch::{Kind, Tensor};

use super::gaussian::find_tensor;
use super::{
    Conditioning, FieldDescription, FieldState, Mixing, Moments, NetworkField, Source, Units, VelocityField,
};
use crate::error::{Error, Result};
use crate::tensor::{check_finite, dtype_name, shape_text};

/// The name of the null condition among a state's tensors, and the prefix of the names of the model's tensors.
const NULL_CONDITION: &str = "null_condition";
const MODEL: &str = "model.";

/// A conditional field that is extrapolated away from its unconditional velocity. Scale 0 gives the unconditional
/// field and scale 1 the conditional one. Both velocities come from one evaluation of twice the batch size, which
/// counts as two.
pub struct GuidedField {
    model: Box<dyn VelocityField>,
    scale: f64,
    /// The null condition on the model's device: an int64 label `[]` or a vector `[dim]`.
    null: Tensor,
}

impl GuidedField {
    /// `null` is the condition that stands for "no condition": a label (int64, no axes) or a vector `[dim]`. The null
    /// label of koopflow's own fields is the number of classes. Other models may use any integer.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Shape`], [`Error::Dtype`] or [`Error::NonFinite`] naming `scale`, `teacher`
    /// (if it is unconditional) or `null_condition`.
    pub fn new(model: Box<dyn VelocityField>, scale: f64, null: &Tensor) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::argument("scale", "a finite number", scale));
        }
        let shape = match model.conditioning() {
            Conditioning::None => {
                return Err(Error::argument(
                    "teacher",
                    "a conditional one for guidance",
                    "an unconditional one",
                ))
            }
            Conditioning::Labels { .. } => vec![],
            Conditioning::Vector { dim } => vec![dim],
        };
        if null.size() != shape {
            return Err(Error::shape(NULL_CONDITION, shape_text(&shape), shape_text(&null.size())));
        }
        let null = match model.conditioning() {
            Conditioning::Labels { .. } if null.kind() != Kind::Int64 => {
                return Err(Error::dtype(NULL_CONDITION, "an integer label", dtype_name(null.kind())))
            }
            Conditioning::Labels { classes } => {
                let label = null.int64_value(&[]);
                if !(0..=classes).contains(&label) && model.state().is_some() {
                    return Err(Error::argument(NULL_CONDITION, format!("a label in 0..={classes}"), label));
                }
                null.to_device(model.device())
            }
            _ => {
                check_finite(NULL_CONDITION, null)?;
                null.to_device(model.device()).to_kind(model.dtype())
            }
        };
        Ok(GuidedField { model, scale, null: null.copy() })
    }

    /// Splits the tensors of [`VelocityField::state`] into those of the model and the null condition.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no null condition.
    pub fn split_state(tensors: &[(String, Tensor)]) -> Result<(Vec<(String, Tensor)>, Tensor)> {
        let null = find_tensor(tensors, NULL_CONDITION)?.shallow_clone();
        let own = |(name, tensor): &(String, Tensor)| {
            name.strip_prefix(MODEL).map(|name| (name.to_string(), tensor.shallow_clone()))
        };
        Ok((tensors.iter().filter_map(own).collect(), null))
    }

    /// t, x and the condition, each followed by a second half: the same t and x, and the null condition.
    fn doubled(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<[Tensor; 3]> {
        let condition =
            condition.ok_or_else(|| Error::argument("condition", "one condition for each sample", "none"))?;
        let null = self.null.to_kind(condition.kind()).f_expand_as(condition)?;
        // The model counts its evaluation once; this makes it two.
        self.model.counter().add(1);
        Ok([Tensor::f_cat(&[t, t], 0)?, Tensor::f_cat(&[x, x], 0)?, Tensor::f_cat(&[condition, &null], 0)?])
    }

    fn mix(&self, both: &Tensor) -> Result<Tensor> {
        let halves = both.f_chunk(2, 0)?;
        Ok(halves[0].f_mul_scalar(self.scale)?.f_add(&halves[1].f_mul_scalar(1.0 - self.scale)?)?)
    }
}

impl VelocityField for GuidedField {
    answers_as!(model);

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let [t, x, condition] = self.doubled(t, x, condition)?;
        self.mix(&self.model.velocity(&t, &x, Some(&condition))?)
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let [t, x, condition] = self.doubled(t, x, condition)?;
        let parts = [cotangent.f_mul_scalar(self.scale)?, cotangent.f_mul_scalar(1.0 - self.scale)?];
        let cotangent = Tensor::f_cat(&parts, 0)?;
        let (both, products) = self.model.velocity_and_vjp(&t, &x, &cotangent, Some(&condition))?;
        let halves = products.f_chunk(2, 0)?;
        Ok((self.mix(&both)?, halves[0].f_add(&halves[1])?))
    }

    fn work(&self) -> Result<Option<f64>> {
        Ok(self.model.work()?.map(|work| 2.0 * work))
    }

    fn network(&self) -> Option<&NetworkField> {
        self.model.network()
    }

    fn source(&self) -> Source {
        self.model.source()
    }

    fn breaks(&self) -> Vec<f64> {
        self.model.breaks()
    }

    fn moments(&self) -> Result<Option<Moments>> {
        self.model.moments()
    }

    fn mixing(&self) -> Option<Mixing> {
        self.model.mixing()
    }

    fn standard(&self) -> Result<Option<(Box<dyn VelocityField>, Units)>> {
        let Some((model, units)) = self.model.standard()? else { return Ok(None) };
        let null = self.null.shallow_clone();
        // Guidance is linear in velocities, so it is the same in all units.
        Ok(Some((Box::new(GuidedField { model, scale: self.scale, null }), units)))
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        let model = self.model.shallow_clone();
        Box::new(GuidedField { model, scale: self.scale, null: self.null.shallow_clone() })
    }

    fn kind_name(&self) -> &'static str {
        "guided"
    }

    fn state(&self) -> Option<FieldState> {
        let FieldState { description, tensors } = self.model.state()?;
        let mut tensors: Vec<_> =
            tensors.into_iter().map(|(name, tensor)| (format!("{MODEL}{name}"), tensor)).collect();
        tensors.push((NULL_CONDITION.into(), self.null.shallow_clone()));
        let description = FieldDescription::Guided { scale: self.scale, model: Box::new(description) };
        Some(FieldState { description, tensors })
    }
}
