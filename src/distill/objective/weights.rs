//! The weights of the objective's terms.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::correction::CORRECTION;
use crate::data::Regime;
use crate::error::{Error, Result};

/// The goal of a student. It sets the default weights of the terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Fidelity {
    /// Accurate samples only. The observables need not follow the flow, so the eigenvalues are not those of
    /// the flow.
    Endpoint,
    /// Accurate samples first, with observables that follow the flow.
    #[default]
    Balanced,
    /// Accurate observables first. The spectrum is as close to that of the flow as the network allows.
    Spectral,
}

/// Weights of the objective's terms; 0 turns a term off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Error of x at t = 1, decoded from encoded noise.
    pub endpoint: f64,
    /// Error of x at one random time, decoded from the same encodings.
    pub path: f64,
    /// Error of x over the chosen pairs: encoded at s, decoded at t.
    pub target: f64,
    /// Error of noise at t = 0, decoded from data encoded at t = 1.
    pub inverse: f64,
    /// Error of data that are generated again from their own inversion.
    pub round_trip: f64,
    /// Error of x at t = 1 after re-encoding the student's own states, in samplers of 2, 4 or 8 steps.
    pub re_encoding: f64,
    /// Distance between generated data and the teacher's endpoint in the feature space of the user's network.
    pub feature_distance: f64,
    /// Difference between the teacher's field and that of the student's noised samples, seen from the samples.
    pub correction: f64,
    /// ||phi(s, x_s) exp((t - s) L) - phi(t, x_t)||², from noise to data and over the chosen pairs.
    pub phase: f64,
    /// Error of a hierarchy's feature maps along a path, through learnt heads, against those of the teacher's
    /// U-Net.
    pub levels: f64,
    /// ||J g (1, v) - g L||², the equation of the generator (paper, section 3).
    pub consistency: f64,
    /// ||decode(g(t, x)) - x||². It is identically zero for a slice readout, and then left out.
    pub reconstruction: f64,
    /// Mean squared growth, 0 for a generator whose exponential is unitary.
    pub unitarity: f64,
    /// Hinge on growth: mean of max(0, growth)².
    pub stability: f64,
    /// Mean squared cosine between different modes.
    pub orthogonality: f64,
    /// Squared mean and squared distance of the deviation from 1 of each feature.
    pub latent_moments: f64,
}

impl Weights {
    /// Every term off.
    pub const NONE: Weights = Weights {
        endpoint: 0.0,
        path: 0.0,
        target: 0.0,
        inverse: 0.0,
        round_trip: 0.0,
        re_encoding: 0.0,
        feature_distance: 0.0,
        correction: 0.0,
        phase: 0.0,
        levels: 0.0,
        consistency: 0.0,
        reconstruction: 0.0,
        unitarity: 0.0,
        stability: 0.0,
        orthogonality: 0.0,
        latent_moments: 0.0,
    };

    /// The default weights of a fidelity. `slice` says that the readout is exact. In a few dimensions a small
    /// phase weight is enough for the observables to follow the flow.
    pub fn preset(fidelity: Fidelity, slice: bool, regime: Regime) -> Weights {
        let phase = match (fidelity, regime) {
            (Fidelity::Endpoint, _) => 0.0,
            (Fidelity::Balanced, Regime::Few) => 0.01,
            (Fidelity::Balanced, _) => 0.15,
            (Fidelity::Spectral, Regime::Few) => 0.2,
            (Fidelity::Spectral, _) => 0.5,
        };
        let (between, round_trip) = match (fidelity, regime) {
            // The round trip competes with the endpoint. On digits a weight of 0.4 raised the endpoint error
            // by 4% and multiplied the round-trip error by 0.6.
            (Fidelity::Endpoint, Regime::Several) => (0.25, 0.0),
            (_, Regime::Several) => (0.5, 0.1),
            _ => (0.5, 0.4),
        };
        Weights {
            endpoint: 1.0,
            path: between,
            target: between,
            inverse: 1.0,
            round_trip,
            phase,
            reconstruction: if slice { 0.0 } else { 1.0 },
            ..Weights::NONE
        }
    }

    /// Every term with its weight, in the order in which they are logged.
    pub fn entries(&self) -> [(&'static str, f64); 16] {
        [
            ("endpoint", self.endpoint),
            ("path", self.path),
            ("target", self.target),
            ("inverse", self.inverse),
            ("round_trip", self.round_trip),
            ("re_encoding", self.re_encoding),
            ("feature_distance", self.feature_distance),
            ("correction", self.correction),
            ("phase", self.phase),
            ("levels", self.levels),
            ("consistency", self.consistency),
            ("reconstruction", self.reconstruction),
            ("unitarity", self.unitarity),
            ("stability", self.stability),
            ("orthogonality", self.orthogonality),
            ("latent_moments", self.latent_moments),
        ]
    }

    fn slot(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "endpoint" => &mut self.endpoint,
            "path" => &mut self.path,
            "target" => &mut self.target,
            "inverse" => &mut self.inverse,
            "round_trip" => &mut self.round_trip,
            "re_encoding" => &mut self.re_encoding,
            "feature_distance" => &mut self.feature_distance,
            "correction" => &mut self.correction,
            "phase" => &mut self.phase,
            "levels" => &mut self.levels,
            "consistency" => &mut self.consistency,
            "reconstruction" => &mut self.reconstruction,
            "unitarity" => &mut self.unitarity,
            "stability" => &mut self.stability,
            "orthogonality" => &mut self.orthogonality,
            "latent_moments" => &mut self.latent_moments,
            _ => return None,
        })
    }

    /// These weights, with some replaced by name.
    ///
    /// # Errors
    /// [`Error::Argument`] naming an unknown term or a weight that is not a number of at least 0, or
    /// `weights` if all are 0.
    pub fn with(mut self, given: &BTreeMap<String, f64>) -> Result<Weights> {
        for (name, weight) in given {
            let argument = format!("weights[{name:?}]");
            let Some(slot) = self.slot(name) else {
                let names: Vec<&str> = Weights::NONE.entries().iter().map(|(name, _)| *name).collect();
                return Err(Error::argument(
                    &argument,
                    format!("one of {}", names.join(", ")),
                    "another name",
                ));
            };
            if !(weight.is_finite() && *weight >= 0.0) {
                return Err(Error::argument(&argument, "a number >= 0", weight));
            }
            *slot = *weight;
        }
        if self.entries().iter().all(|(_, weight)| *weight == 0.0) {
            return Err(Error::argument("weights", "at least one positive weight", "all zero"));
        }
        Ok(self)
    }

    /// All weights by name, as [`Weights::with`] takes them.
    pub fn to_map(&self) -> BTreeMap<String, f64> {
        self.entries().into_iter().map(|(name, weight)| (name.to_string(), weight)).collect()
    }

    /// Only the terms that compare generated data, from one encoding of noise, with the teacher's endpoint.
    pub fn of_endpoint(&self) -> Weights {
        Weights { endpoint: self.endpoint, feature_distance: self.feature_distance, ..Weights::NONE }
    }

    /// Whether [`CORRECTION`] is trained, and no term that compares a student with the teacher at one noise or point.
    pub fn of_distribution_alone(&self) -> bool {
        let regular = ["reconstruction", "unitarity", "stability", "orthogonality", "latent_moments"];
        let compares = |name: &str| name != CORRECTION && !regular.contains(&name);
        self.correction > 0.0 && !self.entries().iter().any(|(name, weight)| *weight > 0.0 && compares(name))
    }

    /// Number of independent graphs of a step. One has the terms that begin at noise or along a path, the
    /// other those that begin at data and consistency.
    pub(in crate::distill) fn sides(&self) -> i64 {
        let aside = |name: &str| matches!(name, "inverse" | "round_trip" | "consistency");
        let some = |of: &dyn Fn(&str) -> bool| self.entries().iter().any(|(name, w)| *w > 0.0 && of(name));
        1 + i64::from(some(&aside) && some(&|name| !aside(name)))
    }

    /// Whether some term needs the teacher's trajectories.
    pub fn need_trajectories(&self) -> bool {
        [
            self.endpoint,
            self.path,
            self.target,
            self.inverse,
            self.round_trip,
            self.re_encoding,
            self.feature_distance,
            self.correction,
            self.phase,
            self.levels,
            self.reconstruction,
            self.latent_moments,
        ]
        .iter()
        .any(|weight| *weight > 0.0)
    }
}
