//! The options of a forecaster.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::BasisKind;
use crate::error::{Error, Result};
use crate::training::{check_positive, json_options, TrainingOptions};

/// The method by which the evolution is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Linear regression.
    #[default]
    ClosedForm,
    /// Repeated linear regression on paths that the model has smoothed, for noisy data and gaps.
    Refine,
    /// Gradient descent on errors of forecasts, starting from the closed form.
    Gradient,
}

/// The number of steps after which a forecast decodes the state and encodes it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReEncode {
    /// Chosen by the errors on held-out paths.
    #[default]
    Auto,
    Every(u64),
    Never,
}

impl Serialize for ReEncode {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            ReEncode::Auto => serializer.serialize_str("auto"),
            ReEncode::Every(steps) => serializer.serialize_u64(*steps),
            ReEncode::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for ReEncode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Steps(u64),
            Word(String),
        }
        let refuse = |got: String| {
            serde::de::Error::custom(format!(
                "expected 'auto', 'never' or a number of steps of at least 1, got {got}"
            ))
        };
        match Given::deserialize(deserializer)? {
            Given::Steps(0) => Err(refuse("0".into())),
            Given::Steps(steps) => Ok(ReEncode::Every(steps)),
            Given::Word(word) => match word.as_str() {
                "auto" => Ok(ReEncode::Auto),
                "never" => Ok(ReEncode::Never),
                _ => Err(refuse(format!("{word:?}"))),
            },
        }
    }
}

/// Options of [`super::fit()`]; in JSON, the keyword arguments of Python's class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct ForecasterConfig {
    pub basis: BasisKind,
    pub method: Method,
    /// Number of nonlinear observables psi. `None` means 600, or fewer for few rows. The number of polynomials is
    /// determined by their degree.
    pub observables: Option<i64>,
    /// Maximum total degree of polynomials.
    pub degree: i64,
    /// Range of the lengths of Fourier frequencies, for standardised data, or the length of the kernel in units of the
    /// median distance of the data. `None` means chosen on held-out paths.
    pub lengths: Option<(f64, f64)>,
    /// Number of principal components to which rows are reduced, for fields and images. `None` means no reduction.
    pub components: Option<i64>,
    /// Number of rows that one encoding reads.
    pub history: i64,
    /// Number of linear combinations of the observables that are kept, not counting the constant. `None` keeps all
    /// observables.
    pub rank: Option<i64>,
    /// Ridge penalty in units of the mean square of an observable. `None` means chosen on held-out paths.
    pub ridge: Option<f64>,
    pub re_encode: ReEncode,
    /// Maximum number of rows in the fit. `None` means a number that depends on the number of observables.
    pub max_rows: Option<i64>,
    /// Margin around the range of the data within which forecasts are clipped, as a share of that range. `None` means
    /// no clipping.
    pub margin: Option<f64>,
    /// Forecast horizon, in units of time, for which choices are made. `None` means a horizon that depends on the
    /// length of the paths.
    pub horizon: Option<f64>,
    /// Share of the paths, or of the end of a single path, that is held out for choices, in [0, 1).
    pub held_out: f64,
    /// Standard deviation of the observation noise, in standard deviations of the data. `None` means estimated.
    pub noise: Option<f64>,
    /// Number of rounds of smoothing and fitting, for [`Method::Refine`].
    pub rounds: u64,
    /// Number of steps over which forecasts are unrolled in the loss of [`Method::Gradient`].
    pub unroll: i64,
    /// Number of units in each hidden layer of a network.
    pub width: i64,
    /// Number of hidden layers of a network.
    pub depth: i64,
    /// Options of gradient training. The other methods use only the seed and the device.
    #[serde(flatten)]
    pub training: TrainingOptions,
}

json_options!(ForecasterConfig);

impl Default for ForecasterConfig {
    fn default() -> Self {
        ForecasterConfig {
            basis: BasisKind::default(),
            method: Method::default(),
            observables: None,
            degree: 3,
            lengths: None,
            components: None,
            history: 1,
            rank: None,
            ridge: None,
            re_encode: ReEncode::Auto,
            max_rows: None,
            margin: Some(0.1),
            horizon: None,
            held_out: 0.2,
            noise: None,
            rounds: 4,
            unroll: 8,
            width: 64,
            depth: 2,
            training: TrainingOptions {
                ema_decay: 0.99,
                dtype: "float64".into(),
                ..TrainingOptions::default()
            },
        }
    }
}

/// Maximum number of observables m; the model stores matrices `[m, m]`.
const MOST_OBSERVABLES: i64 = 8192;
/// Default maximum of rows times squared observables in a fit: about a minute on one core.
const PRODUCTS: f64 = 5e10;
/// Default minimum number of rows per observable in a fit, if there are that many.
const ROWS_EACH: i64 = 50;
const DEFAULT_OBSERVABLES: i64 = 600;

impl ForecasterConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first option that is out of its range.
    pub fn check(&self) -> Result<()> {
        let whole = [
            ("observables", self.observables.unwrap_or(1), 0, MOST_OBSERVABLES),
            ("degree", self.degree, 1, 16),
            ("components", self.components.unwrap_or(1), 1, MOST_OBSERVABLES),
            ("history", self.history, 1, 4096),
            ("rank", self.rank.unwrap_or(1), 1, MOST_OBSERVABLES),
            ("rounds", self.rounds as i64, 0, 1000),
            ("max_rows", self.max_rows.unwrap_or(1), 1, i64::MAX),
            ("unroll", self.unroll, 1, 4096),
            ("width", self.width, 1, 1 << 16),
            ("depth", self.depth, 0, 64),
        ];
        for (name, value, least, most) in whole {
            if !(least..=most).contains(&value) {
                return Err(Error::argument(name, format!("an integer from {least} to {most}"), value));
            }
        }
        if let Some((least, largest)) = self.lengths {
            check_positive(&[("lengths", least), ("lengths", largest)])?;
            if largest < least {
                return Err(Error::argument(
                    "lengths",
                    "two numbers, the smaller one first",
                    format!("({least}, {largest})"),
                ));
            }
        }
        for (name, value) in [("ridge", self.ridge), ("noise", self.noise), ("margin", self.margin)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
                return Err(Error::argument(name, "a number of at least 0", value));
            }
        }
        if let Some(horizon) = self.horizon {
            check_positive(&[("horizon", horizon)])?;
        }
        if !(0.0..1.0).contains(&self.held_out) {
            return Err(Error::argument("held_out", "a share of at least 0 and below 1", self.held_out));
        }
        if self.basis == BasisKind::Network && self.method != Method::Gradient {
            return Err(Error::argument(
                "method",
                "'gradient' for a basis of 'network'",
                format!("{:?}", self.method),
            ));
        }
        self.training.check(1..=1 << 20)
    }

    /// The default number of functions psi.
    pub fn default_observables(&self, rows: usize) -> i64 {
        // At least two rows for each function.
        let told = (rows as i64 / 2).max(4);
        match self.basis {
            BasisKind::Network => 32.min(told),
            _ => DEFAULT_OBSERVABLES.min(told),
        }
    }

    /// The maximum number of rows in a fit with this number of observables. More rows hardly change the result.
    pub fn most_rows(&self, observables: i64) -> usize {
        let by_work = (PRODUCTS / (observables.max(1) as f64).powi(2)) as i64;
        self.max_rows.unwrap_or(by_work.max(ROWS_EACH * observables)).max(1) as usize
    }
}
