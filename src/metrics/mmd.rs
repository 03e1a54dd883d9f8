//! Maximum mean discrepancy (Gretton et al., "A kernel two-sample test", JMLR 2012).

use tch::{Device, Kind, Tensor};

use super::{at_least_two, centred, each_distance, pair, Named};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};
use crate::tensor::RandomSource;

/// Maximum number of samples whose pairwise distances determine the median in [`median_bandwidths`].
pub const MEDIAN_SAMPLES: i64 = 1000;

/// Factors of the median distance, each of which gives the bandwidth of one kernel.
const MEDIAN_FACTORS: [f64; 3] = [0.5, 1.0, 2.0];

/// Squared maximum mean discrepancy with the kernel k(x, y) = sum over `bandwidths` s of exp(-||x - y||^2 / (2 s^2)).
/// The default bandwidths are the [`median_bandwidths`] of the data. It is the unbiased U-statistic: two sets of the
/// same distribution give values around 0, some of them negative.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for fewer than two samples in a set,
/// and for an empty list of bandwidths or one that is not positive and finite; errors of [`median_bandwidths`].
pub fn mmd(samples: &Tensor, data: &Tensor, bandwidths: Option<&[f64]>) -> Result<f64> {
    mmd_watched(samples, data, bandwidths, &mut Silent)
}

/// [`mmd`] that `monitor.tick()` can stop between chunks.
///
/// # Errors
/// Errors of [`mmd`] and of the monitor.
pub fn mmd_watched(
    samples: &Tensor,
    data: &Tensor,
    bandwidths: Option<&[f64]>,
    monitor: &mut dyn Monitor,
) -> Result<f64> {
    let (x, y) = pair(("samples", samples), ("data", data))?;
    let widths = match bandwidths {
        Some(given) => given.to_vec(),
        None => median_bandwidths(data)?,
    };
    if widths.is_empty() || widths.iter().any(|width| !(width.is_finite() && *width > 0.0)) {
        return Err(Error::argument(
            "bandwidths",
            "one or more finite numbers above 0",
            format!("{widths:?}"),
        ));
    }
    let kernel = |distances: Tensor| {
        // Divided first: the square of an extreme bandwidth is 0 or infinite.
        let one = |width: &f64| (&distances / *width).square() * -0.5;
        Ok(widths.iter().map(|width| one(width).exp().sum(Kind::Double).double_value(&[])).sum())
    };
    discrepancy(("samples", &x), ("data", &y), widths.len() as f64, kernel, monitor)
}

/// Bandwidths by the median heuristic: the median distance between samples of the data, times 1/2, 1 and 2. From more
/// than [`MEDIAN_SAMPLES`] samples, a fixed random subset of this size is used.
///
/// # Errors
/// [`Error::Shape`], [`Error::NonFinite`], [`Error::Dtype`]; [`Error::Argument`] for fewer than two
/// samples or a median of 0.
pub fn median_bandwidths(data: &Tensor) -> Result<Vec<f64>> {
    let (rows, _) = pair(("data", data), ("data", data))?;
    at_least_two(("data", &rows))?;
    let order = RandomSource::new(0).fork("median distance").permutation(rows.size()[0], Device::Cpu);
    let chosen = order.narrow(0, 0, MEDIAN_SAMPLES.min(rows.size()[0])).to_device(rows.device());
    let distances = rows.f_index_select(0, &chosen)?.f_pdist(2.0)?;
    let median = distances.f_quantile_scalar(0.5, None, false, "linear")?.double_value(&[]);
    if median == 0.0 {
        let expected = "samples most of which differ, or an explicit choice of bandwidths";
        return Err(Error::argument("data", expected, "a median distance of 0"));
    }
    Ok(MEDIAN_FACTORS.iter().map(|factor| factor * median).collect())
}

/// E k(X, X') + E k(Y, Y') - 2 E k(X, Y) over pairs of distinct samples (Gretton et al., equation 3).
/// `kernel` sums k over a matrix of distances, and `own` is k(x, x).
pub(super) fn discrepancy(
    a: Named,
    b: Named,
    own: f64,
    kernel: impl Fn(Tensor) -> Result<f64>,
    monitor: &mut dyn Monitor,
) -> Result<f64> {
    at_least_two(a)?;
    at_least_two(b)?;
    let (a, b) = centred(a.1.shallow_clone(), b.1.shallow_clone())?;
    let (n, m) = (a.size()[0] as f64, b.size()[0] as f64);
    let mut sum = |x: &Tensor, y: &Tensor| {
        let mut total = 0.0;
        each_distance(x, y, &mut *monitor, |distances| {
            total += kernel(distances)?;
            Ok(())
        })?;
        Ok::<f64, Error>(total)
    };
    let within_a = (sum(&a, &a)? - own * n) / (n * (n - 1.0));
    let within_b = (sum(&b, &b)? - own * m) / (m * (m - 1.0));
    Ok(within_a + within_b - 2.0 * sum(&a, &b)? / (n * m))
}
