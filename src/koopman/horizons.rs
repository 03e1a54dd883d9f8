//! A bounded cache of horizons.

use std::collections::VecDeque;

use super::Horizon;

/// Largest size of all cached horizons, in bytes. With a U-Net basis on 32x32 images, each has 37 MB.
const BYTES_KEPT: usize = 256 << 20;
/// Largest number of cached horizons, which are searched one by one.
const NUMBER_KEPT: usize = 256;

/// Cached horizons for one version of the parameters (see [`crate::nets::Parameters::version`]), with the
/// most recently used one at the back.
pub(super) struct Horizons {
    version: i64,
    kept: VecDeque<(f64, Horizon)>,
    bytes: usize,
    limit: usize,
}

impl Default for Horizons {
    fn default() -> Self {
        Horizons { version: 0, kept: VecDeque::new(), bytes: 0, limit: BYTES_KEPT }
    }
}

impl Horizons {
    /// The horizon for `tau`, if it is cached and the parameters have not been written since.
    pub fn find(&mut self, version: i64, tau: f64) -> Option<Horizon> {
        if self.version != version {
            self.kept.clear();
            (self.version, self.bytes) = (version, 0);
        }
        let place = self.kept.iter().position(|(kept, _)| *kept == tau)?;
        let found = self.kept.remove(place)?;
        let horizon = found.1.shallow_clone();
        self.kept.push_back(found);
        Some(horizon)
    }

    /// Adds a horizon. If there is no room for it, the least recently used ones are dropped. A horizon that
    /// is larger than the whole cache is not added.
    pub fn keep(&mut self, tau: f64, horizon: &Horizon) {
        let bytes = horizon.bytes();
        if bytes > self.limit {
            return;
        }
        while self.bytes + bytes > self.limit || self.kept.len() >= NUMBER_KEPT {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
        self.bytes += bytes;
        self.kept.push_back((tau, horizon.shallow_clone()));
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::koopman::Propagator;

    /// A horizon of `values` + 2 float32 values.
    fn horizon(values: i64) -> Horizon {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        Horizon::Thin(Propagator {
            constant: zeros(&[1]),
            time: zeros(&[1]),
            state: None,
            features: zeros(&[values, 1]),
        })
    }

    #[test]
    fn horizons_are_bounded_in_bytes_and_the_longest_unused_go_first() {
        let mut horizons = Horizons { limit: 4 * 1000, ..Horizons::default() };
        let large = horizon(298);
        for tau in [0.1, 0.2, 0.3] {
            horizons.keep(tau, &large);
        }
        assert_eq!(horizons.bytes, 3 * 4 * 300);
        assert!(horizons.find(0, 0.1).is_some());
        horizons.keep(0.4, &large);
        assert!(horizons.bytes <= horizons.limit);
        let mut known = |tau| horizons.find(0, tau).is_some();
        assert!(known(0.1) && !known(0.2) && known(0.3) && known(0.4));
        // Larger than the whole cache: the others stay.
        horizons.keep(0.5, &horizon(5000));
        assert!(horizons.find(0, 0.5).is_none() && horizons.find(0, 0.4).is_some());
        // Other parameters.
        assert!(horizons.find(1, 0.4).is_none() && horizons.bytes == 0);
        for tau in 0..1000 {
            horizons.keep(f64::from(tau), &horizon(0));
        }
        assert!(horizons.kept.len() <= NUMBER_KEPT && horizons.bytes <= horizons.limit);
        assert!(horizons.find(1, 999.0).is_some() && horizons.find(1, 0.0).is_none());
    }
}
