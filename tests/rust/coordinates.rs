//! What a perceptron sees of many dimensions: axes of few samples, in moments.

use koopflow::nets::InputCoordinates;
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Samples that vary ten times as much along one direction: the covariance of 1,100 dimensions is not decomposed, and
/// fewer samples than dimensions leave most axes open.
#[test]
fn the_axes_of_many_dimensions_are_orthonormal_and_begin_with_the_data() {
    let (count, dimension) = (40, 1100);
    let mut random = RandomSource::new(3);
    let mut normal = |shape: &[i64]| random.normal(shape, DOUBLE.0, DOUBLE.1).unwrap();
    let direction = normal(&[dimension]);
    let direction = &direction / direction.norm();
    let states = normal(&[count, 3, dimension]) * 0.05 + normal(&[count, 3, 1]) * 5.0 * &direction;
    let coordinates = InputCoordinates::from_trajectories(&states, DOUBLE.0, DOUBLE.1).unwrap();
    let named = coordinates.named();
    let of = |name: &str| &named.iter().find(|(own, _)| own == name).unwrap().1;
    let axes = of("coordinates.axes");
    let gap = (axes.tr().matmul(axes) - Tensor::eye(dimension, DOUBLE)).abs().max().double_value(&[]);
    assert!(gap < 1e-10, "{gap:e}");
    // By rising variance, as the axes of few dimensions.
    let last = axes.select(1, dimension - 1).dot(&direction).abs().double_value(&[]);
    assert!(last > 0.99, "{last}");
    let spread = states.select(1, 2).var_dim(0, false, false).mean(Kind::Double).sqrt().double_value(&[]);
    assert!((coordinates.deviation().double_value(&[]) / spread - 1.0).abs() < 1e-9);
    // The table is that of the rotated samples.
    let rotated = (states.select(1, 1) - coordinates.center()).matmul(axes);
    let mean = rotated.mean_dim(0, false, Kind::Double);
    let gap = (of("coordinates.means").select(0, 1) - mean).abs().max().double_value(&[]);
    assert!(gap < 1e-4, "{gap:e}");
}
