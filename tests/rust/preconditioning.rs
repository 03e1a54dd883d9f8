//! Preconditioned networks against the linear prediction written out, and against the closed form of Gaussians.

use koopflow::flow::{train, train_with_files, Given, TeacherConfig, TrainingFiles};
use koopflow::monitor::Silent;
use koopflow::nets::UNetConfig;
use koopflow::tensor::RandomSource;
use koopflow::training::TrainingOptions;
use koopflow::velocity::{
    GaussianField, NetworkField, NetworkFieldConfig, Path, Preconditioning, Source, VelocityField,
};
use koopflow::Error;
use tch::{Device, Kind, Tensor};

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

fn full(t: f64, batch: i64) -> Tensor {
    Tensor::full([batch], t, (Kind::Double, Device::Cpu))
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn small_unet() -> UNetConfig {
    UNetConfig { channels: 4, multipliers: vec![1.0, 2.0], blocks: 1, heads: 1, ..UNetConfig::default() }
}

fn field_of(config: NetworkFieldConfig, data: &Tensor) -> NetworkField {
    let config = NetworkFieldConfig {
        event_shape: data.size()[1..].to_vec(),
        width: 8,
        depth: 1,
        dtype: "float64".into(),
        ..config
    };
    NetworkField::new(config, data, None, Device::Cpu, &mut RandomSource::new(0)).unwrap()
}

fn of(preconditioning: Preconditioning, path: Path) -> NetworkFieldConfig {
    NetworkFieldConfig { preconditioning, path, ..NetworkFieldConfig::default() }
}

fn stored(field: &NetworkField, name: &str) -> Tensor {
    let state = field.state().unwrap();
    state.tensors.into_iter().find(|(other, _)| other == name).unwrap().1
}

/// Mean and deviation of each coordinate are those that the field itself measured.
fn gaussian_like(field: &NetworkField) -> GaussianField {
    let (mean, scale) = (stored(field, "data.mean"), stored(field, "data.scale"));
    let covariance = scale.square().diag(0);
    GaussianField::new(&mean, &covariance, field.event_shape(), Device::Cpu, Kind::Double).unwrap()
}

#[test]
fn a_network_of_zeros_is_exact_for_gaussians() {
    let unet = NetworkFieldConfig { unet: Some(small_unet()), ..of(Preconditioning::Edm, Path::Linear) };
    let images = normal(1, &[300, 2, 4, 4]) * Tensor::from_slice(&[0.3, 2.0]).view([2, 1, 1]) + 0.7;
    let rows = normal(2, &[300, 3]) * Tensor::from_slice(&[0.1, 1.0, 3.0]) - 1.5;
    for (config, data) in [(unet, &images), (of(Preconditioning::Edm, Path::Linear), &rows)] {
        let field = field_of(config, data);
        let _ = tch::no_grad(|| field.parameters().flat().unwrap().zero_());
        let exact = gaussian_like(&field);
        for time in [0.0, 1e-3, 0.3, 0.8, 1.0] {
            let t = full(time, 40);
            let x = normal(3, &data.size()) * 2.0;
            let x = x.narrow(0, 0, 40);
            let (v, expected) =
                (field.velocity(&t, &x, None).unwrap(), exact.velocity(&t, &x, None).unwrap());
            assert!(worst(&v, &expected) < 1e-10, "t = {time}: {}", worst(&v, &expected));
        }
    }
}

/// The same weights as in an ordinary field, whose output F = (v - centre) / spread is read off.
#[test]
fn the_output_is_added_to_the_linear_prediction() {
    let data =
        normal(4, &[200, 3]) * Tensor::from_slice(&[0.2, 1.0, 2.5]) + Tensor::from_slice(&[1.0, -2.0, 0.0]);
    let pool =
        normal(5, &[150, 3]) * Tensor::from_slice(&[1.5, 0.4, 1.0]) + Tensor::from_slice(&[0.0, 3.0, -1.0]);
    let x = normal(6, &[50, 3]);
    for path in [Path::Linear, Path::Vp] {
        for from_noise in [true, false] {
            let made = |preconditioning| {
                let field = field_of(of(preconditioning, path), &data);
                match from_noise {
                    true => field,
                    false => field.starting_from(Source::rows(&pool, &[3]).unwrap(), &pool).unwrap(),
                }
            };
            let (plain, edm) = (made(Preconditioning::Scaled), made(Preconditioning::Edm));
            let (m, d) = (stored(&edm, "data.mean"), stored(&edm, "data.scale"));
            let (n, o) = match from_noise {
                true => (m.zeros_like(), m.ones_like()),
                false => (stored(&edm, "origin.mean"), stored(&edm, "origin.scale")),
            };
            for time in [0.02, 0.4, 0.97] {
                let t = full(time, 50);
                let c = path.coefficients(&full(time, 1));
                let [a, s, a_rate, s_rate] = [&c.a, &c.s, &c.a_rate, &c.s_rate].map(|x| x.double_value(&[0]));
                let mean = &m * a + &n * s;
                let centre = &m * a_rate + &n * s_rate;
                let of_x = (&d * a).square() + (&o * s).square();
                let of_v = (&d * a_rate).square() + (&o * s_rate).square();
                let joint = d.square() * (a * a_rate) + o.square() * (s * s_rate);
                let answer = (plain.velocity(&t, &x, None).unwrap() - &centre) / of_v.sqrt();
                let unit = (&of_v - joint.square() / &of_x).sqrt();
                let expected = &centre + &joint / &of_x * (&x - &mean) + unit * answer;
                let v = edm.velocity(&t, &x, None).unwrap();
                assert!(worst(&v, &expected) < 1e-10, "{path:?}, {time}: {}", worst(&v, &expected));
            }
        }
    }
}

/// Targets have variance 1 at every time, so that a network of zeros has loss 1.
#[test]
fn targets_have_unit_variance_at_all_times() {
    let (x0, x1) = (normal(7, &[40_000, 2]), normal(8, &[40_000, 2]) * Tensor::from_slice(&[0.5, 2.0]) + 1.0);
    for path in [Path::Linear, Path::Vp] {
        let field = field_of(of(Preconditioning::Edm, path), &x1);
        let _ = tch::no_grad(|| field.parameters().flat().unwrap().zero_());
        for time in [0.01, 0.3, 0.7, 0.99] {
            let t = full(time, 40_000);
            let (x, u) = (path.sample(&t, &x0, &x1).unwrap(), path.target(&t, &x0, &x1).unwrap());
            let loss = field.loss(&t, &x, &u, None, None).unwrap().double_value(&[]);
            assert!((loss - 1.0).abs() < 0.03, "{path:?}, {time}: {loss}");
            let (_, spread) = field.velocity_in_units(&t, &x, None).unwrap();
            let expected = u.std_dim(0, false, false);
            assert!(worst(&spread.select(0, 0), &expected) < 0.03, "the deviation of u");
        }
    }
}

#[test]
fn files_name_it_only_where_it_is_used() {
    let text = |config: &NetworkFieldConfig| serde_json::to_string(config).unwrap();
    let plain = NetworkFieldConfig::default();
    assert!(!text(&plain).contains("preconditioning") && !text(&plain).contains("augment"));
    let edm = of(Preconditioning::Edm, Path::Linear);
    assert!(text(&edm).contains(r#""preconditioning":"edm""#));
    assert_eq!(serde_json::from_str::<NetworkFieldConfig>(&text(&edm)).unwrap(), edm);
}

#[test]
fn fields_without_a_prediction_refuse_it() {
    let edm = of(Preconditioning::Edm, Path::Linear);
    for config in [
        NetworkFieldConfig { scaled: false, ..edm.clone() },
        NetworkFieldConfig { curves: true, ..edm.clone() },
        NetworkFieldConfig { growth: true, ..edm.clone() },
        NetworkFieldConfig { phase: true, event_shape: vec![2, 3], ..edm },
    ] {
        let error = config.check().unwrap_err();
        assert!(
            matches!(&error, Error::Argument { argument, .. } if argument == "preconditioning"),
            "{error}"
        );
    }
}

/// Weights that were learnt for another rest of the velocity are another velocity.
#[test]
fn training_does_not_begin_with_weights_for_another_target() {
    let data = normal(9, &[64, 2]);
    let options = |preconditioning| TeacherConfig {
        width: Some(4),
        depth: Some(1),
        preconditioning,
        training: TrainingOptions {
            steps: Some(2),
            batch_size: Some(8),
            ..TeacherConfig::default().training
        },
        ..TeacherConfig::default()
    };
    let (initial, _) = train(&options(Preconditioning::Edm), &data, None, &mut Silent).unwrap();
    let begun = |preconditioning| {
        let given = Given { initial: Some(initial.shallow_clone()), ..Given::new(&data, None) };
        train_with_files(&options(preconditioning), given, &TrainingFiles::default(), &mut Silent)
    };
    assert!(begun(Preconditioning::Edm).is_ok());
    let error = begun(Preconditioning::Scaled).err().unwrap().to_string();
    assert!(error.contains("initial") && error.contains("preconditioning"), "{error}");
}
