//! Transport plans between two snapshots, which can be followed forwards and backwards.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{check_finite, shape_text};

/// Share of the average mass of a row. A row with less mass has no descendants.
const EXTINCT: f64 = 1e-9;
/// Least ratio of descendants that [`Plan::ratio`] returns: the growth rate of a row that dies out has no
/// bound.
const FEWEST: f64 = 1e-3;

/// Mass `[n, m]` that goes from each row of one set to each row of the next.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Partners of each row of the first set in the second.
    ahead: Vec<Choices>,
    /// Partners of each row of the second set in the first.
    back: Vec<Choices>,
    /// Rows with descendants.
    alive: Vec<usize>,
    /// Mass that leaves each row, divided by the average.
    ratios: Vec<f64>,
}

/// Partners of one row, with the cumulative sums of their masses.
#[derive(Debug, Clone, Default)]
struct Choices {
    partners: Vec<u32>,
    sums: Vec<f64>,
}

impl Choices {
    fn add(&mut self, partner: usize, mass: f64) {
        self.partners.push(partner as u32);
        self.sums.push(self.total() + mass);
    }

    fn total(&self) -> f64 {
        self.sums.last().copied().unwrap_or(0.0)
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        let mark = rng.random::<f64>() * self.total();
        let place = self.sums.partition_point(|&sum| sum <= mark).min(self.sums.len() - 1);
        self.partners[place] as usize
    }
}

impl Plan {
    /// A plan from its masses `[n, m]`, in any unit. Row sums that differ from one another describe growth.
    ///
    /// # Errors
    /// An error that names `coupling` if the shape is wrong, if masses are negative or not finite, if all are
    /// 0, or if those of a row of the second set are all 0.
    pub fn new(masses: &Tensor, rows: i64, columns: i64) -> Result<Plan> {
        if masses.size() != [rows, columns] {
            let expected = format!("a plan {}", shape_text(&[rows, columns]));
            return Err(Error::shape("coupling", expected, shape_text(&masses.size())));
        }
        check_finite("coupling", masses)?;
        let flat = masses.to_kind(Kind::Double).to_device(Device::Cpu).contiguous().f_view([-1])?;
        let flat = Vec::<f64>::try_from(&flat)?;
        let least = flat.iter().copied().fold(0.0, f64::min);
        if least < 0.0 {
            return Err(Error::argument("coupling", "masses of at least 0", least));
        }
        let total: f64 = flat.iter().sum();
        if total <= 0.0 {
            return Err(vanished("a plan with some mass above 0", "only zeros"));
        }
        let (rows, columns) = (rows as usize, columns as usize);
        let mut plan = Plan {
            ahead: vec![Choices::default(); rows],
            back: vec![Choices::default(); columns],
            alive: Vec::new(),
            ratios: Vec::new(),
        };
        for (row, masses) in flat.chunks_exact(columns).enumerate() {
            for (column, &mass) in masses.iter().enumerate().filter(|(_, &mass)| mass > 0.0) {
                plan.ahead[row].add(column, mass / total);
                plan.back[column].add(row, mass / total);
            }
        }
        if let Some(column) = plan.back.iter().position(|choices| choices.total() <= EXTINCT / columns as f64)
        {
            return Err(vanished(
                "mass above 0 for each row of the later snapshot",
                format!("none for row {column}"),
            ));
        }
        plan.ratios = plan.ahead.iter().map(|choices| choices.total() * rows as f64).collect();
        plan.alive = (0..rows).filter(|&row| plan.ratios[row] > EXTINCT).collect();
        Ok(plan)
    }

    /// A random row with descendants, uniformly.
    pub(super) fn start(&self, rng: &mut ChaCha8Rng) -> usize {
        self.alive[rng.random_range(0..self.alive.len())]
    }

    /// A random descendant of `row`, by mass.
    pub(super) fn descendant(&self, row: usize, rng: &mut ChaCha8Rng) -> usize {
        match self.alive.binary_search(&row) {
            Ok(_) => self.ahead[row].draw(rng),
            // A row without descendants has no successor, so the chain continues from a random row.
            Err(_) => self.ahead[self.start(rng)].draw(rng),
        }
    }

    /// A random ancestor of a row of the second set, by mass.
    pub(super) fn ancestor(&self, row: usize, rng: &mut ChaCha8Rng) -> usize {
        self.back[row].draw(rng)
    }

    /// Number of descendants of a row, relative to the average row; at least a thousandth.
    pub fn ratio(&self, row: usize) -> f64 {
        self.ratios[row].max(FEWEST)
    }

    /// [`Plan::ratio`] of all rows with descendants.
    pub(super) fn ratios(&self) -> impl Iterator<Item = f64> + '_ {
        self.alive.iter().map(|&row| self.ratio(row))
    }
}

fn vanished(expected: &str, got: impl ToString) -> Error {
    Error::argument("coupling", expected, got)
}
