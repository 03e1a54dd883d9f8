//! Principal components of rows, for fields and images (proper orthogonal decomposition). They are computed by random
//! projections in a few passes over all rows, so that no covariance matrix of all coordinates is formed (Halko,
//! Martinsson and Tropp, SIAM Review 53, 2011).

use tch::{Device, Kind, Tensor};

use super::model::Coordinates;
use crate::data::Observed;
use crate::error::{Error, Result};
use crate::tensor::{chunks, RandomSource};

/// Number of additional directions (oversampling), and number of passes over the data (power iterations).
const MORE: i64 = 16;
const PASSES: usize = 4;
const CHUNK_VALUES: i64 = 1 << 23;

/// Coordinates along the first `count` principal components of rows centred at `mean` `[D]`. All coordinates have the
/// same scale, so that errors have the same weights as in the original rows.
///
/// # Errors
/// [`Error::Argument`] naming `components` if the rows without missing values span fewer.
pub fn principal(
    data: &Observed,
    (mean, deviation): (&Tensor, &Tensor),
    count: i64,
    device: Device,
    random: &mut RandomSource,
) -> Result<Coordinates> {
    let _guard = tch::no_grad_guard();
    let size = data.dimension();
    let wide = (count + MORE).min(size);
    let mean = mean.to_device(device);
    let mut frame = random.normal(&[size, wide], Kind::Double, Device::Cpu)?.to_device(device);
    let mut square = Tensor::f_zeros([wide, wide], (Kind::Double, device))?;
    for _ in 0..PASSES {
        let (turned, _) = Tensor::f_linalg_qr(&frame, "reduced")?;
        let mut next = Tensor::f_zeros([size, wide], (Kind::Double, device))?;
        square = square.zeros_like();
        each(data, &mean, device, |rows| {
            let along = rows.f_matmul(&turned)?;
            next += rows.tr().f_matmul(&along)?;
            square += along.tr().f_matmul(&along)?;
            Ok(())
        })?;
        frame = next;
    }
    // The principal directions of the rows within the subspace that was found.
    let (turned, _) = Tensor::f_linalg_qr(&frame, "reduced")?;
    square = square.zeros_like();
    let mut rows_seen = 0.0;
    each(data, &mean, device, |rows| {
        let along = rows.f_matmul(&turned)?;
        square += along.tr().f_matmul(&along)?;
        rows_seen += rows.size()[0] as f64;
        Ok(())
    })?;
    let (values, vectors) = square.f_linalg_eigh("L")?;
    let largest = values.max().double_value(&[]);
    let spanned = values.gt(1e-12 * largest).sum(Kind::Int64).int64_value(&[]).min(wide);
    if count > spanned || largest == 0.0 {
        let expected = format!("at most {spanned}, the dimension that rows without missing values span");
        return Err(Error::argument("components", expected, count));
    }
    let frame = turned.f_matmul(&vectors.narrow(1, wide - count, count).flip([1i64]))?;
    let variance = values.narrow(0, wide - count, count).mean(Kind::Double).double_value(&[]) / rows_seen;
    let (mut low, mut high) = (None::<Tensor>, None::<Tensor>);
    each(data, &mean, device, |rows| {
        let along = rows.f_matmul(&frame)?;
        let over = [0i64];
        let (least, most) = (along.amin(over.as_slice(), false), along.amax(over.as_slice(), false));
        low = Some(low.take().map_or(least.shallow_clone(), |known| known.minimum(&least)));
        high = Some(high.take().map_or(most.shallow_clone(), |known| known.maximum(&most)));
        Ok(())
    })?;
    let (Some(low), Some(high)) = (low, high) else {
        return Err(Error::argument("paths", "rows without missing values", "none"));
    };
    let zero = low.zeros_like();
    let table = Tensor::f_stack(&[&zero, &(zero.ones_like() * variance.sqrt()), &low, &high], 0)?;
    let rows = Tensor::f_stack(&[&mean, &deviation.to_device(device)], 0)?;
    Ok(Coordinates { table, rows, frame: Some(frame), centre: Some(mean) })
}

/// Calls `work` on chunks of the centred rows without missing values.
fn each(
    data: &Observed,
    mean: &Tensor,
    device: Device,
    mut work: impl FnMut(&Tensor) -> Result<()>,
) -> Result<()> {
    for (first, rows) in chunks(data.rows() as i64, (CHUNK_VALUES / data.dimension()).max(1)) {
        let (first, end) = (first as usize, (first + rows) as usize);
        let seen: Vec<i64> =
            (first..end).filter(|row| data.seen_whole(*row)).map(|row| (row - first) as i64).collect();
        if seen.is_empty() {
            continue;
        }
        let own = data.values(first..end);
        let own = match seen.len() == end - first {
            true => own,
            false => own.f_index_select(0, &Tensor::from_slice(&seen))?,
        };
        work(&(own.to_device(device) - mean))?;
    }
    Ok(())
}
