//! The paper's generator: a full matrix, except that the columns of the constant and of time are exact
//! (d1/dt = 0, dt/dt = 1) instead of learned.

use tch::{Device, Kind, Tensor};

use super::{overwrite, Observables, Propagator};
use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::tensor::RandomSource;

#[derive(Debug)]
pub struct DenseGenerator {
    /// The free columns of L, those of x and phi: `[m, d + k]`.
    columns: Tensor,
    dimension: i64,
}

/// One Taylor substep covers ||L|| |tau| up to this; the sum then needs few terms and does not cancel.
const SUBSTEP_NORM: f64 = 2.0;
const MAX_TERMS: i64 = 60;

impl DenseGenerator {
    pub fn new(
        dimension: i64,
        features: i64,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let free = dimension + features;
        let initial = random.normal(&[2 + free, free], parameters.kind(), parameters.device())? * 1e-3;
        Ok(DenseGenerator { columns: parameters.add("generator.columns", initial), dimension })
    }

    /// [1, t] L = [0, 1], and the learned columns.
    fn act(&self, g: &Tensor, ones: &Tensor) -> Tensor {
        Tensor::cat(&[ones.zeros_like(), ones.shallow_clone(), g.matmul(&self.columns)], 1)
    }

    pub fn rate(&self, g: &Observables) -> (Tensor, Tensor) {
        let rate = g.assemble().matmul(&self.columns);
        let features = rate.size()[1] - self.dimension;
        (rate.narrow(1, 0, self.dimension), rate.narrow(1, self.dimension, features))
    }

    /// The Taylor action g -> sum_k (tau^k / k!) g L^k with a tau for each sample: cheaper than a matrix
    /// exponential from m of about 256 on, and a batch need not share one time difference.
    pub fn propagate(&self, g: &Observables, tau: &Tensor) -> Result<Observables> {
        let norm = tch::no_grad(|| self.columns.abs().sum_dim_intlist(0, false, Kind::Double).max())
            .double_value(&[])
            .max(1.0);
        let reach = norm * tau.abs().max().double_value(&[]);
        if !reach.is_finite() || reach > 1e4 {
            return Err(Error::Divergence(format!(
                "the dense generator's norm times tau is {reach:.3e}: exp(tau L) is out of reach"
            )));
        }
        let substeps = (reach / SUBSTEP_NORM).ceil().max(1.0);
        let tolerance = if g.x.kind() == Kind::Double { 1e-17 } else { 1e-8 };
        let terms = term_count(reach / substeps, tolerance);
        let step = tau.unsqueeze(1) / substeps;
        let mut state = g.assemble();
        let first = state.narrow(1, 0, 1);
        for _ in 0..substeps as i64 {
            // The series acts on the constant only through its first term, which `act` needs as it is.
            let mut term = self.act(&state, &first) * &step;
            let mut sum = &state + &term;
            for order in 2..=terms {
                let zeros = first.zeros_like();
                term = self.act(&term, &zeros) * (&step / order);
                sum = &sum + &term;
            }
            state = sum;
        }
        let moved = Observables::split(&state, self.dimension);
        Ok(Observables { t: &g.t + tau, ..moved })
    }

    pub fn propagator(&self, tau: f64) -> Result<Propagator> {
        let exponential = (self.matrix() * tau).f_linalg_matrix_exp()?;
        let columns = exponential.narrow(1, 2, self.dimension);
        if !columns.isfinite().all().double_value(&[]).is_normal() {
            return Err(Error::Divergence(format!("exp({tau} L) is not finite: the generator is unstable")));
        }
        let features = columns.size()[0] - 2 - self.dimension;
        let propagator = Propagator {
            constant: columns.select(0, 0),
            time: columns.select(0, 1),
            state: Some(columns.narrow(0, 2, self.dimension)),
            features: columns.narrow(0, 2 + self.dimension, features),
        };
        Ok(propagator.to_device_and_kind(self.columns.device(), self.columns.kind()))
    }

    pub fn matrix(&self) -> Tensor {
        let columns = self.columns.detach().to_device(Device::Cpu).to_kind(Kind::Double);
        let head = Tensor::zeros([columns.size()[0], 2], (Kind::Double, Device::Cpu));
        let one = Tensor::from_slice(&[1.0]);
        head.narrow(0, 0, 1).narrow(1, 1, 1).copy_(&one);
        Tensor::cat(&[head, columns], 1)
    }

    /// Overwrites the free columns, those of x and phi: `[m, d + k]`.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`].
    pub fn set_columns(&mut self, columns: &Tensor) -> Result<()> {
        overwrite("columns", &mut self.columns, columns)
    }

    pub fn shallow_clone(&self) -> Self {
        DenseGenerator { columns: self.columns.shallow_clone(), dimension: self.dimension }
    }
}

/// Smallest number of terms whose remainder, norm^n / n!, is below the tolerance.
fn term_count(norm: f64, tolerance: f64) -> i64 {
    let mut bound = 1.0;
    for order in 1..MAX_TERMS {
        bound *= norm / order as f64;
        if bound < tolerance && order as f64 > norm {
            return order;
        }
    }
    MAX_TERMS
}
