//! Conversion of a student to the other parametrisation of its generator, dense or spectral.
//!
//! A dense generator moves z = [x, phi] by z' = b0 + t b1 + z D. With D W = W Λ (complex eigenvectors as
//! their real and imaginary parts, Λ in blocks [[a, b], [-b, a]]) the features y = z W + α + t β obey
//! y' = y Λ where α Λ = b0 W + β and β Λ = b1 W, and x is read from them:
//! x' = b0 + t b1 + (y - α - t β) W^{-1} D, all of it the spectral generator's form.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{Frame, GeneratorKind, ReadoutKind, Stability, Student, StudentConfig};
use crate::error::{Error, Result};
use crate::koopman::generator::{RealEigenvectors, GROWTH_BOUND};
use crate::tensor::Share as _;

/// How well a dense generator could be written in spectral form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversion {
    /// Condition number of the eigenvector matrix (unit columns): errors of the parameters grow by up to this.
    pub condition_number: f64,
    /// ||D W - W Λ|| / ||D||.
    pub residual: f64,
    /// Largest |Re λ|.
    pub growth: f64,
    /// Smallest |λ| among the features kept.
    pub smallest: f64,
    /// Number of observables of the new student.
    pub observables: i64,
    /// Number of features left out, because their eigenvalue is 0 and nothing reads them.
    pub dropped: i64,
    /// Bound on the error in the rate of x from eigenvalues that are too near 0 to carry an affine motion.
    pub affine_residual: f64,
}

/// All tensors of a student by name, in float64 on the CPU.
fn exact(student: &Student) -> HashMap<String, Tensor> {
    let convert = |tensor: Tensor| match tensor.is_floating_point() {
        true => tensor.to_device(Device::Cpu).to_kind(Kind::Double),
        false => tensor,
    };
    student.named().into_iter().map(|(name, tensor)| (name, convert(tensor))).collect()
}

/// Builds a student with another configuration from its tensors.
fn rebuild(
    student: &Student,
    config: StudentConfig,
    mut tensors: HashMap<String, Tensor>,
) -> Result<Student> {
    let mut other = Student::new(config, 0, student.device())?;
    other.set_source(student.source().shallow_clone());
    other.restore(|name| {
        tensors
            .remove(name)
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("a conversion did not provide {name:?}")))
    })?;
    Ok(other)
}

impl Student {
    /// The error of what this student's kind of generator cannot do.
    pub(super) fn wrong_generator(&self, expected: &str) -> Error {
        Error::argument("generator", expected, format!("'{}'", self.config().generator.name()))
    }

    /// The same student with a dense generator: the same observables, and L as a full matrix.
    ///
    /// # Errors
    /// [`Error::Argument`] if the generator is dense already.
    pub fn to_dense(&self) -> Result<Student> {
        if self.config().generator != GeneratorKind::Spectral {
            return Err(self.wrong_generator("'spectral' for a conversion to dense"));
        }
        let config = StudentConfig { generator: GeneratorKind::Dense, pairs: None, ..self.config().clone() };
        let matrix = self.generator().matrix();
        let mut tensors = exact(self);
        if self.config().frame == Frame::Moving && self.config().shares_frame() {
            // The frame shared its eigenvalues with the generator; from now on the basis keeps its own.
            for part in ["growth", "frequency"] {
                if let Some(tensor) = tensors.remove(&format!("generator.{part}")) {
                    tensors.insert(format!("frame.{part}"), tensor);
                }
            }
        }
        tensors.retain(|name, _| !name.starts_with("generator."));
        let columns = matrix.narrow(1, 2, matrix.size()[1] - 2);
        tensors.insert("generator.columns".into(), columns);
        rebuild(self, config, tensors)
    }

    /// A student with the same paths and a spectral generator, and how well conditioned that change of
    /// coordinates is. Its observables, at most d + k, are linear combinations of those of the dense student.
    ///
    /// # Errors
    /// [`Error::Argument`] if the generator is spectral already; [`Error::Divergence`] if it has no spectral
    /// form: nearly parallel eigenvectors, growth beyond ±8, or an eigenvalue too near zero under an affine
    /// motion.
    pub fn to_spectral(&self) -> Result<(Student, Conversion)> {
        if self.config().generator != GeneratorKind::Dense {
            return Err(self.wrong_generator("'dense' for a conversion to spectral"));
        }
        let _guard = tch::no_grad_guard();
        let form = SpectralForm::new(self)?;
        let affine = form.absorb_affine_motion()?;
        let kept = form.keep_what_is_read();

        let mut tensors = exact(self);
        tensors.retain(|name, _| !name.starts_with("generator."));
        form.add_generator(&affine, &kept, &mut tensors);
        form.add_mixing(&affine, &kept, &mut tensors)?;
        form.translate_readout(&affine, &mut tensors);
        let config = StudentConfig {
            generator: GeneratorKind::Spectral,
            stability: Stability::Free,
            observables: kept.observables(),
            pairs: Some(kept.pairs),
            mixing: Some(self.config().basis_size()),
            ..self.config().clone()
        };
        Ok((rebuild(self, config, tensors)?, form.report(&affine, &kept)))
    }
}

/// A dense generator in the coordinates of its eigenvectors: y = z W + α + t β.
struct SpectralForm<'a> {
    student: &'a Student,
    /// Machine epsilon of the student's dtype.
    precision: f64,
    /// (b0, b1), `[2, n]`.
    affine: Tensor,
    /// D, `[n, n]`.
    block: Tensor,
    spectrum: RealEigenvectors,
    /// W and its inverse, `[n, n]`.
    basis: Tensor,
    inverse: Tensor,
    /// Λ, `[n, n]`.
    rates: Tensor,
    condition_number: f64,
    /// Largest |Re λ|.
    growth: f64,
}

/// The affine motion as part of the features.
struct Affine {
    /// (α, β), `[2, n]`.
    part: Tensor,
    /// Bound on the error in the rate of x.
    residual: f64,
}

/// The features of the new student.
struct Kept {
    /// Which eigenvalues are kept: bool, `[p + r]`, for one of each pair and then the real ones.
    values: Tensor,
    /// Their places in the layout of real and imaginary parts, int64.
    places: Tensor,
    /// Number of pairs among them.
    pairs: i64,
}

impl Kept {
    fn observables(&self) -> i64 {
        self.places.size()[0]
    }
}

fn row(tensor: &Tensor, index: i64) -> Tensor {
    tensor.narrow(0, index, 1)
}

impl<'a> SpectralForm<'a> {
    /// # Errors
    /// [`Error::Divergence`] for nearly parallel eigenvectors and for growth out of bounds.
    fn new(student: &'a Student) -> Result<Self> {
        let config = student.config();
        let n = config.dimension() + config.observables;
        let matrix = student.generator().matrix();
        let affine = matrix.narrow(0, 0, 2).narrow(1, 2, n);
        let block = matrix.narrow(0, 2, n).narrow(1, 2, n).contiguous();
        let spectrum = RealEigenvectors::new(&block)?;
        let basis = spectrum.basis();
        let precision = match student.kind() {
            Kind::Double => f64::EPSILON,
            _ => f64::from(f32::EPSILON),
        };
        let (_, singular, _) = basis.f_svd(true, false)?;
        let (largest, least) = (singular.max().double_value(&[]), singular.min().double_value(&[]));
        let condition_number = if least > 0.0 { largest / least } else { f64::INFINITY };
        if condition_number * precision > 1e-2 {
            return Err(Error::Divergence(format!(
                "the generator has no usable spectral form: its eigenvectors are nearly parallel \
                 (condition number {condition_number:.1e}), as for a defective matrix"
            )));
        }
        let growth = spectrum.growth.abs().max().double_value(&[]);
        if growth >= GROWTH_BOUND * (1.0 - 8.0 * precision) {
            return Err(Error::Divergence(format!(
                "the generator has no spectral form: an eigenvalue has a real part of size {growth:.3}, but \
                 spectral growth rates are bounded by {GROWTH_BOUND}"
            )));
        }
        let (inverse, rates) = (Tensor::f_linalg_inv(&basis)?, spectrum.rates()?);
        Ok(SpectralForm {
            student,
            precision,
            affine,
            block,
            spectrum,
            basis,
            inverse,
            rates,
            condition_number,
            growth,
        })
    }

    /// α and β. The affine motion is absorbed into the features, except where dividing by the eigenvalue
    /// twice would cost more accuracy than leaving a part of the motion out. There α = 0 and β = -b0 W, and
    /// y' = y Λ leaves out the term t (b1 W - β Λ).
    ///
    /// # Errors
    /// [`Error::Divergence`] if too much of the motion would be left out.
    fn absorb_affine_motion(&self) -> Result<Affine> {
        let (spectrum, affine) = (&self.spectrum, &self.affine);
        let modulus = spectrum.modulus();
        let carried = modulus.gt(self.precision.sqrt()).to_kind(Kind::Double);
        let (real, imaginary) = (affine.matmul(&spectrum.real), affine.matmul(&spectrum.imaginary));
        let (slope_re, slope_im) = spectrum.divide(&row(&real, 1), &row(&imaginary, 1), &carried);
        let (shift_re, shift_im) =
            spectrum.divide(&(row(&real, 0) + &slope_re), &(row(&imaginary, 0) + &slope_im), &carried);
        let still: Tensor = 1.0 - &carried;
        let slope =
            spectrum.layout(&(slope_re - row(&real, 0) * &still), &(slope_im - row(&imaginary, 0) * &still));
        let shift = spectrum.layout(&shift_re, &shift_im);
        // What y' = y Λ leaves out for these features, per unit of time.
        let still = spectrum.layout(&still.unsqueeze(0), &still.unsqueeze(0));
        let (first, second) = (row(affine, 0).matmul(&self.basis), row(affine, 1).matmul(&self.basis));
        let left = (&second - slope.matmul(&self.rates)) * &still
            + (first - shift.matmul(&self.rates) + &slope) * &still;
        let residual = (left.abs().reshape([-1, 1]) * self.reads().abs()).sum(Kind::Double).double_value(&[]);
        let scale = affine.abs().max().double_value(&[]).max(1.0);
        if residual > 30.0 * self.precision.sqrt() * scale {
            return Err(Error::Divergence(format!(
                "the generator has no spectral form: an eigenvalue is nearly zero ({:.1e}), but the constant \
                 or time drives its feature (the error of x' would be {residual:.1e})",
                modulus.min().double_value(&[])
            )));
        }
        Ok(Affine { part: Tensor::cat(&[&shift, &slope], 0), residual })
    }

    /// The matrix `[n, *]` by which the features y enter what is read: the rate of x for a slice, and all of
    /// z for other readouts.
    fn reads(&self) -> Tensor {
        match self.student.config().readout {
            ReadoutKind::Slice => {
                self.rates.matmul(&self.inverse).narrow(1, 0, self.student.config().dimension())
            }
            ReadoutKind::Linear | ReadoutKind::Network | ReadoutKind::Decoder => self.inverse.shallow_clone(),
        }
    }

    /// The features of the new student. A slice reads only x' = ... + y Λ W^{-1}, in which features of
    /// eigenvalue 0 do not occur.
    fn keep_what_is_read(&self) -> Kept {
        let modulus = self.spectrum.modulus();
        let tiny = match self.student.config().readout {
            ReadoutKind::Slice => 1e-13 * modulus.max().double_value(&[]).max(1.0),
            _ => -1.0,
        };
        let mut values = modulus.gt(tiny);
        if values.any().int64_value(&[]) == 0 {
            values = values.logical_not();
        }
        let pairs = values.narrow(0, 0, self.spectrum.pairs).to_kind(Kind::Int64).sum(Kind::Int64);
        let places = values.to_kind(Kind::Double).unsqueeze(0);
        let places = self.spectrum.layout(&places, &places).reshape([-1]).nonzero().reshape([-1]);
        Kept { values, places, pairs: pairs.int64_value(&[]) }
    }

    fn report(&self, affine: &Affine, kept: &Kept) -> Conversion {
        let residual = (self.block.matmul(&self.basis) - self.basis.matmul(&self.rates)).norm()
            / self.block.norm().clamp_min(1e-300);
        Conversion {
            condition_number: self.condition_number,
            residual: residual.double_value(&[]),
            growth: self.growth,
            smallest: self.spectrum.modulus().masked_select(&kept.values).min().double_value(&[]),
            observables: kept.observables(),
            dropped: self.rates.size()[0] - kept.observables(),
            affine_residual: affine.residual,
        }
    }

    /// Adds the parameters of the spectral generator.
    fn add_generator(&self, affine: &Affine, kept: &Kept, tensors: &mut HashMap<String, Tensor>) {
        let d = self.student.config().dimension();
        let readout = self.rates.matmul(&self.inverse).narrow(1, 0, d);
        let drift = self.affine.narrow(1, 0, d) - affine.part.matmul(&readout);
        let growth = (self.spectrum.growth.masked_select(&kept.values) / GROWTH_BOUND).atanh() * GROWTH_BOUND;
        let frequency = self.spectrum.frequency.masked_select(&kept.values).narrow(0, 0, kept.pairs);
        tensors.insert("generator.readout".into(), readout.index_select(0, &kept.places));
        tensors.insert("generator.drift".into(), drift);
        tensors.insert("generator.growth".into(), growth);
        tensors.insert("generator.frequency".into(), frequency);
    }

    /// Adds the map from [1, t, x, basis] to the features: first to z, then to y.
    fn add_mixing(&self, affine: &Affine, kept: &Kept, tensors: &mut HashMap<String, Tensor>) -> Result<()> {
        let (d, below) = (self.student.config().dimension(), self.student.config().basis_size());
        let eye = Tensor::f_eye(2 + d + below, (Kind::Double, Device::Cpu))?;
        let mixing = match tensors.get("mixing") {
            Some(own) => own.shallow_clone(),
            None => eye.narrow(1, 2 + d, below),
        };
        let mixed = Tensor::cat(&[eye.narrow(1, 2, d), mixing], 1).f_matmul(&self.basis)?;
        let _ = mixed.narrow(0, 0, 2).f_add_(&affine.part)?;
        tensors.insert("mixing".into(), mixed.index_select(1, &kept.places));
        Ok(())
    }

    /// Rewrites a readout that is linear in the observables, or whose first layer is, as a function of the
    /// new observables.
    fn translate_readout(&self, affine: &Affine, tensors: &mut HashMap<String, Tensor>) {
        let (d, n) = (self.student.config().dimension(), self.rates.size()[0]);
        // Linear functions of [1, t, z], `[2 + n, *]`, as functions of [1, t, x, y].
        let translate = |function: &Tensor| {
            let features = self.inverse.matmul(&function.narrow(0, 2, n));
            let first = function.narrow(0, 0, 2) - affine.part.matmul(&features);
            let state = Tensor::zeros([d, function.size()[1]], (Kind::Double, Device::Cpu));
            Tensor::cat(&[first, state, features], 0)
        };
        if let Some(matrix) = tensors.get("readout.matrix").map(translate) {
            tensors.insert("readout.matrix".into(), matrix);
        }
        if let (Some(weight), Some(bias)) = (tensors.get("readout.0.weight"), tensors.get("readout.0.bias")) {
            let function = translate(&Tensor::cat(&[&bias.unsqueeze(0), &weight.tr()], 0));
            let (bias, weight) = (function.select(0, 0), function.narrow(0, 1, 1 + d + n).tr().contiguous());
            tensors.insert("readout.0.weight".into(), weight);
            tensors.insert("readout.0.bias".into(), bias);
        }
    }
}
