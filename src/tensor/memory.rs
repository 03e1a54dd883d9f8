//! Recovery from running out of memory.

use std::panic::{self, AssertUnwindSafe};

use crate::error::{says_out_of_memory, Result};

/// The result of `work`, or `None` if it ran out of memory. Some of tch's operators report that as an error,
/// others panic.
///
/// # Errors
/// Any other error of `work`.
pub fn out_of_memory<T>(work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Err(error)) if error.is_out_of_memory() => Ok(None),
        Ok(outcome) => outcome.map(Some),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            match text.or_else(|| payload.downcast_ref::<&str>().copied()) {
                Some(text) if says_out_of_memory(text) => Ok(None),
                _ => panic::resume_unwind(payload),
            }
        }
    }
}

/// Calls `work(first row, number of rows)` for `total` rows in order, with at most `rows` rows at once. When
/// memory runs out, the failed call is repeated with half as many rows, and later calls get no more than
/// that.
///
/// # Errors
/// Any error of `work`, including running out of memory for a single row.
pub fn in_halves(total: i64, rows: i64, mut work: impl FnMut(i64, i64) -> Result<()>) -> Result<()> {
    let mut rows = rows.clamp(1, total.max(1));
    let mut done = 0;
    while done < total {
        let length = rows.min(total - done);
        if length == 1 {
            work(done, 1)?;
        } else if out_of_memory(|| work(done, length))?.is_none() {
            rows = (length + 1) / 2;
            continue;
        }
        done += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn running_out_of_memory_is_no_other_failure() {
        let raise = |text: &str| Err::<(), _>(Error::Torch(text.into()));
        assert!(out_of_memory(|| raise("CUDA out of memory. Tried to allocate")).unwrap().is_none());
        assert!(out_of_memory(|| raise("shapes do not fit")).is_err());
        assert_eq!(out_of_memory(|| Ok(3)).unwrap(), Some(3));
        panic::set_hook(Box::new(|_| {}));
        assert!(out_of_memory(|| -> Result<()> { panic!("Torch(\"CUDA out of memory\")") })
            .unwrap()
            .is_none());
        let other = panic::catch_unwind(|| out_of_memory(|| -> Result<()> { panic!("a bug") }));
        let _ = panic::take_hook();
        assert!(other.is_err());
    }

    #[test]
    fn work_goes_on_with_as_many_rows_as_memory_has_room_for() {
        let (mut done, mut attempts) = (Vec::new(), 0);
        in_halves(21, 16, |first, rows| {
            attempts += 1;
            match rows > 5 {
                true => Err(Error::OutOfMemory("no room".into())),
                false => {
                    done.extend(first..first + rows);
                    Ok(())
                }
            }
        })
        .unwrap();
        assert_eq!(done, (0..21).collect::<Vec<_>>());
        // 16 and 8 rows fail, then 4 at a time.
        assert_eq!(attempts, 2 + 6);
        let refused = in_halves(4, 4, |_, _| Err(Error::OutOfMemory("no room for one".into())));
        assert!(refused.unwrap_err().to_string().contains("no room for one"));
        assert!(matches!(in_halves(4, 4, |_, _| Err(Error::OutOfTime)), Err(Error::OutOfTime)));
    }
}
