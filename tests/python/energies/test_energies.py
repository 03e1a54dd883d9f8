"""What every target promises: shapes, kinds, gradients, seeds, and nobody else's random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import energies
from koopflow.exceptions import ArgumentError, DtypeError, ShapeError

MAKERS = {
    "gmm40": energies.gmm40,
    "muller_brown": energies.muller_brown,
    "many_well": lambda: energies.many_well(6),
    "double_well": energies.double_well,
    "lennard_jones": energies.lennard_jones,
    "phi4": energies.phi4,
}
EXACT = ["gmm40", "muller_brown", "many_well", "double_well"]


@pytest.fixture(params=sorted(MAKERS))
def target(request) -> energies.Energy:
    return MAKERS[request.param]()


def points(target: energies.Energy, n: int = 5, seed: int = 0) -> torch.Tensor:
    """Places where no target is extreme."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, *target.event_shape), generator=generator, dtype=torch.float64)


def test_gradients_are_those_of_finite_differences(target):
    x = points(target)
    gradient = target.gradient(x)
    assert target(x).shape == (5,)
    assert gradient.shape == x.shape
    step = 1e-6
    for place in range(target.event_shape[0]):
        shift = torch.zeros_like(x)
        shift[:, place] = step
        difference = (target(x + shift) - target(x - shift)) / (2.0 * step)
        torch.testing.assert_close(gradient[:, place], difference, rtol=2e-6, atol=2e-5)


def test_energies_can_be_differentiated_twice(target):
    x = points(target, 1)
    assert torch.autograd.gradgradcheck(target, x.requires_grad_())


def test_arrays_give_arrays_and_tensors_tensors_of_their_dtype(target):
    x = points(target)
    for dtype in (torch.float32, torch.float64):
        values, gradient = target(x.to(dtype)), target.gradient(x.to(dtype))
        assert values.dtype == gradient.dtype == dtype
        array = target(x.to(dtype).numpy())
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, values.numpy())
        np.testing.assert_array_equal(target.gradient(x.to(dtype).numpy()), gradient.numpy())


def test_arrays_of_any_kind_are_read(target):
    x = points(target).numpy()
    values = target(x)
    np.testing.assert_array_equal(target(x[::-1])[::-1], values)
    np.testing.assert_array_equal(target(x.astype(">f8")), values)
    fixed = x.copy()
    fixed.setflags(write=False)
    np.testing.assert_array_equal(target(fixed), values)
    np.testing.assert_allclose(target(x.tolist()), values, rtol=2e-3, atol=2e-3)
    whole = np.round(3.0 * x).astype(np.int64)
    assert target(whole).dtype == np.float32
    np.testing.assert_allclose(target(whole), target(whole.astype(np.float64)), rtol=1e-4)


def test_no_graph_is_needed_or_kept(target):
    x = points(target)
    before = target.gradient(x)
    with torch.no_grad():
        torch.testing.assert_close(target.gradient(x), before)
    assert not target.gradient(x.requires_grad_()).requires_grad
    assert target(x).requires_grad


def test_other_shapes_are_refused(target):
    (size,) = target.event_shape
    for shape in [(3, size + 1), (3, size, 1), (size,), (3,), ()]:
        with pytest.raises(ShapeError, match=rf"^x: expected \(B, {size}\), got "):
            target(np.zeros(shape))
        with pytest.raises(ShapeError, match="x: expected"):
            target.gradient(torch.zeros(shape))
    with pytest.raises(DtypeError, match="^x: "):
        target(np.array(["text"]))


def test_no_points_have_no_energies(target):
    assert target(torch.zeros((0, *target.event_shape))).shape == (0,)


def test_samples_are_float32_and_fixed_by_their_seed(target):
    first, again = target.sample(10, seed=3), target.sample(10, seed=3)
    assert first.shape == (10, *target.event_shape)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(target(first)).all()


@pytest.mark.parametrize("name", EXACT)
def test_another_seed_or_none_gives_others(name):
    target = MAKERS[name]()
    for others in ((0, 1), (None, None)):
        first, second = (target.sample(5, seed=seed) for seed in others)
        assert not (first == second).all(axis=1).any()


def test_senseless_counts_and_seeds_are_refused(target):
    for n in (0, -3, 2.5):
        with pytest.raises(ArgumentError, match="n: expected an integer of at least 1"):
            target.sample(n)
    with pytest.raises(ArgumentError, match="seed: expected"):
        target.sample(3, seed=-1)


@pytest.mark.parametrize("name", [*EXACT, "phi4"])
def test_global_random_numbers_are_left_alone(name):
    target = MAKERS[name]()
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    expected = np.random.random(3), torch.rand(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    target.sample(3)
    target.gradient(points(target))
    energies.annealed_log_z(target, 4, 3)
    np.testing.assert_array_equal(np.random.random(3), expected[0])  # noqa: NPY002
    torch.testing.assert_close(torch.rand(3), expected[1], rtol=0, atol=0)


def test_targets_say_what_they_are(target):
    assert target.name in repr(target)
    assert isinstance(target.log_z, float)
    assert np.isnan(target.log_z) == np.isnan(target.log_z_error)


def test_far_away_nothing_overflows(target):
    x = 30.0 * points(target, 100).float()
    assert torch.isfinite(target(x)).all()
    assert torch.isfinite(target.gradient(x)).all()
