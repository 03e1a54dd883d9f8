//! The memory layout of images with channels last, one row of memory for each image, and a parallel loop over rows.

use std::slice;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::tensor::threads;

/// Sizes of a batch of images with channels last.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub batch: i64,
    pub channels: i64,
    height: i64,
    width: i64,
}

/// The memory of a tensor as rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    all: &'a [f32],
    length: usize,
}

impl<'a> Rows<'a> {
    pub fn row(self, row: usize) -> &'a [f32] {
        &self.all[row * self.length..(row + 1) * self.length]
    }
}

/// A pointer to memory in which worker threads write disjoint rows.
#[derive(Clone, Copy)]
struct Target(*mut f32);
// SAFETY: `Layout::each` passes each row to exactly one closure call.
unsafe impl Send for Target {}
unsafe impl Sync for Target {}

impl Layout {
    pub fn of(x: &Tensor) -> Self {
        let size = x.size();
        Layout { batch: size[0], channels: size[1], height: size[2], width: size[3] }
    }

    /// The number of values in one image.
    pub fn size(self) -> i64 {
        self.channels * self.height * self.width
    }

    pub fn empty(self) -> Result<Tensor> {
        let shape = [self.batch, self.height, self.width, self.channels];
        Ok(Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?.permute([0, 3, 1, 2]))
    }

    /// The memory of a dense float32 tensor on the CPU with `length` numbers for each image.
    pub fn rows(self, tensor: &Tensor, length: i64) -> Rows<'_> {
        debug_assert_eq!(tensor.numel() as i64, self.batch * length);
        // SAFETY: the tensor is dense, has this many numbers, and lives as long as the rows.
        let all = unsafe { slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) };
        Rows { all, length: length as usize }
    }

    /// Calls `fill(row, rows of outputs)` for each image, on as many threads as libtorch uses.
    pub fn each(
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
                // SAFETY: the tensors are dense and not shared, and each row is written by one call only.
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
