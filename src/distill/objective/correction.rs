//! The term `correction`: it compares the distribution of the student's samples with that of the teacher's, without a
//! solution of the teacher's flow (Tong et al., arXiv 2511.19428, section 3.3; distribution matching distillation, Yin
//! et al., arXiv 2311.18828, section 3.2).
//!
//! Samples of fresh noise are noised again, x_t = a x1 + s x0 with other noise x0. A second network, which begins as a
//! copy of the teacher, learns the velocity field of these mixtures by flow matching: this is the term `noising`. The
//! difference between its estimate of x1 and the teacher's points from where the student's samples are too dense to
//! where they are too rare. In expectation it is the gradient of the Kullback-Leibler divergence of the two
//! distributions of x_t, up to a factor that depends on t. Yin et al. (eq. 8) also divide it by the distance between
//! sample and estimate. That distance is small near data, where a difference is mostly the error of the two networks, so
//! here it is left out.

use tch::{Device, Tensor};

use super::{Objective, Term};
use crate::data::{FreshNoise, Points};
use crate::error::{Error, Result};
use crate::koopman::Student;
use crate::nets::dropout;
use crate::velocity::{Expectation, NetworkField, VelocityField};

/// Name of the term that the student learns from.
pub(in crate::distill) const CORRECTION: &str = "correction";
/// Name of the regression loss of the second network.
pub(in crate::distill) const NOISING: &str = "noising";

impl Objective<'_> {
    /// Both terms, for the student's samples `[B, d]` of fresh noise.
    pub(super) fn correction(
        &self,
        student: &Student,
        samples: &Tensor,
        fresh: &FreshNoise,
    ) -> Result<[Term; 2]> {
        // The two fields are compared as they are, without the masks of the student's dropout.
        let _off = dropout::Training::off();
        let lost = || Error::Internal(anyhow::anyhow!("a correction without a field or a path"));
        let own = student.noising().field().ok_or_else(lost)?;
        let mixing = self.teacher.mixing().ok_or_else(lost)?;
        let (x1, t) = (samples.detach(), &fresh.t);
        let c = mixing.coefficients(t);
        let column = |weight: Tensor| weight.to_kind(x1.kind()).unsqueeze(1);
        let x = column(c.a) * &x1 + column(c.s) * &fresh.noise;
        let target = column(c.a_rate) * &x1 + column(c.s_rate) * &fresh.noise;

        let condition = fresh.teacher_condition.as_ref();
        let (velocity, unit) = own.velocity_in_units(t, &x, condition)?;
        let noising = ((&velocity - target) / unit).square().mean(x1.kind());

        let points = Points {
            t: t.shallow_clone(),
            x: x.shallow_clone(),
            condition: None,
            teacher_condition: condition.map(Tensor::shallow_clone),
        };
        let teacher = points.velocity(self.teacher)?;
        let estimate = |velocity: &Tensor| mixing.expectation(Expectation::Data, t, &x, velocity);
        let gap = estimate(&velocity.detach())? - estimate(&teacher)?;
        // The gradient of the square is that of the gap at the sample.
        let value = self.state_error(&(samples - (&x1 - gap)), &fresh.precision);
        Ok([
            Term { name: CORRECTION, weight: self.weights.correction, value },
            Term { name: NOISING, weight: 1.0, value: noising },
        ])
    }
}

/// An independent copy of the teacher's network, for the student's `dtype` and device.
///
/// # Errors
/// [`Error::Argument`] naming `weights` if the teacher is not a native network, guided or not.
pub(in crate::distill) fn copy_of_teacher(
    teacher: &dyn VelocityField,
    dtype: &str,
    device: Device,
) -> Result<NetworkField> {
    let copy = NetworkField::copy_of(teacher, dtype, device)?;
    copy.filter(|_| teacher.mixing().is_some()).ok_or_else(|| {
        let expected =
            "correction 0 unless the teacher is a native network that was trained from noise to data";
        let got = match teacher.network() {
            Some(_) => "one in other units (standardise=False), or with growth, curves or a velocity".into(),
            None => format!("a '{}' teacher", teacher.kind_name()),
        };
        Error::argument("weights", expected, got)
    })
}
