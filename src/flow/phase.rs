//! Curves of least acceleration in phase space (Chen et al., arXiv 2310.07805).

use tch::Tensor;

use crate::error::Result;

/// States and their time derivatives at times `[B]` on curves of least acceleration. Each is `[B, 2,
/// *event]`, with position and velocity along axis 1.
///
/// A curve goes from x0, a position p and a velocity w, to the position q of x1. It has the least integral of
/// the squared acceleration, and its final velocity is free. With j = q - p - w,
///
/// p_t = p + t w + (3 t^2 - t^3) j / 2,  w_t = w + (3 t - 3 t^2 / 2) j,  dw_t/dt = 3 (1 - t) j.
///
/// The acceleration is bounded. Given q, the law of (p_t, w_t) is Gaussian if that of x0 is. The integral is
/// 3 |j|^2, so the best coupling is that of least squared distance between q and p + w. It is also the
/// optimal coupling of x0 with the pair (q, q).
pub(super) fn least_acceleration(t: &Tensor, x0: &Tensor, x1: &Tensor) -> Result<(Tensor, Tensor)> {
    let (p, w, q) = (x0.select(1, 0), x0.select(1, 1), x1.select(1, 0));
    let mut shape = vec![1; q.dim()];
    shape[0] = -1;
    let t = t.f_reshape(shape.as_slice())?;
    let jump = q - &p - &w;
    let square = t.square();
    let position = p + &t * &w + (&square * 1.5 - &square * &t * 0.5) * &jump;
    let velocity = w + (&t * 3.0 - square * 1.5) * &jump;
    let acceleration = (1.0 - t) * 3.0 * jump;
    let rate = Tensor::f_stack(&[&velocity, &acceleration], 1)?;
    Ok((Tensor::f_stack(&[&position, &velocity], 1)?, rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::RandomSource;
    use tch::{Device, Kind};

    #[test]
    fn curves_begin_and_end_where_they_should_and_rates_are_their_derivatives() {
        let mut random = RandomSource::new(0);
        let mut draw = || random.normal(&[5, 2, 3], Kind::Double, Device::Cpu).unwrap();
        let (x0, x1) = (draw(), draw());
        let at = |t: f64| {
            least_acceleration(&Tensor::full([5], t, (Kind::Double, Device::Cpu)), &x0, &x1).unwrap()
        };
        let worst = |gap: Tensor| gap.abs().max().double_value(&[]);
        assert!(worst(at(0.0).0 - &x0) < 1e-12);
        assert!(worst(at(1.0).0.select(1, 0) - x1.select(1, 0)) < 1e-12);
        assert!(worst(at(1.0).1.select(1, 1)) < 1e-12);
        for t in [0.2, 0.7] {
            let slope = (at(t + 1e-5).0 - at(t - 1e-5).0) / 2e-5;
            assert!(worst(slope - at(t).1) < 1e-8);
        }
    }
}
