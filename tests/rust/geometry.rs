//! The geometry of paths against curves whose curvature and torsion are known.

use std::f64::consts::PI;

use koopflow::metrics::path_geometry;
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

fn angles(count: i64, end: f64) -> Tensor {
    Tensor::linspace(0.0, end, count, (Kind::Double, Device::Cpu))
}

fn near(found: &Tensor, expected: f64, tolerance: f64) {
    let found = found.double_value(&[0]);
    assert!((found - expected).abs() < tolerance, "{found} is not {expected}");
}

#[test]
fn helices_have_their_curvature_and_torsion() {
    let (radius, rise) = (2.0, 0.5);
    let s = angles(1200, 4.0);
    let helix = Tensor::stack(&[s.cos() * radius, s.sin() * radius, &s * rise], 1);
    // In five dimensions, turned out of the axes: no fact depends on coordinates.
    let basis = RandomSource::new(1).normal(&[5, 3], Kind::Double, Device::Cpu).unwrap();
    let (turn, _) = Tensor::linalg_qr(&basis, "reduced");
    let found = path_geometry(&helix.matmul(&turn.tr()).unsqueeze(1)).unwrap();
    let square = radius * radius + rise * rise;
    near(&found.length, 4.0 * square.sqrt(), 1e-3);
    near(&found.curvature, radius / square, 1e-3);
    near(&found.torsion, rise / square, 1e-3);
    assert!((found.energy.sum(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-9);
}

#[test]
fn arcs_lie_in_a_plane() {
    let s = angles(801, PI);
    let arc = Tensor::stack(&[s.cos() * 3.0, s.sin() * 3.0, s.zeros_like()], 1);
    let found = path_geometry(&arc.unsqueeze(1)).unwrap();
    near(&found.chord, 6.0, 1e-12);
    near(&found.deviation, 3.0, 1e-9);
    near(&found.length, 3.0 * PI, 1e-4);
    near(&found.curvature, 1.0 / 3.0, 1e-3);
    near(&found.torsion, 0.0, 1e-9);
    assert!(found.energy.double_value(&[0, 2]) < 1e-12);
    // An inflection turns the curve the other way, within its plane.
    let wave = Tensor::stack(&[s.shallow_clone(), (&s * 3.0).sin(), s.zeros_like()], 1);
    near(&path_geometry(&wave.unsqueeze(1)).unwrap().torsion, 0.0, 1e-9);
}

#[test]
fn lines_and_points_have_no_shape() {
    let s = angles(9, 1.0).view([9, 1, 1]);
    let line = Tensor::from_slice(&[1.0, 2.0]).view([1, 1, 2]) * s.square();
    let found = path_geometry(&line).unwrap();
    near(&found.deviation, 0.0, 1e-12);
    near(&found.curvature, 0.0, 1e-6);
    near(&found.torsion, 0.0, 1e-12);
    near(&(&found.length / &found.chord), 1.0, 1e-12);
    near(&found.energy.select(1, 0), 1.0, 1e-12);
    let still = path_geometry(&(line * 0.0)).unwrap();
    for fact in [still.length, still.chord, still.deviation, still.curvature, still.torsion] {
        assert_eq!(fact.double_value(&[0]), 0.0);
    }
}

#[test]
fn chunks_of_paths_are_the_paths() {
    let paths = RandomSource::new(2).normal(&[6, 50, 2, 3], Kind::Float, Device::Cpu).unwrap();
    let (all, one) = (path_geometry(&paths).unwrap(), path_geometry(&paths.narrow(1, 17, 1)).unwrap());
    assert_eq!(all.energy.size(), [50, 3]);
    for (many, one) in
        [(all.curvature, one.curvature), (all.torsion, one.torsion), (all.deviation, one.deviation)]
    {
        assert!((many.double_value(&[17]) - one.double_value(&[0])).abs() < 1e-12);
    }
}

#[test]
fn bad_paths_are_named() {
    let good = Tensor::zeros([4, 2, 3], (Kind::Double, Device::Cpu));
    for bad in [good.narrow(0, 0, 3), good.select(1, 0), good.narrow(1, 0, 0), &good / 0.0] {
        let error = path_geometry(&bad).unwrap_err().to_string();
        assert!(error.starts_with("paths:"), "{error}");
    }
}
