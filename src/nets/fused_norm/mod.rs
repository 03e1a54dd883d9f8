//! Group normalisation, scale, shift and SiLU fused into one pass, for images whose channels are last in memory. This
//! layout is the fastest one for oneDNN's convolutions, but libtorch's own normalisation is many times slower on it.

mod dual;
mod kernel;
mod layout;

use tch::{Device, Kind, Tensor};

use super::Signal;
use crate::error::Result;
use crate::tensor::{gradients_of, is_grad_enabled, with_gradient};
use kernel::{backward, forward};
use layout::Layout;

/// The number that is added to the variance of a group, with PyTorch's value.
pub(super) const NORM_EPSILON: f64 = 1e-5;

/// The options of a group normalisation.
#[derive(Clone, Copy)]
pub struct Norm {
    pub groups: i64,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl Norm {
    /// Normalises each group of channels of `x` `[B, C, H, W]` to mean 0 and deviation 1, then multiplies by `scale`
    /// and adds `shift`, each `[B, C]`. The channels of the result are last in memory.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn fused(self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
        let layout = Layout::of(x);
        let statistics = Tensor::f_empty([layout.batch, 2, self.groups], (Kind::Float, Device::Cpu))?;
        let y = tch::no_grad(|| -> Result<Tensor> {
            let (x, scale, shift) = (channels_last(x), scale.contiguous(), shift.contiguous());
            let y = layout.empty()?;
            let factors = [&scale, &shift].map(|tensor| layout.rows(tensor, layout.channels));
            let all = layout.rows(&x, layout.size());
            layout.each(&[&y, &statistics], &[layout.size(), 2 * self.groups], |row, out| {
                let [y, statistics] = out else { return };
                forward(self, layout, all.row(row), factors.map(|rows| rows.row(row)), y, statistics);
            })?;
            Ok(y)
        })?;
        let wanted = [x, scale, shift].iter().any(|tensor| tensor.requires_grad());
        if !(wanted && is_grad_enabled()) {
            return Ok(y);
        }
        let saved = [x, scale, shift, &statistics];
        let [y] = with_gradient([&y], &[x, scale, shift], &saved, move |saved, gradients| {
            match is_grad_enabled() {
                // A gradient of the gradient is needed.
                true => self.composed_gradient(saved, &gradients[0]),
                false => self.gradient(layout, saved, &gradients[0]),
            }
        })?;
        Ok(y)
    }

    /// The same by operations of libtorch.
    fn composed(self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Tensor {
        let y = x.group_norm(self.groups, None::<Tensor>, None::<Tensor>, NORM_EPSILON, true);
        self.activated(spread(shift) + y * spread(scale))
    }

    /// Applies SiLU to `y` if the normalisation includes it.
    pub(super) fn activated<S: Signal>(self, y: S) -> S {
        if self.silu {
            y.silu()
        } else {
            y
        }
    }

    fn composed_gradient(self, saved: &[Tensor], gradient: &Tensor) -> Result<Vec<Tensor>> {
        gradients_of(&[&saved[0], &saved[1], &saved[2]], |inputs| {
            Ok((self.composed(&inputs[0], &inputs[1], &inputs[2]) * gradient).sum(gradient.kind()))
        })
    }

    fn gradient(self, layout: Layout, saved: &[Tensor], gradient: &Tensor) -> Result<Vec<Tensor>> {
        let (x, gradient) = (channels_last(&saved[0]), channels_last(gradient));
        let (scale, shift) = (saved[1].contiguous(), saved[2].contiguous());
        let (channels, groups) = (layout.channels, self.groups);
        let inputs = [(&x, layout.size()), (&gradient, layout.size()), (&saved[3], 2 * groups)];
        let inputs = inputs.map(|(tensor, length)| layout.rows(tensor, length));
        let factors = [&scale, &shift].map(|tensor| layout.rows(tensor, channels));
        let by_channel = || Tensor::f_empty([layout.batch, channels], (Kind::Float, Device::Cpu));
        let (gx, gscale, gshift) = (layout.empty()?, by_channel()?, by_channel()?);
        layout.each(&[&gx, &gscale, &gshift], &[layout.size(), channels, channels], |row, out| {
            let [gx, gscale, gshift] = out else { return };
            let given = inputs.map(|rows| rows.row(row));
            backward(self, layout, given, factors.map(|rows| rows.row(row)), [gx, gscale, gshift]);
        })?;
        Ok(vec![gx, gscale, gshift])
    }
}

/// Whether [`Norm::fused`] supports this tensor.
pub(super) fn fusible(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::Float && x.dim() == 4 && x.numel() > 0
}

/// `x` `[B, C, H, W]` with its channels last in memory.
pub(super) fn channels_last(x: &Tensor) -> Tensor {
    let last = x.permute([0, 2, 3, 1]).contiguous();
    let size = last.size();
    match size[3] {
        // With one channel both layouts have the same memory, so only the strides are changed.
        1 => last.as_strided([size[0], 1, size[1], size[2]], [size[1] * size[2], 1, size[2], 1], None),
        _ => last.permute([0, 3, 1, 2]),
    }
}

/// `[B, C]` as `[B, C, 1, 1]`, which broadcasts over images.
pub(super) fn spread(x: &Tensor) -> Tensor {
    x.unsqueeze(-1).unsqueeze(-1)
}
