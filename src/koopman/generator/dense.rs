//! The paper's generator: a full matrix, except that the columns of the constant and of time are exact
//! (d1/dt = 0, dt/dt = 1) instead of learned.

use tch::{Device, Kind, Tensor};

use super::taylor::Series;
use super::Columns;
use crate::error::{Error, Result};
use crate::koopman::{Observables, Propagator, StudentConfig};
use crate::nets::Parameters;
use crate::tensor::{check_finite, shape_text, shared, RandomSource};

#[derive(Debug)]
pub struct DenseGenerator {
    /// The learned columns of L, those of x and phi: `[m, d + k]`.
    columns: Columns,
    dimension: i64,
}

/// One Taylor substep covers ||L|| |tau| up to this; the sum then needs few terms and does not cancel.
const SUBSTEP_NORM: f64 = 2.0;
const MAX_TERMS: i64 = 60;

/// Largest number of substeps, which bounds the time.
const MAX_SUBSTEPS: f64 = 5000.0;

/// Largest number of substeps if gradients are recorded. Each substep keeps every term of its series in
/// memory. A generator that needs more is diverging, and the training step is skipped.
const MAX_RECORDED_SUBSTEPS: f64 = 100.0;

impl DenseGenerator {
    pub fn new(
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let dimension = config.dimension();
        let columns = Columns::new(config.stability, dimension + config.observables, parameters, random)?;
        Ok(DenseGenerator { columns, dimension })
    }

    pub fn options(&self) -> (Kind, Device) {
        self.columns.options()
    }

    /// Sets the columns of x and phi, `[m, d + k]`, or the nearest ones that the structure allows.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] name `columns`.
    pub fn set_columns(&self, columns: &Tensor) -> Result<()> {
        let own = self.columns.matrix().size();
        if columns.size() != own {
            return Err(Error::shape("columns", shape_text(&own), shape_text(&columns.size())));
        }
        check_finite("columns", columns)?;
        self.columns.set(columns)
    }

    pub fn rate(&self, g: &Observables) -> (Tensor, Tensor) {
        let rate = g.assemble().matmul(&self.columns.matrix());
        let features = rate.size()[1] - self.dimension;
        (rate.narrow(1, 0, self.dimension), rate.narrow(1, self.dimension, features))
    }

    /// The block of L that carries features into features, `[k, k]`, differentiable.
    pub fn feature_block(&self) -> Tensor {
        let columns = self.columns.matrix();
        let features = columns.size()[1] - self.dimension;
        columns.narrow(0, 2 + self.dimension, features).narrow(1, self.dimension, features)
    }

    /// Contribution of each feature to dx/dt: `[k, d]`, differentiable.
    pub fn modes(&self) -> Tensor {
        let columns = self.columns.matrix();
        let features = columns.size()[1] - self.dimension;
        columns.narrow(0, 2 + self.dimension, features).narrow(1, 0, self.dimension)
    }

    /// The Taylor action g -> sum_k (tau^k / k!) g L^k with a tau for each sample: cheaper than a matrix
    /// exponential from m of about 256 on, and a batch need not share one time difference.
    pub fn propagate(&self, g: &Observables, tau: &Tensor) -> Result<Observables> {
        let columns = self.columns.matrix();
        let norm = tch::no_grad(|| columns.abs().sum_dim_intlist(0, false, Kind::Double).max())
            .double_value(&[])
            .max(1.0);
        let reach = norm * tau.abs().max().double_value(&[]);
        // Read from the result of an operation, since views of trained parameters always require gradients.
        let recorded = columns.narrow(0, 0, 1).neg().requires_grad();
        let limit = if recorded { MAX_RECORDED_SUBSTEPS } else { MAX_SUBSTEPS };
        let substeps = (reach / SUBSTEP_NORM).ceil().max(1.0);
        if !reach.is_finite() || substeps > limit {
            return Err(Error::Divergence(format!(
                "the dense generator's norm times tau is {reach:.3e}, too large to compute exp(tau L)"
            )));
        }
        let tolerance = if g.x.kind() == Kind::Double { 1e-17 } else { 1e-8 };
        let terms = term_count(reach / substeps, tolerance);
        let series = Series { substeps: substeps as i64, terms, tolerance, reach: reach / norm };
        let state = match tau.requires_grad() {
            true => series.composed(&g.assemble(), &columns, tau)?,
            false => series.act(&g.assemble(), &columns, tau)?,
        };
        let moved = Observables::split(&state, self.dimension);
        Ok(Observables { t: &g.t + tau, ..moved })
    }

    /// exp(tau L), `[m, m]`, float64 on the CPU.
    ///
    /// # Errors
    /// [`Error::Divergence`] if it is not finite.
    pub fn exponential(&self, tau: f64) -> Result<Tensor> {
        let exponential = (self.matrix() * tau).f_linalg_matrix_exp()?;
        if exponential.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::Divergence(format!("exp({tau} L) is not finite: the generator is unstable")));
        }
        Ok(exponential)
    }

    pub fn propagator(&self, tau: f64) -> Result<Propagator> {
        let columns = self.exponential(tau)?.narrow(1, 2, self.dimension);
        let (kind, device) = self.options();
        Ok(Propagator::from_matrix(&columns).to_device_and_kind(device, kind))
    }

    pub fn matrix(&self) -> Tensor {
        let columns = self.columns.in_double();
        let head = Tensor::zeros([columns.size()[0], 2], (Kind::Double, Device::Cpu));
        let one = Tensor::from_slice(&[1.0]);
        head.narrow(0, 0, 1).narrow(1, 1, 1).copy_(&one);
        Tensor::cat(&[head, columns], 1)
    }
}

shared!(DenseGenerator { columns; dimension });

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_propagation_gives_up_where_plain_propagation_goes_on() {
        let config = StudentConfig {
            event_shape: vec![1],
            observables: 2,
            dtype: "float64".into(),
            ..StudentConfig::default()
        };
        let mut parameters = Parameters::new(Kind::Double, Device::Cpu);
        let generator = DenseGenerator::new(&config, &mut parameters, &mut RandomSource::new(1)).unwrap();
        parameters.pack();
        // A rotation of the two features: bounded, however fast.
        let rotate = |speed: f64| {
            let columns = Tensor::zeros([5, 3], (Kind::Double, Device::Cpu));
            let _ = columns.get(3).get(2).fill_(speed);
            let _ = columns.get(4).get(1).fill_(-speed);
            generator.set_columns(&columns).unwrap();
        };
        let state = Tensor::from_slice(&[1.0, 0.0, 0.3, 1.0, 0.0]).view([1, 5]);
        let g = Observables::split(&state, 1);
        let tau = Tensor::from_slice(&[1.0]);
        let propagate = || generator.propagate(&g, &tau).map(|moved| moved.features);
        for speed in [150.0f64, 300.0] {
            rotate(speed);
            let moved = tch::no_grad(propagate).unwrap();
            let exact = Tensor::from_slice(&[speed.cos(), speed.sin()]).view([1, 2]);
            assert!((moved - exact).abs().max().double_value(&[]) < 1e-9, "{speed}");
            let recorded = tch::with_grad(propagate);
            match speed < 200.0 {
                true => assert!(recorded.unwrap().requires_grad()),
                false => assert!(matches!(recorded, Err(Error::Divergence(_)))),
            }
        }
    }
}
