//! Dynamic loss scaling for float16, whose gradients vanish below 6e-8 (Micikevicius et al., 1710.03740).

use serde::{Deserialize, Serialize};

/// A factor of the loss. It shrinks when gradients overflow and grows after many finite steps in a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    pub value: f64,
    good: u64,
    dynamic: bool,
}

const INITIAL: f64 = 65536.0;
const GROWTH_STEPS: u64 = 2000;

impl LossScale {
    /// A fixed scale of 1, for float32 and for bfloat16, which has the same range.
    pub fn off() -> Self {
        LossScale { value: 1.0, good: 0, dynamic: false }
    }

    pub fn dynamic() -> Self {
        LossScale { value: INITIAL, good: 0, dynamic: true }
    }

    pub fn is_dynamic(&self) -> bool {
        self.dynamic
    }

    /// Must be called after a step with finite gradients.
    pub fn succeeded(&mut self) {
        self.good += 1;
        if self.dynamic && self.good >= GROWTH_STEPS {
            self.value *= 2.0;
            self.good = 0;
        }
    }

    /// Must be called after gradients overflowed. Returns whether the scale was halved, which may help. If
    /// not, the loss itself is not finite.
    pub fn overflowed(&mut self) -> bool {
        self.good = 0;
        let may_help = self.dynamic && self.value > 1.0;
        if may_help {
            self.value = (self.value * 0.5).max(1.0);
        }
        may_help
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_shrinks_to_one_and_grows_again() {
        let mut scale = LossScale::dynamic();
        let halvings = std::iter::from_fn(|| scale.overflowed().then_some(())).count();
        assert_eq!((halvings, scale.value), (16, 1.0));
        (0..GROWTH_STEPS).for_each(|_| scale.succeeded());
        assert_eq!(scale.value, 2.0);
        let mut fixed = LossScale::off();
        assert!(!fixed.overflowed());
        assert_eq!(fixed.value, 1.0);
    }
}
