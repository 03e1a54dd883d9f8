//! Fused normalisation against libtorch's own operations in double precision.

use koopflow::nets::{Dual, Norm};
use tch::{Device, Kind, Tensor};

const SHAPES: [([i64; 4], i64); 6] = [
    ([3, 8, 5, 7], 4),
    ([1, 32, 1, 1], 8),
    ([2, 6, 4, 4], 6),
    ([2, 6, 4, 4], 1),
    ([5, 24, 3, 2], 8),
    ([2, 64, 28, 28], 8),
];

struct Case {
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    cotangent: Tensor,
}

/// Any numbers do: those of a sine, spread over [-2, 2].
fn numbers(seed: i64, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let phase = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + 78.233 * seed as f64;
    ((phase.sin() * 43758.5453).frac() * 2.0).reshape(shape)
}

fn case(shape: [i64; 4]) -> Case {
    Case {
        x: numbers(1, &shape) * 3.0 + 1.0,
        scale: numbers(2, &shape[..2]) + 1.0,
        shift: numbers(3, &shape[..2]),
        cotangent: numbers(4, &shape),
    }
}

/// x, scale and shift with tangents.
fn duals(shape: [i64; 4], kind: Kind) -> [Dual; 3] {
    let case = case(shape);
    let [x, scale, shift] = [&case.x, &case.scale, &case.shift].map(|x| x.to_kind(kind));
    let tangent = |seed: i64, shape: &[i64]| numbers(seed, shape).to_kind(kind);
    [
        Dual::new(x, tangent(5, &shape)),
        Dual::new(scale, tangent(6, &shape[..2])),
        Dual::new(shift, tangent(7, &shape[..2])),
    ]
}

/// A leaf of the given dtype.
fn leaf(x: &Tensor, kind: Kind) -> Tensor {
    x.to_kind(kind).copy().set_requires_grad(true)
}

fn far(found: &Tensor, expected: &Tensor) -> f64 {
    let scale = expected.abs().max().double_value(&[]).max(1e-30);
    (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]) / scale
}

/// What libtorch makes of it.
fn reference(norm: Norm, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Tensor {
    let spread = |x: &Tensor| x.unsqueeze(-1).unsqueeze(-1);
    let y = x.group_norm(norm.groups, None::<Tensor>, None::<Tensor>, 1e-5, true);
    let y = y * spread(scale) + spread(shift);
    if norm.silu {
        y.silu()
    } else {
        y
    }
}

#[test]
fn values_and_gradients_are_those_of_libtorch() {
    for (shape, groups) in SHAPES {
        for silu in [false, true] {
            let (norm, given) = (Norm { groups, silu }, case(shape));
            let exact = [&given.x, &given.scale, &given.shift].map(|x| leaf(x, Kind::Double));
            let expected = reference(norm, &exact[0], &exact[1], &exact[2]);
            let product = (&expected * &given.cotangent).sum(Kind::Double);
            let gradients = Tensor::run_backward(&[product], &exact.each_ref()[..], false, false);

            let single = [&given.x, &given.scale, &given.shift].map(|x| leaf(x, Kind::Float));
            let found = norm.fused(&single[0], &single[1], &single[2]).unwrap();
            assert!(far(&found, &expected) < 2e-6, "{shape:?} {groups} {silu}");
            assert!(found.permute([0, 2, 3, 1]).is_contiguous());
            let product = (&found * given.cotangent.to_kind(Kind::Float)).sum(Kind::Float);
            let own = Tensor::run_backward(&[product], &single.each_ref()[..], false, false);
            for (name, (own, expected)) in ["x", "scale", "shift"].iter().zip(own.iter().zip(&gradients)) {
                // A group of one number has no gradient in x but rounding.
                let bound = if shape[1] / groups * shape[2] * shape[3] == 1 { f64::INFINITY } else { 1e-5 };
                assert!(
                    far(own, expected) < bound,
                    "{name}: {shape:?} {groups} {silu}: {}",
                    far(own, expected)
                );
            }
            let without = tch::no_grad(|| norm.fused(&single[0], &single[1], &single[2]).unwrap());
            assert!(!without.requires_grad() && without.equal(&found.detach()));
        }
    }
}

#[test]
fn a_gradient_of_the_gradient_is_that_of_libtorch() {
    let (norm, given) = (Norm { groups: 4, silu: true }, case([3, 8, 5, 7]));
    let twice = |kind: Kind, apply: &dyn Fn(&Tensor, &Tensor, &Tensor) -> Tensor| {
        let inputs = [&given.x, &given.scale, &given.shift].map(|x| leaf(x, kind));
        let y = apply(&inputs[0], &inputs[1], &inputs[2]);
        // Its own square as well: the gradient that comes back then depends on y.
        let product = (&y * given.cotangent.to_kind(kind) + y.square() * 0.3).sum(kind);
        let first = Tensor::run_backward(&[product], &inputs.each_ref()[..], true, true);
        let squares: Tensor = first.iter().map(|gradient| gradient.square().sum(kind)).sum();
        Tensor::run_backward(&[squares], &inputs.each_ref()[..], false, false)
    };
    let found = twice(Kind::Float, &|x, scale, shift| norm.fused(x, scale, shift).unwrap());
    let expected = twice(Kind::Double, &|x, scale, shift| reference(norm, x, scale, shift));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(far(found, expected) < 1e-4, "{}", far(found, expected));
    }
}

#[test]
fn only_the_image_may_want_a_gradient() {
    let (norm, given) = (Norm { groups: 2, silu: true }, case([2, 4, 3, 3]));
    let x = leaf(&given.x, Kind::Float);
    let [scale, shift] = [&given.scale, &given.shift].map(|x| x.to_kind(Kind::Float));
    for keep in [false, true] {
        let y = norm.fused(&x, &scale, &shift).unwrap();
        let product = (y * given.cotangent.to_kind(Kind::Float)).sum(Kind::Float);
        let found = Tensor::run_backward(&[product], &[&x], keep, keep);
        let exact = leaf(&given.x, Kind::Double);
        let y = reference(norm, &exact, &given.scale, &given.shift);
        let expected =
            Tensor::run_backward(&[(y * &given.cotangent).sum(Kind::Double)], &[&exact], false, false);
        assert!(far(&found[0], &expected[0]) < 1e-5);
    }
}

#[test]
fn large_means_lose_no_digits() {
    let given = case([2, 8, 6, 6]);
    let (norm, x) = (Norm { groups: 2, silu: false }, (&given.x + 1000.0).to_kind(Kind::Float));
    let [scale, shift] = [&given.scale, &given.shift].map(|x| x.to_kind(Kind::Float));
    let found = norm.fused(&x, &scale, &shift).unwrap();
    let expected = reference(norm, &x.to_kind(Kind::Double), &given.scale, &given.shift);
    // The mean itself is rounded to 6e-8 of 1000.
    assert!(far(&found, &expected) < 1e-4, "{}", far(&found, &expected));
}

#[test]
fn any_number_goes_through_silu() {
    // Two numbers a group, -1 and 1 after normalising: scale is then what SiLU sees.
    let x = Tensor::from_slice(&[-1f32, 1.0]).reshape([1, 1, 1, 2]).repeat([9, 1, 1, 1]);
    let scales = [0.0f32, 1e-30, 0.5, 20.0, 87.0, 88.5, 200.0, 1e30, f32::NAN];
    let scale = Tensor::from_slice(&scales).reshape([9, 1]);
    let norm = Norm { groups: 1, silu: true };
    let found = norm.fused(&x, &scale, &scale.zeros_like()).unwrap().reshape([9, 2]);
    for (row, scale) in scales.iter().enumerate() {
        for (column, sign) in [(0, -1.0), (1, 1.0)] {
            let z = sign * f64::from(*scale) / (1.0 + 1e-5f64).sqrt();
            let (got, expected) = (found.double_value(&[row as i64, column]), z / (1.0 + (-z).exp()));
            match scale.is_nan() {
                true => assert!(got.is_nan()),
                // Where SiLU is smaller than e^-87 z it is that.
                false => assert!((got - expected).abs() <= 1e-6 * expected.abs() + 1e-7, "{z}: {got}"),
            }
        }
    }
    let poisoned = x.copy();
    let _ = poisoned.get(0).fill_(f64::NAN);
    let found = norm.fused(&poisoned, &scale, &scale.zeros_like()).unwrap();
    assert!(found.get(0).isnan().all().int64_value(&[]) == 1);
}

#[test]
fn threads_change_no_digit() {
    let given = case([7, 16, 9, 9]);
    let norm = Norm { groups: 8, silu: true };
    let inputs = [&given.x, &given.scale, &given.shift].map(|x| leaf(x, Kind::Float));
    let before = tch::get_num_threads();
    let of = |threads: i32| {
        tch::set_num_threads(threads);
        let y = norm.fused(&inputs[0], &inputs[1], &inputs[2]).unwrap();
        let product = (&y * given.cotangent.to_kind(Kind::Float)).sum(Kind::Float);
        (y, Tensor::run_backward(&[product], &inputs.each_ref()[..], false, false))
    };
    let (one, three) = (of(1), of(3));
    tch::set_num_threads(before);
    assert!(one.0.equal(&three.0));
    assert!(one.1.iter().zip(&three.1).all(|(a, b)| a.equal(b)));
}

/// Finite differences of libtorch's own operations, along the tangents.
#[test]
fn tangents_are_differences_of_values() {
    for (shape, groups) in [([3, 8, 5, 7], 4), ([2, 64, 28, 28], 8), ([2, 6, 4, 4], 1)] {
        for silu in [false, true] {
            let (norm, duals) = (Norm { groups, silu }, duals(shape, Kind::Double));
            let step = 1e-4;
            let at = |side: f64| {
                let moved = |dual: &Dual| &dual.primal + &dual.tangent * (side * step);
                reference(norm, &moved(&duals[0]), &moved(&duals[1]), &moved(&duals[2]))
            };
            let rate = (at(1.0) - at(-1.0)) / (2.0 * step);
            let single = self::duals(shape, Kind::Float);
            let found = norm.fused_dual(&single[0], &single[1], &single[2]).unwrap();
            assert!(far(&found.primal, &at(0.0)) < 2e-6, "{shape:?} {groups} {silu}");
            assert!(
                far(&found.tangent, &rate) < 1e-5,
                "{shape:?} {groups} {silu}: {}",
                far(&found.tangent, &rate)
            );
        }
    }
}

/// The composition is differentiated by libtorch, in double precision.
#[test]
fn gradients_of_tangents_are_those_of_libtorch() {
    for (shape, groups) in [([3, 8, 5, 7], 4), ([2, 32, 14, 14], 8), ([2, 6, 4, 4], 1)] {
        for silu in [false, true] {
            for again in [false, true] {
                let norm = Norm { groups, silu };
                let gradients = |kind: Kind, apply: &dyn Fn(&[Dual; 3]) -> Dual| {
                    let duals = duals(shape, kind)
                        .map(|dual| Dual::new(leaf(&dual.primal, kind), leaf(&dual.tangent, kind)));
                    let y = apply(&duals);
                    let [of_value, of_rate] = [11, 12].map(|seed| numbers(seed, &shape).to_kind(kind));
                    let mut product = (y.primal * of_value + y.tangent * of_rate).sum(kind);
                    let inputs: Vec<&Tensor> =
                        duals.iter().flat_map(|dual| [&dual.primal, &dual.tangent]).collect();
                    if again {
                        let first = Tensor::run_backward(&[product], &inputs, true, true);
                        product = first.iter().map(|gradient| gradient.square().sum(kind)).sum();
                    }
                    Tensor::run_backward(&[product], &inputs, false, false)
                };
                let expected =
                    gradients(Kind::Double, &|duals| norm.composed_dual(&duals[0], &duals[1], &duals[2]));
                let found = gradients(Kind::Float, &|duals| {
                    norm.fused_dual(&duals[0], &duals[1], &duals[2]).unwrap()
                });
                for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    if !expected.defined() {
                        // Without SiLU the first gradient does not depend on it.
                        assert!(!found.defined() || found.abs().max().double_value(&[]) == 0.0);
                        continue;
                    }
                    let bound = if again { 2e-4 } else { 1e-5 };
                    let off = far(found, expected);
                    assert!(off < bound, "{place}: {shape:?} {groups} {silu} {again}: {off}");
                }
            }
        }
    }
}
