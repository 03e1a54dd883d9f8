//! Eigenvalues of a linear model by variable projection (optimised dynamic mode decomposition: Askham and Kutz, SIAM
//! J. Applied Dynamical Systems 17, 2018; here for any number of paths of unequal lengths). Every path is a sum of
//! exponentials. Its amplitudes solve a linear problem, so the nonlinear search is over the eigenvalues only. No
//! differences of rows are taken, so noise does not bias the eigenvalues.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::moments::standard_rows;
use super::Forecaster;
use crate::data::Observed;
use crate::error::Result;
use crate::koopman::Eigenvectors;
use crate::monitor::Monitor;

const REAL: (Kind, Device) = (Kind::Double, Device::Cpu);
const ITERATIONS: usize = 40;
/// Relative decrease of the residual below which the search ends.
const LITTLE: f64 = 1e-9;
/// Maximum number of rows in the fit, and of coordinates.
const ROWS: usize = 50_000;
const LARGEST: i64 = 32;
/// Condition number of the modes above which no generator is built from them.
const PARALLEL: f64 = 1e8;

/// The rows of a path, and those of them without missing values.
type Seen = (Range<usize>, Vec<usize>);

/// Paths as a padded batch.
struct Batch {
    /// Times since the beginning of each path, `[N, T, 1]`.
    times: Tensor,
    /// Mask `[N, T, 1]`: 1 for a row, 0 for padding.
    seen: Tensor,
    /// Rows `[N, T, d]`, padded with 0.
    rows: Tensor,
}

/// Batches of paths whose lengths differ by less than a factor of two, so that there is little padding.
struct Batches(Vec<Batch>);

impl Batches {
    fn new(model: &Forecaster, data: &Observed, ranges: &[Range<usize>]) -> Result<Option<Self>> {
        let d = model.sizes.dimension();
        let mut left = ROWS;
        let mut buckets: BTreeMap<u32, Vec<Seen>> = BTreeMap::new();
        for rows in ranges {
            let seen: Vec<usize> = rows.clone().filter(|row| data.seen_whole(*row)).collect();
            // A path with fewer rows than amplitudes does not determine eigenvalues.
            if seen.len() as i64 > d + 1 && seen.len() <= left {
                left -= seen.len();
                buckets.entry(seen.len().ilog2()).or_default().push((rows.clone(), seen));
            }
        }
        let batches: Vec<Batch> =
            buckets.values().map(|paths| Batch::new(model, data, paths)).collect::<Result<_>>()?;
        Ok((!batches.is_empty()).then_some(Batches(batches)))
    }

    /// Residuals and amplitudes of all batches; see [`Batch::projected`].
    fn projected(&self, rates: &Rates) -> Result<(Tensor, Tensor)> {
        let (mut residuals, mut amplitudes) = (Vec::new(), Vec::new());
        for batch in &self.0 {
            let (residual, own) = batch.projected(rates)?;
            residuals.push(residual);
            amplitudes.push(own);
        }
        Ok((Tensor::f_cat(&residuals, 0)?, Tensor::f_cat(&amplitudes, 0)?))
    }

    fn longest(&self) -> f64 {
        self.0.iter().map(|batch| batch.times.max().double_value(&[])).fold(1e-12, f64::max)
    }
}

impl Batch {
    fn new(model: &Forecaster, data: &Observed, paths: &[Seen]) -> Result<Self> {
        let longest = paths.iter().map(|(_, seen)| seen.len()).max().unwrap_or(0) as i64;
        let (mut times, mut rows, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for (range, seen) in paths {
            let begin = data.times()[seen[0]];
            let own: Vec<f64> = seen.iter().map(|row| data.times()[*row] - begin).collect();
            let places: Vec<i64> = seen.iter().map(|row| (*row - range.start) as i64).collect();
            let z = standard_rows(model, data, range.clone()).to_device(Device::Cpu);
            let z = z.f_index_select(0, &Tensor::from_slice(&places))?;
            let missing = longest - seen.len() as i64;
            times.push(Tensor::from_slice(&own).f_constant_pad_nd([0, missing])?);
            rows.push(z.f_constant_pad_nd([0, 0, 0, missing])?);
            marks.push(Tensor::f_ones([seen.len() as i64], REAL)?.f_constant_pad_nd([0, missing])?);
        }
        Ok(Batch {
            times: Tensor::f_stack(&times, 0)?.unsqueeze(2),
            seen: Tensor::f_stack(&marks, 0)?.unsqueeze(2),
            rows: Tensor::f_stack(&rows, 0)?,
        })
    }

    /// The functions e^{at} cos bt and e^{at} sin bt of complex pairs, e^{at} of real eigenvalues, and 1,
    /// `[N, T, r + 1]`.
    fn basis(&self, rates: &Rates) -> Tensor {
        let p = rates.pairs;
        let growth = (&self.times * &rates.growth).exp();
        let angle = &self.times * &rates.frequency;
        let turning = growth.narrow(2, 0, p);
        let parts =
            [&turning * angle.cos(), &turning * angle.sin(), growth.narrow(2, p, rates.growth.size()[0] - p)];
        let one = self.times.ones_like();
        Tensor::cat(&[&parts[0], &parts[1], &parts[2], &one], 2) * &self.seen
    }

    /// The residual after the least-squares fit of the amplitudes, as a flat tensor, and the amplitudes
    /// `[N, r + 1, d]`.
    fn projected(&self, rates: &Rates) -> Result<(Tensor, Tensor)> {
        let basis = self.basis(rates);
        let (q, r) = Tensor::f_linalg_qr(&basis, "reduced")?;
        let inner = q.transpose(1, 2).f_matmul(&self.rows)?;
        let left = &self.rows - q.f_matmul(&inner)?;
        // A tiny shift keeps R invertible if two functions nearly agree.
        let level = r.diagonal(0, 1, 2).abs().max().double_value(&[]) * 1e-12;
        let safe = &r + Tensor::f_eye(r.size()[2], REAL)? * level;
        let amplitudes = Tensor::f_linalg_solve_triangular(&safe, &inner, true, true, false)?;
        Ok((left.reshape([-1]), amplitudes))
    }
}

/// Eigenvalues: growth rates `[p + q]` of p complex pairs and q real eigenvalues, and frequencies `[p]` of the pairs.
struct Rates {
    growth: Tensor,
    frequency: Tensor,
    pairs: i64,
}

impl Rates {
    fn of(values: &Tensor) -> Result<Self> {
        let parts = values.f_view_as_real()?;
        let (growth, frequency) = (parts.select(1, 0), parts.select(1, 1));
        let couples = frequency.gt(0.0).nonzero().view([-1]);
        let singles = frequency.eq(0.0).nonzero().view([-1]);
        let order = Tensor::f_cat(&[&couples, &singles], 0)?;
        Ok(Rates {
            growth: growth.f_index_select(0, &order)?,
            frequency: frequency.f_index_select(0, &couples)?,
            pairs: couples.size()[0],
        })
    }

    fn flat(&self) -> Tensor {
        Tensor::cat(&[&self.growth, &self.frequency], 0)
    }

    fn with(&self, flat: &Tensor) -> Rates {
        let count = self.growth.size()[0];
        Rates {
            growth: flat.narrow(0, 0, count),
            frequency: flat.narrow(0, count, self.pairs),
            pairs: self.pairs,
        }
    }
}

/// The model with eigenvalues and modes that fit whole paths. `None` if the model is not a linear one of single rows,
/// if paths are too short, or if modes are nearly parallel.
///
/// # Errors
/// Errors of libtorch or of the monitor.
pub fn refit(
    model: &Forecaster,
    data: &Observed,
    ranges: &[Range<usize>],
    monitor: &mut dyn Monitor,
) -> Result<Option<Forecaster>> {
    let _guard = tch::no_grad_guard();
    let (sizes, d) = (&model.sizes, model.sizes.dimension());
    if sizes.psi > 0
        || sizes.history > 1
        || sizes.inputs + sizes.conditions > 0
        || sizes.rank.is_some()
        || d > LARGEST
    {
        return Ok(None);
    }
    let Some(batch) = Batches::new(model, data, ranges)? else { return Ok(None) };
    let Some(begin) = first_rates(model)? else { return Ok(None) };
    let Some(rates) = searched(&batch, begin, monitor)? else { return Ok(None) };
    let (_, amplitudes) = batch.projected(&rates)?;
    let Some(generator) = assembled(&rates, &amplitudes, d)? else { return Ok(None) };
    if !crate::tensor::all_finite(&generator) {
        return Ok(None);
    }
    let mut found = model.shallow_clone();
    found.evolution.transition =
        (&generator * model.facts.step).f_linalg_matrix_exp()?.to_device(model.device());
    found.evolution.generator = model.facts.continuous.then(|| generator.to_device(model.device()));
    Ok(Some(found))
}

/// The initial eigenvalues, which are those of the regression.
fn first_rates(model: &Forecaster) -> Result<Option<Rates>> {
    let d = model.sizes.dimension();
    let own = &model.evolution;
    let block = |matrix: &Tensor| matrix.to_device(Device::Cpu).narrow(0, 1, d).narrow(1, 1, d).contiguous();
    let values = match (&own.generator, model.facts.continuous) {
        (Some(generator), true) => Eigenvectors::new(&block(generator))?.values,
        _ => {
            let steps = Eigenvectors::new(&block(&own.transition))?.values;
            if steps.abs().min().double_value(&[]) < 1e-12 {
                return Ok(None);
            }
            let logs = steps.log() / model.facts.step;
            // A negative real eigenvalue of K has no conjugate partner, so the imaginary part of its logarithm is set
            // to 0.
            let parts = logs.f_view_as_real()?;
            let real = steps.f_imag()?.eq(0.0).to_kind(Kind::Double);
            parts.select(1, 1).f_copy_(&(parts.select(1, 1) * (real.ones_like() - real)))?;
            parts.f_view_as_complex()?
        }
    };
    Ok(Some(Rates::of(&values)?))
}

/// A Levenberg-Marquardt search with a Jacobian by finite differences. There are only as many unknowns as coordinates.
fn searched(batch: &Batches, begin: Rates, monitor: &mut dyn Monitor) -> Result<Option<Rates>> {
    let cost = |residual: &Tensor| residual.square().sum(Kind::Double).double_value(&[]);
    let mut rates = begin;
    let (mut residual, _) = batch.projected(&rates)?;
    let (mut known, mut damping) = (cost(&residual), 1e-3);
    if !known.is_finite() {
        return Ok(None);
    }
    let longest = batch.longest();
    for _ in 0..ITERATIONS {
        monitor.tick()?;
        let flat = rates.flat();
        let count = flat.size()[0];
        let hair = 1e-6 / longest;
        let columns: Vec<Tensor> = (0..count)
            .map(|place| {
                let moved = flat.copy();
                let _ = moved.get(place).f_add_scalar_(hair)?;
                Ok((batch.projected(&rates.with(&moved))?.0 - &residual) / hair)
            })
            .collect::<Result<_>>()?;
        let jacobian = Tensor::f_stack(&columns, 1)?;
        let (normal, slope) = (jacobian.tr().f_matmul(&jacobian)?, jacobian.tr().f_mv(&residual)?);
        let mut improved = false;
        for _ in 0..12 {
            let diagonal = normal.diagonal(0, 0, 1).clamp_min(1e-300) * damping;
            let system = &normal + Tensor::f_diag_embed(&diagonal, 0, 0, 1)?;
            let (step, _) = Tensor::f_linalg_solve_ex(&system, &slope.unsqueeze(1), true, false)?;
            let tried = rates.with(&(&flat - step.squeeze_dim(1)));
            let (next, _) = batch.projected(&tried)?;
            let found = cost(&next);
            if found.is_finite() && found < known {
                improved = known - found > LITTLE * known;
                (rates, residual, known, damping) = (tried, next, found, (damping * 0.2f64).max(1e-12));
                break;
            }
            damping *= 5.0;
        }
        if !improved {
            break;
        }
    }
    Ok(Some(rates))
}

/// The generator L from the eigenvalues and the modes. The mode of an eigenvalue is the common direction of its
/// amplitudes in all paths. `None` if the modes are nearly parallel.
fn assembled(rates: &Rates, amplitudes: &Tensor, d: i64) -> Result<Option<Tensor>> {
    let p = rates.pairs;
    let complex = |x: &Tensor| x.to_kind(Kind::ComplexDouble);
    let row = |place: i64| amplitudes.select(1, place);
    let direction = |each: &Tensor| -> Result<Tensor> {
        let (_, _, right) = each.f_svd(true, true)?;
        // Rows are u s v^*: their common direction is the conjugate of the first column of v.
        Ok(right.select(1, 0).conj().resolve_conj())
    };
    let (mut modes, mut values) = (Vec::new(), Vec::new());
    for pair in 0..p {
        // e^{at}(c cos bt + s sin bt) = Re((c - i s) e^{(a + ib) t}).
        let both = Tensor::f_complex(&row(pair).contiguous(), &row(p + pair).neg().contiguous())?;
        let mode = direction(&both)?;
        modes.push(mode.shallow_clone());
        modes.push(mode.conj().resolve_conj());
        let (a, b) = (rates.growth.double_value(&[pair]), rates.frequency.double_value(&[pair]));
        values.extend([(a, b), (a, -b)]);
    }
    for single in 0..rates.growth.size()[0] - p {
        modes.push(complex(&direction(&row(2 * p + single))?));
        values.push((rates.growth.double_value(&[p + single]), 0.0));
    }
    let modes = Tensor::f_stack(&modes, 0)?;
    let (_, singular, _) = modes.f_svd(true, false)?;
    if singular.min().double_value(&[]) * PARALLEL < singular.max().double_value(&[]) {
        return Ok(None);
    }
    let parts: [Vec<f64>; 2] = [values.iter().map(|v| v.0).collect(), values.iter().map(|v| v.1).collect()];
    let values = Tensor::f_complex(&Tensor::from_slice(&parts[0]), &Tensor::from_slice(&parts[1]))?;
    let right = &modes * values.unsqueeze(1);
    let (own, _) = Tensor::f_linalg_solve_ex(&modes, &right, true, false)?;
    let own = own.f_real()?.contiguous();
    let rest = amplitudes.select(1, d).f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let generator = Tensor::f_zeros([d + 1, d + 1], REAL)?;
    generator.narrow(0, 1, d).narrow(1, 1, d).f_copy_(&own)?;
    generator.narrow(0, 0, 1).narrow(1, 1, d).f_copy_(&rest.unsqueeze(0).f_matmul(&own)?.neg())?;
    Ok(Some(generator))
}
