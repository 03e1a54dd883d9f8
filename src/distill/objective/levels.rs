//! The term `levels`: it compares a hierarchy's feature maps along a path, through heads, with those of the
//! teacher's U-Net.

use tch::{Kind, Tensor};

use crate::data::Pairs;
use crate::distill::Scaling;
use crate::error::{Error, Result};
use crate::koopman::{Observables, Student, StudentConfig};
use crate::nets::feature_maps;
use crate::nets::precision::Lowered;
use crate::velocity::VelocityField;

/// Pairs from noise to points of the path, and the teacher's feature maps at these points.
pub(in crate::distill) struct TeacherLevels {
    pairs: Pairs,
    /// `[B, C' H W]` each.
    maps: Vec<Tensor>,
}

impl TeacherLevels {
    /// Computes the teacher's feature maps at the ends of `pairs`. It takes one evaluation, of half a
    /// network.
    pub fn ask(teacher: &dyn VelocityField, pairs: Pairs, kind: Kind) -> Result<Self> {
        let (own, device) = (teacher.dtype(), teacher.device());
        let mut shape = vec![pairs.count()];
        shape.extend(teacher.event_shape());
        // Regression targets are computed in full precision.
        let (_full, _guard) = (Lowered::to(None), tch::no_grad_guard());
        let x = pairs.x_t.to_kind(own).to_device(device).f_reshape(shape.as_slice())?;
        let t = pairs.t.to_kind(own).to_device(device);
        let condition = pairs.teacher_condition.as_ref().map(|c| c.to_device(device));
        let maps = teacher.feature_maps(&t, &x, condition.as_ref())?.unwrap_or_default();
        let here = |map: &Tensor| map.flatten(1, -1).to_kind(kind).to_device(pairs.t.device());
        Ok(TeacherLevels { maps: maps.iter().map(here).collect(), pairs })
    }

    /// Mean over the maps of the squared error divided by the map's variance. `g` are the encodings at the
    /// starts of the pairs.
    pub fn error(&self, student: &Student, g: &Observables, scaling: Scaling) -> Result<Tensor> {
        let moved = student.generator().propagate_features(g, &self.pairs.tau())?;
        let own = student.heads().apply(&moved);
        let errors: Vec<Tensor> =
            own.iter().zip(&self.maps).map(|(own, map)| scaling.feature_error(&(own - map), map)).collect();
        Ok(Tensor::f_stack(&errors, 0)?.mean(g.features.kind()))
    }
}

/// Numbers of channels of the teacher's feature maps, one for each map of the student.
///
/// # Errors
/// [`Error::Argument`] naming `weights` if the teacher is not a native U-Net or its maps have other sizes.
pub(in crate::distill) fn heads_of(teacher: &dyn VelocityField, student: &StudentConfig) -> Result<Vec<i64>> {
    let wrong = |got: String| {
        let expected = "levels 0 unless the teacher is a native U-Net with the student's levels and blocks";
        Error::argument("weights", expected, got)
    };
    let Some(unet) = teacher.unet() else {
        return Err(wrong(format!("a '{}' teacher without a U-Net", teacher.kind_name())));
    };
    let theirs = feature_maps(unet);
    let own = student.unet.as_ref().map(feature_maps).unwrap_or_default();
    if !theirs.iter().map(|(_, factor)| factor).eq(own.iter().map(|(_, factor)| factor)) {
        let text = |levels: usize, blocks: i64| format!("{levels} levels of {blocks} blocks");
        let student = student.unet.as_ref().map(|own| text(own.levels(), own.blocks)).unwrap_or_default();
        return Err(wrong(format!(
            "a teacher with {}, a student with {student}",
            text(unet.levels(), unet.blocks)
        )));
    }
    Ok(theirs.into_iter().map(|(channels, _)| channels).collect())
}
