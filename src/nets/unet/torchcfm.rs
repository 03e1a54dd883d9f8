//! Reads the architecture of a torchcfm model from its state dict. Dropout and the number of attention heads cannot be
//! read, because they leave no trace in it.

use super::UNetConfig;
use crate::error::{Error, Result};
use crate::tensor::shape_text;

/// The configuration and the number of classes of a `UNetModel` whose tensors have these names and shapes.
/// `heads`, `head_channels` and `qkv_first` keep their defaults, and `time_scale` is 1 as in torchcfm.
///
/// # Errors
/// [`Error::Argument`] naming `state_dict` if it is not that of a `UNetModel`; the message says which tensor was
/// expected.
pub fn config_of(tensors: &[(String, Vec<i64>)]) -> Result<(UNetConfig, Option<i64>)> {
    let find = |name: &str| tensors.iter().find(|(own, _)| own == name).map(|(_, shape)| shape.as_slice());
    let has = |name: String| find(&name).is_some();
    let need = |name: &str, rank: usize| -> Result<&[i64]> {
        match find(name) {
            Some(shape) if shape.len() == rank && shape.iter().all(|size| *size > 0) => Ok(shape),
            got => {
                let expected =
                    format!("that of torchcfm's UNetModel, with a tensor {name} of {rank} dimensions");
                let got = got.map_or("no tensor of that name".into(), shape_text);
                Err(Error::argument("state_dict", expected, got))
            }
        }
    };
    let channels = need("time_embed.0.weight", 2)?[1];
    let classes = match find("label_emb.weight") {
        Some(_) => Some(need("label_emb.weight", 2)?[0]),
        None => None,
    };
    // In the decoder, every level but the last ends with a layer that doubles the size, a convolution or a residual
    // block. It follows the level's last residual block and, if there is one, its attention block.
    let outputs = (0..).take_while(|i| has(format!("output_blocks.{i}.0.in_layers.0.weight"))).count();
    let doubles = |i: &usize| {
        (1..=2).any(|layer| {
            let name = format!("output_blocks.{i}.{layer}");
            has(format!("{name}.conv.weight")) || has(format!("{name}.in_layers.0.weight"))
        })
    };
    let levels = 1 + (0..outputs).filter(doubles).count();
    let blocks = (outputs / levels).saturating_sub(1);
    let inputs = (0..)
        .take_while(|i| {
            let name = format!("input_blocks.{i}.0");
            ["weight", "op.weight", "in_layers.0.weight"].iter().any(|part| has(format!("{name}.{part}")))
        })
        .count();
    if blocks == 0 || outputs != levels * (blocks + 1) || inputs != levels * (blocks + 1) {
        let expected = "that of torchcfm's UNetModel, with the same number of residual blocks at every level";
        let got = format!("{inputs} input and {outputs} output blocks");
        return Err(Error::argument("state_dict", expected, got));
    }
    let first = |level: usize| format!("input_blocks.{}.0", 1 + level * (blocks + 1));
    let mut multipliers = Vec::with_capacity(levels);
    for level in 0..levels {
        let width = need(&format!("{}.in_layers.2.weight", first(level)), 4)?[0];
        multipliers.push(width as f64 / channels as f64);
    }
    let attends = |level: &usize| has(format!("input_blocks.{}.1.qkv.weight", 1 + level * (blocks + 1)));
    let shifts = need(&format!("{}.emb_layers.1.weight", first(0)), 2)?[0];
    let halving = format!("input_blocks.{}.0.in_layers.0.weight", blocks + 1);
    let config = UNetConfig {
        channels,
        blocks: blocks as i64,
        groups: 32,
        attention: (0..levels).filter(attends).map(|level| 1 << level).collect(),
        scale_shift: shifts as f64 == 2.0 * multipliers[0] * channels as f64,
        residual_resampling: levels > 1 && has(halving),
        multipliers,
        time_scale: 1.0,
        ..UNetConfig::default()
    };
    Ok((config, classes))
}
