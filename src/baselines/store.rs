//! Storing a baseline in a file.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::{Baseline, BaselineModel};
use crate::error::Result;
use crate::store::{Stored, Tensors};
use crate::tensor::parse_dtype;

/// A baseline without its tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BaselineDescription {
    pub model: BaselineModel,
}

impl Stored for Baseline {
    const KIND: &'static str = "baseline";
    type Description = BaselineDescription;

    fn description(&self) -> Result<BaselineDescription> {
        Ok(BaselineDescription { model: self.model().clone() })
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.named())
    }

    fn rebuild(
        BaselineDescription { model }: BaselineDescription,
        tensors: &mut Tensors,
        device: Device,
    ) -> Result<Self> {
        let kind = parse_dtype(&model.dtype)?;
        // Sizes come from the file: check them against the tensors before allocating by them.
        model.validate()?;
        tensors.check_budget(&model.tensor_sizes())?;
        let mut baseline = Baseline::new(model, 0, device)?;
        baseline.restore(|name| tensors.take(name, kind))?;
        Ok(baseline)
    }
}
