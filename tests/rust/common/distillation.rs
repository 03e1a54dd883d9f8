//! What the tests of distillation share: an analytic teacher, small options, and its trajectories.

use koopflow::data::{Trajectories, TrajectoryPlan};
use koopflow::distill::DistillConfig;
use koopflow::koopman::GeneratorKind;
use koopflow::monitor::Silent;
use koopflow::training::TrainingOptions;
use koopflow::velocity::GaussianField;
use tch::{Device, Kind, Tensor};

pub fn teacher() -> GaussianField {
    let mean = Tensor::from_slice(&[1.0, -2.0]);
    let covariance = Tensor::from_slice(&[2.0, 0.6, 0.6, 0.5]).view([2, 2]);
    GaussianField::new(&mean, &covariance, &[2], Device::Cpu, Kind::Double).unwrap()
}

pub fn config(generator: GeneratorKind) -> DistillConfig {
    DistillConfig {
        observables: Some(6),
        generator,
        width: Some(12),
        depth: Some(1),
        trajectories: Some(128),
        path_steps: Some(8),
        training: TrainingOptions {
            steps: Some(40),
            dtype: "float64".into(),
            ..DistillConfig::default().training
        },
        ..DistillConfig::default()
    }
}

fn plan(count: i64) -> TrajectoryPlan {
    TrajectoryPlan {
        count,
        path_steps: 8,
        fixed: None,
        seed: 3,
        kind: Kind::Double,
        device: Device::Cpu,
        max_seconds: None,
    }
}

pub fn trajectories() -> Trajectories {
    Trajectories::generate(&teacher(), &plan(128), None, &mut Silent).unwrap()
}
