//! Mean and scale of data, with which the input and output of a network field are standardised.

use tch::{Device, Kind, Tensor};

use super::gaussian::find_tensor;
use crate::error::{Error, Result};
use crate::tensor::{shape_text, shared};

/// Mean and standard deviation per coordinate of the data that a field was trained on.
pub(super) struct Standard {
    pub mean: Tensor,  // [dim]
    pub scale: Tensor, // [dim]
}

/// Maximum number of values that are converted to double precision at once while moments are computed.
const MOMENT_VALUES: i64 = 1 << 22;

/// Mean and standard deviation of each column of `[N, dim]`, float64 `[dim]`.
pub(super) fn moments(rows: &Tensor) -> (Tensor, Tensor) {
    // A few coordinates at a time, because double precision would need several times the memory of the data.
    let columns = (MOMENT_VALUES / rows.size()[0].max(1)).max(1);
    let moments = |part: &Tensor| {
        let part = part.to_kind(Kind::Double);
        let mean = part.mean_dim([0].as_slice(), false, Kind::Double);
        let scale = (&part - &mean).square().mean_dim([0].as_slice(), false, Kind::Double).sqrt();
        (mean, scale)
    };
    let (means, scales): (Vec<_>, Vec<_>) = rows.split(columns, 1).iter().map(moments).unzip();
    (Tensor::cat(&means, 0), Tensor::cat(&scales, 0))
}

impl Standard {
    /// Mean and standard deviation of rows `[N, dim]`. The deviation has a floor, so that constant coordinates are
    /// not amplified near t = 1. The floor is 0.02 of the largest deviation, or of 1 (that of the noise) if that is
    /// smaller.
    pub fn of(rows: &Tensor) -> Standard {
        let (mean, scale) = moments(rows);
        let largest = scale.max().double_value(&[]);
        let floor = if largest > 0.0 { 0.02 * largest.min(1.0) } else { 0.02 };
        Standard { scale: scale.clamp_min(floor), mean }
    }

    /// Mean and standard deviation of images `[N, C, H, W]`: one of each per channel, repeated over its pixels,
    /// `[C H W]`. Different scales for different pixels would break the translation symmetry of convolutions.
    pub fn of_channels(images: &Tensor) -> Result<Standard> {
        let size = images.size();
        let channel = Standard::of(&images.f_transpose(0, 1)?.f_reshape([size[1], -1])?.tr());
        let pixels = size[2..].iter().product::<i64>();
        let spread = |x: Tensor| x.unsqueeze(1).expand([-1, pixels], false).reshape([-1]);
        Ok(Standard { mean: spread(channel.mean), scale: spread(channel.scale) })
    }

    pub fn identity(dim: i64) -> Standard {
        let options = (Kind::Double, Device::Cpu);
        Standard { mean: Tensor::zeros([dim], options), scale: Tensor::ones([dim], options) }
    }

    pub fn stored(tensors: &[(String, Tensor)], name: &str, length: i64) -> Result<Standard> {
        let take = |part: &str| -> Result<Tensor> {
            let name = format!("{name}.{part}");
            let tensor = find_tensor(tensors, &name)?;
            if tensor.size() != [length] {
                return Err(Error::shape(&name, shape_text(&[length]), shape_text(&tensor.size())));
            }
            Ok(tensor.shallow_clone())
        };
        let (mean, scale) = (take("mean")?, take("scale")?);
        let smallest = scale.min().double_value(&[]);
        if smallest <= 0.0 {
            return Err(Error::argument(&format!("{name}.scale"), "positive values", smallest));
        }
        Ok(Standard { mean, scale })
    }

    pub fn to(&self, device: Device, kind: Kind) -> Standard {
        let convert = |x: &Tensor| x.to_device(device).to_kind(kind);
        Standard { mean: convert(&self.mean), scale: convert(&self.scale) }
    }
}

shared!(Standard { mean, scale });
