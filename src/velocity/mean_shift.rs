//! Mean shift: finds the modes of a Gaussian kernel density and assigns each point to the mode that it climbs to
//! (Comaniciu and Meer, IEEE PAMI 24, 2002).
//!
//! A step moves x to the mean of the data with weights softmax_i(-||x - y_i||^2 / (2 h^2)). This is one denoising step
//! of the empirical field: E[x1 | x_t = t x] at the time t = 1 / (1 + h), where (1 - t) / t = h (arXiv 2305.19947).

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::tensor::{check_batch, chunks, shape_text};

/// Maximum number of weights in memory at once (float64: 32 MB).
const CHUNK_ELEMENTS: i64 = 1 << 22;

/// Length of a step, relative to the bandwidth, below which a row has converged.
const ARRIVED: f64 = 1e-5;

/// Distance, relative to the bandwidth, within which two end points belong to the same mode.
const SAME: f64 = 0.5;

/// The modes of a kernel density and the points that climb to each.
#[derive(Debug)]
pub struct Modes {
    /// Modes `[K, *event]` in the dtype of the data, sorted by descending density.
    pub modes: Tensor,
    /// Index of the mode of each row of the data, int64 `[N]`.
    pub assignment: Tensor,
    /// Log of the kernel density at the modes, `[K]` in float64.
    pub log_density: Tensor,
    /// Number of steps of the slowest row.
    pub steps: u64,
    /// Whether all rows converged.
    pub converged: bool,
}

/// Mean shift from every row of `data` `[N, *event]`, in float64, with `bandwidth` in units of the data.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`] or [`Error::Dtype`] naming `data`; [`Error::Argument`] naming `bandwidth` or
/// `max_steps`.
pub fn mean_shift(data: &Tensor, bandwidth: f64, max_steps: u64, monitor: &mut dyn Monitor) -> Result<Modes> {
    let shape = data.size();
    if shape.len() < 2 || shape[1..].contains(&0) {
        return Err(Error::shape("data", "(N, *event)", shape_text(&shape)));
    }
    let count = check_batch("data", data, &shape[1..])?;
    if !(bandwidth > 0.0 && bandwidth.is_finite()) {
        return Err(Error::argument("bandwidth", "a finite number above 0", bandwidth));
    }
    if max_steps == 0 {
        return Err(Error::argument("max_steps", "an integer of at least 1", max_steps));
    }
    let _guard = tch::no_grad_guard();
    let rows = data.detach().f_reshape([count, -1])?.to_kind(Kind::Double);
    // Centred and in units of the bandwidth, since distances between points far from the origin suffer cancellation.
    let centre = rows.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    let kernel = Kernel::new((rows - &centre) / bandwidth)?;
    let climbed = kernel.climb(max_steps, monitor)?;
    let (places, assignment) = kernel.merge(&climbed.rest, &climbed.log_weight)?;
    let modes = climbed.rest.f_index_select(0, &places)? * bandwidth + centre;
    let dimension = modes.size()[1] as f64;
    let constant = (count as f64).ln() + dimension * (bandwidth * (2.0 * std::f64::consts::PI).sqrt()).ln();
    let mut event = vec![-1];
    event.extend(&shape[1..]);
    Ok(Modes {
        modes: modes.to_kind(data.kind()).f_reshape(event)?,
        assignment,
        log_density: climbed.log_weight.f_index_select(0, &places)? - constant,
        steps: climbed.steps,
        converged: climbed.converged,
    })
}

/// The data in units of the bandwidth, `[N, d]`, and half their squared norms, `[N]`.
struct Kernel {
    data: Tensor,
    half_squares: Tensor,
}

/// The end points of the rows, `[N, d]`, and the log of the sum of kernels there, `[N]`.
struct Climbed {
    rest: Tensor,
    log_weight: Tensor,
    steps: u64,
    converged: bool,
}

impl Kernel {
    fn new(data: Tensor) -> Result<Kernel> {
        let half_squares = data.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)? * 0.5;
        Ok(Kernel { data, half_squares })
    }

    /// The next position of rows `x`, and the log of the sum of kernels at `x`.
    fn step(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let logits = x.f_matmul(&self.data.tr())? - &self.half_squares;
        let own = x.square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)? * 0.5;
        let log_weight = logits.f_logsumexp([1i64].as_slice(), false)? - own;
        Ok((logits.f_softmax(1, Kind::Double)?.f_matmul(&self.data)?, log_weight))
    }

    fn climb(&self, max_steps: u64, monitor: &mut dyn Monitor) -> Result<Climbed> {
        let count = self.data.size()[0];
        let (mut ends, mut weights) = (Vec::new(), Vec::new());
        let (mut steps, mut converged) = (0, true);
        for (first, length) in chunks(count, (CHUNK_ELEMENTS / count).max(1)) {
            let mut x = self.data.narrow(0, first, length);
            let mut moves = f64::INFINITY;
            for step in 1..=max_steps {
                monitor.tick()?;
                let (next, _) = self.step(&x)?;
                let squares =
                    (&next - &x).square().f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
                moves = squares.max().double_value(&[]).sqrt();
                x = next;
                steps = steps.max(step);
                if moves < ARRIVED {
                    break;
                }
            }
            converged &= moves < ARRIVED;
            weights.push(self.step(&x)?.1);
            ends.push(x);
        }
        Ok(Climbed {
            rest: Tensor::f_cat(&ends, 0)?,
            log_weight: Tensor::f_cat(&weights, 0)?,
            steps,
            converged,
        })
    }

    /// One row for each mode, sorted by descending density, and the mode of every row.
    fn merge(&self, rest: &Tensor, log_weight: &Tensor) -> Result<(Tensor, Tensor)> {
        let count = rest.size()[0];
        let mut assignment = Tensor::f_full([count], -1, (Kind::Int64, rest.device()))?;
        let mut left = log_weight.copy();
        let mut places = Vec::new();
        loop {
            let place = left.f_argmax(0, false)?.int64_value(&[]);
            if left.double_value(&[place]) == f64::NEG_INFINITY {
                break;
            }
            let gaps = (rest - rest.get(place)).square().f_sum_dim_intlist(
                [1i64].as_slice(),
                false,
                Kind::Double,
            )?;
            let near = gaps.le(SAME * SAME).logical_and(&assignment.lt(0));
            assignment = assignment.f_masked_fill(&near, places.len() as i64)?;
            left = left.f_masked_fill(&near, f64::NEG_INFINITY)?;
            places.push(place);
        }
        Ok((Tensor::from_slice(&places).to_device(rest.device()), assignment))
    }
}
