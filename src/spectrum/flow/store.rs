//! How the spectrum of a flow is kept in a file.

use tch::{Device, Kind, Tensor};

use super::{Facts, FlowSpectrum};
use crate::error::{Error, Result};
use crate::store::{Stored, Tensors};
use crate::tensor::shape_text;

impl Stored for FlowSpectrum {
    const KIND: &'static str = "flow spectrum";
    type Description = Facts;

    fn description(&self) -> Result<Facts> {
        Ok(self.facts.clone())
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.arrays.iter().map(|(name, tensor)| (name.to_string(), tensor.shallow_clone())).collect())
    }

    fn rebuild(facts: Facts, tensors: &mut Tensors, _: Device) -> Result<Self> {
        let mut arrays = Vec::new();
        for (name, shape) in facts.shapes()? {
            let tensor = tensors.take(name, Kind::Double)?;
            if tensor.size() != shape {
                return Err(Error::shape(name, shape_text(&shape), shape_text(&tensor.size())));
            }
            arrays.push((name, tensor));
        }
        FlowSpectrum::assemble(facts, arrays)
    }
}
