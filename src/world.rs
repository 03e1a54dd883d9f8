//! The processes that share one computation, joined by `torch.distributed`. Every rank makes the same calls
//! in the same order, on its own share of the rows.

use std::fmt;
use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// The one collective operation, the sum over ranks, from which koopflow builds all others.
pub trait Collective: Send + Sync {
    /// Sums the contiguous tensor `x` over all ranks, in place. The result is the same on every rank, bit for
    /// bit.
    ///
    /// # Errors
    /// [`Error::Distributed`] if another rank has exited or does not respond.
    fn sum(&self, x: &Tensor) -> Result<()>;
}

/// One rank's view of the processes. The default is a single process.
#[derive(Clone)]
pub struct World {
    rank: i64,
    size: i64,
    collective: Option<Arc<dyn Collective>>,
}

/// The world of a computation in a single process.
pub static ALONE: World = World { rank: 0, size: 1, collective: None };

impl World {
    /// Rank number `rank` of `size`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `rank` is out of range.
    pub fn new(rank: i64, size: i64, collective: Arc<dyn Collective>) -> Result<Self> {
        match (0..size).contains(&rank) {
            true => Ok(World { rank, size, collective: Some(collective).filter(|_| size > 1) }),
            false => Err(Error::argument("rank", format!("an integer from 0 to {}", size - 1), rank)),
        }
    }

    pub fn rank(&self) -> i64 {
        self.rank
    }

    pub fn size(&self) -> i64 {
        self.size
    }

    pub fn is_alone(&self) -> bool {
        self.collective.is_none()
    }

    /// Whether this is the leading rank, rank 0. Its clock and its metrics count, and only it writes files.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// This rank's share of `count` rows: the first row and the number of rows. Numbers differ between ranks
    /// by one at most.
    pub fn share(&self, count: i64) -> (i64, i64) {
        let edge = |rank: i64| count * rank / self.size;
        (edge(self.rank), edge(self.rank + 1) - edge(self.rank))
    }

    /// [`World::share`] of the `count` rows of a training step. Every rank needs at least `least` rows.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `batch_size` if there are too few rows.
    pub fn share_of_batch(&self, count: i64, least: i64) -> Result<(i64, i64)> {
        if !self.is_alone() && count < least * self.size {
            let expected = format!("at least {} rows per step for {} ranks", least * self.size, self.size);
            return Err(Error::argument("batch_size", expected, count));
        }
        Ok(self.share(count))
    }

    /// The sum of `x` over all ranks.
    ///
    /// # Errors
    /// Any error of [`Collective::sum`].
    pub fn sum(&self, x: &Tensor) -> Result<Tensor> {
        if self.is_alone() {
            return Ok(x.shallow_clone());
        }
        let whole = x.detach().copy().contiguous();
        self.add_up(&whole)?;
        Ok(whole)
    }

    /// Sums a contiguous tensor over all ranks, in place.
    ///
    /// # Errors
    /// As [`World::sum`].
    pub fn add_up(&self, x: &Tensor) -> Result<()> {
        self.collective.as_ref().map_or(Ok(()), |collective| collective.sum(x))
    }

    /// The tensors of all ranks, stacked in the order of the ranks: `[size, ...]`. All must have one shape.
    ///
    /// # Errors
    /// As [`World::sum`].
    pub fn all(&self, x: &Tensor) -> Result<Tensor> {
        let own = x.unsqueeze(0);
        if self.is_alone() {
            return Ok(own);
        }
        let mut shape = own.size();
        shape[0] = self.size;
        let whole = Tensor::f_zeros(shape.as_slice(), (x.kind(), x.device()))?;
        whole.narrow(0, self.rank, 1).f_copy_(&own)?;
        self.add_up(&whole)?;
        Ok(whole)
    }

    /// One number from every rank, in the order of the ranks.
    ///
    /// # Errors
    /// As [`World::sum`].
    pub fn numbers(&self, own: f64, like: &Tensor) -> Result<Vec<f64>> {
        let own = Tensor::f_full([1], own, (Kind::Double, like.device()))?;
        Ok(Vec::<f64>::try_from(&self.all(&own)?.to_device(tch::Device::Cpu).f_view([-1])?)?)
    }
}

impl Default for World {
    fn default() -> Self {
        ALONE.clone()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}
