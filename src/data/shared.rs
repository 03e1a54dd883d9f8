//! Trajectories solved by several ranks. Each rank solves its own chunks, and all ranks receive them.

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::generate::{Generation, CAUTION, FEWEST};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::world::World;

/// The count that a rank reports for a round in which it failed.
const FAILED: f64 = -1.0;

impl Generation<'_> {
    /// [`Generation::run`] from trajectory `done` on, by all ranks of the monitor's world. `store` receives
    /// all trajectories on every rank. Without a time limit they are the same as with one rank, bit for bit.
    ///
    /// # Errors
    /// As [`Generation::run`]; [`Error::Distributed`] if another rank fails.
    pub fn run_shared(
        &self,
        mut done: i64,
        mut store: impl FnMut(i64, &Tensor) -> Result<()>,
        monitor: &mut dyn Monitor,
    ) -> Result<(i64, Vec<String>)> {
        let (world, count, limit) = (monitor.world().clone(), self.plan.count, self.plan.max_seconds);
        if world.is_alone() {
            return self.run(done..count, limit, store, monitor);
        }
        let started = Instant::now();
        let like = Tensor::f_zeros([1], (Kind::Float, self.plan.device))?;
        let (mut rows, mut notes) = (FEWEST, Vec::new());
        while done < count {
            let began = started.elapsed().as_secs_f64();
            let left = limit.map(|limit| limit - began);
            // Without a time limit, whole chunks are solved, as in a single process. With one, a round has as
            // many rows as there is time for.
            let first = done;
            let edge = |rank: i64| match limit {
                Some(_) => first + rank * rows,
                None if rank == 0 => first,
                None => (first / self.chunk_rows + rank) * self.chunk_rows,
            };
            let range = |rank: i64| edge(rank).min(count)..edge(rank + 1).min(count);
            let own = range(world.rank());
            let mut solved = Vec::new();
            let keep = |_: i64, part: &Tensor| {
                solved.push(part.to_device(self.plan.device));
                Ok(())
            };
            let outcome = self.run(own.clone(), left, keep, monitor);
            let said = match &outcome {
                Ok((end, _)) => (end - own.start) as f64,
                Err(_) => FAILED,
            };
            let all = world.numbers(said, &like)?;
            notes.extend(outcome?.1);
            if let Some(rank) = all.iter().position(|said| *said == FAILED) {
                let why = "failed while solving trajectories; its own error says why";
                return Err(Error::Distributed(format!("rank {rank} of {} {why}", world.size())));
            }
            let solved = match solved.is_empty() {
                true => None,
                false => Some(Tensor::f_cat(&solved, 0)?),
            };
            let mut whole = true;
            for (rank, said) in all.iter().enumerate() {
                let (range, said) = (range(rank as i64), *said as i64);
                if said > 0 && whole {
                    let own = solved.as_ref().filter(|_| rank as i64 == world.rank());
                    let states = self.handed(&world, said, own)?;
                    store(range.start, &states)?;
                    done = range.start + said;
                }
                whole &= said == range.end - range.start;
            }
            if limit.is_some() {
                let now = started.elapsed().as_secs_f64();
                let fitting = CAUTION * left.unwrap_or(0.0).min(f64::MAX) - CAUTION * (now - began);
                let fitting = fitting * rows as f64 / (now - began).max(1e-9);
                // The clock of the leading rank counts.
                let fitting = world.numbers(fitting, &like)?[0];
                if !whole || fitting < FEWEST as f64 {
                    break;
                }
                rows = (4 * rows).min(fitting as i64);
            }
        }
        Ok((done, notes))
    }

    /// Sends `count` trajectories from the rank that has them (`own` is not `None`) to all ranks.
    fn handed(&self, world: &World, count: i64, own: Option<&Tensor>) -> Result<Tensor> {
        let shape = [count, self.plan.path_steps + 1, self.teacher.event_size()];
        let states = match own {
            Some(own) => own.shallow_clone(),
            None => Tensor::f_zeros(shape, (Kind::Float, self.plan.device))?,
        };
        world.sum(&states)
    }
}

/// The whole numbers of the leading rank, on every rank.
///
/// # Errors
/// As [`World::sum`].
pub(super) fn told<const N: usize>(world: &World, own: [u64; N], device: Device) -> Result<[u64; N]> {
    if world.is_alone() {
        return Ok(own);
    }
    // Two halves of 32 bits each, which a float64 holds exactly.
    let halves: Vec<f64> = own
        .iter()
        .flat_map(|number| [(number >> 32) as f64, (number & u64::from(u32::MAX)) as f64])
        .map(|half| if world.leads() { half } else { 0.0 })
        .collect();
    let sum = world.sum(&Tensor::from_slice(&halves).to_device(device))?.to_device(Device::Cpu);
    let halves = Vec::<f64>::try_from(&sum)?;
    Ok(std::array::from_fn(|place| (halves[2 * place] as u64) << 32 | halves[2 * place + 1] as u64))
}
