//! The spectrum of a forecaster: eigenvalues, eigenfunctions and modes of its evolution, and their statistics on data.

use tch::{Device, Kind, Tensor};

use super::moments::{of_rates, of_steps};
use super::Forecaster;
use crate::data::Observed;
use crate::error::{Error, Result};
use crate::koopman::Eigenvectors;
use crate::monitor::Monitor;
use crate::spectrum::partners;

/// Modulus below which an eigenvalue of K counts as 0, which has no rate.
const NULL: f64 = 1e-12;
/// Number of modes that are ranked by greedy selection. The others follow in the order of their energy.
const RANKED: usize = 64;

/// The modes of a forecaster. Tensors are complex and on the CPU; the two of a conjugate pair are adjacent.
pub struct Modes {
    /// Rates lambda per unit of time, `[r]`. For an eigenvalue 0 of K the rate is log(1e-12) divided by the step.
    pub rates: Tensor,
    /// Weights w of the eigenfunctions psi = g w as columns, `[m, r]`.
    pub weights: Tensor,
    /// Modes: the contribution of a unit of psi to the state, in the data's units, `[r, D]`.
    pub modes: Tensor,
    /// The modes for standardised states, `[r, d]`.
    pub standard: Tensor,
    /// Condition numbers of the eigenvalues, ||w|| ||q||, `[r]`.
    pub conditions: Tensor,
    /// Index of the complex conjugate of each mode; a real mode is its own partner.
    partners: Vec<usize>,
}

/// Statistics of modes on data, float64 `[r]` each.
pub struct ModeFacts {
    /// Mean of |psi|^2 over the data.
    pub power: Tensor,
    /// Relative residual of the eigenfunction's equation along the data: the RMS of psi(next) - mu psi divided by the
    /// RMS of psi (Colbrook and Townsend, Communications on Pure and Applied Mathematics 77, 2024). For irregular
    /// times, that of the rates.
    pub residuals: Tensor,
    /// Mean square of a mode's contribution to the state, in units of the data's variance.
    pub energy: Tensor,
    /// Indices of the modes in their ranking: each next mode is the one that explains most in addition to those before
    /// it. The two of a pair are ranked together.
    pub order: Vec<i64>,
    /// Share of the data's variance that is explained by a mode and all modes ranked before it.
    pub explained: Tensor,
}

impl Modes {
    /// # Errors
    /// [`Error::Divergence`] if the eigenvectors are linearly dependent.
    pub fn new(model: &Forecaster) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let own = &model.evolution;
        let home = |x: &Tensor| x.to_device(Device::Cpu);
        let (matrix, continuous) = match (&own.generator, model.facts.continuous) {
            (Some(generator), true) => (home(generator), true),
            _ => (home(&own.transition), false),
        };
        let eigen = Eigenvectors::new(&matrix)?;
        let rows = eigen.rows()?;
        let rates = match continuous {
            true => eigen.values.shallow_clone(),
            false => {
                let modulus = eigen.values.abs();
                let safe = eigen.values.f_masked_fill(&modulus.le(NULL), NULL)?;
                safe.log() / model.facts.step
            }
        };
        let complex = |x: &Tensor| home(x).to_kind(Kind::ComplexDouble);
        let standard = rows.f_matmul(&complex(&own.readout))?;
        let modes = rows.f_matmul(&complex(&model.differences(&own.readout)))?;
        let length = |x: &Tensor, axis: i64| {
            x.abs().square().sum_dim_intlist([axis].as_slice(), false, Kind::Double).sqrt()
        };
        let conditions = length(&eigen.columns, 0) * length(&rows, 1);
        let imaginary = Vec::<f64>::try_from(&eigen.values.f_imag()?.contiguous())?;
        let partners = partners(&imaginary)?;
        Ok(Modes { rates, modes, standard, weights: eigen.columns, conditions, partners })
    }

    /// Checks that data have the conditions, inputs and time step of the model.
    fn check(&self, model: &Forecaster, data: &Observed) -> Result<()> {
        let counts = [
            ("condition", model.sizes.conditions, data.condition_size()),
            ("inputs", model.sizes.inputs, data.input_size()),
        ];
        for (name, expected, got) in counts {
            if expected != got {
                return Err(Error::argument(name, format!("{expected} numbers as in the fit"), got));
            }
        }
        match data.spacing() {
            Some(spacing) if (spacing / model.facts.step - 1.0).abs() < 1e-3 || model.facts.continuous => {
                Ok(())
            }
            None if model.facts.continuous => Ok(()),
            _ => {
                let expected = format!("times with the model's step {}", model.facts.step);
                let got = data.spacing().map_or("irregular times".into(), |spacing| format!("{spacing}"));
                Err(Error::argument("times", expected, got))
            }
        }
    }

    /// Statistics of these modes on data.
    ///
    /// # Errors
    /// Errors naming `paths`, `times`, `condition` or `inputs`; errors of the monitor.
    pub fn facts(&self, model: &Forecaster, data: &Observed, monitor: &mut dyn Monitor) -> Result<ModeFacts> {
        let _guard = tch::no_grad_guard();
        let ranges = data.ranges();
        self.check(model, data)?;
        let moments = match model.facts.continuous {
            true => of_rates(model, data, &ranges, monitor)?,
            false => {
                of_steps(model, data, &data.segments(&ranges, model.sizes.history as usize + 1), monitor)?
            }
        };
        if moments.count == 0.0 {
            let expected = "neighbouring rows without missing values in some path";
            return Err(Error::argument("paths", expected, "none"));
        }
        let d = model.sizes.dimension();
        let state = (&moments.sum / moments.count).narrow(0, 1, d);
        let squares = (moments.gram.diagonal(0, 0, 1) / moments.count).narrow(0, 1, d);
        let total = (squares - state.square()).mean(Kind::Double).double_value(&[]);
        let projected;
        let moments = match &model.evolution.projection {
            Some(projection) => {
                projected = moments.combined(&projection.to_device(Device::Cpu))?;
                &projected
            }
            None => &moments,
        };
        let m = self.weights.size()[0];
        let complex = |x: Tensor| (x / moments.count).to_kind(Kind::ComplexDouble);
        let gram = complex(moments.gram.narrow(0, 0, m).narrow(1, 0, m));
        let cross = complex(moments.cross.narrow(0, 0, m));
        let w = &self.weights;
        let along = |left: &Tensor, matrix: &Tensor, right: &Tensor| -> Result<Tensor> {
            // The diagonal of left^* matrix right.
            let product = left.conj() * matrix.f_matmul(right)?;
            Ok(product.f_sum_dim_intlist([0i64].as_slice(), false, Kind::ComplexDouble)?)
        };
        let power = along(w, &gram, w)?.f_real()?.clamp_min(f64::MIN_POSITIVE);
        let future = complex(moments.future.shallow_clone());
        // For a step, or for rates in units of a typical step.
        let (multiplier, unit) = match model.facts.continuous {
            true => (self.rates.shallow_clone(), model.facts.step),
            false => ((&self.rates * model.facts.step).exp(), 1.0),
        };
        let shared = (along(w, &cross, w)? * multiplier.conj()).f_real()?;
        let square = along(w, &future, w)?.f_real()? - shared * 2.0 + multiplier.abs().square() * &power;
        // Floor for rounding: the residual is a difference of terms as large as the squares of the observables.
        let rounding = gram.f_real()?.diagonal(0, 0, 1).sum(Kind::Double).double_value(&[]) * f64::EPSILON;
        let known = square.maximum(&((multiplier.abs().square() + 1.0) * rounding));
        let residuals = (known / &power).sqrt() * unit;
        // Covariance of the modes' contributions, mean of psi_k conj(psi_l) v_k . conj(v_l), in units of the data's
        // variance.
        let mean = (&moments.sum / moments.count).to_kind(Kind::ComplexDouble).f_matmul(w)?;
        let psi = w.tr().f_matmul(&gram)?.f_matmul(&w.conj())?;
        let centred = psi - mean.unsqueeze(1).f_matmul(&mean.conj().unsqueeze(0))?;
        let scaled = &self.standard;
        let shared = (centred * scaled.f_matmul(&scaled.conj().tr())?).f_real()?.contiguous();
        let shared = shared / d as f64;
        let energy = shared.diagonal(0, 0, 1).contiguous();
        let (order, explained) = ranked(&shared, total, &self.partners)?;
        Ok(ModeFacts { power, residuals, energy, order, explained })
    }
}

/// Ranks the modes greedily by the variance that remains unexplained, from the covariance `shared` `[r, r]` of their
/// contributions. Returns the order, and the share that is explained up to each mode, by the index of the mode.
fn ranked(shared: &Tensor, total: f64, partners: &[usize]) -> Result<(Vec<i64>, Tensor)> {
    let r = partners.len();
    let flat = Vec::<f64>::try_from(shared.reshape([-1]))?;
    let at = |k: usize, l: usize| flat[k * r + l];
    let whole: f64 = flat.iter().sum();
    // The unexplained part is the sum over the modes that are not taken. `sums[k]` is the sum of row k over these.
    let mut sums: Vec<f64> = (0..r).map(|k| (0..r).map(|l| at(k, l)).sum()).collect();
    let mut taken = vec![false; r];
    let mut left = whole;
    let (mut order, mut explained) = (Vec::with_capacity(r), vec![0.0; r]);
    let members = |k: usize| if partners[k] == k { vec![k] } else { vec![k, partners[k]] };
    let after = |k: usize, left: f64, sums: &[f64]| {
        let own = members(k);
        let rows: f64 = own.iter().map(|k| sums[*k]).sum();
        let within: f64 =
            own.iter().flat_map(|k| own.iter().map(move |l| (*k, *l))).map(|(k, l)| at(k, l)).sum();
        left - 2.0 * rows + within
    };
    while order.len() < r {
        let candidates = (0..r).filter(|k| !taken[*k] && partners[*k] >= *k);
        let next = match order.len() < RANKED {
            true => candidates.min_by(|a, b| after(*a, left, &sums).total_cmp(&after(*b, left, &sums))),
            false => candidates.max_by(|a, b| at(*a, *a).total_cmp(&at(*b, *b))),
        };
        let Some(next) = next else { break };
        left = after(next, left, &sums);
        for k in members(next) {
            taken[k] = true;
            order.push(k as i64);
            for (l, sum) in sums.iter_mut().enumerate() {
                *sum -= at(l, k);
            }
        }
        for k in members(next) {
            explained[k] = (whole - left) / total.max(f64::MIN_POSITIVE);
        }
    }
    Ok((order, Tensor::from_slice(&explained)))
}
