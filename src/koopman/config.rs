//! The architecture of a student.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Basis, Direction, FeatureMap, Frame, GeneratorKind, Inputs, ReadoutKind, Stability};
use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::nets::{feature_maps, monomial_count, UNetConfig};
use crate::tensor::{event_size, parse_dtype, shape_text};
use crate::velocity::{NetworkFieldConfig, Path, SourceDescription};

/// Options that a file stores to rebuild a student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentConfig {
    pub event_shape: Vec<i64>,
    pub conditioning: Conditioning,
    /// k, the number of observables phi.
    pub observables: i64,
    pub generator: GeneratorKind,
    /// Number of lifts: 1, or 2 for separate observables in each direction of time under one generator.
    pub lifts: i64,
    /// Whether a single lift for both directions receives the direction, 1 or -1, as one more value of its
    /// condition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub directed: bool,
    pub width: i64,
    pub depth: i64,
    /// Number of rows in the table of running statistics in [`super::InputCoordinates`].
    pub table_times: i64,
    pub dtype: String,
    /// The functions that phi is made of.
    #[serde(default)]
    pub basis: Basis,
    /// Inputs of a basis that is a perceptron.
    #[serde(default, rename = "inputs")]
    pub sees: Inputs,
    /// Total degree of a polynomial basis, 2 to 12.
    #[serde(default = "default_degree")]
    pub degree: i64,
    /// Whether the basis gives the features themselves or the features carried back to time 0. A moving frame
    /// uses the eigenvalues of the spectral generator. A converted student keeps separate ones for its basis
    /// before mixing.
    #[serde(default)]
    pub frame: Frame,
    /// How x is read off the observables.
    #[serde(default)]
    pub readout: ReadoutKind,
    /// Structure of a dense generator's free block.
    #[serde(default)]
    pub stability: Stability,
    /// Number of complex pairs of a spectral generator; `None` is about 3/8 of the observables.
    #[serde(default)]
    pub pairs: Option<i64>,
    /// Number of functions in the basis where phi is a linear map of [1, t, x, basis], as it is after a
    /// conversion to the other generator; `None` if phi is the basis.
    #[serde(default)]
    pub mixing: Option<i64>,
    /// The U-Net of a basis that is a U-Net or a hierarchy.
    #[serde(default)]
    pub unet: Option<UNetConfig>,
    /// Whether each pixel of a hierarchy has eigenvalues of its own, instead of sharing them with the other
    /// pixels of its feature map.
    #[serde(default)]
    pub per_pixel: bool,
    /// Channels of the teacher's feature maps that those of a hierarchy are compared with in training,
    /// through [`super::Heads`]. Empty without such a comparison, and after training.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<i64>,
    /// The network of the velocity field of the student's own noised samples ([`super::Noising`]). `None`
    /// without such a field, and after training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noising: Option<Box<NetworkFieldConfig>>,
    /// The probability path that relates the student's standard coordinates to those of the data; `None` if
    /// they are the same ([`crate::velocity::Units`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<Path>,
    /// The source of samples, without its tensors.
    #[serde(default, skip_serializing_if = "SourceDescription::is_normal")]
    pub source: SourceDescription,
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
            directed: false,
            width: 128,
            depth: 3,
            table_times: 33,
            dtype: "float32".into(),
            basis: Basis::Network,
            sees: Inputs::Standardised,
            degree: 3,
            frame: Frame::Fixed,
            readout: ReadoutKind::Slice,
            stability: Stability::Free,
            pairs: None,
            mixing: None,
            unet: None,
            per_pixel: false,
            heads: Vec::new(),
            noising: None,
            units: None,
            source: SourceDescription::Normal,
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
        if self.generator != GeneratorKind::Dense && self.stability != Stability::Free {
            let expected = "'free' with the spectral generator, whose growth is always bounded";
            return Err(Error::argument("stability", expected, format!("'{}'", self.stability.name())));
        }
        if self.basis != Basis::Network && self.sees != Inputs::Standardised {
            return Err(Error::argument("inputs", "'standardised' unless the basis is 'network'", "'raw'"));
        }
        if self.basis == Basis::Polynomial {
            let count = polynomial_size(self.dimension(), self.conditioning, self.degree)?;
            if self.basis_size() != count {
                let expected = format!("{count}, the number of monomials of degree 2 to {}", self.degree);
                return Err(Error::argument("observables", expected, self.basis_size()));
            }
        }
        let trained = matches!(self.basis, Basis::Network | Basis::UNet | Basis::Hierarchy);
        if self.directed && !(trained && self.lifts == 1) {
            let expected = "false unless one network, U-Net or hierarchy lifts both directions";
            let got = format!("true with {} lift(s) of basis {:?}", self.lifts, self.basis).to_lowercase();
            return Err(Error::argument("directed", expected, got));
        }
        self.validate_unet()?;
        if let Some(noising) = &self.noising {
            noising.check()?;
            if noising.event_shape != self.event_shape || noising.dtype != self.dtype {
                let expected = "the student's samples and dtype";
                return Err(Error::argument("noising", expected, shape_text(&noising.event_shape)));
            }
        }
        parse_dtype(&self.dtype).map(|_| ())
    }

    /// d, the number of values in one sample.
    pub fn dimension(&self) -> i64 {
        event_size(&self.event_shape)
    }

    /// Coordinates of x among the observables: all of them, or none in a hierarchy.
    pub fn state_size(&self) -> i64 {
        match self.generator {
            GeneratorKind::Levels => 0,
            GeneratorKind::Spectral | GeneratorKind::Dense => self.dimension(),
        }
    }

    /// m, the number of all observables: the constant, time, x (except in a hierarchy) and phi.
    pub fn size(&self) -> i64 {
        2 + self.state_size() + self.observables
    }

    /// The feature maps that a hierarchy's phi consists of, in their order; none for other students.
    pub fn feature_maps(&self) -> Vec<FeatureMap> {
        match (&self.unet, self.generator) {
            (Some(unet), GeneratorKind::Levels) => feature_maps(unet)
                .into_iter()
                .map(|(channels, factor)| FeatureMap {
                    channels,
                    height: self.event_shape[1] / factor,
                    width: self.event_shape[2] / factor,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    fn validate_unet(&self) -> Result<()> {
        let hierarchical = [
            self.basis == Basis::Hierarchy,
            self.generator == GeneratorKind::Levels,
            self.readout == ReadoutKind::Decoder,
        ];
        if hierarchical.iter().any(|part| *part) && !hierarchical.iter().all(|part| *part) {
            let expected = "'hierarchy', the generator 'levels' and the readout 'decoder' only together";
            let got = format!("{:?}, {:?}, {:?}", self.basis, self.generator, self.readout).to_lowercase();
            return Err(Error::argument("basis", expected, got));
        }
        let maps = self.feature_maps().len();
        let known = |channels: &i64| (1..=1 << 16).contains(channels);
        if !(self.heads.is_empty() || self.heads.len() == maps && self.heads.iter().all(known)) {
            let expected = format!("none, or 1 to 65536 channels for each of {maps} feature maps");
            return Err(Error::argument("heads", expected, format!("{:?}", self.heads)));
        }
        let Some(unet) = &self.unet else {
            return match self.basis {
                Basis::UNet | Basis::Hierarchy => {
                    Err(Error::argument("unet", "the options of a U-Net", "none"))
                }
                _ => Ok(()),
            };
        };
        if !matches!(self.basis, Basis::UNet | Basis::Hierarchy) {
            return Err(Error::argument(
                "unet",
                "None unless the basis is a U-Net or a hierarchy",
                "a U-Net",
            ));
        }
        unet.check(&self.event_shape)?;
        let pixels = self.event_shape[1] * self.event_shape[2];
        let expected = match self.basis {
            Basis::UNet if self.observables % pixels == 0 => return Ok(()),
            Basis::UNet => format!("a multiple of the number of pixels, {pixels}"),
            _ => {
                let count: i64 = self.feature_maps().iter().map(FeatureMap::size).sum();
                if self.observables == count {
                    return Ok(());
                }
                format!("{count}, the number of values in all feature maps")
            }
        };
        Err(Error::argument("observables", expected, self.observables))
    }

    /// Number of functions in the basis: k, unless phi is a mixture of them.
    pub fn basis_size(&self) -> i64 {
        self.mixing.unwrap_or(self.observables)
    }

    /// Number of times that one sample uses each weight: once in a perceptron, once for each pixel in a U-Net (an
    /// average over its levels).
    pub fn reuse(&self) -> i64 {
        match &self.unet {
            Some(_) => (self.event_shape[1..].iter().product::<i64>() / 16).max(1),
            None => 1,
        }
    }

    /// Whether a moving frame shares its eigenvalues with the generator.
    pub fn shares_frame(&self) -> bool {
        self.generator != GeneratorKind::Dense && self.mixing.is_none()
    }

    /// Sizes of the large tensors of a student with this configuration, in saturating arithmetic. A file must
    /// hold at least as many values.
    pub fn tensor_sizes(&self) -> Vec<i64> {
        let product = |sizes: &[i64]| sizes.iter().fold(1i64, |size, next| size.saturating_mul(*next));
        let (d, k, basis) = (self.dimension(), self.observables, self.basis_size());
        let layers = |inputs: i64, depth: i64| {
            [product(&[inputs, self.width]), product(&[self.width, self.width, (depth - 1).max(0)])]
        };
        let mut sizes = vec![product(&[self.table_times, d])];
        if self.unet.is_none() {
            sizes.push(product(&[d, d]));
        }
        match self.basis {
            Basis::Network => {
                sizes.extend([product(&[basis, self.inputs()])]);
                if self.depth > 0 {
                    sizes.extend(layers(self.inputs(), self.depth));
                }
            }
            Basis::Fourier => sizes.push(product(&[basis, self.inputs()])),
            Basis::Polynomial => {}
            Basis::UNet | Basis::Hierarchy => {
                let (inputs, condition) = (self.event_shape[0], self.conditioning.size());
                sizes.push(self.unet.as_ref().map_or(0, |unet| unet.least_weights(inputs, condition)));
            }
        }
        sizes.push(match self.generator {
            GeneratorKind::Spectral => product(&[k, d]),
            GeneratorKind::Dense => product(&[d + k, d + k]),
            GeneratorKind::Levels if self.per_pixel => k,
            GeneratorKind::Levels => 0,
        });
        match self.readout {
            ReadoutKind::Slice => {}
            ReadoutKind::Linear => sizes.push(product(&[self.size(), d])),
            ReadoutKind::Network => sizes.extend(layers(1 + d + k, self.depth.clamp(1, 2))),
            ReadoutKind::Decoder => {}
        }
        let heads = self.heads.iter().zip(self.feature_maps());
        sizes.extend(heads.map(|(channels, map)| product(&[*channels, map.channels])));
        let noising = self.noising.as_ref();
        sizes.extend(noising.map(|field| field.parameter_count().unwrap_or(i64::MAX)));
        if self.mixing.is_some() {
            sizes.push(product(&[2 + d + basis, k]));
        }
        sizes
    }

    /// Directions of time that differ in their observables.
    pub fn directions(&self) -> &'static [Direction] {
        match self.lifts == 2 || self.directed {
            true => &[Direction::Forward, Direction::Backward],
            false => &[Direction::Forward],
        }
    }

    /// The condition `[B, c]` that a lift receives. If the configuration is `directed`, its last column is
    /// the direction.
    pub(super) fn told(
        &self,
        direction: Direction,
        t: &Tensor,
        condition: Option<&Tensor>,
    ) -> Option<Tensor> {
        if !self.directed {
            return condition.map(Tensor::shallow_clone);
        }
        let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
        let way = t.full_like(sign).unsqueeze(1);
        Some(condition.map_or_else(|| way.shallow_clone(), |condition| Tensor::cat(&[condition, &way], 1)))
    }

    /// Number of inputs of the basis: time, x (twice if it is standardised), the condition, and the direction
    /// if the configuration is `directed`.
    pub fn inputs(&self) -> i64 {
        let copies = if self.sees == Inputs::Raw { 1 } else { 2 };
        let told = self.conditioning.size().saturating_add(i64::from(self.directed));
        (1 + copies * self.dimension()).saturating_add(told)
    }
}

/// The number of observables of a polynomial basis: monomials of total degree 2 to `degree` in t, x and the
/// condition, and the condition itself.
///
/// # Errors
/// [`Error::Argument`] naming `degree` if there are more than 4096.
pub fn polynomial_size(dimension: i64, conditioning: Conditioning, degree: i64) -> Result<i64> {
    let extra = conditioning.size();
    match monomial_count(1 + dimension + extra, extra, degree) {
        Some(count) if count <= MAX_MONOMIALS => Ok(count),
        count => {
            let got = count.map_or("more than an integer holds".into(), |count| count.to_string());
            let expected =
                format!("at most {MAX_MONOMIALS} monomials of {} variables", 1 + dimension + extra);
            Err(Error::argument("degree", expected, format!("{got} for degree {degree}")))
        }
    }
}

/// Largest dimension. The principal axes are a square matrix of this size, which no memory can hold.
const MAX_DIMENSION: i64 = 1 << 20;
const MAX_OBSERVABLES: i64 = 1 << 24;
const MAX_MONOMIALS: i64 = 4096;
