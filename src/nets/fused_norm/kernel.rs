//! The kernels for one image, from `[positions, C]` to `[positions, C]`, with the loop over channels innermost.

use super::layout::Layout;
use super::{Norm, NORM_EPSILON};
use crate::tensor::on_this_processor;

/// The forward pass of one image: from `x` `[positions, C]`, scale and shift `[C]` to `y` `[positions, C]` and the
/// statistics, which are the mean and 1 / deviation of each group.
pub(super) fn forward(
    norm: Norm,
    layout: Layout,
    x: &[f32],
    factors: [&[f32]; 2],
    y: &mut [f32],
    statistics: &mut [f32],
) {
    on_this_processor!(forward_row(norm: Norm, layout: Layout, x: &[f32], factors: [&[f32]; 2], y: &mut [f32], statistics: &mut [f32]))
}

/// The backward pass of one image: from x, the gradient of y and the statistics to the gradients of x, scale and
/// shift.
pub(super) fn backward(
    norm: Norm,
    layout: Layout,
    given: [&[f32]; 3],
    factors: [&[f32]; 2],
    found: [&mut [f32]; 3],
) {
    on_this_processor!(backward_row(norm: Norm, layout: Layout, given: [&[f32]; 3], factors: [&[f32]; 2], found: [&mut [f32]; 3]))
}

#[inline(always)]
fn forward_row<const WIDE: bool>(
    norm: Norm,
    layout: Layout,
    x: &[f32],
    [scale, shift]: [&[f32]; 2],
    y: &mut [f32],
    statistics: &mut [f32],
) {
    let channels = layout.channels as usize;
    let (means, inverses) = statistics.split_at_mut(norm.groups as usize);
    // The mean first, then squared differences from it: a plain sum of squares would lose precision for large means.
    let mut sums = vec![0.0f32; channels];
    for pixel in x.chunks_exact(channels) {
        for (sum, x) in sums.iter_mut().zip(pixel) {
            *sum += x;
        }
    }
    group_means(&sums, x.len(), means);
    let centre = by_channel(means, channels);
    sums.fill(0.0);
    for pixel in x.chunks_exact(channels) {
        for ((sum, x), centre) in sums.iter_mut().zip(pixel).zip(&centre) {
            let off = x - centre;
            *sum = fma::<WIDE>(off, off, *sum);
        }
    }
    group_means(&sums, x.len(), inverses);
    for value in inverses.iter_mut() {
        *value = 1.0 / (*value + NORM_EPSILON as f32).sqrt();
    }
    let factor: Vec<f32> = by_channel(inverses, channels).iter().zip(scale).map(|(a, b)| a * b).collect();
    // Slices of the same length let the compiler remove bounds checks.
    let (centre, factor, shift) = (&centre[..channels], &factor[..channels], &shift[..channels]);
    for (pixel, out) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
        let (pixel, out) = (&pixel[..channels], &mut out[..channels]);
        for c in 0..channels {
            let z = fma::<WIDE>(pixel[c] - centre[c], factor[c], shift[c]);
            out[c] = if norm.silu { z * sigmoid::<WIDE>(z) } else { z };
        }
    }
}

/// With n = (x - mean) / deviation and z = n scale + shift, dscale = sum dz n and dshift = sum dz. With m = dz scale,
/// dx = (m - mean(m) - n mean(m n)) / deviation. Means are over a group.
#[inline(always)]
fn backward_row<const WIDE: bool>(
    norm: Norm,
    layout: Layout,
    [x, gradient, statistics]: [&[f32]; 3],
    [scale, shift]: [&[f32]; 2],
    [gx, gscale, gshift]: [&mut [f32]; 3],
) {
    let channels = layout.channels as usize;
    let groups = norm.groups as usize;
    let (means, inverses) = statistics.split_at(groups);
    let (centre, inverse) = (by_channel(means, channels), by_channel(inverses, channels));
    // Slices of the same length let the compiler remove bounds checks.
    let (centre, inverse) = (&centre[..channels], &inverse[..channels]);
    let (scale, shift) = (&scale[..channels], &shift[..channels]);
    let (gscale, gshift) = (&mut gscale[..channels], &mut gshift[..channels]);
    gscale.fill(0.0);
    gshift.fill(0.0);
    let pixels = x.chunks_exact(channels).zip(gradient.chunks_exact(channels));
    for ((pixel, slope), out) in pixels.zip(gx.chunks_exact_mut(channels)) {
        let (pixel, slope, out) = (&pixel[..channels], &slope[..channels], &mut out[..channels]);
        for c in 0..channels {
            let n = (pixel[c] - centre[c]) * inverse[c];
            let dz = if norm.silu {
                let z = fma::<WIDE>(n, scale[c], shift[c]);
                let gate = sigmoid::<WIDE>(z);
                // d(z σ(z)) = σ (1 + z (1 - σ)) dz
                slope[c] * gate * fma::<WIDE>(z, 1.0 - gate, 1.0)
            } else {
                slope[c]
            };
            gscale[c] = fma::<WIDE>(dz, n, gscale[c]);
            gshift[c] += dz;
            out[c] = dz;
        }
    }
    let (mut along, mut across) = (vec![0.0f32; groups], vec![0.0f32; groups]);
    let weighted = |sums: &[f32]| sums.iter().zip(scale).map(|(a, b)| a * b).collect::<Vec<f32>>();
    group_means(&weighted(gscale), x.len(), &mut along);
    group_means(&weighted(gshift), x.len(), &mut across);
    // dx = dz a + (x - centre) b + c
    let (along, across) = (by_channel(&along, channels), by_channel(&across, channels));
    let a: Vec<f32> = inverse.iter().zip(scale).map(|(inverse, scale)| inverse * scale).collect();
    let b: Vec<f32> = inverse.iter().zip(&along).map(|(inverse, along)| -along * inverse * inverse).collect();
    let offset: Vec<f32> = inverse.iter().zip(&across).map(|(inverse, across)| -across * inverse).collect();
    let (a, b, offset) = (&a[..channels], &b[..channels], &offset[..channels]);
    for (pixel, out) in x.chunks_exact(channels).zip(gx.chunks_exact_mut(channels)) {
        let (pixel, out) = (&pixel[..channels], &mut out[..channels]);
        for c in 0..channels {
            let moved = fma::<WIDE>(pixel[c] - centre[c], b[c], offset[c]);
            out[c] = fma::<WIDE>(out[c], a[c], moved);
        }
    }
}

/// The mean of each group, from the sum of each channel of an image of `count` numbers.
#[inline(always)]
pub(super) fn group_means(sums: &[f32], count: usize, means: &mut [f32]) {
    let each = sums.len() / means.len();
    let share = 1.0 / (count / means.len()) as f64;
    for (mean, sums) in means.iter_mut().zip(sums.chunks_exact(each)) {
        *mean = (sums.iter().copied().map(f64::from).sum::<f64>() * share) as f32;
    }
}

/// Repeats the value of each group for each of its channels.
#[inline(always)]
pub(super) fn by_channel(values: &[f32], channels: usize) -> Vec<f32> {
    let each = channels / values.len();
    values.iter().flat_map(|value| std::iter::repeat_n(*value, each)).collect()
}

#[inline(always)]
pub(super) fn fma<const WIDE: bool>(a: f32, b: f32, c: f32) -> f32 {
    // On processors without the instruction, `mul_add` would be a slow function call.
    if WIDE {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

#[inline(always)]
pub(super) fn sigmoid<const WIDE: bool>(z: f32) -> f32 {
    1.0 / (1.0 + exp::<WIDE>(-z))
}

/// e^x with an error of one or two units in the last place, in operations that compilers can vectorise (Cody and
/// Waite, "Software Manual for the Elementary Functions", chapter 6; coefficients of Cephes' `expf`). x is clamped to
/// ±87.
#[inline(always)]
#[allow(clippy::excessive_precision)]
fn exp<const WIDE: bool>(x: f32) -> f32 {
    // These comparisons keep NaN, unlike `min` and `max`.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 87.0 { 87.0 } else { x };
    // Adding 1.5 2^23 rounds to an integer, which is then in the last bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = fma::<WIDE>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<WIDE>(n, -0.693_359_375, x);
    let r = fma::<WIDE>(n, 2.121_944_4e-4, r);
    let p = fma::<WIDE>(1.987_569_15e-4, r, 1.398_199_95e-3);
    let p = fma::<WIDE>(p, r, 8.333_451_9e-3);
    let p = fma::<WIDE>(p, r, 4.166_579_6e-2);
    let p = fma::<WIDE>(p, r, 1.666_666_55e-1);
    let p = fma::<WIDE>(p, r, 5.000_000_1e-1);
    let p = fma::<WIDE>(p, r * r, r) + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}
