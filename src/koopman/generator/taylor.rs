//! The Taylor action g -> Σ_k (tau^k / k!) g L^k with a tau for each row, and its gradient.

use tch::{Device, Tensor};

use crate::error::Result;
use crate::tensor::{gradients_of, is_grad_enabled, with_gradient};

/// Parameters of the summation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    /// Number of equal steps that each row's time is divided into.
    pub substeps: i64,
    /// Number of terms per substep that is enough for any rows.
    pub terms: i64,
    /// Size of a row's term below which further terms are left out. Every row contains the constant 1.
    pub tolerance: f64,
    /// The longest time of a row.
    pub reach: f64,
}

/// The rows g L^k, k = 0, 1, ..., of one substep.
struct Powers(Vec<Tensor>);

impl Series {
    /// g exp(tau L), not differentiable in tau. Takes g `[B, m]`, whose first entry is the constant 1, the
    /// columns of L after those of the constant and time, `[m, m - 2]`, and tau `[B]`.
    ///
    /// # Errors
    /// Any error of libtorch.
    pub fn act(self, g: &Tensor, columns: &Tensor, tau: &Tensor) -> Result<Tensor> {
        let recorded = is_grad_enabled() && (g.requires_grad() || columns.requires_grad());
        let matrix = tch::no_grad(|| self.matrix(columns))?;
        let (moved, steps) = tch::no_grad(|| self.sum(g, &matrix, tau, recorded))?;
        if !recorded {
            return Ok(moved);
        }
        let lengths: Vec<usize> = steps.iter().map(|Powers(powers)| powers.len()).collect();
        let mut saved = vec![g, columns, tau, &matrix];
        saved.extend(steps.iter().flat_map(|Powers(powers)| powers));
        let [moved] = with_gradient([&moved], &[g, columns], &saved, move |saved, gradients| {
            match is_grad_enabled() {
                // A gradient of the gradient is wanted.
                true => gradients_of(&[&saved[0], &saved[1]], |inputs| {
                    let moved = self.composed(&inputs[0], &inputs[1], &saved[2])?;
                    Ok((moved * &gradients[0]).sum(gradients[0].kind()))
                }),
                false => self.gradient(saved, &lengths, &gradients[0]),
            }
        })?;
        Ok(moved)
    }

    /// L times the longest time of a substep, `[m, m]`, so that the coefficients of rows are at most 1 / k!.
    fn matrix(self, columns: &Tensor) -> Result<Tensor> {
        let head = Tensor::f_zeros([columns.size()[0], 2], (columns.kind(), columns.device()))?;
        let _ = head.f_narrow(0, 0, 1)?.f_narrow(1, 1, 1)?.f_fill_(1.0)?;
        Ok(Tensor::f_cat(&[&head, columns], 1)?.f_mul_scalar_(self.stride())?)
    }

    /// The longest time of a substep; 1 if all times are 0.
    fn stride(self) -> f64 {
        match self.reach > 0.0 {
            true => self.reach / self.substeps as f64,
            false => 1.0,
        }
    }

    /// The time of a substep of each row, relative to the longest one, `[B, 1]`.
    fn shares(self, tau: &Tensor) -> Result<Tensor> {
        Ok(tau.f_unsqueeze(1)?.f_div_scalar(self.stride() * self.substeps as f64)?)
    }

    /// The rows at the end and, with `keep`, the powers of every substep.
    fn sum(self, g: &Tensor, matrix: &Tensor, tau: &Tensor, keep: bool) -> Result<(Tensor, Vec<Powers>)> {
        let share = self.shares(tau)?;
        // On a GPU, reading a number would wait for the device.
        let stops = g.device() == Device::Cpu;
        let enough = self.tolerance * (g.size()[0] as f64).sqrt();
        let (mut state, mut steps) = (g.shallow_clone(), Vec::new());
        for _ in 0..self.substeps {
            let mut powers = vec![state.f_contiguous()?];
            let mut sum = state.copy();
            let (mut coefficient, mut factorial) = (share.shallow_clone(), 1.0);
            for order in 1..=self.terms {
                let power = powers[powers.len() - 1].f_mm(matrix)?;
                let _ = sum.f_addcmul_(&power, &coefficient)?;
                factorial *= order as f64;
                let size = if stops { power.f_norm()?.double_value(&[]) / factorial } else { f64::INFINITY };
                if !keep {
                    powers.clear();
                }
                powers.push(power);
                // A substep's matrix at most doubles the largest value of a row, so that later terms are no
                // larger.
                if (order > 2 && size < enough) || order == self.terms {
                    break;
                }
                coefficient = coefficient.f_mul(&share)?.f_div_scalar((order + 1) as f64)?;
            }
            state = sum;
            if keep {
                steps.push(Powers(powers));
            }
        }
        Ok((state, steps))
    }

    /// Gradients with respect to the rows and the columns, backwards through the substeps. The gradient with
    /// respect to g L^k is A_k = c_k G + A_(k+1) L^T. That with respect to L is Σ_k (g L^k)^T A_(k+1).
    fn gradient(self, saved: &[Tensor], lengths: &[usize], gradient: &Tensor) -> Result<Vec<Tensor>> {
        let [columns, tau, matrix] = [&saved[1], &saved[2], &saved[3]];
        let share = self.shares(tau)?;
        let back = matrix.f_tr()?;
        let (mut rows, mut to_matrix) = (gradient.f_contiguous()?, None::<Tensor>);
        let mut end = saved.len();
        for length in lengths.iter().rev() {
            let powers = &saved[end - length..end];
            end -= length;
            let mut coefficients = vec![share.f_ones_like()?];
            for order in 1..*length {
                let next = coefficients[order - 1].f_mul(&share)?.f_div_scalar(order as f64)?;
                coefficients.push(next);
            }
            // Those of the highest power first.
            let mut slopes: Vec<Tensor> = Vec::with_capacity(*length);
            for coefficient in coefficients.iter().rev() {
                let own = rows.f_mul(coefficient)?;
                let slope = match slopes.last() {
                    Some(above) => own.f_addmm(above, &back)?,
                    None => own,
                };
                slopes.push(slope);
            }
            if let Some(first) = slopes.pop() {
                rows = first;
            }
            slopes.reverse();
            if slopes.is_empty() {
                continue;
            }
            // One product over all powers.
            let (left, right) = (Tensor::f_cat(&powers[..length - 1], 0)?, Tensor::f_cat(&slopes, 0)?);
            let own = left.f_tr()?.f_mm(&right)?;
            to_matrix = Some(match to_matrix {
                Some(mut sum) => sum.f_add_(&own)?,
                None => own,
            });
        }
        let to_columns = match to_matrix {
            Some(whole) => whole.f_narrow(1, 2, columns.size()[1])?.f_mul_scalar(self.stride())?,
            None => columns.f_zeros_like()?,
        };
        Ok(vec![rows, to_columns])
    }

    /// The same series by libtorch's operations, differentiable in everything.
    pub fn composed(self, g: &Tensor, columns: &Tensor, tau: &Tensor) -> Result<Tensor> {
        let step = tau.f_unsqueeze(1)? / self.substeps as f64;
        let first = g.narrow(1, 0, 1);
        let mut state = g.shallow_clone();
        for _ in 0..self.substeps {
            // The constant contributes only to the first term: in later ones it is 0.
            let mut term = act(columns, &state, &first) * &step;
            let mut sum = &state + &term;
            for order in 2..=self.terms {
                let zeros = first.zeros_like();
                term = act(columns, &term, &zeros) * (&step / order);
                sum = &sum + &term;
            }
            state = sum;
        }
        Ok(state)
    }
}

/// g L: 0 for the constant, `ones` for time, then the learned columns. `ones` is the constant of g.
fn act(columns: &Tensor, g: &Tensor, ones: &Tensor) -> Tensor {
    Tensor::cat(&[ones.zeros_like(), ones.shallow_clone(), g.matmul(columns)], 1)
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn gradients_are_those_of_the_operations() {
        tch::manual_seed(0);
        let options = (Kind::Double, Device::Cpu);
        let (rows, size) = (5, 6);
        let g = Tensor::cat(&[Tensor::ones([rows, 1], options), Tensor::randn([rows, size - 1], options)], 1);
        let columns = Tensor::randn([size, size - 2], options) * 0.3;
        let weight = Tensor::randn([rows, size], options);
        for (tau, substeps) in [(vec![1.0; 5], 1), (vec![0.3, -1.0, 0.0, 2.0, 0.5], 3), (vec![0.0; 5], 1)] {
            let tau = Tensor::from_slice(&tau);
            let reach = tau.abs().max().double_value(&[]);
            let series = Series { substeps, terms: 25, tolerance: 1e-17, reach };
            let of = |sum: &dyn Fn(&Tensor, &Tensor) -> Tensor, twice: bool| {
                let [g, columns] = [&g, &columns].map(|x| x.copy().set_requires_grad(true));
                let moved = (sum(&g, &columns).tanh() * &weight).sum(Kind::Double);
                let found = Tensor::run_backward(&[&moved], &[&g, &columns], true, twice);
                match twice {
                    false => found,
                    true => {
                        let size = found.iter().map(|x| x.square().sum(Kind::Double)).sum::<Tensor>();
                        Tensor::run_backward(&[size], &[&g, &columns], false, false)
                    }
                }
            };
            for twice in [false, true] {
                let own = of(&|g, columns| series.act(g, columns, &tau).unwrap(), twice);
                let other = of(&|g, columns| series.composed(g, columns, &tau).unwrap(), twice);
                for (own, other) in own.iter().zip(&other) {
                    let gap = (own - other).abs().max().double_value(&[]);
                    assert!(gap < 1e-12, "{gap:e} at {tau:?}, twice: {twice}");
                }
            }
        }
    }
}
