//! Batches prepared ahead of the training step, on other threads.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use rayon::ThreadPool;

use super::coupling::Stop;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};
use crate::tensor::threads;

/// A source whose batches depend only on their number.
pub trait Batches: Send + Sync + 'static {
    type Batch: Send + 'static;

    /// Batch number `step`, or `None` if `stop` was raised first.
    ///
    /// # Errors
    /// Any error of the source.
    fn batch_until(&self, step: u64, stop: &Stop) -> Result<Option<Self::Batch>>;
}

/// Time between two calls of the monitor while a batch is awaited.
const WAIT: Duration = Duration::from_millis(50);

struct Job<B> {
    stop: Arc<Stop>,
    result: Receiver<Result<Option<B>>>,
}

/// The batches `first..end` of a source, in order, prepared ahead on the shared thread pool, whose threads
/// hold no Python lock. At most twice as many batches as threads exist at once. Dropping the stream cancels
/// unfinished batches.
pub struct Prefetch<S: Batches> {
    source: Arc<S>,
    pool: Arc<ThreadPool>,
    jobs: VecDeque<Job<S::Batch>>,
    depth: usize,
    next: u64,
    end: u64,
}

impl<S: Batches> Prefetch<S> {
    /// Starts to prepare batches.
    ///
    /// # Errors
    /// [`Error::Internal`] if worker threads cannot be started.
    pub fn new(source: S, first: u64, end: u64) -> Result<Self> {
        Prefetch::on(threads::pool()?, source, first, end)
    }

    /// [`Prefetch::new`] on a given thread pool.
    pub fn on(pool: Arc<ThreadPool>, source: S, first: u64, end: u64) -> Result<Self> {
        let depth = (2 * pool.current_num_threads()).clamp(2, 16);
        let mut stream =
            Prefetch { source: Arc::new(source), pool, jobs: VecDeque::new(), depth, next: first, end };
        stream.refill();
        Ok(stream)
    }

    fn refill(&mut self) {
        while self.jobs.len() < self.depth && self.next < self.end {
            let (sender, result) = sync_channel(1);
            let stop = Arc::new(Stop::default());
            let (source, step, raised) = (Arc::clone(&self.source), self.next, Arc::clone(&stop));
            self.pool.spawn_fifo(move || {
                // A panic that left this closure would abort the process.
                let answer = catch_unwind(AssertUnwindSafe(|| source.batch_until(step, &raised)))
                    .unwrap_or_else(|_| Err(Error::Internal(anyhow::anyhow!("the coupling panicked"))));
                // Sending fails if the stream has been dropped.
                let _ = sender.send(answer);
            });
            self.jobs.push_back(Job { stop, result });
            self.next += 1;
        }
    }

    /// The next batch, or `None` after the last. The monitor is called while the batch is awaited, because
    /// large assignments take long.
    ///
    /// # Errors
    /// Any error of the monitor, after which the stream must not be used; [`Error::Internal`] if a worker
    /// failed.
    pub fn watched(&mut self, monitor: &mut dyn Monitor) -> Option<Result<S::Batch>> {
        let lost = || Error::Internal(anyhow::anyhow!("a coupling worker ended without a result"));
        loop {
            match self.jobs.front()?.result.recv_timeout(WAIT) {
                Err(RecvTimeoutError::Timeout) => match monitor.tick() {
                    Ok(()) => {}
                    Err(error) => return Some(Err(error)),
                },
                Err(RecvTimeoutError::Disconnected) => return Some(Err(lost())),
                Ok(answer) => {
                    self.jobs.pop_front();
                    self.refill();
                    return Some(answer.and_then(|batch| batch.ok_or_else(lost)));
                }
            }
        }
    }
}

impl<S: Batches> Iterator for Prefetch<S> {
    type Item = Result<S::Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.watched(&mut Silent)
    }
}

impl<S: Batches> Drop for Prefetch<S> {
    fn drop(&mut self) {
        self.jobs.iter().for_each(|job| job.stop.raise());
    }
}
