//! What the tests of students share: generic students and a relative gap.
#![allow(dead_code)]

use koopflow::condition::Conditioning;
use koopflow::koopman::{Student, StudentConfig};
use koopflow::nets::InputCoordinates;
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

pub const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Three-dimensional, float64, small.
pub fn base() -> StudentConfig {
    StudentConfig {
        event_shape: vec![3],
        conditioning: Conditioning::None,
        observables: 7,
        width: 16,
        depth: 2,
        table_times: 9,
        dtype: "float64".into(),
        ..StudentConfig::default()
    }
}

pub fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

/// A student with generic weights and generic input statistics.
pub fn student(config: StudentConfig, spread: f64) -> Student {
    let mut student = Student::new(config, 1, Device::Cpu).unwrap();
    let kind = student.kind();
    let mut flat = student.parameters().flat().unwrap();
    let noise = normal(5, &flat.size()).to_kind(kind);
    let _ = tch::no_grad(|| flat.f_add_(&(noise * spread)).unwrap());
    let d = student.config().dimension();
    let ramp = |low: f64, high: f64| Tensor::linspace(low, high, 9, DOUBLE).view([1, 9, 1]);
    let states = normal(6, &[200, 9, d]) * ramp(1.0, 0.3) + ramp(0.0, 2.0);
    student.set_coordinates(InputCoordinates::from_trajectories(&states, kind, Device::Cpu).unwrap());
    student
}

/// Written to a file and read again.
pub fn through_a_file(student: &Student, name: &str) -> Student {
    let path = std::env::temp_dir().join(format!("koopflow-{name}-{}.safetensors", std::process::id()));
    koopflow::store::save(&path, student, serde_json::Value::Null).unwrap();
    let again = koopflow::store::load::<Student>(&path, Device::Cpu);
    std::fs::remove_file(&path).unwrap();
    again.unwrap().0
}

pub fn gap(a: &Tensor, b: &Tensor) -> f64 {
    let scale = b.abs().max().double_value(&[]).max(1.0);
    (a - b).abs().max().double_value(&[]) / scale
}
