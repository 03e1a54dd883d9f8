//! Storage of students in files.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::weights::decay_of;
use super::{Student, StudentConfig, AVERAGED_WEIGHTS, RAW_WEIGHTS};
use crate::error::Result;
use crate::store::{Stored, Tensors};
use crate::tensor::parse_dtype;
use crate::velocity::Source;

/// A student without its tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StudentDescription {
    pub config: StudentConfig,
}

impl Stored for Student {
    const KIND: &'static str = "student";
    type Description = StudentDescription;

    fn description(&self) -> Result<StudentDescription> {
        Ok(StudentDescription { config: self.config().clone() })
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.named())
    }

    fn rebuild(
        StudentDescription { config }: StudentDescription,
        tensors: &mut Tensors,
        device: Device,
    ) -> Result<Self> {
        let kind = parse_dtype(&config.dtype)?;
        // Sizes come from the file: check them against the tensors before allocating memory for them.
        config.validate()?;
        tensors.check_budget(&config.tensor_sizes())?;
        let of_source = tensors.take_where(Source::owns);
        let source = Source::from_state(&config.source, &of_source, &config.event_shape, device)?;
        let mut student = Student::new(config, 0, device)?;
        student.set_source(source);
        student.restore(|name| tensors.take(name, kind))?;
        if tensors.get(RAW_WEIGHTS).is_some() {
            let (averaged, raw) = (tensors.take(AVERAGED_WEIGHTS, kind)?, tensors.take(RAW_WEIGHTS, kind)?);
            student.keep_both(&averaged, &raw)?;
            let mut several = tensors.take_where(|name| decay_of(name).is_some());
            several.sort_by(|(one, _), (other, _)| one.cmp(other));
            let several = several.into_iter().filter_map(|(name, x)| Some((decay_of(&name)?, x)));
            student.keep_averages(&several.collect::<Vec<_>>())?;
        }
        // The file of an unfinished run has what only training uses.
        student.without_aids()
    }
}
