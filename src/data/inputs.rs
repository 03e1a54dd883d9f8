//! The input data of a fit.

use std::path::PathBuf;

use tch::{Kind, Tensor};

use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::tensor::{check_batch, Share};
use crate::velocity::VelocityField;

/// Data of the teacher and the file of trajectories. Everything is optional.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Labels `[P]` or vectors `[P, dim]` from which the conditions of trajectories are drawn, for a
    /// conditional teacher. The default is the conditions of the data for vectors, and all classes equally
    /// for labels.
    pub pool: Option<Tensor>,
    /// Training data of the teacher, `[N, *event]`, for points on probability paths, which need no solver.
    pub data: Option<Tensor>,
    /// Noise of each row of `data`, `[N, *event]`, for a teacher that was trained on given pairs.
    pub noise: Option<Tensor>,
    /// Condition of each row of `data`; the default is `pool`.
    pub data_condition: Option<Tensor>,
    /// File in which trajectories are stored and from which they are reused.
    pub trajectory_file: Option<PathBuf>,
    /// Whether to solve the trajectories of that file again.
    pub refresh: bool,
}

impl Inputs {
    /// New handles on the same tensors.
    pub fn shallow_clone(&self) -> Inputs {
        Inputs {
            pool: self.pool.shallow_clone(),
            data: self.data.shallow_clone(),
            noise: self.noise.shallow_clone(),
            data_condition: self.data_condition.shallow_clone(),
            trajectory_file: self.trajectory_file.clone(),
            refresh: self.refresh,
        }
    }

    /// Checks shapes and lengths, even of inputs that no term of the objective will use.
    ///
    /// # Errors
    /// An error that names `data` or `condition`.
    pub fn check(&self, teacher: &dyn VelocityField) -> Result<()> {
        let conditioning = teacher.conditioning();
        if let Some(pool) = &self.pool {
            let rows = pool.size().first().copied().unwrap_or(0);
            if rows == 0 && conditioning != Conditioning::None {
                return Err(Error::argument("condition", "at least one row", "an empty array"));
            }
            conditioning.check(Some(pool), rows)?;
        }
        if let Some(data) = &self.data {
            let count = check_batch("data", data, teacher.event_shape())?;
            conditioning.check(self.data_condition.as_ref().or(self.pool.as_ref()), count)?;
        }
        Ok(())
    }

    /// The rows from which the conditions of trajectories are drawn.
    pub(super) fn condition_pool(&self, teacher: &dyn VelocityField) -> Result<Option<Tensor>> {
        let conditioning = teacher.conditioning();
        let pool = match (conditioning, &self.pool) {
            (Conditioning::Labels { classes }, None) => {
                Some(Tensor::arange(classes, (Kind::Int64, teacher.device())))
            }
            (_, pool) => pool.as_ref().or(self.data_condition.as_ref()).map(Tensor::shallow_clone),
        };
        conditioning.check(pool.as_ref(), pool.as_ref().map_or(0, |rows| rows.size()[0]))?;
        Ok(pool)
    }
}
