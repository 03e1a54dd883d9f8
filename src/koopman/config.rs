//! The architecture of a student.

use serde::{Deserialize, Serialize};

use super::{Basis, Frame, GeneratorKind, ReadoutKind, Stability};
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::nets::monomial_count;
use crate::tensor::{event_size, parse_dtype, shape_text};

/// What a checkpoint stores to rebuild a student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentConfig {
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    /// k, the number of observables phi.
    pub observables: i64,
    pub generator: GeneratorKind,
    /// 1, or 2 for separate observables in each direction of time under one generator.
    pub lifts: i64,
    pub width: i64,
    pub depth: i64,
    /// Rows of the table of running statistics in [`super::InputCoordinates`].
    pub table_times: i64,
    pub dtype: String,
    /// What phi is made of.
    #[serde(default)]
    pub basis: Basis,
    /// Total degree of a polynomial basis, 2 to 12.
    #[serde(default = "default_degree")]
    pub degree: i64,
    /// What the basis is of. A moving frame is that of the spectral generator; of a converted one it is kept
    /// apart, and belongs to the basis before it is mixed.
    #[serde(default)]
    pub frame: Frame,
    /// How x is read off the observables.
    #[serde(default)]
    pub readout: ReadoutKind,
    /// Structure of a dense generator's free block.
    #[serde(default)]
    pub stability: Stability,
    /// Complex pairs of a spectral generator; `None` is about 3/8 of the observables.
    #[serde(default)]
    pub pairs: Option<i64>,
    /// phi is a linear map of [1, t, x, basis], with this many functions in the basis; `None`: phi is the
    /// basis. Conversions between generators change coordinates so.
    #[serde(default)]
    pub mixing: Option<i64>,
}

fn default_degree() -> i64 {
    StudentConfig::default().degree
}

impl Default for StudentConfig {
    fn default() -> Self {
        StudentConfig {
            event_shape: vec![2],
            conditioning: Conditioning::None,
            observables: 32,
            generator: GeneratorKind::Spectral,
            lifts: 2,
            width: 128,
            depth: 3,
            table_times: 33,
            dtype: "float32".into(),
            basis: Basis::Network,
            degree: 3,
            frame: Frame::Fixed,
            readout: ReadoutKind::Slice,
            stability: Stability::Free,
            pairs: None,
            mixing: None,
        }
    }
}

impl StudentConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option.
    pub fn validate(&self) -> Result<()> {
        if self.event_shape.is_empty() || self.event_shape.iter().any(|size| *size < 1) {
            let got = shape_text(&self.event_shape);
            return Err(Error::argument("event_shape", "one or more positive sizes", got));
        }
        let size = self.event_shape.iter().try_fold(1i64, |size, next| size.checked_mul(*next));
        if size.is_none_or(|size| size > MAX_DIMENSION) {
            let got = shape_text(&self.event_shape);
            return Err(Error::argument("event_shape", format!("at most {MAX_DIMENSION} values"), got));
        }
        let ranges = [
            ("observables", self.observables, 1, MAX_OBSERVABLES),
            ("conditioning", self.conditioning.size(), 0, MAX_OBSERVABLES),
            ("lifts", self.lifts, 1, 2),
            ("width", self.width, 1, 1 << 16),
            ("depth", self.depth, 0, 64),
            ("table_times", self.table_times, 2, 1 << 16),
            ("degree", self.degree, 2, 12),
            ("pairs", self.pairs.unwrap_or(0), 0, self.observables / 2),
            ("mixing", self.mixing.unwrap_or(1), 1, MAX_OBSERVABLES),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::argument(name, format!("an integer from {low} to {high}"), value));
            }
        }
        if self.generator == GeneratorKind::Spectral && self.stability != Stability::Free {
            let expected = "'free' with the spectral generator, whose growth is always bounded";
            return Err(Error::argument("stability", expected, format!("'{}'", self.stability.name())));
        }
        if self.basis == Basis::Polynomial {
            let count = polynomial_size(self.dimension(), self.conditioning, self.degree)?;
            if self.basis_size() != count {
                let expected = format!("{count}, the monomials of degree 2 to {}", self.degree);
                return Err(Error::argument("observables", expected, self.basis_size()));
            }
        }
        parse_dtype(&self.dtype).map(|_| ())
    }

    /// d, the number of values in one sample.
    pub fn dimension(&self) -> i64 {
        event_size(&self.event_shape)
    }

    /// m = 2 + d + k.
    pub fn size(&self) -> i64 {
        2 + self.dimension() + self.observables
    }

    /// Number of functions in the basis: k, unless phi is a mixture of them.
    pub fn basis_size(&self) -> i64 {
        self.mixing.unwrap_or(self.observables)
    }

    /// Whether the frame's rates are the generator's own, learnt together.
    pub fn shares_frame(&self) -> bool {
        self.generator == GeneratorKind::Spectral && self.mixing.is_none()
    }

    /// Sizes of the large tensors that a student of this configuration holds, saturating: what a file must
    /// be able to fill.
    pub fn tensor_sizes(&self) -> Vec<i64> {
        let product = |sizes: &[i64]| sizes.iter().fold(1i64, |size, next| size.saturating_mul(*next));
        let (d, k, basis) = (self.dimension(), self.observables, self.basis_size());
        let layers = |inputs: i64, depth: i64| {
            [product(&[inputs, self.width]), product(&[self.width, self.width, (depth - 1).max(0)])]
        };
        let mut sizes = vec![product(&[d, d]), product(&[self.table_times, d])];
        match self.basis {
            Basis::Network => {
                sizes.extend([product(&[basis, self.inputs()])]);
                if self.depth > 0 {
                    sizes.extend(layers(self.inputs(), self.depth));
                }
            }
            Basis::Fourier => sizes.push(product(&[basis, self.inputs()])),
            Basis::Polynomial => {}
        }
        sizes.push(match self.generator {
            GeneratorKind::Spectral => product(&[k, d]),
            GeneratorKind::Dense => product(&[d + k, d + k]),
        });
        match self.readout {
            ReadoutKind::Slice => {}
            ReadoutKind::Linear => sizes.push(product(&[self.size(), d])),
            ReadoutKind::Network => sizes.extend(layers(1 + d + k, self.depth.clamp(1, 2))),
        }
        if self.mixing.is_some() {
            sizes.push(product(&[2 + d + basis, k]));
        }
        sizes
    }

    /// Numbers that the basis sees: time, x twice, and the condition.
    pub fn inputs(&self) -> i64 {
        (1 + 2 * self.dimension()).saturating_add(self.conditioning.size())
    }
}

/// The number of observables of a polynomial basis: monomials of total degree 2 to `degree` in t, x and the
/// condition, and the condition itself.
///
/// # Errors
/// [`Error::Argument`] naming `degree` where they are more than 4096.
pub fn polynomial_size(dimension: i64, conditioning: Conditioning, degree: i64) -> Result<i64> {
    let extra = conditioning.size();
    match monomial_count(1 + dimension + extra, extra, degree) {
        Some(count) if count <= MAX_MONOMIALS => Ok(count),
        count => {
            let got = count.map_or("more than can be counted".into(), |count| count.to_string());
            let expected =
                format!("at most {MAX_MONOMIALS} monomials of {} variables", 1 + dimension + extra);
            Err(Error::argument("degree", expected, format!("{degree}: {got}")))
        }
    }
}

/// Principal axes are a square matrix of this side: more than can be held.
const MAX_DIMENSION: i64 = 1 << 20;
const MAX_OBSERVABLES: i64 = 1 << 20;
const MAX_MONOMIALS: i64 = 4096;
