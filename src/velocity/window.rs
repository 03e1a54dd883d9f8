//! The part of a flow between two times, rescaled to run from 0 to 1.

use tch::Tensor;

use super::{Expectation, FieldDescription, FieldState, Mixing, Source, VelocityField};
use crate::error::{Error, Result};

/// The velocity (to - from) v(from + (to - from) u, x) of a window from `from` to `to` of a field v.
pub struct WindowField {
    model: Box<dyn VelocityField>,
    from: f64,
    to: f64,
}

impl WindowField {
    /// # Errors
    /// [`Error::Argument`] naming `window` unless 0 <= `from` < `to` <= 1.
    pub fn new(model: Box<dyn VelocityField>, from: f64, to: f64) -> Result<Self> {
        if !(0.0 <= from && from < to && to <= 1.0) {
            let got = format!("{from} and {to}");
            return Err(Error::argument("window", "two rising times within [0, 1]", got));
        }
        Ok(WindowField { model, from, to })
    }

    fn length(&self) -> f64 {
        self.to - self.from
    }

    fn time(&self, t: &Tensor) -> Tensor {
        t * self.length() + self.from
    }
}

impl VelocityField for WindowField {
    answers_as!(model);

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.model.velocity(&self.time(t), x, condition)? * self.length())
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (v, product) = self.model.velocity_and_vjp(&self.time(t), x, cotangent, condition)?;
        Ok((v * self.length(), product * self.length()))
    }

    fn work(&self) -> Result<Option<f64>> {
        self.model.work()
    }

    fn growth(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Option<Tensor>> {
        let rates = self.model.growth(&self.time(t), x, condition)?;
        Ok(rates.map(|rates| rates * self.length()))
    }

    /// None, because states are mixtures of the ends of the whole flow, not of the ends of the window.
    fn mixing(&self) -> Option<Mixing> {
        None
    }

    /// The expectation of the noise or data of the whole flow.
    fn expectation(
        &self,
        of: Expectation,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        self.model.expectation(of, &self.time(t), x, condition)
    }

    /// The distribution of the flow at the start of the window.
    fn source(&self) -> Source {
        match self.from == 0.0 {
            true => self.model.source(),
            false => {
                let before = WindowField { model: self.model.shallow_clone(), from: 0.0, to: self.from };
                Source::Flow(Box::new(before))
            }
        }
    }

    fn breaks(&self) -> Vec<f64> {
        let own = self.model.breaks().into_iter().map(|t| (t - self.from) / self.length());
        // Breaks at the ends are kept, with a tolerance for rounding.
        own.filter(|t| (-1e-9..=1.0 + 1e-9).contains(t)).collect()
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        Box::new(WindowField { model: self.model.shallow_clone(), from: self.from, to: self.to })
    }

    fn kind_name(&self) -> &'static str {
        "window"
    }

    fn state(&self) -> Option<FieldState> {
        let FieldState { description, tensors } = self.model.state()?;
        let description =
            FieldDescription::Window { from: self.from, to: self.to, model: Box::new(description) };
        Some(FieldState { description, tensors })
    }
}
