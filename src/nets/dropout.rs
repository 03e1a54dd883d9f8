//! Dropout with the seed of a training run. Masks are computed on the device and do not depend on libtorch's global
//! generator.

use std::cell::Cell;

use tch::{Kind, Tensor};

use super::Signal;

thread_local! {
    static TRAINING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A guard that enables or disables dropout in the networks of this thread until it is dropped.
#[must_use]
pub struct Training {
    before: Option<u64>,
}

impl Training {
    /// Enables dropout with masks that depend on `seed` (of the training run, for example) and `step`.
    pub fn with(seed: u64, step: u64) -> Self {
        let state = mix(seed ^ mix(step));
        Training { before: TRAINING.replace(Some(state)) }
    }

    /// Disables dropout, for networks that are asked within a training step.
    pub fn off() -> Self {
        Training { before: TRAINING.replace(None) }
    }
}

impl Drop for Training {
    fn drop(&mut self) {
        TRAINING.set(self.before);
    }
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Sets values to zero with probability `rate` and scales the others up. Tangents are treated like their values. The
/// identity outside [`Training`].
pub(super) fn apply<S: Signal>(input: &S, rate: f64) -> S {
    let Some(state) = TRAINING.get().filter(|_| rate > 0.0) else {
        return input.map(Tensor::shallow_clone);
    };
    // The next layer of this step gets a different mask.
    TRAINING.set(Some(mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15))));
    let mask = tch::no_grad(|| {
        let shape = input.primal().size();
        let kept = uniform(input.primal(), state).ge(rate).to_kind(input.primal().kind());
        (kept / (1.0 - rate)).reshape(shape.as_slice())
    });
    input.map(|x| x * &mask)
}

/// A pseudo-random number in [0, 1) for each value of `like`: a 32-bit hash of a counter (Wellons' `lowbias32`).
fn uniform(like: &Tensor, state: u64) -> Tensor {
    const LOW: i64 = 0xffff_ffff;
    let shift_xor = |x: &Tensor, bits: i64| x.bitwise_xor_tensor(&x.bitwise_right_shift_tensor_scalar(bits));
    let multiply = |x: Tensor, factor: i64| (x * factor).bitwise_and(LOW);
    let counter = Tensor::arange(like.numel() as i64, (Kind::Int64, like.device()));
    let key = (state & LOW as u64) as i64;
    let offset = (state >> 32) as i64;
    let x = (counter + offset).bitwise_and(LOW).bitwise_xor(key);
    let x = multiply(shift_xor(&x, 16), 0x21f0_aaad);
    let x = multiply(shift_xor(&x, 15), 0x735a_2d97);
    shift_xor(&x, 15).to_kind(Kind::Float) / (LOW + 1) as f64
}
