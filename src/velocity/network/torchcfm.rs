//! Networks of torchcfm.

use tch::{Device, Tensor};

use super::super::gaussian::find_tensor;
use super::super::{Conditioning, NetworkFieldConfig};
use super::NetworkField;
use crate::error::{Error, Result};
use crate::nets::{torchcfm_config, UNetConfig};
use crate::tensor::shape_text;

impl NetworkField {
    /// A torchcfm `UNetModel` with the weights of its state dict, which returns the same v(t, x) as in torchcfm. The
    /// third argument holds the options that a state dict does not contain: (`num_heads`, `num_head_channels`,
    /// `use_new_attention_order`).
    ///
    /// # Errors
    /// [`Error::Argument`] naming `state_dict` if it is that of another model, `event_shape` if the model takes
    /// other images, or a tensor that is missing, unknown, of another shape or not finite.
    pub fn from_torchcfm(
        tensors: &[(String, Tensor)],
        event_shape: &[i64],
        (heads, head_channels, qkv_first): (i64, Option<i64>, bool),
        dtype: &str,
        device: Device,
    ) -> Result<Self> {
        let shapes: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
        let (unet, classes) = torchcfm_config(&shapes)?;
        let ends = ["input_blocks.0.0.weight", "out.2.weight"].map(|name| find_tensor(tensors, name));
        let [first, last] = ends;
        let (inputs, outputs) = (first?.size()[1], last?.size()[0]);
        if event_shape.first() != Some(&inputs) || inputs != outputs {
            let expected = format!(
                "images with the channels of the model's input and output, which are {inputs} and {outputs}"
            );
            return Err(Error::argument("event_shape", expected, shape_text(event_shape)));
        }
        let config = NetworkFieldConfig {
            event_shape: event_shape.to_vec(),
            conditioning: classes.map_or(Conditioning::None, |classes| Conditioning::Labels { classes }),
            unet: Some(UNetConfig { heads, head_channels, qkv_first, ..unet }),
            scaled: false,
            dtype: dtype.to_string(),
            ..NetworkFieldConfig::default()
        };
        let named: Vec<_> = tensors
            .iter()
            .map(|(name, tensor)| (format!("network.{name}"), tensor.shallow_clone()))
            .collect();
        NetworkField::from_state(&config, &named, device)
    }
}
