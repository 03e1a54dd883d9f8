//! The tangents of a mean velocity, against finite differences.

use koopflow::baselines::{Baseline, BaselineModel, Method, Networks};
use koopflow::condition::Conditioning;
use koopflow::nets::Dual;
use koopflow::nets::InputCoordinates;
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, DOUBLE.0, DOUBLE.1).unwrap()
}

#[test]
fn the_rate_of_a_mean_velocity_is_its_derivative_along_the_flow() {
    let model = BaselineModel {
        method: Method::MeanVelocity,
        event_shape: vec![3],
        conditioning: Conditioning::Labels { classes: 2 },
        observables: 1,
        width: 16,
        depth: 2,
        table_times: 9,
        dtype: "float64".into(),
        units: None,
    };
    let mut student = Baseline::new(model, 1, DOUBLE.1).unwrap();
    let ramp = |low: f64, high: f64| Tensor::linspace(low, high, 9, DOUBLE).view([1, 9, 1]);
    let states = normal(6, &[200, 9, 3]) * ramp(1.0, 0.3) + ramp(0.0, 2.0);
    student.set_coordinates(InputCoordinates::from_trajectories(&states, DOUBLE.0, DOUBLE.1).unwrap());
    let Networks::MeanVelocity(network) = student.networks() else { panic!("another method") };
    let space = student.space();

    let (x, v) = (normal(1, &[5, 3]), normal(2, &[5, 3]));
    // Away from the knots of the table, where its slope jumps.
    let s = Tensor::from_slice(&[0.05, 0.2, 0.44, 0.7, 0.9]);
    let t = Tensor::from_slice(&[1.0, 0.2, 0.6, 1.0, 0.95]);
    let condition = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]).view([5, 2]);
    let dual = |value: &Tensor, rate: Tensor| Dual::new(value.shallow_clone(), rate);
    let rate = network.rate(
        space,
        &dual(&x, v.shallow_clone()),
        &dual(&s, s.ones_like()),
        &dual(&t, t.zeros_like()),
        Some(&condition),
    );
    let at = |step: f64| network.mean_velocity(space, &(&x + &v * step), &(&s + step), &t, Some(&condition));
    let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
    let gap = (rate - &difference).abs().max().double_value(&[]);
    assert!(gap < 1e-7 * difference.abs().max().double_value(&[]).max(1.0), "{gap}");
}
