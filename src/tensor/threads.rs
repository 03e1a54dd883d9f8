//! A rayon pool that survives `fork`, and limits on libtorch's threads. The pool is built at first use. A
//! child process builds a new one, since its copy of the parent's pool has no threads and would wait forever.
//! The number of threads is `RAYON_NUM_THREADS`, or else `OMP_NUM_THREADS`, which torchrun sets to 1 for
//! ranks that share a machine.

use std::sync::{Arc, Mutex, OnceLock};
use std::{env, process};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

/// The pool of this process.
pub fn pool() -> Result<Arc<ThreadPool>> {
    let mut slot = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match slot.as_ref() {
        Some((pid, pool)) if *pid == process::id() => return Ok(Arc::clone(pool)),
        // Dropping a pool joins its threads, which do not exist in a child process.
        Some((_, pool)) => std::mem::forget(Arc::clone(pool)),
        None => {}
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(asked().unwrap_or(0))
        .thread_name(|index| format!("koopflow-{index}"))
        .build()
        .map_err(|error| Error::Internal(anyhow::anyhow!("cannot start worker threads: {error}")))?;
    let pool = Arc::new(pool);
    *slot = Some((process::id(), Arc::clone(&pool)));
    Ok(pool)
}

/// Number of threads that the environment sets; `None` if it sets none.
fn asked() -> Option<usize> {
    static ASKED: OnceLock<Option<usize>> = OnceLock::new();
    *ASKED.get_or_init(|| {
        let said = |name: &str| env::var(name).ok()?.split(',').next()?.trim().parse::<usize>().ok();
        ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"].into_iter().find_map(said).filter(|count| *count > 0)
    })
}

/// Runs `aside` on a worker thread while this thread runs `here`. The worker has gradients enabled and as
/// many libtorch threads as the caller. If the environment sets one thread, `aside` runs after `here`
/// instead.
///
/// # Errors
/// [`Error::Internal`] if worker threads cannot be started. A panic of either function is propagated.
pub fn beside<A, B: Send>(here: impl FnOnce() -> A, aside: impl FnOnce() -> B + Send) -> Result<(A, B)> {
    if asked() == Some(1) {
        return Ok((here(), tch::with_grad(aside)));
    }
    let threads = tch::get_num_threads();
    let mut slot = None;
    let result = pool()?.in_place_scope(|scope| {
        scope.spawn(|_| {
            // The number of the caller, whatever earlier work has left behind on this worker. It is not
            // restored: that would change the number of threads that matrix products of the calling thread
            // use.
            if tch::get_num_threads() != threads {
                tch::set_num_threads(threads);
            }
            slot = Some(tch::with_grad(aside));
        });
        here()
    });
    match slot {
        Some(other) => Ok((result, other)),
        None => Err(Error::Internal(anyhow::anyhow!("a worker thread ended without a result"))),
    }
}

/// Lowers the number of threads that libtorch uses inside one operation, until it is dropped. OpenMP's
/// threads spin while they wait. For small operations, or while other work is running, they cost far more
/// than they gain. The limit holds for operations started by the calling thread.
pub struct IntraOpThreads {
    /// Number of threads to restore; `None` if nothing was changed. That way, overlapping guards of two
    /// threads cannot leave the lower number behind.
    before: Option<i32>,
}

impl IntraOpThreads {
    /// Allows one thread for every 2^27 products of weights and samples in one operation. With less work than
    /// that, a thread does not pay for the waiting. (Measured on two cores: a second thread gained nothing up
    /// to 2^28 products, and on a busy machine two threads took ten times as long as one.)
    pub fn for_work(weights: i64, samples: i64) -> Self {
        Self::for_sides(1, weights, samples)
    }

    /// The same for `sides` pieces of such work that run at the same time ([`beside`]). Together they use no
    /// more threads than are available. (On two cores, two sides with two threads each were no faster than
    /// one side after the other.)
    pub fn for_sides(sides: i64, weights: i64, samples: i64) -> Self {
        let threads = (weights.saturating_mul(samples) >> 27).min(i64::from(tch::get_num_threads()) / sides);
        Self::limit(threads.clamp(1, 1024) as i32)
    }

    /// Limits libtorch to `threads` threads. Never raises the present number.
    pub fn limit(threads: i32) -> Self {
        let before = tch::get_num_threads();
        let lower = threads.max(1) < before;
        if lower {
            tch::set_num_threads(threads.max(1));
        }
        IntraOpThreads { before: lower.then_some(before) }
    }
}

impl Drop for IntraOpThreads {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            tch::set_num_threads(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_as_many_threads_as_its_caller() {
        let before = tch::get_num_threads();
        // Leaves one thread on every worker, as an earlier and smaller piece of work would. libtorch
        // initialises a thread when it is first asked for its number, with the number that any thread has set
        // last. Hence the call before.
        pool().unwrap().broadcast(|_| {
            tch::get_num_threads();
            tch::set_num_threads(1);
        });
        tch::set_num_threads(2);
        assert_eq!(beside(tch::get_num_threads, tch::get_num_threads).unwrap(), (2, 2));
        tch::set_num_threads(before);
    }
}
