//! Random changes of training images that a network is told of (Karras et al., arXiv 2206.00364, appendix F.2; Karras
//! et al., arXiv 2006.06676). A sampler tells it that nothing was changed, so the changes do not leak into samples.

use std::f64::consts::{LN_2, PI};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{shape_text, RandomSource};

/// Length of the vector that describes an augmentation.
pub const AUGMENTATION_NUMBERS: i64 = 9;
/// Deviation of the binary logarithms of scale and stretch.
const LOG_SCALE: f64 = 0.2;
/// Deviation of a translation, as a share of the image's sides.
const SHIFT: f64 = 0.125;

/// One affine map for each image of a batch.
#[derive(Debug)]
pub struct Augmentation {
    /// The linear map from a place in the augmented image to one in the original, in pixels from the centre, by its
    /// entries xx, xy, yx and yy, float64 `[B]` each.
    inverse: [Tensor; 4],
    /// Translation along x and y as a share of width and height, float64 `[B]` each.
    shift: [Tensor; 2],
    /// What a network is told, float64 `[B, 9]`: mirrored left to right, mirrored top to bottom, n of the scale
    /// 2^(0.2 n), cos - 1 and sin of the rotation, n cos 2r and n sin 2r of the stretch by 2^(0.2 n) in the direction
    /// r, and n of the translations by 0.125 n along x and y. Zeros mean that nothing was changed. Karras et al. have
    /// n cos r and n sin r, which are the same for a stretch and for its inverse, (-n, r + pi).
    numbers: Tensor,
}

impl Augmentation {
    /// `count` augmentations. Each of the six changes is made with `probability`; a mirroring that is made shows in one
    /// half of the images.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn draw(count: i64, probability: f64, random: &mut RandomSource) -> Result<Self> {
        let home = (Kind::Double, Device::Cpu);
        let chosen = random.uniform(&[count, 6], home.0, home.1)?.f_lt(probability)?.to_kind(home.0);
        let uniform = random.uniform(&[count, 4], home.0, home.1)?;
        let normal = random.normal(&[count, 4], home.0, home.1)?;
        let made = |change: i64, by: Tensor| chosen.select(1, change) * by;
        let angle = |place: i64| (uniform.select(1, place) * 2.0 - 1.0) * PI;
        let mirrored = [0, 1].map(|side| made(side, uniform.select(1, side).lt(0.5).to_kind(home.0)));
        let (scale, turn) = (made(2, normal.select(1, 0)), made(3, angle(2)));
        let (stretch, along) = (made(4, normal.select(1, 1)), made(4, angle(3)));
        let shift = [2, 3].map(|place| made(5, normal.select(1, place)));
        let (cosine, sine) = (turn.cos(), turn.sin());
        let (c, s) = (along.cos(), along.sin());
        let [first, second] = &mirrored;
        let parts = [
            first.shallow_clone(),
            second.shallow_clone(),
            scale.shallow_clone(),
            &cosine - 1.0,
            sine.shallow_clone(),
            &stretch * (&along * 2.0).cos(),
            &stretch * (&along * 2.0).sin(),
            shift[0].shallow_clone(),
            shift[1].shallow_clone(),
        ];
        let numbers = Tensor::f_stack(&parts, 1)?;
        // An image is mirrored, scaled, stretched by R(r) diag(k, 1 / k) R(-r), rotated and translated, in this order.
        let power = |n: &Tensor| (n * (LOG_SCALE * LN_2)).exp();
        let (short, long) = (power(&-&stretch), power(&stretch));
        let xx = &short * c.square() + &long * s.square();
        let xy = (&short - &long) * &c * &s;
        let yy = &short * s.square() + &long * c.square();
        let smaller = power(&-&scale);
        let [row_x, row_y] = [first, second].map(|mirrored| (1.0 - mirrored * 2.0) * &smaller);
        let inverse = [
            (&xx * &cosine - &xy * &sine) * &row_x,
            (&xx * &sine + &xy * &cosine) * &row_x,
            (&xy * &cosine - &yy * &sine) * &row_y,
            (&xy * &sine + &yy * &cosine) * &row_y,
        ];
        Ok(Augmentation { inverse, shift: shift.map(|n| n * SHIFT), numbers })
    }

    /// Augmentations `first .. first + count`.
    pub fn rows(&self, first: i64, count: i64) -> Augmentation {
        let part = |x: &Tensor| x.narrow(0, first, count);
        Augmentation {
            inverse: self.inverse.each_ref().map(part),
            shift: self.shift.each_ref().map(part),
            numbers: part(&self.numbers),
        }
    }

    /// What a network is told, `[B, 9]`.
    pub fn numbers(&self) -> &Tensor {
        &self.numbers
    }

    /// The augmented images `[B, C, H, W]`, interpolated bilinearly and reflected at their edges. Images whose numbers
    /// are zeros stay as they are, to the last bit.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `data` for anything but images.
    pub fn apply(&self, images: &Tensor) -> Result<Tensor> {
        let size = images.size();
        let &[_, _, height, width] = size.as_slice() else {
            return Err(Error::shape("data", "(N, channels, height, width)", shape_text(&size)));
        };
        // Places are in [-1, 1] from edge to edge.
        let tall = height as f64 / width as f64;
        let [xx, xy, yx, yy] = &self.inverse;
        let [right, down] = self.shift.each_ref().map(|share| share * 2.0);
        let (xy, yx) = (xy * tall, yx / tall);
        let entries = [
            xx.shallow_clone(),
            xy.shallow_clone(),
            -(xx * &right + &xy * &down),
            yx.shallow_clone(),
            yy.shallow_clone(),
            -(&yx * &right + yy * &down),
        ];
        let theta = Tensor::f_stack(&entries, 1)?.f_view([-1, 2, 3])?;
        let theta = theta.to_device(images.device()).to_kind(images.kind());
        let grid = Tensor::f_affine_grid_generator(&theta, size.as_slice(), false)?;
        let (bilinear, reflected) = (0, 2);
        let moved = images.f_grid_sampler(&grid, bilinear, reflected, false)?;
        let same = self.numbers.f_eq(0.0)?.f_all_dim(1, true)?.f_view([-1, 1, 1, 1])?;
        Ok(images.f_where_self(&same.to_device(images.device()), &moved)?)
    }
}
