//! The moving frame: phi(t, x) = h(t, x) exp(t Λ), against the same weights in a fixed frame.

mod common;

use common::{base, gap, normal, student, through_a_file, DOUBLE};
use koopflow::condition::Conditioning;
use koopflow::distill::DistillConfig;
use koopflow::error::Error;
use koopflow::koopman::{Direction, Frame, GeneratorKind, Student, StudentConfig};
use koopflow::monitor::Silent;
use koopflow::sampling;
use tch::{Kind, Tensor};

fn moving() -> Student {
    student(StudentConfig { frame: Frame::Moving, ..base() }, 0.3)
}

fn features(student: &Student, t: f64, direction: Direction) -> Tensor {
    let g = student.encode(&Tensor::from(t), &normal(2, &[5, 3]), direction, None).unwrap();
    g.narrow(1, 5, 7)
}

#[test]
fn features_are_the_basis_carried_by_the_generator() {
    let (fixed, moving) = (student(base(), 0.3), moving());
    let block = moving.generator().matrix().narrow(0, 5, 7).narrow(1, 5, 7);
    for direction in [Direction::Forward, Direction::Backward] {
        for t in [0.0, 0.4, 1.0] {
            let expected = features(&fixed, t, direction).matmul(&(&block * t).linalg_matrix_exp());
            assert!(gap(&features(&moving, t, direction), &expected) < 1e-12);
        }
    }
}

#[test]
fn tangents_match_finite_differences_and_the_frame_alone_is_consistent() {
    let student = moving();
    let (x, velocity) = (normal(2, &[5, 3]), normal(3, &[5, 3]));
    let (t, step) = (0.31, 1e-6);
    let (_, tangent) =
        student.encode_with_tangent(&Tensor::from(t), &x, &velocity, Direction::Forward, None).unwrap();
    let at = |shift: f64| {
        let x = &x + &velocity * shift;
        student.encode(&Tensor::from(t + shift), &x, Direction::Forward, None).unwrap()
    };
    let slope = (at(step) - at(-step)) / (2.0 * step);
    assert!(gap(&tangent, &slope) < 1e-7);

    // A basis of constants obeys phi' = phi Λ exactly, whatever the velocity.
    let own: Vec<_> = student.named().into_iter().map(|(name, _)| name).collect();
    for (name, tensor) in own.iter().zip(student.parameters().tensors()) {
        if name.starts_with("forward.") && !name.ends_with("bias") {
            let _ = tch::no_grad(|| tensor.shallow_clone().zero_());
        }
    }
    let time = Tensor::full([5], t, DOUBLE);
    let (g, tangent) = student.lift_flat_with_tangent(&time, &x, &velocity, Direction::Forward, None);
    assert!(tangent.abs().max().double_value(&[]) > 1e-3);
    assert!(gap(&tangent, &student.generator().rate(&g).1) < 1e-12);
}

#[test]
fn files_and_conversions_keep_the_frame() {
    let student = moving();
    let x0 = normal(4, &[5, 3]);
    let path =
        |student: &Student| sampling::sample_path(student, &x0, &[0.0, 0.5, 1.0], None, &mut Silent).unwrap();
    let same = |a: &Student, b: &Student, tolerance: f64| {
        assert!(gap(&path(a), &path(b)) <= tolerance);
        let noise = |s: &Student| sampling::invert(s, &x0, None, &mut Silent).unwrap();
        assert!(gap(&noise(a), &noise(b)) <= tolerance);
    };
    same(&student, &through_a_file(&student, "frame"), 0.0);
    let dense = student.to_dense().unwrap();
    assert_eq!(dense.config().frame, Frame::Moving);
    same(&student, &dense, 1e-12);
    same(&dense, &through_a_file(&dense, "frame-dense"), 0.0);
    assert!(
        gap(&features(&dense, 0.7, Direction::Forward), &features(&student, 0.7, Direction::Forward)) < 1e-12
    );
}

#[test]
fn the_generator_learns_through_the_frame() {
    let student = moving();
    let (t, x) = (Tensor::full([5], 0.6, DOUBLE), normal(2, &[5, 3]));
    let g = student.lift_flat(&t, &x, Direction::Forward, None);
    let gradient = student.parameters().gradient(&g.features.square().sum(Kind::Double)).unwrap();
    let mut row = 0;
    let mut moved = 0.0;
    for (name, tensor) in student.named().into_iter().zip(student.parameters().tensors()) {
        let count = tensor.numel() as i64;
        if name.0.starts_with("generator.growth") {
            moved = gradient.narrow(0, row, count).abs().max().double_value(&[]);
        }
        row += count;
    }
    assert!(moved > 1e-6);
}

#[test]
fn who_gets_a_moving_frame() {
    let frame =
        |config: DistillConfig| config.resolve(&[2], Conditioning::None).map(|recipe| recipe.student.frame);
    let parse = |text: &str| serde_json::from_str::<DistillConfig>(text).unwrap();
    assert_eq!(frame(DistillConfig::default()).unwrap(), Frame::Moving);
    for fixed in [
        r#"{"frame": "fixed"}"#,
        r#"{"generator": "dense"}"#,
        r#"{"basis": "polynomial"}"#,
        r#"{"method": "closed_form"}"#,
    ] {
        assert_eq!(frame(parse(fixed)).unwrap(), Frame::Fixed, "{fixed}");
    }
    let outcome = frame(DistillConfig {
        generator: GeneratorKind::Dense,
        frame: Some(Frame::Moving),
        ..DistillConfig::default()
    });
    assert!(matches!(outcome, Err(Error::Argument { argument, .. }) if argument == "frame"));
}
