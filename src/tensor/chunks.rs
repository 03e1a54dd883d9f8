//! Cutting batches into chunks, so that long computations use bounded memory.

use tch::Tensor;

use crate::error::Result;

/// The first row and the number of rows of each chunk. The chunks cover `total` rows, with at most `rows`
/// each.
pub fn chunks(total: i64, rows: i64) -> impl Iterator<Item = (i64, i64)> + Clone {
    let rows = rows.max(1);
    (0..total).step_by(rows as usize).map(move |first| (first, rows.min(total - first)))
}

/// Results of `work(first row, number of rows)` for each chunk, joined along `dimension`.
///
/// # Errors
/// Any error of `work`; [`crate::Error::Torch`] if there are no rows.
pub fn in_chunks(
    total: i64,
    rows: i64,
    dimension: i64,
    mut work: impl FnMut(i64, i64) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut pieces =
        chunks(total, rows).map(|(first, rows)| work(first, rows)).collect::<Result<Vec<_>>>()?;
    match pieces.len() {
        // Joining a single piece would copy it.
        1 => Ok(pieces.swap_remove(0)),
        _ => Ok(Tensor::f_cat(&pieces, dimension)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_row_once() {
        for (total, rows) in [(0, 3), (1, 3), (3, 3), (7, 3), (7, 1), (7, 100), (5, 0)] {
            let mut next = 0;
            for (first, length) in chunks(total, rows) {
                assert!(first == next && (1..=rows.max(1)).contains(&length));
                next += length;
            }
            assert_eq!(next, total);
        }
        let rows = Tensor::arange(7, (tch::Kind::Int64, tch::Device::Cpu));
        for length in [1, 3, 7, 9] {
            assert_eq!(in_chunks(7, length, 0, |first, n| Ok(rows.narrow(0, first, n))).unwrap(), rows);
        }
    }
}
