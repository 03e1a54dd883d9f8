//! Second moments of observables and of the next observables, or of their rates, accumulated over all paths in
//! float64.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::Forecaster;
use crate::data::{Observed, Segment};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::world::World;

/// Maximum number of values of observables in memory at once.
const CHUNK_VALUES: usize = 1 << 22;

/// Sums over pairs of an encoding and the next one, for observables before they are combined. No pair extends across
/// the end of a path or a gap. Inputs are additional columns after the observables of the first encoding.
pub struct Moments {
    pub count: f64,
    /// Gram matrix of the first observables and the inputs, `[p, p]` with p = m0 + u.
    pub gram: Tensor,
    /// Products of the first observables and inputs with the next observables, or with the rates, `[p, m0]`.
    pub cross: Tensor,
    /// Gram matrix of the next observables, or of the rates, `[m0, m0]`.
    pub future: Tensor,
    /// Sum of the first observables, `[m0]`.
    pub sum: Tensor,
    /// The factor R `[p + d, p + d]` of the QR decomposition of [rows, displacements of their states]. Regressions
    /// with R keep all digits, while Gram matrices lose half of them. `None` for rates and for combinations.
    pub factor: Option<Tensor>,
}

impl Moments {
    /// Empty moments of `m` observables with `columns` other quantities.
    pub fn of(m: i64, columns: i64) -> Self {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Double, Device::Cpu));
        Moments { cross: zeros(&[m, columns]), future: zeros(&[0, 0]), ..Moments::zero(m, 0) }
    }

    fn zero(m: i64, u: i64) -> Self {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Double, Device::Cpu));
        Moments {
            count: 0.0,
            gram: zeros(&[m + u, m + u]),
            cross: zeros(&[m + u, m]),
            future: zeros(&[m, m]),
            sum: zeros(&[m]),
            factor: None,
        }
    }

    /// Updates the factor with further rows, for states of `d` numbers.
    fn refactor(&mut self, rows: &Tensor, left: &Tensor, right: &Tensor, d: i64) -> Result<()> {
        let moved = right.narrow(1, 1, d) - left.narrow(1, 1, d);
        let fresh = Tensor::f_cat(&[rows, &moved], 1)?.to_device(Device::Cpu);
        let all = match &self.factor {
            Some(factor) => Tensor::f_cat(&[factor, &fresh], 0)?,
            None => fresh,
        };
        let (_, factor) = Tensor::f_linalg_qr(&all, "r")?;
        self.factor = Some(factor);
        Ok(())
    }

    /// Sums the moments over all ranks. `states` is the size of a state, or `None` for moments without a factor.
    fn shared(self, world: &World, states: Option<i64>) -> Result<Moments> {
        if world.is_alone() {
            return Ok(self);
        }
        let Moments { count, gram, cross, future, sum, factor } = self;
        let factor = match states {
            None => None,
            Some(d) => {
                let columns = gram.size()[0] + d;
                let padded = Tensor::f_zeros([columns, columns], (Kind::Double, Device::Cpu))?;
                if let Some(own) = factor {
                    padded.narrow(0, 0, own.size()[0]).f_copy_(&own)?;
                }
                let all = world.all(&padded)?.f_view([-1, columns])?;
                Some(Tensor::f_linalg_qr(&all, "r")?.1)
            }
        };
        let count = world.sum(&Tensor::from_slice(&[count]))?.double_value(&[0]);
        let [gram, cross, future, sum] = [gram, cross, future, sum].map(|own| world.sum(&own));
        Ok(Moments { count, gram: gram?, cross: cross?, future: future?, sum: sum?, factor })
    }

    fn add(
        &mut self,
        left: &Tensor,
        right: &Tensor,
        inputs: Option<&Tensor>,
        states: Option<i64>,
    ) -> Result<()> {
        let rows = match inputs {
            Some(inputs) => Tensor::f_cat(&[left, inputs], 1)?,
            None => left.shallow_clone(),
        };
        self.count += rows.size()[0] as f64;
        if let Some(d) = states {
            self.refactor(&rows, left, right, d)?;
        }
        let home = |x: Tensor| x.to_device(Device::Cpu);
        self.gram += home(rows.tr().f_matmul(&rows)?);
        self.cross += home(rows.tr().f_matmul(right)?);
        self.sum += home(left.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?);
        self.future += home(right.tr().f_matmul(right)?);
        Ok(())
    }

    /// The moments of combinations of the observables, which are the columns of `projection` `[m0, r]`.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn combined(&self, projection: &Tensor) -> Result<Moments> {
        let (m, r) = projection.size2()?;
        let p = self.gram.size()[0];
        // Inputs are not combined.
        let wide = Tensor::f_zeros([p, r + p - m], (Kind::Double, Device::Cpu))?;
        wide.narrow(0, 0, m).narrow(1, 0, r).f_copy_(projection)?;
        wide.narrow(0, m, p - m)
            .narrow(1, r, p - m)
            .f_copy_(&Tensor::f_eye(p - m, (Kind::Double, Device::Cpu))?)?;
        let both =
            |x: &Tensor, right: &Tensor| -> Result<Tensor> { Ok(wide.tr().f_matmul(x)?.f_matmul(right)?) };
        Ok(Moments {
            count: self.count,
            gram: both(&self.gram, &wide)?,
            cross: both(&self.cross, projection)?,
            future: projection.tr().f_matmul(&self.future)?.f_matmul(projection)?,
            sum: self.sum.f_matmul(projection)?,
            factor: None,
        })
    }
}

/// The stacks `[n - h + 1, h d]` of all windows of `rows` `[n, d]`, whose oldest row comes first.
pub fn windows(model: &Forecaster, rows: &Tensor) -> Result<Tensor> {
    let history = model.sizes.history;
    let count = rows.size()[0] - history + 1;
    let lags: Vec<Tensor> = (0..history).map(|lag| rows.narrow(0, history - 1 - lag, count)).collect();
    Ok(Tensor::f_cat(&lags, 1)?)
}

/// Standardised rows of the data on the model's device.
pub fn standard_rows(model: &Forecaster, data: &Observed, rows: Range<usize>) -> Tensor {
    model.standard(&data.values(rows).to_device(model.device()))
}

/// The condition of a path, repeated for `rows` rows.
pub fn condition_of(model: &Forecaster, data: &Observed, path: usize, rows: i64) -> Option<Tensor> {
    let own = data.condition(path)?.to_device(model.device());
    Some(own.unsqueeze(0).expand([rows, -1], false))
}

/// Moments of neighbouring rows of `segments`.
///
/// # Errors
/// Errors of libtorch or of the monitor.
pub fn of_steps(
    model: &Forecaster,
    data: &Observed,
    segments: &[Segment],
    monitor: &mut dyn Monitor,
) -> Result<Moments> {
    let _guard = tch::no_grad_guard();
    let (m, history) = (model.sizes.all(), model.sizes.history as usize);
    let mut moments = Moments::zero(m, model.sizes.inputs);
    let most = (CHUNK_VALUES / m as usize).max(2);
    let mut batch = Batch::default();
    for segment in &own_segments(segments, history, monitor.world()) {
        // A long segment is processed in pieces that share a window, so that every pair counts exactly once.
        let (mut first, end) = (segment.first, segment.first + segment.length);
        while end - first > history {
            let length = (end - first).min(history + most - 1);
            batch.add(model, data, Segment { first, length, ..*segment })?;
            first += length - history;
            if batch.windows >= most {
                batch.flush(model, &mut moments)?;
                monitor.tick()?;
            }
        }
    }
    batch.flush(model, &mut moments)?;
    moments.shared(monitor.world(), Some(model.sizes.dimension()))
}

/// The parts of `segments` that belong to this rank. All ranks have nearly the same number of pairs of windows, and
/// every pair belongs to one rank.
fn own_segments(segments: &[Segment], history: usize, world: &World) -> Vec<Segment> {
    let pairs = |segment: &Segment| segment.length.saturating_sub(history);
    let (start, count) = world.share(segments.iter().map(pairs).sum::<usize>() as i64);
    let (start, end) = (start as usize, (start + count) as usize);
    let mut passed = 0;
    let mut own = Vec::new();
    for segment in segments {
        let (low, high) = (passed, passed + pairs(segment));
        let (first, last) = (start.clamp(low, high) - low, end.clamp(low, high) - low);
        if last > first {
            own.push(Segment { first: segment.first + first, length: last - first + history, ..*segment });
        }
        passed = high;
    }
    own
}

/// Windows of several segments that are encoded together.
#[derive(Default)]
struct Batch {
    stacks: Vec<Tensor>,
    conditions: Vec<Tensor>,
    inputs: Vec<Tensor>,
    /// Index of the first window of each pair.
    left: Vec<i64>,
    windows: usize,
}

impl Batch {
    fn add(&mut self, model: &Forecaster, data: &Observed, piece: Segment) -> Result<()> {
        let rows = piece.first..piece.first + piece.length;
        let stacks = windows(model, &standard_rows(model, data, rows.clone()))?;
        let count = stacks.size()[0];
        self.conditions.extend(condition_of(model, data, piece.path, count));
        // Inputs are constant from the last row of a window to the next row.
        let from = piece.first + piece.length - count as usize;
        self.inputs.extend(data.inputs(from..rows.end - 1).map(|u| u.to_device(model.device())));
        self.left.extend(self.windows as i64..self.windows as i64 + count - 1);
        self.windows += count as usize;
        self.stacks.push(stacks);
        Ok(())
    }

    fn flush(&mut self, model: &Forecaster, moments: &mut Moments) -> Result<()> {
        let own = std::mem::take(self);
        if own.left.is_empty() {
            return Ok(());
        }
        let join = |parts: &[Tensor]| (!parts.is_empty()).then(|| Tensor::f_cat(parts, 0)).transpose();
        let condition = join(&own.conditions)?;
        let g = model.encode_all(&Tensor::f_cat(&own.stacks, 0)?, condition.as_ref())?;
        let states = Some(model.sizes.dimension());
        let inputs = join(&own.inputs)?;
        if own.stacks.len() == 1 {
            let pairs = own.left.len() as i64;
            return moments.add(&g.narrow(0, 0, pairs), &g.narrow(0, 1, pairs), inputs.as_ref(), states);
        }
        let left = Tensor::from_slice(&own.left).to_device(model.device());
        moments.add(&g.f_index_select(0, &left)?, &g.f_index_select(0, &(left + 1))?, inputs.as_ref(), states)
    }
}

/// Number of rows on either side to which a derivative is fitted.
const ASIDE: usize = 2;

/// Moments of observables and their rates, for irregular times (generator EDMD, Klus et al., Physica D 406, 2020).
/// Rates are derivatives of parabolas fitted to neighbouring rows.
///
/// # Errors
/// [`Error::Argument`] naming `paths` if no path has three rows without missing values.
pub fn of_rates(
    model: &Forecaster,
    data: &Observed,
    ranges: &[Range<usize>],
    monitor: &mut dyn Monitor,
) -> Result<Moments> {
    let _guard = tch::no_grad_guard();
    let m = model.sizes.all();
    let mut moments = Moments::zero(m, model.sizes.inputs);
    let world = monitor.world().clone();
    // Whole paths are assigned to ranks in turn, because the slope at a row depends on its neighbours.
    let own = ranges.iter().enumerate().filter(|(place, _)| *place as i64 % world.size() == world.rank());
    for (_, rows) in own {
        monitor.tick()?;
        let path = data.path_of(rows.start);
        let seen: Vec<usize> = rows.clone().filter(|row| data.seen_whole(*row)).collect();
        if seen.len() < 3 {
            continue;
        }
        let times: Vec<f64> = seen.iter().map(|row| data.times()[*row]).collect();
        let pick: Vec<i64> = seen.iter().map(|row| (*row - rows.start) as i64).collect();
        let pick = Tensor::from_slice(&pick);
        let z =
            standard_rows(model, data, rows.clone()).f_index_select(0, &pick.to_device(model.device()))?;
        let condition = condition_of(model, data, path, z.size()[0]);
        let rates = model.tangent_all(&z, &slopes(&times, &z)?, condition.as_ref())?;
        let g = model.encode_all(&z, condition.as_ref())?;
        let inputs = data.inputs(rows.clone()).map(|u| u.index_select(0, &pick).to_device(model.device()));
        moments.add(&g, &rates, inputs.as_ref(), None)?;
    }
    let moments = moments.shared(&world, None)?;
    match moments.count > 0.0 {
        true => Ok(moments),
        false => {
            let expected = "at least three rows without missing values in some path";
            Err(Error::argument("paths", expected, "fewer in each path"))
        }
    }
}

/// Slopes at `times` of parabolas fitted locally to rows `[n, d]`.
fn slopes(times: &[f64], rows: &Tensor) -> Result<Tensor> {
    let n = times.len();
    let width = (2 * ASIDE + 1).min(n);
    let (mut places, mut weights) = (Vec::with_capacity(n * width), Vec::with_capacity(n * width));
    for (row, t) in times.iter().enumerate() {
        let low = row.saturating_sub(ASIDE).min(n - width);
        let near = &times[low..low + width];
        // Least squares with 1, s, s^2 in s = (time - t) / span: the row of the pseudo-inverse that gives the slope.
        let span = near[width - 1] - near[0];
        let powers: Vec<[f64; 3]> = near
            .iter()
            .map(|time| {
                let s = (time - t) / span;
                [1.0, s, s * s]
            })
            .collect();
        let mut normal = [[0.0f64; 3]; 3];
        for power in &powers {
            for (i, line) in normal.iter_mut().enumerate() {
                for (j, value) in line.iter_mut().enumerate() {
                    *value += power[i] * power[j];
                }
            }
        }
        let slope = solve3(normal, [0.0, 1.0, 0.0]);
        for (place, power) in powers.iter().enumerate() {
            let weight: f64 = slope.iter().zip(power).map(|(a, b)| a * b).sum();
            places.push((low + place) as i64);
            weights.push(weight / span);
        }
    }
    let width = width as i64;
    let near = rows.f_index_select(0, &Tensor::from_slice(&places).to_device(rows.device()))?;
    let near = near.f_view([-1, width, rows.size()[1]])?;
    let weights = Tensor::from_slice(&weights).to_device(rows.device()).view([-1, 1, width]);
    Ok(weights.f_bmm(&near)?.squeeze_dim(1))
}

/// The solution of a positive definite 3x3 system, by Cramer's rule.
fn solve3(a: [[f64; 3]; 3], b: [f64; 3]) -> [f64; 3] {
    let det = |m: [[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let whole = det(a);
    std::array::from_fn(|column| {
        let mut replaced = a;
        for (line, value) in replaced.iter_mut().zip(b) {
            line[column] = value;
        }
        det(replaced) / whole
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_parabolas_are_exact() {
        let times = [0.0, 0.3, 0.35, 1.0, 1.4, 2.2];
        let values: Vec<f64> = times.iter().map(|t| 1.0 - 2.0 * t + 3.0 * t * t).collect();
        let found = slopes(&times, &Tensor::from_slice(&values).unsqueeze(1)).unwrap();
        for (place, t) in times.iter().enumerate() {
            assert!((found.double_value(&[place as i64, 0]) - (6.0 * t - 2.0)).abs() < 1e-9);
        }
        let three = slopes(&[0.0, 1.0, 3.0], &Tensor::from_slice(&[0.0, 1.0, 9.0]).unsqueeze(1)).unwrap();
        assert!((three.double_value(&[2, 0]) - 6.0).abs() < 1e-9);
    }
}
