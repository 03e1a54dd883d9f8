//! The terms `correction` and `noising` against formulas of the linear path, in float64.

#[path = "common/distillation.rs"]
mod distillation;

use distillation::{config, trajectories};
use koopflow::condition::Conditioning;
use koopflow::data::{Batch, BatchRows, FreshNoise, PairDraw};
use koopflow::distill::{Objective, Scaling, Term, Weights};
use koopflow::koopman::{Direction, GeneratorKind, Student};
use koopflow::tensor::RandomSource;
use koopflow::training::RowWeights;
use koopflow::velocity::{NetworkField, NetworkFieldConfig, VelocityField};
use tch::{Device, Kind, Tensor};

const OPTIONS: (Kind, Device) = (Kind::Double, Device::Cpu);

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, OPTIONS.0, OPTIONS.1).unwrap()
}

/// An untrained network with random weights, for data of mean (1, -2) and deviation 1.5.
fn teacher() -> NetworkField {
    let data = normal(1, &[256, 2]) * 1.5 + Tensor::from_slice(&[1.0, -2.0]);
    let config = NetworkFieldConfig { width: 16, depth: 2, dtype: "float64".into(), ..Default::default() };
    let field = NetworkField::new(config, &data, None, OPTIONS.1, &mut RandomSource::new(2)).unwrap();
    shake(&field.parameters().flat().unwrap(), 3);
    field.freeze();
    field
}

fn shake(flat: &Tensor, seed: u64) {
    let mut flat = flat.shallow_clone();
    let noise = normal(seed, &flat.size()) * 0.2;
    let _ = tch::no_grad(|| flat.f_add_(&noise).unwrap());
}

/// A student whose own field begins as the teacher's.
fn student(teacher: &NetworkField) -> Student {
    let mut recipe = config(GeneratorKind::Spectral).resolve(&[2], Conditioning::None).unwrap();
    recipe.student.noising = Some(Box::new(teacher.config().clone()));
    let mut student = Student::new(recipe.student, 1, OPTIONS.1).unwrap();
    shake(&student.parameters().flat().unwrap(), 4);
    student.noising_mut().begin_as(teacher).unwrap();
    student
}

fn batch(rows: i64) -> Batch {
    let batch = trajectories().batch(&RandomSource::new(7), 1, BatchRows::from(rows), PairDraw::default());
    let precision = Tensor::full([rows], 0.2, OPTIONS);
    let t = Tensor::linspace(0.05, 0.95, rows, OPTIONS);
    let (start, noise) = (normal(5, &[rows, 2]), normal(6, &[rows, 2]));
    let fresh = FreshNoise { start, noise, t, precision, condition: None, teacher_condition: None };
    Batch { fresh: Some(fresh), ..batch }
}

fn terms(teacher: &NetworkField, student: &Student, batch: &Batch, scaling: Scaling) -> Vec<Term> {
    let weights = Weights::NONE.with(&[("correction".to_string(), 0.5)].into()).unwrap();
    let objective =
        Objective { weights, scaling, row_weights: RowWeights::OFF, teacher, feature_distance: None };
    let terms = objective.terms(student, batch).unwrap();
    let named: Vec<_> = terms.iter().map(|term| (term.name, term.weight)).collect();
    assert_eq!(named, [("correction", 0.5), ("noising", 1.0)]);
    terms
}

fn samples(student: &Student, fresh: &FreshNoise) -> Tensor {
    let g = student.encode(&fresh.t.zeros_like(), &fresh.start, Direction::Forward, None).unwrap();
    student.readout(&student.propagate(&g, &Tensor::from(1.0)).unwrap()).unwrap()
}

#[test]
fn equal_fields_correct_nothing() {
    let teacher = teacher();
    let terms = terms(&teacher, &student(&teacher), &batch(24), Scaling::Relative);
    assert_eq!(terms[0].value.double_value(&[]), 0.0);
    assert!(terms[1].value.double_value(&[]) > 0.1);
}

#[test]
fn both_terms_are_what_they_say() {
    let teacher = teacher();
    let student = student(&teacher);
    let flat = student.parameters().flat().unwrap();
    shake(&flat, 8);
    let batch = batch(24);
    let fresh = batch.fresh.as_ref().unwrap();
    let x1 = samples(&student, fresh);
    let t = fresh.t.unsqueeze(1);
    let x = &t * &x1 + (1.0 - &t) * &fresh.noise;
    let own = student.noising().field().unwrap();
    let (v, w) = (teacher.velocity(&fresh.t, &x, None).unwrap(), own.velocity(&fresh.t, &x, None).unwrap());
    // E[x1|x] = x + (1 - t) v on the linear path.
    let gap: Tensor = (1.0 - &t) * (&w - &v);
    let unit = 1.0 / (1.5_f64.powi(2) + 1.0);
    let noising = (&w - (&x1 - &fresh.noise)).square().mean(Kind::Double).double_value(&[]) * unit;
    for (scaling, scale) in [(Scaling::Relative, 0.2), (Scaling::Absolute, 0.5)] {
        let terms = terms(&teacher, &student, &batch, scaling);
        let squares = gap.square().sum_dim_intlist(1, false, Kind::Double) * scale;
        let expected = squares.mean(Kind::Double).double_value(&[]);
        let got = terms[0].value.double_value(&[]);
        assert!((got / expected - 1.0).abs() < 1e-9, "{got} {expected}");
        // The statistics of 256 rows are not exactly those of the distribution.
        let got = terms[1].value.double_value(&[]);
        assert!((got / noising - 1.0).abs() < 0.1, "{got} {noising}");

        // The student's parameters, which come first, see the mean of <gap, sample>.
        let gradient = student.parameters().gradient(&terms[0].value).unwrap();
        let count = student.without_aids().unwrap().parameters().count();
        let beyond = gradient.narrow(0, count, gradient.size()[0] - count);
        assert_eq!(
            beyond.abs().max().double_value(&[]),
            0.0,
            "the second network learns only by its own term"
        );
        let direction = normal(9, &[count]);
        let along = (gradient.narrow(0, 0, count) * &direction).sum(Kind::Double).double_value(&[]);
        let mut own = flat.narrow(0, 0, count);
        let step = 1e-5;
        let mut at = |by: f64| {
            let _ = tch::no_grad(|| own.f_add_(&(&direction * by)).unwrap());
            (samples(&student, fresh) * &gap).sum_dim_intlist(1, false, Kind::Double).mean(Kind::Double)
        };
        let (after, before) = (at(step), at(-2.0 * step));
        let _ = at(step);
        let expected = (after - before).double_value(&[]) / (2.0 * step) * 2.0 * scale;
        assert!((along - expected).abs() < 1e-6 * expected.abs(), "{along} {expected}");

        // And the second network does not teach the student.
        let gradient = student.parameters().gradient(&terms[1].value).unwrap();
        assert_eq!(gradient.narrow(0, 0, count).abs().max().double_value(&[]), 0.0);
    }
}
