//! Augmented images against a warp written out from what the network is told, and networks that are told nothing.

use std::collections::BTreeSet;

use koopflow::data::{Augmentation, AUGMENTATION_NUMBERS};
use koopflow::flow::{train, TeacherConfig};
use koopflow::monitor::Silent;
use koopflow::nets::UNetConfig;
use koopflow::tensor::RandomSource;
use koopflow::training::TrainingOptions;
use koopflow::velocity::{Conditioning, NetworkField, NetworkFieldConfig, VelocityField};
use tch::{Device, Kind, Tensor};

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

fn drawn(count: i64, probability: f64, seed: u64) -> Augmentation {
    Augmentation::draw(count, probability, &mut RandomSource::new(seed)).unwrap()
}

fn rows(x: &Tensor) -> Vec<Vec<f64>> {
    Vec::try_from(x).unwrap()
}

type Map = [[f64; 2]; 2];

fn times(a: Map, b: Map) -> Map {
    let entry = |i: usize, j: usize| a[i][0] * b[0][j] + a[i][1] * b[1][j];
    [[entry(0, 0), entry(0, 1)], [entry(1, 0), entry(1, 1)]]
}

fn turn(angle: f64) -> Map {
    [[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]]
}

/// The linear map from places in the original to places in the augmented image.
fn forward(numbers: &[f64]) -> Map {
    let mirror = [[1.0 - 2.0 * numbers[0], 0.0], [0.0, 1.0 - 2.0 * numbers[1]]];
    let scale = (0.2 * numbers[2]).exp2();
    let angle = numbers[4].atan2(numbers[3] + 1.0);
    let length = numbers[5].hypot(numbers[6]);
    let (along, stretch) = (0.5 * numbers[6].atan2(numbers[5]), (0.2 * length).exp2());
    let stretched = times(times(turn(along), [[stretch, 0.0], [0.0, 1.0 / stretch]]), turn(-along));
    let scaled = times(stretched, [[scale, 0.0], [0.0, scale]]);
    times(times(turn(angle), scaled), mirror)
}

/// The place within `length` pixels that is reflected to `place`, with the edges half a pixel outside.
fn reflected(place: f64, length: f64) -> f64 {
    let folded = (place + 0.5).rem_euclid(2.0 * length);
    let inside = if folded > length { 2.0 * length - folded } else { folded };
    (inside - 0.5).clamp(0.0, length - 1.0)
}

fn warped(image: &[Vec<f64>], numbers: &[f64]) -> Vec<Vec<f64>> {
    let (height, width) = (image.len(), image[0].len());
    let [[a, b], [c, d]] = forward(numbers);
    let determinant = a * d - b * c;
    let shift = (0.125 * numbers[7] * width as f64, 0.125 * numbers[8] * height as f64);
    let centre = (width as f64 / 2.0 - 0.5, height as f64 / 2.0 - 0.5);
    let value = |row: usize, column: usize| {
        let (x, y) = (column as f64 - centre.0 - shift.0, row as f64 - centre.1 - shift.1);
        let x1 = reflected((d * x - b * y) / determinant + centre.0, width as f64);
        let y1 = reflected((a * y - c * x) / determinant + centre.1, height as f64);
        let (left, top) = (x1.floor() as usize, y1.floor() as usize);
        let (right, low) = ((left + 1).min(width - 1), (top + 1).min(height - 1));
        let (p, q) = (x1 - left as f64, y1 - top as f64);
        let upper = (1.0 - p) * image[top][left] + p * image[top][right];
        (1.0 - q) * upper + q * ((1.0 - p) * image[low][left] + p * image[low][right])
    };
    (0..height).map(|row| (0..width).map(|column| value(row, column)).collect()).collect()
}

#[test]
fn images_are_warped_as_the_network_is_told() {
    let images = normal(1, &[40, 2, 5, 8]);
    let augmentation = drawn(40, 0.7, 2);
    let found = augmentation.apply(&images).unwrap();
    for (index, numbers) in rows(augmentation.numbers()).iter().enumerate() {
        for channel in 0..2 {
            let of = |x: &Tensor| rows(&x.select(0, index as i64).select(0, channel));
            for (own, expected) in of(&found).iter().zip(warped(&of(&images), numbers)) {
                for (own, expected) in own.iter().zip(expected) {
                    assert!((own - expected).abs() < 1e-9, "image {index}: {own} and {expected}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_changed_stays_to_the_last_bit() {
    let images = normal(3, &[200, 1, 6, 6]).to_kind(Kind::Float);
    let none = drawn(200, 0.0, 4);
    assert!(none.numbers().abs().max().double_value(&[]) == 0.0);
    assert!(none.apply(&images).unwrap().equal(&images));
    let some = drawn(200, 0.1, 4);
    let found = some.apply(&images).unwrap();
    let kept: Vec<usize> = (0..200).filter(|&i| rows(some.numbers())[i].iter().all(|&n| n == 0.0)).collect();
    assert!((60..180).contains(&kept.len()), "{}", kept.len());
    assert!(kept.iter().all(|&i| found.get(i as i64).equal(&images.get(i as i64))));
    assert!(!found.equal(&images));
}

#[test]
fn each_change_has_its_probability_and_ranks_share_the_draws() {
    let all = drawn(20_000, 0.3, 5);
    let share =
        |column: i64| all.numbers().select(1, column).ne(0.0).to_kind(Kind::Double).mean(Kind::Double);
    for (column, expected) in [(0, 0.15), (1, 0.15), (2, 0.3), (4, 0.3), (5, 0.3), (7, 0.3), (8, 0.3)] {
        let found = share(column).double_value(&[]);
        assert!((found - expected).abs() < 0.015, "{column}: {found}");
    }
    assert_eq!(all.numbers().size()[1], AUGMENTATION_NUMBERS);
    let images = normal(6, &[20, 1, 4, 4]);
    let first = drawn(20, 0.5, 7);
    let part = first.rows(5, 10);
    assert!(part.numbers().equal(&first.numbers().narrow(0, 5, 10)));
    let whole = first.apply(&images).unwrap();
    assert!(part.apply(&images.narrow(0, 5, 10)).unwrap().equal(&whole.narrow(0, 5, 10)));
    assert!(drawn(20, 0.5, 7).apply(&images).unwrap().equal(&whole));
    assert!(first.apply(&normal(8, &[20, 4])).is_err());
}

fn small_unet() -> UNetConfig {
    UNetConfig { channels: 4, multipliers: vec![1.0, 2.0], blocks: 1, heads: 1, ..UNetConfig::default() }
}

#[test]
fn zeros_are_the_network_without_the_map() {
    let (x, u) = (normal(9, &[6, 1, 4, 4]), normal(10, &[6, 1, 4, 4]));
    let t = Tensor::linspace(0.1, 0.9, 6, (Kind::Double, Device::Cpu));
    let labels = Tensor::from_slice(&[0_i64, 1, 2, 0, 1, 2]);
    for classes in [None, Some(3)] {
        let conditioning = classes.map_or(Conditioning::None, |classes| Conditioning::Labels { classes });
        let condition = classes.map(|_| &labels);
        let config = NetworkFieldConfig {
            event_shape: vec![1, 4, 4],
            unet: Some(small_unet()),
            augmented: AUGMENTATION_NUMBERS,
            dtype: "float64".into(),
            conditioning,
            ..NetworkFieldConfig::default()
        };
        let mut random = RandomSource::new(11);
        let field = NetworkField::new(config, &x, condition, Device::Cpu, &mut random).unwrap();
        let count = field.parameters().count();
        tch::no_grad(|| {
            field.parameters().flat().unwrap().copy_(&(normal(12, &[count]) * 0.1));
        });
        let loss = |field: &NetworkField, numbers: Option<&Tensor>| {
            field.loss(&t, &x, &u, condition, numbers).unwrap().double_value(&[])
        };
        let numbers = normal(13, &[6, AUGMENTATION_NUMBERS]);
        let (told, untold) = (loss(&field, Some(&numbers)), loss(&field, Some(&numbers.zeros_like())));
        assert!((told - untold).abs() > 1e-6);
        assert!((loss(&field, None) - untold).abs() < 1e-12);
        let before = field.velocity(&t, &x, condition).unwrap();
        let finished = field.without_augmentation().unwrap();
        assert_eq!(finished.parameters().count(), count - AUGMENTATION_NUMBERS * 16);
        assert!(finished.velocity(&t, &x, condition).unwrap().equal(&before));
    }
}

#[test]
fn a_trained_teacher_has_no_map() {
    let data = normal(14, &[64, 1, 4, 4]).to_kind(Kind::Float);
    let options = |augment| TeacherConfig {
        unet: Some(small_unet()),
        augment,
        training: TrainingOptions {
            steps: Some(4),
            batch_size: Some(16),
            ..TeacherConfig::default().training
        },
        ..TeacherConfig::default()
    };
    let fit = |augment| train(&options(augment), &data, None, &mut Silent).unwrap().0;
    let [first, again, plain] = [0.8, 0.8, 0.0].map(fit);
    let names = |field: &NetworkField| -> BTreeSet<String> {
        field.state().unwrap().tensors.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(&first), names(&plain));
    assert_eq!(first.parameters().count(), plain.parameters().count());
    let flat = |field: &NetworkField| field.parameters().flat().unwrap();
    assert!(flat(&first).equal(&flat(&again)));
    assert!(!flat(&first).equal(&flat(&plain)));
}
