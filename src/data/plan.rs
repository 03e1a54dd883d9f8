//! Transport plans between two snapshots, to be followed forwards and backwards.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{check_finite, shape_text};

/// Of the mass that a row would have in a plan without growth: below it, a row has no descendants.
const EXTINCT: f64 = 1e-9;
/// Fewer descendants count as these: the rate of what dies out has no bound.
const FEWEST: f64 = 1e-3;

/// Mass `[n, m]` that goes from each row of one set to each row of the next.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where mass goes from each row, and where it comes from.
    ahead: Vec<Choices>,
    back: Vec<Choices>,
    /// Rows with descendants.
    alive: Vec<usize>,
    /// Mass that leaves each row, over that of an average row.
    ratios: Vec<f64>,
}

/// Partners of one row, by the sums of their masses so far.
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
    /// A plan by its masses `[n, m]`, in any unit. Sums of rows other than one another are growth.
    ///
    /// # Errors
    /// Names `coupling` where the shape is another, and where masses are negative, not finite or vanish: all of them,
    /// or those that lead to a row of the second set.
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
            return Err(vanished("a plan of some mass", "none at all"));
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
                "some mass for each row of the later snapshot",
                format!("none for row {column}"),
            ));
        }
        plan.ratios = plan.ahead.iter().map(|choices| choices.total() * rows as f64).collect();
        plan.alive = (0..rows).filter(|&row| plan.ratios[row] > EXTINCT).collect();
        Ok(plan)
    }

    /// A row with descendants, each as likely as any other.
    pub(super) fn start(&self, rng: &mut ChaCha8Rng) -> usize {
        self.alive[rng.random_range(0..self.alive.len())]
    }

    /// A descendant of a row that has some.
    pub(super) fn descendant(&self, row: usize, rng: &mut ChaCha8Rng) -> usize {
        match self.alive.binary_search(&row) {
            Ok(_) => self.ahead[row].draw(rng),
            // One that has none goes nowhere in particular: its mass is gone before it gets there.
            Err(_) => self.ahead[self.start(rng)].draw(rng),
        }
    }

    /// An ancestor of a row of the second set.
    pub(super) fn ancestor(&self, row: usize, rng: &mut ChaCha8Rng) -> usize {
        self.back[row].draw(rng)
    }

    /// Descendants of a row, where the average row has 1: at least a thousandth.
    pub fn ratio(&self, row: usize) -> f64 {
        self.ratios[row].max(FEWEST)
    }

    /// Ratios of the rows with descendants.
    pub(super) fn ratios(&self) -> impl Iterator<Item = f64> + '_ {
        self.alive.iter().map(|&row| self.ratio(row))
    }
}

fn vanished(expected: &str, got: impl ToString) -> Error {
    Error::argument("coupling", expected, got)
}
