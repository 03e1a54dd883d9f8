//! Measured time series: paths of unequal lengths, with gaps, inputs and conditions.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{chunks, dtype_name, exact, shape_text, shared, RandomSource};

/// Number of rows that are processed at once.
const CHUNK_ROWS: i64 = 1 << 16;

/// Largest relative distance of a time step on a grid from a multiple of the smallest step.
const OFF_GRID: f64 = 1e-3;

/// Least share of time steps that equal the spacing of a grid. If more are longer, times are treated as
/// irregular.
const MOSTLY: f64 = 0.5;

/// Concatenated paths. Everything is on the CPU and in the given dtype, so that large data (10,000 paths of
/// 1,000 steps) are not copied.
pub struct Observed {
    /// Values `[R, d]`; NaN for missing values.
    values: Tensor,
    /// Times `[R]`, increasing within a path.
    times: Arc<Vec<f64>>,
    /// First row of each path, and the number of rows: `[N + 1]`.
    offsets: Arc<Vec<usize>>,
    /// Inputs `[R, u]`, constant from each row to the next.
    inputs: Option<Tensor>,
    /// Conditions `[N, c]`, float64.
    conditions: Option<Tensor>,
    /// Whether each row is complete, without missing values.
    whole: Arc<Vec<bool>>,
    spacing: Option<f64>,
}

shared!(Observed { values, inputs, conditions; times, offsets, whole, spacing });

/// Consecutive complete rows of one path, on the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub path: usize,
    pub first: usize,
    pub length: usize,
}

/// Mean, deviation and range of each coordinate, `[d]`, float64.
#[derive(Debug)]
pub struct Statistics {
    pub mean: Tensor,
    /// Standard deviation; 1 for a constant coordinate.
    pub scale: Tensor,
    pub low: Tensor,
    pub high: Tensor,
}

impl Observed {
    /// Paths of `lengths`, with `values` `[R, d]` (NaN for missing values), `times` `[R]`, `inputs` `[R, u]`
    /// and `conditions` `[N, c]`. The default times are 0, 1, 2, ... for each path.
    ///
    /// # Errors
    /// An error that names `paths`, `times`, `inputs` or `condition`.
    pub fn new(
        values: &Tensor,
        lengths: &[usize],
        times: Option<Vec<f64>>,
        inputs: Option<&Tensor>,
        conditions: Option<&Tensor>,
    ) -> Result<Self> {
        let rows: usize = lengths.iter().sum();
        let size = values.size();
        if size.len() != 2 || size[0] != rows as i64 || rows == 0 || size[1] == 0 {
            return Err(Error::shape("paths", format!("({rows}, d), both above 0"), shape_text(&size)));
        }
        if !values.is_floating_point() {
            return Err(Error::dtype("paths", "a floating-point array", dtype_name(values.kind())));
        }
        if lengths.contains(&0) {
            return Err(Error::argument("paths", "at least one row in each path", "an empty path"));
        }
        let values = values.detach().to_device(Device::Cpu).contiguous();
        let whole = whole_rows(&values)?;
        let offsets: Vec<usize> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |sum, length| {
                *sum += length;
                Some(*sum)
            }))
            .collect();
        let times = times.unwrap_or_else(|| lengths.iter().flat_map(|n| (0..*n).map(|i| i as f64)).collect());
        if times.len() != rows {
            return Err(Error::shape("times", format!("({rows},)"), format!("({},)", times.len())));
        }
        check_times(&times, &offsets)?;
        let inputs = inputs.map(|inputs| checked("inputs", inputs, rows as i64)).transpose()?;
        let conditions =
            conditions.map(|c| checked("condition", c, lengths.len() as i64)).transpose()?.map(|c| exact(&c));
        let (times, offsets, whole) = (Arc::new(times), Arc::new(offsets), Arc::new(whole));
        let mut own = Observed { values, times, offsets, inputs, conditions, whole, spacing: None };
        own.spacing = own.grid();
        Ok(own)
    }

    pub fn paths(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn rows(&self) -> usize {
        self.times.len()
    }

    /// Number of coordinates d.
    pub fn dimension(&self) -> i64 {
        self.values.size()[1]
    }

    /// Number of inputs u; 0 without inputs.
    pub fn input_size(&self) -> i64 {
        self.inputs.as_ref().map_or(0, |inputs| inputs.size()[1])
    }

    /// Number of conditions c; 0 without conditions.
    pub fn condition_size(&self) -> i64 {
        self.conditions.as_ref().map_or(0, |c| c.size()[1])
    }

    pub fn times(&self) -> &[f64] {
        &self.times
    }

    /// Spacing of the time grid; `None` for irregular times.
    pub fn spacing(&self) -> Option<f64> {
        self.spacing
    }

    /// The median time step; 1 if every path has a single row.
    pub fn typical_spacing(&self) -> f64 {
        let mut steps: Vec<f64> = self.steps().collect();
        if steps.is_empty() {
            return 1.0;
        }
        let middle = steps.len() / 2;
        *steps.select_nth_unstable_by(middle, f64::total_cmp).1
    }

    /// Rows of a path.
    pub fn range(&self, path: usize) -> Range<usize> {
        self.offsets[path]..self.offsets[path + 1]
    }

    /// Rows of all paths.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        (0..self.paths()).map(|path| self.range(path)).collect()
    }

    /// Values of consecutive rows, float64 `[rows, d]`.
    pub fn values(&self, rows: Range<usize>) -> Tensor {
        exact(&self.values.narrow(0, rows.start as i64, rows.len() as i64))
    }

    /// Inputs of consecutive rows, float64 `[rows, u]`.
    pub fn inputs(&self, rows: Range<usize>) -> Option<Tensor> {
        self.inputs.as_ref().map(|inputs| exact(&inputs.narrow(0, rows.start as i64, rows.len() as i64)))
    }

    /// The condition of a path, `[c]`.
    pub fn condition(&self, path: usize) -> Option<Tensor> {
        self.conditions.as_ref().map(|c| c.select(0, path as i64))
    }

    /// The path that contains a row.
    pub fn path_of(&self, row: usize) -> usize {
        self.offsets.partition_point(|first| *first <= row) - 1
    }

    pub fn seen_whole(&self, row: usize) -> bool {
        self.whole[row]
    }

    /// Splits the rows into those to fit to and held-out ones. A random `share` of whole paths is held out.
    /// Of a single path its end is held out, at least `least` rows; nothing is held out if it is too short.
    pub fn split(&self, share: f64, least: usize, random: &mut RandomSource) -> [Vec<Range<usize>>; 2] {
        let all = self.ranges();
        if share == 0.0 {
            return [all, Vec::new()];
        }
        if let [only] = all.as_slice() {
            let apart = ((only.len() as f64 * share) as usize).max(least);
            let cut = only.end.saturating_sub(apart);
            return match cut > only.start + least {
                true => [only.start..cut, cut..only.end].map(|rows| std::iter::once(rows).collect()),
                false => [all, Vec::new()],
            };
        }
        let order: Vec<i64> =
            Vec::try_from(&random.permutation(all.len() as i64, Device::Cpu)).unwrap_or_default();
        let apart = ((all.len() as f64 * share).round() as usize).clamp(1, all.len() - 1);
        let mut parts = [Vec::new(), Vec::new()];
        for (place, path) in order.iter().enumerate() {
            parts[usize::from(place < apart)].push(all[*path as usize].clone());
        }
        parts.iter_mut().for_each(|part| part.sort_by_key(|rows| rows.start));
        parts
    }

    /// Runs of at least `least` consecutive complete rows on the grid, within `ranges`.
    pub fn segments(&self, ranges: &[Range<usize>], least: usize) -> Vec<Segment> {
        let Some(spacing) = self.spacing else { return Vec::new() };
        let mut found = Vec::new();
        for rows in ranges {
            let path = self.path_of(rows.start);
            let mut first = rows.start;
            for row in rows.clone() {
                let follows = row > first
                    && self.whole[row]
                    && self.times[row] - self.times[row - 1] < spacing * (1.0 + 2.0 * OFF_GRID);
                if follows {
                    continue;
                }
                keep(&mut found, Segment { path, first, length: row - first }, least);
                first = if self.whole[row] { row } else { row + 1 };
            }
            keep(&mut found, Segment { path, first, length: rows.end.saturating_sub(first) }, least);
        }
        found
    }

    /// Statistics of the values that are not missing.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming `paths` for a coordinate without any value.
    pub fn statistics(&self) -> Result<Statistics> {
        let d = self.dimension();
        let zeros = || Tensor::zeros([d], (Kind::Double, Device::Cpu));
        let (mut count, mut sum) = (zeros(), zeros());
        let (mut low, mut high) = (zeros() + f64::INFINITY, zeros() - f64::INFINITY);
        let over = [0i64];
        let each = |first: i64, rows: i64| exact(&self.values.narrow(0, first, rows));
        for (first, rows) in chunks(self.rows() as i64, CHUNK_ROWS) {
            let x = each(first, rows);
            let unseen = x.isnan();
            count += unseen.logical_not().sum_dim_intlist(over.as_slice(), false, Kind::Double);
            sum += x.f_nansum(over.as_slice(), false, Kind::Double)?;
            low = low.minimum(&x.masked_fill(&unseen, f64::INFINITY).amin(over.as_slice(), false));
            high = high.maximum(&x.masked_fill(&unseen, f64::NEG_INFINITY).amax(over.as_slice(), false));
        }
        if count.min().double_value(&[]) == 0.0 {
            let place = count.argmin(None, false).int64_value(&[]);
            let message = format!("coordinate {place} is NaN or masked everywhere");
            return Err(Error::NonFinite { argument: "paths".into(), message });
        }
        let mean = sum / &count;
        let mut square = zeros();
        for (first, rows) in chunks(self.rows() as i64, CHUNK_ROWS) {
            square += (each(first, rows) - &mean).square().f_nansum(over.as_slice(), false, Kind::Double)?;
        }
        let deviation = (square / count).sqrt();
        // A coordinate counts as constant if it varies only by rounding.
        let constant = deviation.le_tensor(&(mean.abs() * 1e-12));
        Ok(Statistics { scale: deviation.masked_fill(&constant, 1.0), mean, low, high })
    }

    fn steps(&self) -> impl Iterator<Item = f64> + '_ {
        self.offsets
            .windows(2)
            .flat_map(|ends| self.times[ends[0]..ends[1]].windows(2).map(|pair| pair[1] - pair[0]))
    }

    fn grid(&self) -> Option<f64> {
        let least = self.steps().fold(f64::INFINITY, f64::min);
        if !least.is_finite() {
            // With single rows there are no steps, so any spacing fits.
            return Some(1.0);
        }
        let (mut on, mut all) = (0usize, 0usize);
        let (mut span, mut multiples) = (0.0, 0.0);
        for step in self.steps() {
            let multiple = step / least;
            if (multiple - multiple.round()).abs() > OFF_GRID * multiple {
                return None;
            }
            on += usize::from(multiple.round() == 1.0);
            all += 1;
            span += step;
            multiples += multiple.round();
        }
        // The average over all steps has less rounding error than a single difference.
        (on as f64 >= MOSTLY * all as f64).then_some(plain(span / multiples))
    }
}

/// Rounds to twelve digits, so that sums of rounded differences give 0.1 and not 0.10000000000000003.
fn plain(step: f64) -> f64 {
    format!("{step:.11e}").parse().unwrap_or(step)
}

fn keep(found: &mut Vec<Segment>, segment: Segment, least: usize) {
    if segment.length >= least.max(1) {
        found.push(segment);
    }
}

fn checked(argument: &str, x: &Tensor, rows: i64) -> Result<Tensor> {
    let size = x.size();
    if size.len() != 2 || size[0] != rows || size[1] == 0 {
        return Err(Error::shape(argument, format!("({rows}, columns)"), shape_text(&size)));
    }
    crate::tensor::check_finite(argument, x)?;
    Ok(x.detach().to_device(Device::Cpu))
}

fn whole_rows(values: &Tensor) -> Result<Vec<bool>> {
    let mut whole = Vec::with_capacity(values.size()[0] as usize);
    for (first, rows) in chunks(values.size()[0], CHUNK_ROWS) {
        let part = values.narrow(0, first, rows);
        let infinite = part.isinf().sum(Kind::Int64).int64_value(&[]);
        if infinite > 0 {
            let message = format!("{infinite} values are infinite; use NaN for missing values");
            return Err(Error::NonFinite { argument: "paths".into(), message });
        }
        whole.extend(Vec::<bool>::try_from(part.isnan().any_dim(1, false).logical_not())?);
    }
    Ok(whole)
}

fn check_times(times: &[f64], offsets: &[usize]) -> Result<()> {
    if let Some(bad) = times.iter().find(|time| !time.is_finite()) {
        let message = format!("expected finite times, got {bad}");
        return Err(Error::NonFinite { argument: "times".into(), message });
    }
    for (path, ends) in offsets.windows(2).enumerate() {
        let own = &times[ends[0]..ends[1]];
        if let Some(place) = own.windows(2).position(|pair| pair[1] <= pair[0]) {
            let got = format!("{} after {} in path {path}", own[place + 1], own[place]);
            return Err(Error::argument("times", "increasing times within each path", got));
        }
    }
    Ok(())
}
