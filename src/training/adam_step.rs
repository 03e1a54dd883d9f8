//! One step of Adam in a single pass over memory, on a CPU. The separate operations of libtorch take about
//! twenty passes, which is slow for large models, and tch does not bind libtorch's `_fused_adam_`.

use std::slice;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::tensor::{on_this_processor, threads};

/// The numbers of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Weights of the gradient and its square in the updates of the moments.
    pub shares: [f32; 2],
    /// Factor of the root of the second moment.
    pub root: f32,
    pub epsilon: f32,
    /// Factor of the quotient of the moments: the negative, corrected learning rate.
    pub rate: f32,
}

/// Whether this module can step the buffers: dense float32 on the CPU.
pub(super) fn fusible(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|x| x.device() == Device::Cpu && x.kind() == Kind::Float && x.is_contiguous())
}

/// Parameters and both moments.
type Buffers<'a> = ((&'a mut [f32], &'a mut [f32]), &'a mut [f32]);

impl Step {
    /// Updates the moments and the parameters, `[count]` each, by the gradient. `multipliers` scale the rate.
    ///
    /// # Errors
    /// An error if worker threads cannot be started, or an error of libtorch.
    pub fn apply(
        self,
        flat: &Tensor,
        gradient: &Tensor,
        [first, second]: [&Tensor; 2],
        multipliers: Option<&Tensor>,
    ) -> Result<()> {
        let (gradient, factors) = (read(gradient), multipliers.map(read));
        let [values, first, second] = [flat, first, second].map(written);
        let count = gradient.len();
        let share = count.div_ceil((tch::get_num_threads().max(1) as usize).min(count.max(1))).max(1);
        let one = |(place, ((values, first), second)): (usize, Buffers)| {
            let from = place * share;
            let own = from..from + values.len();
            let factors = factors.map_or(&[][..], |factors| &factors[own.clone()]);
            run(self, values, &gradient[own], first, second, factors);
        };
        if share >= count {
            one((0, ((values, first), second)));
        } else {
            threads::pool()?.install(|| {
                let parts = values.par_chunks_mut(share).zip(first.par_chunks_mut(share));
                parts.zip(second.par_chunks_mut(share)).enumerate().for_each(one);
            });
        }
        // An in-place operation of libtorch, so that it counts the write as a new version of the parameters.
        let _ = flat.f_narrow(0, 0, (count as i64).min(1))?.f_mul_scalar_(1.0)?;
        Ok(())
    }
}

fn run(
    step: Step,
    values: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    factors: &[f32],
) {
    on_this_processor!(run_part(step: Step, values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], factors: &[f32]))
}

#[inline(always)]
fn run_part<const WIDE: bool>(
    step: Step,
    values: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    factors: &[f32],
) {
    let count = values.len();
    let (gradient, first, second) = (&gradient[..count], &mut first[..count], &mut second[..count]);
    let Step { shares: [share1, share2], root, epsilon, rate } = step;
    let mut moved = |place: usize| {
        let slope = gradient[place];
        first[place] += share1 * (slope - first[place]);
        second[place] += share2 * (slope * slope - second[place]);
        first[place] / (second[place].sqrt() * root + epsilon) * rate
    };
    if factors.is_empty() {
        for (place, value) in values.iter_mut().enumerate() {
            *value += moved(place);
        }
    } else {
        for ((place, value), factor) in values.iter_mut().enumerate().zip(factors) {
            *value += moved(place) * factor;
        }
    }
}

fn read(tensor: &Tensor) -> &[f32] {
    // SAFETY: `fusible` has checked that the buffer is dense float32 on the CPU.
    unsafe { slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) }
}

#[allow(clippy::mut_from_ref)]
fn written(tensor: &Tensor) -> &mut [f32] {
    // SAFETY: as in `read`. Parameters and moments do not overlap, and nothing else uses them during a step.
    unsafe { slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) }
}
