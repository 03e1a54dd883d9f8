//! Group normalisation, scale, shift and SiLU in one pass over images whose channels are last in memory, as oneDNN's
//! convolutions like them best; libtorch's own normalisation takes many times as long on them as on others.

use std::slice;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::tensor::{threads, with_gradient};

/// Added to the variance of a group, as PyTorch does.
pub(super) const NORM_EPSILON: f64 = 1e-5;

/// How an image is normalised.
#[derive(Clone, Copy)]
pub struct Norm {
    pub groups: i64,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl Norm {
    /// `x [B, C, H, W]` with each group of channels at mean 0 and deviation 1, times `scale` plus `shift`, each `[B, C]`.
    /// Channels of the answer are last in memory.
    ///
    /// # Errors
    /// Whatever libtorch refuses.
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
        with_gradient(&y, &[x, scale, shift], &[x, scale, shift, &statistics], move |saved, gradient| {
            match is_grad_enabled() {
                // Somebody wants a gradient of the gradient.
                true => self.composed_gradient(saved, gradient),
                false => self.gradient(layout, saved, gradient),
            }
        })
    }

    /// The same by libtorch's operations.
    pub fn composed(self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Tensor {
        let y = x.group_norm(self.groups, None::<Tensor>, None::<Tensor>, NORM_EPSILON, true);
        let y = spread(shift) + y * spread(scale);
        if self.silu {
            y.silu()
        } else {
            y
        }
    }

    fn composed_gradient(self, saved: &[Tensor], gradient: &Tensor) -> Result<Vec<Tensor>> {
        let inputs = [&saved[0], &saved[1], &saved[2]];
        let product = (self.composed(inputs[0], inputs[1], inputs[2]) * gradient).sum(gradient.kind());
        // Those without a gradient are nobody's input.
        let wanted: Vec<&Tensor> = inputs.into_iter().filter(|input| input.requires_grad()).collect();
        let mut found = Tensor::f_run_backward(&[product], &wanted, true, true)?.into_iter();
        let each = inputs.iter().map(|input| match input.requires_grad() {
            true => found.next().unwrap_or_else(Tensor::new),
            false => Tensor::new(),
        });
        Ok(each.collect())
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

/// Whether a `[B, C, H, W]` image is one that [`Norm::fused`] takes.
pub(super) fn fusible(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::Float && x.dim() == 4 && x.numel() > 0
}

/// `x [B, C, H, W]`, its channels last in memory.
pub(super) fn channels_last(x: &Tensor) -> Tensor {
    let last = x.permute([0, 2, 3, 1]).contiguous();
    let size = last.size();
    match size[3] {
        // One channel lies either way, and only its stride says which.
        1 => last.as_strided([size[0], 1, size[1], size[2]], [size[1] * size[2], 1, size[2], 1], None),
        _ => last.permute([0, 3, 1, 2]),
    }
}

/// `[B, C]` against images.
pub(super) fn spread(x: &Tensor) -> Tensor {
    x.unsqueeze(-1).unsqueeze(-1)
}

fn is_grad_enabled() -> bool {
    // SAFETY: sets a flag of this thread and sets it back.
    unsafe {
        let before = torch_sys::at_grad_set_enabled(0);
        torch_sys::at_grad_set_enabled(before);
        before != 0
    }
}

/// Sizes of a batch of images with channels last.
#[derive(Clone, Copy)]
struct Layout {
    batch: i64,
    channels: i64,
    height: i64,
    width: i64,
}

/// A tensor in memory, row by row.
#[derive(Clone, Copy)]
struct Rows<'a> {
    all: &'a [f32],
    length: usize,
}

impl<'a> Rows<'a> {
    fn row(self, row: usize) -> &'a [f32] {
        &self.all[row * self.length..(row + 1) * self.length]
    }
}

/// A pointer that worker threads write disjoint rows behind.
#[derive(Clone, Copy)]
struct Target(*mut f32);
// SAFETY: `Layout::each` hands each row to one closure call.
unsafe impl Send for Target {}
unsafe impl Sync for Target {}

impl Layout {
    fn of(x: &Tensor) -> Self {
        let size = x.size();
        Layout { batch: size[0], channels: size[1], height: size[2], width: size[3] }
    }

    /// Numbers of one image.
    fn size(self) -> i64 {
        self.channels * self.height * self.width
    }

    fn empty(self) -> Result<Tensor> {
        let shape = [self.batch, self.height, self.width, self.channels];
        Ok(Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?.permute([0, 3, 1, 2]))
    }

    /// The memory of a dense float32 tensor of the CPU, `length` numbers for each image.
    fn rows(self, tensor: &Tensor, length: i64) -> Rows<'_> {
        debug_assert_eq!(tensor.numel() as i64, self.batch * length);
        // SAFETY: the tensor has so many numbers, one after the other, and lives as long as the rows.
        let all = unsafe { slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) };
        Rows { all, length: length as usize }
    }

    /// Calls `fill(row, rows of outputs)` for each image, on as many threads as libtorch uses.
    fn each(
        self,
        outputs: &[&Tensor],
        lengths: &[i64],
        fill: impl Fn(usize, &mut [&mut [f32]]) + Sync,
    ) -> Result<()> {
        let targets: Vec<(Target, usize)> = outputs
            .iter()
            .zip(lengths)
            .map(|(tensor, length)| (Target(tensor.data_ptr().cast()), *length as usize))
            .collect();
        let one = |row: usize| {
            let mut rows: Vec<&mut [f32]> = targets
                .iter()
                // SAFETY: the tensors are ours, dense, and each row is written by one call.
                .map(|&(Target(start), length)| unsafe {
                    slice::from_raw_parts_mut(start.add(row * length), length)
                })
                .collect();
            fill(row, &mut rows);
        };
        let (count, parts) = (self.batch as usize, tch::get_num_threads().max(1) as usize);
        if parts == 1 || count == 1 {
            (0..count).for_each(one);
        } else {
            let share = count.div_ceil(parts);
            threads::pool()?.install(|| {
                (0..parts).into_par_iter().for_each(|part| {
                    (part * share..count.min((part + 1) * share)).for_each(one);
                });
            });
        }
        Ok(())
    }
}

/// Calls `$kernel::<true>` with wide registers where the processor has them, and `$kernel::<false>` elsewhere.
macro_rules! on_this_processor {
    ($kernel:ident($($argument:ident: $kind:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            unsafe fn wide($($argument: $kind),*) {
                $kernel::<true>($($argument),*);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has been asked.
                return unsafe { wide($($argument),*) };
            }
        }
        $kernel::<false>($($argument),*);
    }};
}

/// One image: `x` and `y` `[positions, C]`, scale and shift `[C]`, mean and 1 / deviation of each group.
fn forward(
    norm: Norm,
    layout: Layout,
    x: &[f32],
    factors: [&[f32]; 2],
    y: &mut [f32],
    statistics: &mut [f32],
) {
    on_this_processor!(forward_row(norm: Norm, layout: Layout, x: &[f32], factors: [&[f32]; 2], y: &mut [f32], statistics: &mut [f32]))
}

/// One image: x, the gradient of y and the statistics to the gradients of x, scale and shift.
fn backward(norm: Norm, layout: Layout, given: [&[f32]; 3], factors: [&[f32]; 2], found: [&mut [f32]; 3]) {
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
    // The mean first, then squares about it: the sum of squares alone would lose digits where means are large.
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
    // Slices of one length, for the compiler to see that no index is beyond any.
    let (centre, factor, shift) = (&centre[..channels], &factor[..channels], &shift[..channels]);
    for (pixel, out) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
        let (pixel, out) = (&pixel[..channels], &mut out[..channels]);
        for c in 0..channels {
            let z = fma::<WIDE>(pixel[c] - centre[c], factor[c], shift[c]);
            out[c] = if norm.silu { z * sigmoid::<WIDE>(z) } else { z };
        }
    }
}

/// With n = (x - mean) / deviation and z = n scale + shift: dscale = sum dz n, dshift = sum dz and, with
/// m = dz scale, dx = (m - mean(m) - n mean(m n)) / deviation, means being over a group.
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
    // Slices of one length, for the compiler to see that no index is beyond any.
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

/// Means of each group, of `count` numbers of an image, from sums of each channel.
#[inline(always)]
fn group_means(sums: &[f32], count: usize, means: &mut [f32]) {
    let each = sums.len() / means.len();
    let share = 1.0 / (count / means.len()) as f64;
    for (mean, sums) in means.iter_mut().zip(sums.chunks_exact(each)) {
        *mean = (sums.iter().copied().map(f64::from).sum::<f64>() * share) as f32;
    }
}

/// A number of each group for each of its channels.
#[inline(always)]
fn by_channel(values: &[f32], channels: usize) -> Vec<f32> {
    let each = channels / values.len();
    values.iter().flat_map(|value| std::iter::repeat_n(*value, each)).collect()
}

#[inline(always)]
fn fma<const WIDE: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction `mul_add` is a call.
    if WIDE {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

#[inline(always)]
fn sigmoid<const WIDE: bool>(z: f32) -> f32 {
    1.0 / (1.0 + exp::<WIDE>(-z))
}

/// e^x to one unit in the last place or two, in instructions that compilers make vectors of (Cody and Waite, "Software
/// Manual for the Elementary Functions", chapter 6; coefficients of Cephes' `expf`). Beyond ±87 it stays as it is there.
#[inline(always)]
#[allow(clippy::excessive_precision)]
fn exp<const WIDE: bool>(x: f32) -> f32 {
    // Comparisons that keep NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 87.0 { 87.0 } else { x };
    // Adding 1.5 2^23 rounds to a whole number, which is then in the last bits.
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
