//! Anderson acceleration of fixed-point steps (Anderson, J. ACM 12, 1965; Walker and Ni, SIAM J. Numer. Anal.
//! 49, 2011). It takes as many evaluations as plain steps.

use tch::{Kind, Tensor};

use crate::error::Result;

/// Number of latest iterates that are combined.
const MEMORY: usize = 5;

/// Regularisation relative to the mean square of the residuals. It keeps weights bounded if iterates are
/// nearly the same.
const REGULARISATION: f64 = 1e-6;

/// The latest iterates of a search, `[B, d]` each. Every sample is combined with weights of its own.
#[derive(Default)]
pub(super) struct Iterates {
    /// The state that each iterate's fixed-point step leads to.
    ahead: Vec<Tensor>,
    /// F(noise) - x1.
    residuals: Vec<Tensor>,
}

impl Iterates {
    /// Adds an iterate. For samples whose values are not finite, the previous iterate is repeated.
    pub fn add(&mut self, ahead: Tensor, residual: Tensor) -> Result<()> {
        let finite = (&ahead + &residual).f_isfinite()?.f_all_dim(1, true)?;
        let or_before = |new: Tensor, before: Option<&Tensor>| match before {
            Some(before) => new.f_where_self(&finite, before),
            None => Ok(new),
        };
        self.ahead.push(or_before(ahead, self.ahead.last())?);
        self.residuals.push(or_before(residual, self.residuals.last())?);
        if self.ahead.len() > MEMORY {
            drop(self.ahead.remove(0));
            drop(self.residuals.remove(0));
        }
        Ok(())
    }

    /// sum_i a_i ahead_i, `[B, d]`, with weights a of sum 1 that minimise ||sum_i a_i residual_i||.
    pub fn next(&self) -> Result<Tensor> {
        let residuals = Tensor::f_stack(&self.residuals, 1)?.to_kind(Kind::Double);
        let gram = residuals.f_matmul(&residuals.transpose(1, 2))?;
        let count = self.residuals.len() as i64;
        let size = gram.diagonal(0, 1, 2).f_mean_dim([1i64].as_slice(), true, Kind::Double)?;
        let size = size.clamp_min(f64::MIN_POSITIVE).f_unsqueeze(2)?;
        let eye = Tensor::f_eye(count, (Kind::Double, gram.device()))? * REGULARISATION;
        let ones = Tensor::f_ones([gram.size()[0], count, 1], (Kind::Double, gram.device()))?;
        // Without a check for singular systems: one singular sample must not fail the others.
        let (weights, _) = Tensor::f_linalg_solve_ex(&(gram / size + eye), &ones, true, false)?;
        let weights = &weights / weights.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Double)?;
        let ahead = Tensor::f_stack(&self.ahead, 1)?;
        (weights.to_kind(ahead.kind()) * ahead)
            .f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)
            .map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A linear map of d dimensions is solved in d combined steps, each sample by its own weights.
    #[test]
    fn linear_systems_are_solved_in_as_many_steps_as_dimensions() {
        let options = (Kind::Double, tch::Device::Cpu);
        let matrix = Tensor::from_slice(&[1.4, 0.3, 0.0, -0.2, 0.8, 0.1, 0.0, 0.5, 1.2]).view([3, 3]);
        let target = Tensor::from_slice(&[1.0, -2.0, 0.5, 0.1, 3.0, -1.0]).view([2, 3]);
        let residual = |x: &Tensor| x.matmul(&matrix) - &target;
        let (mut x, mut plain) = (Tensor::zeros([2, 3], options), Tensor::zeros([2, 3], options));
        let mut iterates = Iterates::default();
        for _ in 0..4 {
            iterates.add(&x - residual(&x), residual(&x)).unwrap();
            x = iterates.next().unwrap();
            plain = &plain - residual(&plain);
        }
        let worst = |x: &Tensor| residual(x).abs().max().double_value(&[]);
        assert!(worst(&x) < 1e-4 && worst(&plain) > 1e-2, "{} {}", worst(&x), worst(&plain));
    }

    #[test]
    fn a_sample_out_of_range_spoils_no_other() {
        let row = |values: &[f64]| Tensor::from_slice(values).view([2, 1]);
        let mut iterates = Iterates::default();
        iterates.add(row(&[1.0, 1.0]), row(&[1.0, 1.0])).unwrap();
        iterates.add(row(&[0.5, f64::NAN]), row(&[0.5, f64::INFINITY])).unwrap();
        let next = iterates.next().unwrap();
        // Residuals 1 and 1/2 vanish at weights -1 and 2; the other sample has only its first iterate.
        assert!((next.double_value(&[0, 0])).abs() < 1e-4, "{next}");
        assert!((next.double_value(&[1, 0]) - 1.0).abs() < 1e-9, "{next}");
    }
}
