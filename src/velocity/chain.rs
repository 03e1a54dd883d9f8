//! A sequence of flows, each of which continues where the previous one ends, like the blocks of Local Flow Matching
//! (Xu et al., arXiv 2410.02548).

use std::cell::Cell;

use tch::{Device, Kind, Tensor};

use super::source::without_source;
use super::{
    Conditioning, EvaluationCounter, FieldDescription, FieldState, Mixing, Moments, Source, VelocityField,
};
use crate::error::{Error, Result};
use crate::tensor::{device_name, dtype_name, shape_text};

/// Fields v_k, one for each interval between consecutive breaks: v(t, x) = v_k((t - b_k) / w_k, x) / w_k with
/// w_k = b_{k+1} - b_k. At a break the later field is evaluated. Times below 0 belong to the first field and times
/// above 1 to the last.
pub struct ChainField {
    blocks: Vec<Block>,
    /// The breaks inside (0, 1), `[K - 1]`, in the fields' dtype and on their device.
    inner: Tensor,
    counter: EvaluationCounter,
}

struct Block {
    field: Box<dyn VelocityField>,
    /// Start and length of the field's interval.
    start: f64,
    width: f64,
}

/// Rows of a batch that lie in one block.
struct Part {
    block: usize,
    /// Indices of the rows; `None` means all of them.
    rows: Option<Tensor>,
}

impl ChainField {
    /// `breaks` are the K + 1 rising times from 0 to 1 that bound the fields' intervals (default: equal intervals).
    /// The flow starts from the source of the first field; the sources of the others are ignored.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Shape`] or [`Error::Dtype`] naming `teachers` if there is none, or if one differs
    /// from the first in event shape, conditioning, device or dtype; [`Error::Argument`] naming `breaks`.
    pub fn new(fields: Vec<Box<dyn VelocityField>>, breaks: Option<&[f64]>) -> Result<Self> {
        let Some(first) = fields.first() else {
            return Err(Error::argument("teachers", "at least one teacher", "none"));
        };
        for (place, field) in fields.iter().enumerate() {
            check_alike(&format!("teachers[{place}]"), &**first, &**field)?;
        }
        let count = fields.len();
        let breaks = match breaks {
            Some(breaks) => checked_breaks(breaks, count)?,
            None => (0..=count).map(|k| k as f64 / count as f64).collect(),
        };
        let options = (first.dtype(), first.device());
        let inner = Tensor::from_slice(&breaks[1..count]).to_kind(options.0).to_device(options.1);
        let spans = breaks.windows(2).map(|ends| (ends[0], ends[1] - ends[0]));
        let blocks = fields.into_iter().zip(spans);
        let blocks = blocks.map(|(field, (start, width))| Block { field, start, width }).collect();
        Ok(ChainField { blocks, inner, counter: EvaluationCounter::default() })
    }

    fn first(&self) -> &dyn VelocityField {
        &*self.blocks[0].field
    }

    /// The rows that each block evaluates.
    fn parts(&self, t: &Tensor) -> Result<Vec<Part>> {
        let places = t.f_bucketize(&self.inner, false, true)?;
        let found = Vec::<i64>::try_from(places.f_to_device(Device::Cpu)?)?;
        let mut blocks: Vec<usize> = found.iter().map(|place| *place as usize).collect();
        blocks.sort_unstable();
        blocks.dedup();
        if blocks.len() <= 1 {
            return Ok(vec![Part { block: blocks.first().copied().unwrap_or(0), rows: None }]);
        }
        let rows = |block: usize| places.f_eq(block as i64)?.f_nonzero()?.f_squeeze_dim(1);
        blocks.into_iter().map(|block| Ok(Part { block, rows: Some(rows(block)?) })).collect()
    }

    /// Calls `ask` for each block with its rows of `tensors`, and joins the results to `N` tensors of all rows in
    /// their original order.
    fn gathered<const N: usize>(
        &self,
        t: &Tensor,
        tensors: &[&Tensor],
        condition: Option<&Tensor>,
        ask: impl Fn(&Block, &Tensor, &[Tensor], Option<&Tensor>) -> Result<[Tensor; N]>,
    ) -> Result<[Tensor; N]> {
        let parts = self.parts(t)?;
        let mut answers: Vec<[Tensor; N]> = Vec::with_capacity(parts.len());
        for Part { block, rows } in &parts {
            let take = |x: &Tensor| match rows {
                Some(rows) => x.f_index_select(0, rows),
                None => Ok(x.shallow_clone()),
            };
            let block = &self.blocks[*block];
            let own: Vec<Tensor> = tensors.iter().map(|x| take(x)).collect::<std::result::Result<_, _>>()?;
            let time = (take(t)? - block.start) / block.width;
            let before = block.field.evaluations();
            answers.push(ask(block, &time, &own, condition.map(take).transpose()?.as_ref())?);
            self.counter.add(block.field.evaluations().saturating_sub(before));
        }
        if answers.len() == 1 {
            return Ok(answers.swap_remove(0));
        }
        let rows: Vec<Tensor> = parts.into_iter().filter_map(|part| part.rows).collect();
        let back = Tensor::f_cat(&rows, 0)?.f_argsort(0, false)?;
        let mut whole = Vec::with_capacity(N);
        for place in 0..N {
            let pieces: Vec<&Tensor> = answers.iter().map(|answer| &answer[place]).collect();
            whole.push(Tensor::f_cat(&pieces, 0)?.f_index_select(0, &back)?);
        }
        let wrong = |_| Error::Internal(anyhow::anyhow!("the number of results differs from N"));
        whole.try_into().map_err(wrong)
    }

    /// Splits the tensors of [`VelocityField::state`] into those of each of `count` blocks.
    pub(super) fn split_state(tensors: &[(String, Tensor)], count: usize) -> Vec<Vec<(String, Tensor)>> {
        let own = |block: usize| {
            let prefix = prefix(block);
            let own = move |(name, tensor): &(String, Tensor)| {
                Some((name.strip_prefix(&prefix)?.to_string(), tensor.shallow_clone()))
            };
            tensors.iter().filter_map(own).collect()
        };
        (0..count).map(own).collect()
    }
}

/// The prefix of the names of a block's tensors.
fn prefix(block: usize) -> String {
    format!("blocks.{block}.")
}

fn check_alike(name: &str, first: &dyn VelocityField, field: &dyn VelocityField) -> Result<()> {
    if field.event_shape() != first.event_shape() {
        let [expected, got] = [first, field].map(|field| shape_text(field.event_shape()));
        return Err(Error::shape(name, format!("{expected}, the event shape of the first teacher"), got));
    }
    if field.conditioning() != first.conditioning() {
        let [expected, got] = [first, field].map(|field| conditioning_text(field.conditioning()));
        return Err(Error::argument(name, format!("a teacher that takes {expected} like the first"), got));
    }
    if field.device() != first.device() {
        let [expected, got] = [first, field].map(|field| device_name(field.device()));
        return Err(Error::argument(name, format!("a teacher on {expected} like the first"), got));
    }
    if field.dtype() != first.dtype() {
        let [expected, got] = [first, field].map(|field| dtype_name(field.dtype()));
        return Err(Error::dtype(name, format!("{expected} like the first teacher"), got));
    }
    Ok(())
}

fn conditioning_text(conditioning: Conditioning) -> String {
    match conditioning {
        Conditioning::None => "no condition".into(),
        Conditioning::Labels { classes } => format!("labels of {classes} classes"),
        Conditioning::Vector { dim } => format!("vectors ({dim},)"),
    }
}

fn checked_breaks(breaks: &[f64], count: usize) -> Result<Vec<f64>> {
    let rises = breaks.windows(2).all(|ends| ends[0] < ends[1]);
    if breaks.len() != count + 1 || breaks[0] != 0.0 || breaks[count] != 1.0 || !rises {
        let expected = format!("{} rising times from 0 to 1 around {count} teacher(s)", count + 1);
        return Err(Error::argument("breaks", expected, format!("{breaks:?}")));
    }
    Ok(breaks.to_vec())
}

impl VelocityField for ChainField {
    fn event_shape(&self) -> &[i64] {
        self.first().event_shape()
    }

    fn conditioning(&self) -> Conditioning {
        self.first().conditioning()
    }

    fn device(&self) -> Device {
        self.first().device()
    }

    fn dtype(&self) -> Kind {
        self.first().dtype()
    }

    fn velocity(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let [v] = self.gathered(t, &[x], condition, |block, time, own, condition| {
            Ok([block.field.velocity(time, &own[0], condition)? / block.width])
        })?;
        Ok(v)
    }

    fn velocity_and_vjp(
        &self,
        t: &Tensor,
        x: &Tensor,
        cotangent: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let [v, product] = self.gathered(t, &[x, cotangent], condition, |block, time, own, condition| {
            let (v, product) = block.field.velocity_and_vjp(time, &own[0], &own[1], condition)?;
            Ok([v / block.width, product / block.width])
        })?;
        Ok((v, product))
    }

    /// The rate of each block, converted to this field's time. If any block grows, blocks that conserve mass have
    /// rate 0.
    fn growth(&self, t: &Tensor, x: &Tensor, condition: Option<&Tensor>) -> Result<Option<Tensor>> {
        let grows = Cell::new(false);
        let [rates] = self.gathered(t, &[x], condition, |block, time, own, condition| {
            let rates = block.field.growth(time, &own[0], condition)?;
            grows.set(grows.get() || rates.is_some());
            Ok([rates.map_or_else(|| time.zeros_like(), |rates| rates / block.width)])
        })?;
        if grows.get() {
            return Ok(Some(rates));
        }
        // No row lies in a growing block. Other blocks may still grow, so ask each of them at one row.
        let (t, x) = (t.narrow(0, 0, 1), x.narrow(0, 0, 1));
        let condition = condition.map(|c| c.narrow(0, 0, 1));
        for block in &self.blocks {
            if block.field.growth(&t, &x, condition.as_ref())?.is_some() {
                return Ok(Some(rates));
            }
        }
        Ok(None)
    }

    /// The average over time.
    fn work(&self) -> Result<Option<f64>> {
        let mut whole = 0.0;
        for block in &self.blocks {
            let Some(work) = block.field.work()? else { return Ok(None) };
            whole += block.width * work;
        }
        Ok(Some(whole))
    }

    /// Counts the evaluations of all blocks by this field.
    fn counter(&self) -> &EvaluationCounter {
        &self.counter
    }

    fn source(&self) -> Source {
        self.first().source()
    }

    /// The moments of the last block, which leads to the data.
    fn moments(&self) -> Result<Option<Moments>> {
        self.blocks.last().map_or(Ok(None), |block| block.field.moments())
    }

    /// None, because states within a block lie between the ends of that block, not between noise and data.
    fn mixing(&self) -> Option<Mixing> {
        None
    }

    /// The times at which blocks meet, and the breaks within blocks.
    fn breaks(&self) -> Vec<f64> {
        let mut breaks = Vec::new();
        for (place, block) in self.blocks.iter().enumerate() {
            breaks.extend((place > 0).then_some(block.start));
            breaks.extend(block.field.breaks().iter().map(|own| block.start + block.width * own));
        }
        breaks
    }

    fn shallow_clone(&self) -> Box<dyn VelocityField> {
        let share = |block: &Block| Block { field: block.field.shallow_clone(), ..*block };
        Box::new(ChainField {
            blocks: self.blocks.iter().map(share).collect(),
            inner: self.inner.shallow_clone(),
            counter: self.counter.clone(),
        })
    }

    fn kind_name(&self) -> &'static str {
        "chain"
    }

    fn state(&self) -> Option<FieldState> {
        let (mut models, mut tensors) = (Vec::new(), Vec::new());
        for (place, block) in self.blocks.iter().enumerate() {
            let state = block.field.state()?;
            // The sources of later blocks are never sampled.
            let state = if place == 0 { state } else { without_source(state) };
            let prefix = prefix(place);
            let named = state.tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor));
            tensors.extend(named);
            models.push(state.description);
        }
        let starts = self.blocks.iter().map(|block| block.start);
        let breaks = starts.chain([1.0]).collect();
        Some(FieldState { description: FieldDescription::Chain { breaks, models }, tensors })
    }
}
