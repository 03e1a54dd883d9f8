//! The recipe of a distillation: its options with every default filled in. Comments say which defaults were
//! measured.

use serde::{Deserialize, Serialize};

use super::{DistillConfig, Method};
use crate::condition::Conditioning;
use crate::data::{fixed_steps, BatchRows, PairKind, Regime};
use crate::distill::objective::{Fidelity, Weights};
use crate::error::{Error, Result};
use crate::koopman::{polynomial_size, Basis, Frame, GeneratorKind, ReadoutKind, StudentConfig};
use crate::nets::{feature_maps, UNetConfig};
use crate::ode::FixedSteps;
use crate::tensor::{event_size, parse_device};
use crate::training::{check_positive, RowWeights, TrainingOptions};
use crate::velocity::SourceDescription;

/// A configuration with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub student: StudentConfig,
    pub rows: BatchRows,
    pub steps: u64,
    pub learning_rate: f64,
    pub trajectories: i64,
    /// Whether the number of trajectories is a default. Then fewer may be solved if training needs fewer.
    pub trajectories_open: bool,
    pub path_steps: i64,
    /// Fixed steps of the solver of trajectories; `None` for an adaptive solver.
    pub fixed: Option<FixedSteps>,
    pub weights: Weights,
    /// Adaptive weights of rows, by their errors of states.
    pub row_weights: RowWeights,
}

/// The parts of a student that depend on one another, through the basis.
struct Parts {
    unet: Option<UNetConfig>,
    generator: GeneratorKind,
    readout: ReadoutKind,
}

/// Samples of at most this size get small models and a high learning rate.
const FEW: i64 = 8;
/// Samples of more than this size, and images for a U-Net, get the defaults that were measured on images.
const SEVERAL: i64 = 256;

impl DistillConfig {
    /// The same options with every default filled in.
    ///
    /// # Errors
    /// As [`DistillConfig::resolve`].
    pub fn with_defaults(&self, event_shape: &[i64], conditioning: Conditioning) -> Result<Self> {
        let recipe = self.resolve(event_shape, conditioning)?;
        Ok(DistillConfig {
            observables: Some(recipe.student.observables),
            degree: Some(recipe.student.degree),
            width: Some(recipe.student.width),
            depth: Some(recipe.student.depth),
            unet: recipe.student.unet.clone(),
            generator: recipe.student.generator,
            readout: recipe.student.readout,
            frame: Some(recipe.student.frame),
            lifts: recipe.student.lifts,
            trajectories: Some(recipe.trajectories),
            path_steps: Some(recipe.path_steps),
            solver_steps: recipe.fixed.map(|fixed| fixed.steps),
            weights: recipe.weights.to_map(),
            training: TrainingOptions {
                steps: Some(recipe.steps),
                batch_size: Some(recipe.rows.noise),
                learning_rate: Some(recipe.learning_rate),
                ..self.training.clone()
            },
            ..self.clone()
        })
    }

    /// Fills in every default and checks every range.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Dtype`] or [`Error::Device`] naming the option out of range.
    pub fn resolve(&self, event_shape: &[i64], conditioning: Conditioning) -> Result<Recipe> {
        let size = event_size(event_shape);
        let parts = self.parts(event_shape)?;
        let regime = match (&parts.unet, size) {
            (Some(_), _) => Regime::Images,
            (None, ..=FEW) => Regime::Few,
            (None, ..=SEVERAL) => Regime::Several,
            (None, _) => Regime::Many,
        };
        let (steps, learning_rate) = self.steps_and_rate(regime);
        let batch_size =
            self.training.batch_size.unwrap_or(if regime == Regime::Several { 256 } else { 128 });
        let path_steps = self.path_steps.unwrap_or(if size <= FEW { 32 } else { 16 });
        let weights = Weights::preset(self.fidelity, parts.readout == ReadoutKind::Slice, regime);
        let recipe = Recipe {
            student: self.student(event_shape, conditioning, parts, path_steps)?,
            rows: BatchRows::of(batch_size, regime),
            steps: self.training.steps.unwrap_or(steps),
            learning_rate: self.training.learning_rate.unwrap_or(learning_rate),
            trajectories: self.trajectories.unwrap_or(default_trajectories(size)),
            trajectories_open: self.trajectories.is_none(),
            path_steps,
            fixed: fixed_steps(self.solver, self.solver_steps)?,
            weights: weights.with(&self.weights)?,
            row_weights: RowWeights::of(self.row_power, self.row_offset)?,
        };
        self.training.check(2..=1 << 24)?;
        self.check_data(&recipe)?;
        self.check_solve(&recipe)?;
        recipe.student.validate()?;
        self.check_loop(&recipe.rows, &recipe.weights)?;
        Ok(recipe)
    }

    /// The U-Net, and the generator and the readout that the basis requires.
    fn parts(&self, event_shape: &[i64]) -> Result<Parts> {
        let unet = match self.basis {
            Basis::UNet | Basis::Hierarchy => {
                let unet = self.unet.clone().unwrap_or_default().for_images(event_shape);
                unet.check(event_shape)?;
                Some(unet)
            }
            _ => self.unet.clone(),
        };
        if self.warm_start && unet.is_none() {
            let expected = "false unless the basis is a U-Net or its half";
            return Err(Error::argument("warm_start", expected, true));
        }
        if self.basis != Basis::Hierarchy {
            return Ok(Parts { unet, generator: self.generator, readout: self.readout });
        }
        if self.generator == GeneratorKind::Dense {
            return Err(Error::argument("generator", "'spectral' for a hierarchy", "'dense'"));
        }
        if matches!(self.readout, ReadoutKind::Linear | ReadoutKind::Network) {
            let got = format!("'{:?}'", self.readout).to_lowercase();
            return Err(Error::argument("decoder", "none for a hierarchy, which has its own", got));
        }
        Ok(Parts { unet, generator: GeneratorKind::Levels, readout: ReadoutKind::Decoder })
    }

    /// The student's architecture. `pick` chooses between the two measured recipes: small models in a few
    /// dimensions, larger ones in more.
    fn student(
        &self,
        event_shape: &[i64],
        conditioning: Conditioning,
        parts: Parts,
        path_steps: i64,
    ) -> Result<StudentConfig> {
        let small = event_size(event_shape) <= FEW;
        let pick = |low: i64, high: i64| if small { low } else { high };
        let degree = self.degree.unwrap_or(pick(4, 2));
        if !(2..=12).contains(&degree) {
            return Err(Error::argument("degree", "an integer from 2 to 12", degree));
        }
        let observables = match (self.observables, self.basis) {
            (Some(count), _) => count,
            // As many channels as the image has, as in the paper.
            (None, Basis::UNet) => event_size(event_shape),
            (None, Basis::Hierarchy) => {
                parts.unet.as_ref().map_or(0, |unet| hierarchy_size(unet, event_shape))
            }
            (None, Basis::Polynomial) => polynomial_size(event_size(event_shape), conditioning, degree)?,
            (None, Basis::Network | Basis::Fourier) => pick(64, 128),
        };
        Ok(StudentConfig {
            event_shape: event_shape.to_vec(),
            conditioning,
            observables,
            basis: self.basis,
            sees: self.inputs,
            degree,
            frame: self.frame_of(parts.generator)?,
            generator: parts.generator,
            stability: self.stability,
            readout: parts.readout,
            pairs: None,
            mixing: None,
            unet: parts.unet,
            per_pixel: self.per_pixel,
            heads: Vec::new(),
            noising: None,
            units: None,
            source: SourceDescription::Normal,
            // Two lifts differ only after training.
            lifts: if self.method == Method::ClosedForm || self.directed {
                self.lifts.min(1)
            } else {
                self.lifts
            },
            directed: self.directed,
            width: self.width.unwrap_or(pick(128, 384)),
            depth: self.depth.unwrap_or(pick(4, 3)),
            table_times: path_steps + 1,
            dtype: self.training.dtype.clone(),
        })
    }

    fn frame_of(&self, generator: GeneratorKind) -> Result<Frame> {
        let moves = generator != GeneratorKind::Dense;
        let trained = matches!(self.basis, Basis::Network | Basis::UNet | Basis::Hierarchy);
        match self.frame {
            Some(Frame::Moving) if !moves => {
                Err(Error::argument("frame", "'fixed' with a dense generator", "'moving'"))
            }
            Some(frame) => Ok(frame),
            None if moves && trained && self.method != Method::ClosedForm => Ok(Frame::Moving),
            None => Ok(Frame::Fixed),
        }
    }

    /// Default number of steps and learning rate. Training takes about a minute in the plane and three
    /// minutes on 64 pixels, on two cores.
    fn steps_and_rate(&self, regime: Regime) -> (u64, f64) {
        match (regime, self.fidelity) {
            (Regime::Few, Fidelity::Endpoint) => (11_000, 5e-3),
            (Regime::Few, _) => (10_000, 5e-3),
            (Regime::Several, Fidelity::Endpoint) => (8_200, 4e-3),
            (Regime::Several, _) => (6_200, 4e-3),
            (Regime::Images, _) => (5_000, 1e-3),
            (Regime::Many, _) => (8_000, 3e-3),
        }
    }

    fn check_data(&self, recipe: &Recipe) -> Result<()> {
        check_positive(&[("trajectory_memory", self.trajectory_memory)])?;
        if self.curriculum.is_some() && self.pairs != PairKind::TimeGrouped {
            return Err(Error::argument("curriculum", "none unless pairs is 'time_grouped'", "a curriculum"));
        }
        let ranges = [
            ("trajectories", recipe.trajectories, 16, 1 << 32),
            ("path_steps", recipe.path_steps, 1, 4096),
            ("coupling_size", i64::try_from(self.coupling_size).unwrap_or(i64::MAX), 1, 1 << 24),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::argument(name, format!("an integer from {low} to {high}"), value));
            }
        }
        Ok(())
    }

    fn check_solve(&self, recipe: &Recipe) -> Result<()> {
        if let Some(ridge) = self.ridge.filter(|ridge| !(ridge.is_finite() && *ridge >= 0.0)) {
            return Err(Error::argument("ridge", "a number >= 0, or none", ridge));
        }
        if self.basis == Basis::Hierarchy {
            self.check_hierarchy(&recipe.weights)?;
        } else if recipe.weights.levels > 0.0 {
            let got = format!("levels {}", recipe.weights.levels);
            return Err(Error::argument("weights", "levels 0 unless the basis is 'hierarchy'", got));
        }
        let spectral = recipe.student.generator == GeneratorKind::Spectral;
        let Weights { endpoint, path, target, inverse, .. } = recipe.weights;
        let points = [endpoint, path, target, inverse].iter().any(|weight| *weight > 0.0);
        if self.method == Method::ClosedForm {
            // These options need gradient steps.
            if self.directed {
                let expected = "false for the method 'closed_form', which trains no lift";
                return Err(Error::argument("directed", expected, true));
            }
            for (name, value) in [("row_power", self.row_power), ("endpoint_first", self.endpoint_first)] {
                if value > 0.0 {
                    return Err(Error::argument(name, "0 for the method 'closed_form'", value));
                }
            }
        }
        if self.method != Method::Gradient && spectral && !points {
            let expected =
                "a positive weight of endpoint, path, target or inverse, from which the readout is solved";
            return Err(Error::argument("weights", expected, "none"));
        }
        Ok(())
    }

    fn check_hierarchy(&self, weights: &Weights) -> Result<()> {
        if self.method != Method::Gradient {
            let expected = "'gradient' for a hierarchy, which has no linear readout";
            return Err(Error::argument("method", expected, format!("'{:?}'", self.method)));
        }
        if weights.orthogonality > 0.0 {
            let expected = "0 for a hierarchy, which has no modes";
            let got = format!("orthogonality {}", weights.orthogonality);
            return Err(Error::argument("weights", expected, got));
        }
        Ok(())
    }

    fn check_averages(&self) -> Result<()> {
        let decays = &self.averages;
        let apart = |place: usize| !decays[..place].contains(&decays[place]);
        let fine = |place: usize| decays[place] > 0.0 && decays[place] < 1.0 && apart(place);
        if decays.len() > MOST_AVERAGES || !(0..decays.len()).all(fine) {
            let expected = format!("up to {MOST_AVERAGES} different decays between 0 and 1");
            return Err(Error::argument("averages", expected, format!("{decays:?}")));
        }
        if !decays.is_empty() && self.training.ema_decay > 0.0 {
            let expected = "none if averages are given, which may include it";
            return Err(Error::argument("ema_decay", expected, self.training.ema_decay));
        }
        Ok(())
    }

    /// Checks the options of the training loop that only students have.
    fn check_loop(&self, rows: &BatchRows, weights: &Weights) -> Result<()> {
        if !(0.0..1.0).contains(&self.endpoint_first) {
            return Err(Error::argument("endpoint_first", "at least 0 and below 1", self.endpoint_first));
        }
        if self.endpoint_first > 0.0 && weights.of_endpoint() == Weights::NONE {
            let expected = "0 unless the weight of endpoint or feature_distance is positive";
            return Err(Error::argument("endpoint_first", expected, self.endpoint_first));
        }
        if let Some(rate) = self.generator_learning_rate {
            check_positive(&[("generator_learning_rate", rate)])?;
        }
        self.check_averages()?;
        let limit = rows.most_parts();
        if !(1..=limit).contains(&self.accumulate) {
            let expected =
                format!("an integer from 1 to {limit}, for two rows of each kind of pair in a micro-batch");
            return Err(Error::argument("accumulate", expected, self.accumulate));
        }
        for (name, value) in [("evaluate_every", self.evaluate_every), ("patience", self.patience)] {
            if value == Some(0) {
                return Err(Error::argument(name, "an integer of at least 1", 0));
            }
        }
        self.precision.check(parse_device(&self.training.device)?)
    }
}

/// Largest number of averages. Each is as large as the model and is evaluated at every held-out evaluation.
const MOST_AVERAGES: usize = 8;

/// Default number of trajectories. In many dimensions more trajectories help more than more times of each: on
/// digits 131,072 instead of 65,536 lowered the endpoint error by 4%, the inversion error by 3% and the
/// round-trip error by 9%. For large samples solving is slow, so there are fewer.
fn default_trajectories(size: i64) -> i64 {
    match size {
        size if size <= FEW => 65_536,
        size if size <= SEVERAL => 131_072,
        _ => 16_384,
    }
}

/// Number of values of all feature maps together.
fn hierarchy_size(unet: &UNetConfig, event_shape: &[i64]) -> i64 {
    let pixels = event_shape[1] * event_shape[2];
    feature_maps(unet).iter().map(|(channels, factor)| channels * pixels / (factor * factor)).sum()
}
