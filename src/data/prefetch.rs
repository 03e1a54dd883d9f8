//! Batches made ahead of the training step, on other threads.

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

/// A source whose batches depend on their number alone.
pub trait Batches: Send + Sync + 'static {
    type Batch: Send + 'static;

    /// Batch number `step`, or `None` where `stop` was raised first.
    ///
    /// # Errors
    /// Whatever stands in the way of a batch.
    fn batch_until(&self, step: u64, stop: &Stop) -> Result<Option<Self::Batch>>;
}

/// Time between two looks at the monitor while a batch is awaited.
const WAIT: Duration = Duration::from_millis(50);

struct Job<B> {
    stop: Arc<Stop>,
    result: Receiver<Result<Option<B>>>,
}

/// The batches `first..end` of a source, in order, computed ahead on the shared pool (which holds
/// no Python lock). At most twice as many batches as threads exist at once. Dropping the stream
/// ends what is under way.
pub struct Prefetch<S: Batches> {
    source: Arc<S>,
    pool: Arc<ThreadPool>,
    jobs: VecDeque<Job<S::Batch>>,
    depth: usize,
    next: u64,
    end: u64,
}

impl<S: Batches> Prefetch<S> {
    /// # Errors
    /// [`Error::Internal`] where no worker threads can be started.
    pub fn new(source: S, first: u64, end: u64) -> Result<Self> {
        Prefetch::on(threads::pool()?, source, first, end)
    }

    /// The same on a given pool.
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
                // A panic here would end the whole process.
                let answer = catch_unwind(AssertUnwindSafe(|| source.batch_until(step, &raised)))
                    .unwrap_or_else(|_| Err(Error::Internal(anyhow::anyhow!("the coupling panicked"))));
                // The other end is gone once the stream has been dropped.
                let _ = sender.send(answer);
            });
            self.jobs.push_back(Job { stop, result });
            self.next += 1;
        }
    }

    /// The next batch, or none after the last. An assignment of many pairs takes long: the monitor is asked
    /// meanwhile.
    ///
    /// # Errors
    /// Whatever the monitor answers, after which the stream is of no use; [`Error::Internal`] where a worker failed.
    pub fn watched(&mut self, monitor: &mut dyn Monitor) -> Option<Result<S::Batch>> {
        let lost = || Error::Internal(anyhow::anyhow!("a coupling worker ended without an answer"));
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
