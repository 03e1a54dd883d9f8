//! One student in the other parametrisation of its generator.
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
    /// Observables of the new student.
    pub observables: i64,
    /// Eigenvalues 0 whose features nothing reads, left out.
    pub dropped: i64,
    /// Bound on what the rate of x loses where an eigenvalue is too near 0 to carry an affine motion.
    pub affine_residual: f64,
}

/// Everything by name, float64 on the CPU.
fn exact(student: &Student) -> HashMap<String, Tensor> {
    let convert = |tensor: Tensor| match tensor.is_floating_point() {
        true => tensor.to_device(Device::Cpu).to_kind(Kind::Double),
        false => tensor,
    };
    student.named().into_iter().map(|(name, tensor)| (name, convert(tensor))).collect()
}

/// A student from its tensors.
fn rebuild(
    student: &Student,
    config: StudentConfig,
    mut tensors: HashMap<String, Tensor>,
) -> Result<Student> {
    let mut other = Student::new(config, 0, student.device())?;
    other.restore(|name| {
        tensors
            .remove(name)
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("a conversion did not provide {name:?}")))
    })?;
    Ok(other)
}

fn wrong_generator(expected: &str, got: &str) -> Error {
    Error::argument("generator", expected, got)
}

impl Student {
    /// The same student with a dense generator: the same observables, and L as a full matrix.
    ///
    /// # Errors
    /// [`Error::Argument`] where the generator is dense already.
    pub fn to_dense(&self) -> Result<Student> {
        if self.config().generator != GeneratorKind::Spectral {
            return Err(wrong_generator("'spectral', to be made dense", "'dense'"));
        }
        let config = StudentConfig { generator: GeneratorKind::Dense, pairs: None, ..self.config().clone() };
        let matrix = self.generator().matrix();
        let mut tensors = exact(self);
        if self.config().frame == Frame::Moving && self.config().shares_frame() {
            // The basis keeps its frame when the generator no longer says what it is.
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

    /// The same paths with a spectral generator, whose d + k observables mix the dense one's, and how well
    /// conditioned that change of coordinates is.
    ///
    /// # Errors
    /// [`Error::Argument`] where the generator is spectral already; [`Error::Divergence`] where it has no
    /// spectral form: nearly parallel eigenvectors, growth beyond ±8, or an eigenvalue too near zero under
    /// an affine motion.
    pub fn to_spectral(&self) -> Result<(Student, Conversion)> {
        let config = self.config();
        if config.generator != GeneratorKind::Dense {
            return Err(wrong_generator("'dense', to be made spectral", "'spectral'"));
        }
        let _guard = tch::no_grad_guard();
        let d = config.dimension();
        let n = d + config.observables;
        let matrix = self.generator().matrix();
        let affine = matrix.narrow(0, 0, 2).narrow(1, 2, n);
        let block = matrix.narrow(0, 2, n).narrow(1, 2, n).contiguous();
        let spectrum = RealEigenvectors::new(&block)?;
        let basis = spectrum.basis();
        let precision = match self.kind() {
            Kind::Double => f64::EPSILON,
            _ => f64::from(f32::EPSILON),
        };

        let (_, singular, _) = basis.f_svd(true, false)?;
        let (largest, least) = (singular.max().double_value(&[]), singular.min().double_value(&[]));
        let condition_number = if least > 0.0 { largest / least } else { f64::INFINITY };
        if condition_number * precision > 1e-2 {
            return Err(Error::Divergence(format!(
                "the generator has no usable spectral form: its eigenvectors are nearly parallel \
                 (condition number {condition_number:.1e}), as those of a defective matrix are"
            )));
        }
        let growth = spectrum.growth.abs().max().double_value(&[]);
        if growth >= GROWTH_BOUND * (1.0 - 8.0 * precision) {
            return Err(Error::Divergence(format!(
                "the generator has no spectral form: an eigenvalue's real part is {growth:.3} in size, and \
                 spectral growth is bounded by {GROWTH_BOUND}"
            )));
        }
        let inverse = Tensor::f_linalg_inv(&basis)?;

        // The affine motion is absorbed, except where dividing by the eigenvalue twice would lose more
        // than keeping it: there β = 0 and α + t β becomes -t b0 W, which leaves c' = t b1 W + ... behind.
        let modulus = spectrum.modulus();
        let carried = modulus.gt(precision.sqrt()).to_kind(Kind::Double);
        let (real, imaginary) = (affine.matmul(&spectrum.real), affine.matmul(&spectrum.imaginary));
        let row = |tensor: &Tensor, index: i64| tensor.narrow(0, index, 1);
        let (slope_re, slope_im) = spectrum.divide(&row(&real, 1), &row(&imaginary, 1), &carried);
        let (shift_re, shift_im) =
            spectrum.divide(&(row(&real, 0) + &slope_re), &(row(&imaginary, 0) + &slope_im), &carried);
        let still: Tensor = 1.0 - &carried;
        let slope =
            spectrum.layout(&(slope_re - row(&real, 0) * &still), &(slope_im - row(&imaginary, 0) * &still));
        let shift = spectrum.layout(&shift_re, &shift_im);
        let rates = spectrum.rates()?;
        // What the still ones' own equation, y' = y Λ, leaves out, per unit of time.
        let still = spectrum.layout(&still.unsqueeze(0), &still.unsqueeze(0));
        let (first, second) = (row(&affine, 0).matmul(&basis), row(&affine, 1).matmul(&basis));
        let left =
            (&second - slope.matmul(&rates)) * &still + (first - shift.matmul(&rates) + &slope) * &still;
        let read = self.reads(&inverse, &rates);
        let affine_residual = (left.abs().reshape([-1, 1]) * read.abs()).sum(Kind::Double).double_value(&[]);
        let scale = affine.abs().max().double_value(&[]).max(1.0);
        if affine_residual > 30.0 * precision.sqrt() * scale {
            return Err(Error::Divergence(format!(
                "the generator has no spectral form: an eigenvalue is zero, or nearly ({:.1e}), where the \
                 constant or time drives the state (x' would be off by {affine_residual:.1e})",
                modulus.min().double_value(&[])
            )));
        }

        // A slice reads x' = ... + y Λ W^{-1} only: features of eigenvalue 0 are read by nobody.
        let tiny = 1e-13 * modulus.max().double_value(&[]).max(1.0);
        let mut kept = modulus.gt(if config.readout == ReadoutKind::Slice { tiny } else { -1.0 });
        if kept.any().int64_value(&[]) == 0 {
            kept = kept.logical_not();
        }
        let pairs = kept.narrow(0, 0, spectrum.pairs).to_kind(Kind::Int64).sum(Kind::Int64).int64_value(&[]);
        let places = kept.to_kind(Kind::Double).unsqueeze(0);
        let places = spectrum.layout(&places, &places).reshape([-1]).nonzero().reshape([-1]);
        let observables = places.size()[0];
        let smallest = modulus.masked_select(&kept).min().double_value(&[]);
        let report = Conversion {
            condition_number,
            residual: ((block.matmul(&basis) - basis.matmul(&rates)).norm() / block.norm().clamp_min(1e-300))
                .double_value(&[]),
            growth,
            smallest,
            observables,
            dropped: n - observables,
            affine_residual,
        };

        let mut tensors = exact(self);
        tensors.retain(|name, _| !name.starts_with("generator."));
        let readout = rates.matmul(&inverse).narrow(1, 0, d);
        let drift = affine.narrow(1, 0, d) - Tensor::cat(&[&shift, &slope], 0).matmul(&readout);
        tensors.insert("generator.readout".into(), readout.index_select(0, &places));
        tensors.insert("generator.drift".into(), drift);
        let rate = (spectrum.growth.masked_select(&kept) / GROWTH_BOUND).atanh() * GROWTH_BOUND;
        tensors.insert("generator.growth".into(), rate);
        tensors.insert(
            "generator.frequency".into(),
            spectrum.frequency.masked_select(&kept).narrow(0, 0, pairs),
        );

        let affine_part = Tensor::cat(&[&shift, &slope], 0);
        let below = config.basis_size();
        let mixing = match tensors.get("mixing") {
            Some(own) => own.shallow_clone(),
            None => Tensor::f_eye(2 + d + below, (Kind::Double, Device::Cpu))?.narrow(1, 2 + d, below),
        };
        // [1, t, x, basis] -> z, then z -> y.
        let state = Tensor::f_eye(2 + d + below, (Kind::Double, Device::Cpu))?.narrow(1, 2, d);
        let mixed = Tensor::cat(&[state, mixing], 1).f_matmul(&basis)?;
        let _ = mixed.narrow(0, 0, 2).f_add_(&affine_part)?;
        tensors.insert("mixing".into(), mixed.index_select(1, &places));

        // Linear functions of [1, t, z], `[2 + n, *]`, as functions of [1, t, x, y].
        let translate = |function: &Tensor| {
            let features = inverse.matmul(&function.narrow(0, 2, n));
            let first = function.narrow(0, 0, 2) - affine_part.matmul(&features);
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
        let config = StudentConfig {
            generator: GeneratorKind::Spectral,
            stability: Stability::Free,
            observables,
            pairs: Some(pairs),
            mixing: Some(below),
            ..config.clone()
        };
        Ok((rebuild(self, config, tensors)?, report))
    }

    /// How the features y enter what is read, `[n, *]`: the rate of x, and all of z for a readout of phi.
    fn reads(&self, inverse: &Tensor, rates: &Tensor) -> Tensor {
        match self.config().readout {
            ReadoutKind::Slice => rates.matmul(inverse).narrow(1, 0, self.config().dimension()),
            ReadoutKind::Linear | ReadoutKind::Network | ReadoutKind::Decoder => inverse.shallow_clone(),
        }
    }
}
