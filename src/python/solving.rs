//! Options of an ODE solver, as passed from Python.

use pyo3::prelude::*;

use crate::error::Result;
use crate::ode::{Grid, SolveOptions};

/// A grid of steps: `"tau"`, `"log_snr"`, `"uniform"`, or times.
#[derive(FromPyObject)]
pub enum GridArgument {
    Name(String),
    Times(Vec<f64>),
}

pub fn solve_options(
    solver: &str,
    steps: u64,
    rtol: f64,
    atol: f64,
    grid: Option<GridArgument>,
) -> Result<SolveOptions> {
    let grid = match grid {
        None => None,
        Some(GridArgument::Name(name)) => Some(name.parse()?),
        Some(GridArgument::Times(times)) => Some(Grid::Times(times)),
    };
    Ok(SolveOptions { solver: solver.parse()?, steps, rtol, atol, grid })
}
