//! The fused group normalisation of a value and its tangent. With n = (x - mean) r and r = 1 / deviation,
//! dn = r (dx - m1 - n m2), where m1 = mean(dx) and m2 = mean(n dx) are means over a group. Further, z = n scale + shift,
//! dz = dn scale + n dscale + dshift, y = silu(z) and dy = silu'(z) dz.

use tch::{Device, Kind, Tensor};

use super::kernel::{by_channel, fma, group_means, sigmoid};
use super::layout::Layout;
use super::{channels_last, spread, Norm, NORM_EPSILON};
use crate::error::Result;
use crate::nets::Dual;
use crate::tensor::{gradients_of, is_grad_enabled, on_this_processor, with_gradient};

impl Norm {
    /// [`Norm::fused`] for `x` `[B, C, H, W]`, `scale` and `shift` `[B, C]` with tangents.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn fused_dual(self, x: &Dual, scale: &Dual, shift: &Dual) -> Result<Dual> {
        let layout = Layout::of(&x.primal);
        let inputs = [&x.primal, &x.tangent, &scale.primal, &scale.tangent, &shift.primal, &shift.tangent];
        let statistics = Tensor::f_empty([layout.batch, 4 * self.groups], (Kind::Float, Device::Cpu))?;
        let (y, dy) = tch::no_grad(|| -> Result<(Tensor, Tensor)> {
            let (y, dy) = (layout.empty()?, layout.empty()?);
            let held = dense(&inputs);
            let images = [0, 1].map(|place| layout.rows(&held[place], layout.size()));
            let factors = [2, 3, 4, 5].map(|place| layout.rows(&held[place], layout.channels));
            let lengths = [layout.size(), layout.size(), 4 * self.groups];
            layout.each(&[&y, &dy, &statistics], &lengths, |row, out| {
                let [y, dy, statistics] = out else { return };
                let images = images.map(|rows| rows.row(row));
                forward(self, layout, images, factors.map(|rows| rows.row(row)), [y, dy], statistics);
            })?;
            Ok((y, dy))
        })?;
        let wanted = inputs.iter().any(|tensor| tensor.requires_grad());
        if !(wanted && is_grad_enabled()) {
            return Ok(Dual::new(y, dy));
        }
        let saved: Vec<&Tensor> = inputs.iter().copied().chain([&statistics]).collect();
        let [y, dy] =
            with_gradient([&y, &dy], &inputs, &saved, move |saved, gradients| match is_grad_enabled() {
                true => self.composed_dual_gradient(saved, gradients),
                false => self.dual_gradient(layout, saved, gradients),
            })?;
        Ok(Dual::new(y, dy))
    }

    /// The same by operations of libtorch, for every dtype and device. Moments are computed at least in single
    /// precision.
    pub fn composed_dual(self, x: &Dual, scale: &Dual, shift: &Dual) -> Dual {
        let shape = x.primal.size();
        let kind = x.primal.kind();
        let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        let grouped = |x: &Tensor| x.to_kind(wide).reshape([shape[0], self.groups, -1]);
        let mean = |x: &Tensor| x.mean_dim([2].as_slice(), true, wide);
        let (value, rate) = (grouped(&x.primal), grouped(&x.tangent));
        let centred = &value - mean(&value);
        let inverse = (mean(&centred.square()) + NORM_EPSILON).rsqrt();
        let n = centred * &inverse;
        let dn = (&rate - mean(&rate) - &n * mean(&(&n * &rate))) * inverse;
        let back = |x: Tensor| x.reshape(shape.as_slice()).to_kind(kind);
        let (n, dn, factor) = (back(n), back(dn), spread(&scale.primal));
        let tangent = dn * &factor + &n * spread(&scale.tangent) + spread(&shift.tangent);
        let z = Dual::new(n * factor + spread(&shift.primal), tangent);
        self.activated(z)
    }

    fn composed_dual_gradient(self, saved: &[Tensor], gradients: &[Tensor]) -> Result<Vec<Tensor>> {
        let inputs: Vec<&Tensor> = saved[..6].iter().collect();
        gradients_of(&inputs, |inputs| {
            let dual =
                |place: usize| Dual::new(inputs[place].shallow_clone(), inputs[place + 1].shallow_clone());
            let y = self.composed_dual(&dual(0), &dual(2), &dual(4));
            Ok((y.primal * &gradients[0] + y.tangent * &gradients[1]).sum(gradients[0].kind()))
        })
    }

    fn dual_gradient(self, layout: Layout, saved: &[Tensor], gradients: &[Tensor]) -> Result<Vec<Tensor>> {
        let (channels, groups) = (layout.channels, self.groups);
        let held = dense(&saved.iter().take(6).collect::<Vec<_>>());
        let gradients = [0, 1].map(|place| channels_last(&gradients[place]));
        let images = [&held[0], &held[1], &gradients[0], &gradients[1]];
        let images = images.map(|tensor| layout.rows(tensor, layout.size()));
        let factors = [2, 3, 4, 5].map(|place| layout.rows(&held[place], channels));
        let statistics = layout.rows(&saved[6], 4 * groups);
        let by_channel = || Tensor::f_empty([layout.batch, channels], (Kind::Float, Device::Cpu));
        let found =
            [layout.empty()?, layout.empty()?, by_channel()?, by_channel()?, by_channel()?, by_channel()?];
        let (size, outputs) = (layout.size(), found.each_ref());
        layout.each(&outputs, &[size, size, channels, channels, channels, channels], |row, out| {
            let [gx, gdx, gscale, gdscale, gshift, gdshift] = out else { return };
            backward(
                self,
                layout,
                images.map(|rows| rows.row(row)),
                factors.map(|rows| rows.row(row)),
                statistics.row(row),
                [gx, gdx],
                [gscale, gdscale, gshift, gdshift],
            );
        })?;
        Ok(found.into())
    }
}

/// Dense copies of all tensors. The first two are images, whose channels are last in memory.
fn dense(tensors: &[&Tensor]) -> Vec<Tensor> {
    let images = tensors[..2].iter().map(|x| channels_last(x));
    images.chain(tensors[2..].iter().map(|x| x.contiguous())).collect()
}

fn forward(
    norm: Norm,
    layout: Layout,
    images: [&[f32]; 2],
    factors: [&[f32]; 4],
    out: [&mut [f32]; 2],
    statistics: &mut [f32],
) {
    on_this_processor!(forward_row(norm: Norm, layout: Layout, images: [&[f32]; 2], factors: [&[f32]; 4], out: [&mut [f32]; 2], statistics: &mut [f32]))
}

fn backward(
    norm: Norm,
    layout: Layout,
    images: [&[f32]; 4],
    factors: [&[f32]; 4],
    statistics: &[f32],
    slopes: [&mut [f32]; 2],
    sums: [&mut [f32]; 4],
) {
    on_this_processor!(backward_row(norm: Norm, layout: Layout, images: [&[f32]; 4], factors: [&[f32]; 4], statistics: &[f32], slopes: [&mut [f32]; 2], sums: [&mut [f32]; 4]))
}

#[inline(always)]
fn forward_row<const WIDE: bool>(
    norm: Norm,
    layout: Layout,
    [x, dx]: [&[f32]; 2],
    [scale, dscale, shift, dshift]: [&[f32]; 4],
    [y, dy]: [&mut [f32]; 2],
    statistics: &mut [f32],
) {
    let channels = layout.channels as usize;
    let groups = norm.groups as usize;
    let (means, rest) = statistics.split_at_mut(groups);
    let (inverses, rest) = rest.split_at_mut(groups);
    let (drifts, along) = rest.split_at_mut(groups);
    let (mut sums, mut rates) = (vec![0.0f32; channels], vec![0.0f32; channels]);
    for (pixel, rate) in x.chunks_exact(channels).zip(dx.chunks_exact(channels)) {
        let (pixel, rate) = (&pixel[..channels], &rate[..channels]);
        let (sums, rates) = (&mut sums[..channels], &mut rates[..channels]);
        for c in 0..channels {
            sums[c] += pixel[c];
            rates[c] += rate[c];
        }
    }
    group_means(&sums, x.len(), means);
    group_means(&rates, x.len(), drifts);
    let centre = by_channel(means, channels);
    sums.fill(0.0);
    rates.fill(0.0);
    for (pixel, rate) in x.chunks_exact(channels).zip(dx.chunks_exact(channels)) {
        let (pixel, rate, centre) = (&pixel[..channels], &rate[..channels], &centre[..channels]);
        let (sums, rates) = (&mut sums[..channels], &mut rates[..channels]);
        for c in 0..channels {
            let off = pixel[c] - centre[c];
            sums[c] = fma::<WIDE>(off, off, sums[c]);
            rates[c] = fma::<WIDE>(off, rate[c], rates[c]);
        }
    }
    group_means(&sums, x.len(), inverses);
    group_means(&rates, x.len(), along);
    for (inverse, along) in inverses.iter_mut().zip(along.iter_mut()) {
        *inverse = 1.0 / (*inverse + NORM_EPSILON as f32).sqrt();
        *along *= *inverse;
    }
    let (inverse, drift, along) =
        (by_channel(inverses, channels), by_channel(drifts, channels), by_channel(along, channels));
    // Slices of the same length let the compiler remove bounds checks.
    let (centre, inverse, drift, along) =
        (&centre[..channels], &inverse[..channels], &drift[..channels], &along[..channels]);
    let (scale, dscale) = (&scale[..channels], &dscale[..channels]);
    let (shift, dshift) = (&shift[..channels], &dshift[..channels]);
    let pixels = x.chunks_exact(channels).zip(dx.chunks_exact(channels));
    let outs = y.chunks_exact_mut(channels).zip(dy.chunks_exact_mut(channels));
    for ((pixel, rate), (y, dy)) in pixels.zip(outs) {
        let (pixel, rate) = (&pixel[..channels], &rate[..channels]);
        let (y, dy) = (&mut y[..channels], &mut dy[..channels]);
        for c in 0..channels {
            let n = (pixel[c] - centre[c]) * inverse[c];
            let dn = inverse[c] * fma::<WIDE>(-n, along[c], rate[c] - drift[c]);
            let z = fma::<WIDE>(n, scale[c], shift[c]);
            let dz = fma::<WIDE>(dn, scale[c], fma::<WIDE>(n, dscale[c], dshift[c]));
            let (value, slope, _) = activation::<WIDE>(norm, z);
            y[c] = value;
            dy[c] = slope * dz;
        }
    }
}

/// Let Y and T be the gradients of y and dy. The gradients of z and dz are Z = Y silu' + T silu'' dz and D = T silu'.
/// Let N' = D scale, A1 = mean(N'), A2 = mean(n N'), A3 = mean(dn N') and N = Z scale + D dscale - r m2 N' - r A2 dx.
/// The gradient of dx is r (N' - A1 - n A2), and that of x is r (N - mean(N) - n (mean(n N) + A3)).
#[inline(always)]
fn backward_row<const WIDE: bool>(
    norm: Norm,
    layout: Layout,
    [x, dx, gy, gdy]: [&[f32]; 4],
    [scale, dscale, shift, dshift]: [&[f32]; 4],
    statistics: &[f32],
    [gx, gdx]: [&mut [f32]; 2],
    [gscale, gdscale, gshift, gdshift]: [&mut [f32]; 4],
) {
    let channels = layout.channels as usize;
    let groups = norm.groups as usize;
    let each: Vec<Vec<f32>> =
        statistics.chunks_exact(groups).map(|values| by_channel(values, channels)).collect();
    // Slices of the same length let the compiler remove bounds checks.
    let (centre, inverse) = (&each[0][..channels], &each[1][..channels]);
    let (drift, along) = (&each[2][..channels], &each[3][..channels]);
    let (scale, dscale) = (&scale[..channels], &dscale[..channels]);
    let (shift, dshift) = (&shift[..channels], &dshift[..channels]);
    let mut valued = vec![0.0f32; channels]; // sum of Z n
    let mut turned = vec![0.0f32; channels]; // sum of D dn
    {
        let (turned, valued) = (&mut turned[..channels], &mut valued[..channels]);
        let (gdscale, gshift, gdshift) =
            (&mut gdscale[..channels], &mut gshift[..channels], &mut gdshift[..channels]);
        gdscale.fill(0.0);
        gshift.fill(0.0);
        gdshift.fill(0.0);
        let pixels = x.chunks_exact(channels).zip(dx.chunks_exact(channels));
        let given = gy.chunks_exact(channels).zip(gdy.chunks_exact(channels));
        let outs = gx.chunks_exact_mut(channels).zip(gdx.chunks_exact_mut(channels));
        for (((pixel, rate), (gy, gdy)), (gz, gdz)) in pixels.zip(given).zip(outs) {
            let (pixel, rate, gy, gdy) =
                (&pixel[..channels], &rate[..channels], &gy[..channels], &gdy[..channels]);
            let (gz, gdz) = (&mut gz[..channels], &mut gdz[..channels]);
            for c in 0..channels {
                let n = (pixel[c] - centre[c]) * inverse[c];
                let dn = inverse[c] * fma::<WIDE>(-n, along[c], rate[c] - drift[c]);
                let z = fma::<WIDE>(n, scale[c], shift[c]);
                let dz = fma::<WIDE>(dn, scale[c], fma::<WIDE>(n, dscale[c], dshift[c]));
                let (_, slope, bend) = activation::<WIDE>(norm, z);
                gz[c] = fma::<WIDE>(gy[c], slope, gdy[c] * bend * dz);
                gdz[c] = gdy[c] * slope;
                valued[c] = fma::<WIDE>(gz[c], n, valued[c]);
                turned[c] = fma::<WIDE>(gdz[c], dn, turned[c]);
                gdscale[c] = fma::<WIDE>(gdz[c], n, gdscale[c]);
                gshift[c] += gz[c];
                gdshift[c] += gdz[c];
            }
        }
    }
    for c in 0..channels {
        gscale[c] = valued[c] + turned[c];
    }
    let means = |values: &dyn Fn(usize) -> f32| {
        let sums: Vec<f32> = (0..channels).map(values).collect();
        let mut means = vec![0.0f32; groups];
        group_means(&sums, x.len(), &mut means);
        by_channel(&means, channels)
    };
    let a1 = means(&|c| scale[c] * gdshift[c]);
    let a2 = means(&|c| scale[c] * gdscale[c]);
    let a3 = means(&|c| scale[c] * turned[c]);
    let values = means(&|c| fma::<WIDE>(scale[c], gshift[c], dscale[c] * gdshift[c]));
    let turns = means(&|c| fma::<WIDE>(scale[c], valued[c], dscale[c] * gdscale[c]));
    let mut b1 = vec![0.0f32; channels];
    let mut b2 = vec![0.0f32; channels];
    for c in 0..channels {
        let r = inverse[c];
        b1[c] = values[c] - r * (along[c] * a1[c] + a2[c] * drift[c]);
        b2[c] = turns[c] - 2.0 * r * along[c] * a2[c] + a3[c];
    }
    let (a1, a2, b1, b2) = (&a1[..channels], &a2[..channels], &b1[..channels], &b2[..channels]);
    let pixels = x.chunks_exact(channels).zip(dx.chunks_exact(channels));
    let outs = gx.chunks_exact_mut(channels).zip(gdx.chunks_exact_mut(channels));
    for ((pixel, rate), (gx, gdx)) in pixels.zip(outs) {
        let (pixel, rate) = (&pixel[..channels], &rate[..channels]);
        let (gx, gdx) = (&mut gx[..channels], &mut gdx[..channels]);
        for c in 0..channels {
            let r = inverse[c];
            let n = (pixel[c] - centre[c]) * r;
            let turned = gdx[c] * scale[c];
            let bent = fma::<WIDE>(along[c], turned, a2[c] * rate[c]);
            let value = fma::<WIDE>(gx[c], scale[c], gdx[c] * dscale[c]) - r * bent;
            gx[c] = r * (value - b1[c] - n * b2[c]);
            gdx[c] = r * (turned - a1[c] - n * a2[c]);
        }
    }
}

/// silu(z), its first derivative σ (1 + z (1 - σ)) and its second derivative σ (1 - σ) (2 + z (1 - 2 σ)). Without
/// SiLU, z, 1 and 0.
#[inline(always)]
fn activation<const WIDE: bool>(norm: Norm, z: f32) -> (f32, f32, f32) {
    if !norm.silu {
        return (z, 1.0, 0.0);
    }
    let gate = sigmoid::<WIDE>(z);
    let slope = gate * fma::<WIDE>(z, 1.0 - gate, 1.0);
    let bend = gate * (1.0 - gate) * fma::<WIDE>(z, 1.0 - 2.0 * gate, 2.0);
    (z * gate, slope, bend)
}
