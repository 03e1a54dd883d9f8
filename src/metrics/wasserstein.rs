//! Wasserstein-2 distances: the sliced one, by sorting along random directions, and the exact one, by assignment.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use super::{pair, same_count, CHUNK_ELEMENTS};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};
use crate::tensor::{check_batch, shape_text, RandomSource};

/// Maximum number of samples N for [`wasserstein2`]. Its cost matrix has N^2 float64 values (200 MB at the limit), and
/// its time grows like N^3.
pub const ASSIGNMENT_LIMIT: i64 = 5000;

/// Sliced Wasserstein distance SW_2 (Bonneel et al., JMIV 2015): the square root of the mean, over `projections`
/// seeded random directions, of the squared one-dimensional W_2 distance of the projections. Sets of different sizes
/// are compared by their exact quantile functions.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for `projections`
/// below 1.
pub fn sliced_wasserstein(a: &Tensor, b: &Tensor, projections: i64, seed: u64) -> Result<f64> {
    if projections < 1 {
        return Err(Error::argument("projections", "an integer of at least 1", projections));
    }
    let (a, b) = pair(("a", a), ("b", b))?;
    let mut source = RandomSource::new(seed).fork("sliced wasserstein");
    let directions = source.normal(&[a.size()[1], projections], Kind::Double, a.device())?;
    let lengths = directions.square().f_sum_dim_intlist([0i64].as_slice(), true, Kind::Double)?.sqrt();
    sliced(&a, &b, &(directions / lengths))
}

/// [`sliced_wasserstein`] along given directions, the columns of `directions` `[d, P]`, which have length 1.
///
/// # Errors
/// Errors of [`sliced_wasserstein`]; [`Error::Shape`] for directions of another dimension.
pub fn sliced_wasserstein_along(a: &Tensor, b: &Tensor, directions: &Tensor) -> Result<f64> {
    let (a, b) = pair(("a", a), ("b", b))?;
    let (d, shape) = (a.size()[1], directions.size());
    if shape.len() != 2 || shape[0] != d {
        return Err(Error::shape("directions", format!("({d}, P)"), shape_text(&shape)));
    }
    check_batch("directions", directions, &shape[1..])?;
    sliced(&a, &b, &directions.to_device(a.device()).to_kind(Kind::Double))
}

fn sliced(a: &Tensor, b: &Tensor, directions: &Tensor) -> Result<f64> {
    let (n, m, count) = (a.size()[0], b.size()[0], directions.size()[1]);
    let quantiles = if n == m { None } else { Some(Quantiles::new(n, m, a.device())) };
    let width = (CHUNK_ELEMENTS / n.max(m)).clamp(1, count);
    let (mut total, mut first) = (0.0, 0);
    while first < count {
        let columns = width.min(count - first);
        let some = directions.narrow(1, first, columns);
        let x = a.f_matmul(&some)?.f_sort(0, false)?.0;
        let y = b.f_matmul(&some)?.f_sort(0, false)?.0;
        total += match &quantiles {
            None => (x - y).square().sum(Kind::Double).double_value(&[]) / n as f64,
            Some(grid) => {
                let gaps = x.f_index_select(0, &grid.of_a)? - y.f_index_select(0, &grid.of_b)?;
                (gaps.square() * &grid.weights).sum(Kind::Double).double_value(&[])
            }
        };
        first += columns;
    }
    Ok((total / count as f64).sqrt())
}

/// The intervals in (0, 1) on which both empirical quantile functions are constant: the order statistic of each
/// function there, and the length of each interval, `[intervals, 1]`.
struct Quantiles {
    of_a: Tensor,
    of_b: Tensor,
    weights: Tensor,
}

impl Quantiles {
    fn new(n: i64, m: i64, device: Device) -> Self {
        let (mut of_a, mut of_b, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let (mut i, mut j) = (0, 0);
        // Positions are integers in units of 1 / (n m), so that comparisons are exact.
        let (n_wide, m_wide) = (n as i128, m as i128);
        let mut position = 0i128;
        while i < n && j < m {
            let end = ((i as i128 + 1) * m_wide).min((j as i128 + 1) * n_wide);
            of_a.push(i);
            of_b.push(j);
            weights.push((end - position) as f64 / (n_wide * m_wide) as f64);
            position = end;
            i += i64::from(end == (i as i128 + 1) * m_wide);
            j += i64::from(end == (j as i128 + 1) * n_wide);
        }
        Quantiles {
            of_a: Tensor::from_slice(&of_a).to_device(device),
            of_b: Tensor::from_slice(&of_b).to_device(device),
            weights: Tensor::from_slice(&weights).view([-1, 1]).to_device(device),
        }
    }
}

/// Exact Wasserstein-2 distance between two sets of equal size: the square root of the mean squared distance under the
/// optimal one-to-one assignment (Jonker and Volgenant, 1987), computed on one CPU thread. 2,000 samples in two
/// dimensions took 5 s, and 5,000 took a minute, on a busy 2-core machine.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for sets of different
/// sizes or of more than [`ASSIGNMENT_LIMIT`] samples.
pub fn wasserstein2(a: &Tensor, b: &Tensor) -> Result<f64> {
    wasserstein2_watched(a, b, &mut Silent)
}

/// [`wasserstein2`] that `monitor.tick()` can stop: it is called about twenty times a second.
///
/// # Errors
/// Errors of [`wasserstein2`] and of the monitor.
pub fn wasserstein2_watched(a: &Tensor, b: &Tensor, monitor: &mut dyn Monitor) -> Result<f64> {
    let (a, b) = pair(("a", a), ("b", b))?;
    let n = same_count(("a", &a), ("b", &b))?;
    if n > ASSIGNMENT_LIMIT {
        return Err(Error::argument("a", format!("at most {ASSIGNMENT_LIMIT} samples"), n));
    }
    // Computed from differences, so that duplicates cost exactly 0.
    let costs = Tensor::f_cdist(&a, &b, 2.0, 2)?.square();
    let largest = costs.max().double_value(&[]);
    if n == 1 || largest == 0.0 {
        return Ok(largest.sqrt());
    }
    // Scaled to [0, 1], because lapjv compares reduced costs with an absolute epsilon.
    let scaled = Vec::<f64>::try_from((costs / largest).to_device(Device::Cpu).f_reshape([-1])?)?;
    let matrix = lapjv::Matrix::from_shape_vec((n as usize, n as usize), scaled)
        .map_err(|error| assignment_failed(error.to_string()))?;
    let columns = assign(&matrix, monitor)?;
    Ok((lapjv::cost(&matrix, &columns) * largest / n as f64).sqrt())
}

fn assignment_failed(message: impl std::fmt::Display) -> Error {
    Error::Internal(anyhow::anyhow!("linear assignment: {message}"))
}

/// The column of each row in the optimal assignment. It is computed on a separate thread, while this thread calls the
/// monitor.
fn assign(costs: &lapjv::Matrix<f64>, monitor: &mut dyn Monitor) -> Result<Vec<usize>> {
    let solver = lapjv::LapJV::new(costs);
    let stop = solver.cancellation();
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let worker = scope.spawn(move || sender.send(solver.solve()).is_ok());
        loop {
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(solved) => return solved.map(|(columns, _)| columns).map_err(assignment_failed),
                Err(RecvTimeoutError::Timeout) => monitor.tick().inspect_err(|_| stop.cancel())?,
                Err(RecvTimeoutError::Disconnected) => {
                    // Joined here, because otherwise the scope would raise the worker's panic again.
                    let _ = worker.join();
                    return Err(assignment_failed("the solver stopped without a result"));
                }
            }
        }
    })
}
