"""What windows, reversals and chains of a teacher say of pairs and of growth: against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.exceptions import ArgumentError

MEAN, COVARIANCE = np.array([2.0, -1.0]), np.array([[1.5, 0.4], [0.4, 0.6]])
TEACHER = FlowTeacher.gaussian(MEAN, COVARIANCE, dtype="float64")
X = np.random.default_rng(0).normal(size=(6, 2)) + 0.5
CELLS = [np.random.default_rng(k).normal(k, 0.2, (30, 2)).astype(np.float32) for k in range(3)]


def expected(t: float, x: np.ndarray, of: str) -> np.ndarray:
    """E[x1 | t x1 + (1 - t) x0 = x], or E[x0 | ...], of jointly normal x0 and x1."""
    s = 1.0 - t
    inside = np.linalg.solve(t**2 * COVARIANCE + s**2 * np.eye(2), (x - t * MEAN).T).T
    return MEAN + t * inside @ COVARIANCE if of == "data" else s * inside


@pytest.mark.parametrize("of", ["data", "noise"])
def test_windows_expect_the_pair_of_the_whole_flow(of):
    window = TEACHER.window(0.25, 0.75)
    inner = window.window(0.375, 0.5)
    for t in (0.25, 0.4, 0.5, 0.75):
        np.testing.assert_allclose(TEACHER.denoise(t, X, of=of), expected(t, X, of), atol=1e-12)
        np.testing.assert_allclose(window.denoise(t, X, of=of), expected(t, X, of), atol=1e-12)
    np.testing.assert_allclose(inner.denoise(0.4, X, of=of), expected(0.4, X, of), atol=1e-12)
    other = window.starting_from(X)
    np.testing.assert_allclose(other.denoise(0.4, X, of=of), expected(0.4, X, of), atol=1e-12)
    # A row each at the ends, where one of the two is the state itself.
    at = np.array([0.0, 0.5, 1.0])
    rows = np.concatenate([expected(t, X[k : k + 1], of) for k, t in enumerate(at)])
    np.testing.assert_allclose(TEACHER.window(0.0, 1.0).denoise(at, X[:3], of=of), rows, atol=1e-12)
    with pytest.raises(ArgumentError, match=r"t: expected times in \[0.25, 0.75\]"):
        window.denoise(0.8, X, of=of)


def test_the_clock_of_a_window_is_that_of_the_whole():
    slow = FlowTeacher.from_torch(
        lambda t, x: torch.as_tensor(TEACHER.velocity(t.numpy() / 10.0, x.numpy()) / 10.0),
        (2,),
        horizon=(0.0, 10.0),
        dtype="float64",
    )
    found = slow.window(2.0, 6.0).denoise(4.0, X)
    np.testing.assert_allclose(found, expected(0.4, X, "data"), atol=1e-9)


@pytest.mark.parametrize(("of", "own"), [("data", "noise"), ("noise", "data")])
def test_reversed_flows_lead_to_the_noise(of, own):
    """The data of a reversed flow are what it leads to."""
    back = TEACHER.reversed()
    for t in (0.0, 0.3, 0.5, 1.0):
        np.testing.assert_allclose(back.denoise(t, X, of=of), expected(1.0 - t, X, own), atol=1e-12)
    part = back.window(0.2, 0.6)
    np.testing.assert_allclose(part.denoise(0.3, X, of=of), expected(0.7, X, own), atol=1e-12)
    part = TEACHER.window(0.25, 0.75).reversed()
    np.testing.assert_allclose(part.denoise(0.3, X, of=of), expected(0.7, X, own), atol=1e-12)
    twice = back.reversed()
    np.testing.assert_allclose(twice.denoise(0.3, X, of=of), expected(0.3, X, of), atol=1e-12)


def test_reversed_diffusions_expect_what_the_diffusion_does():
    """Their a and s are no mirror images of one another."""

    def noise(z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return sigma[:, None] * z / (1.0 + sigma[:, None].square())

    teacher = FlowTeacher.from_diffusion(noise, (2,), schedule="edm", dtype="float64")
    for of, own in (("data", "noise"), ("noise", "data")):
        found = teacher.reversed().denoise(0.4, X, of=of)
        np.testing.assert_allclose(found, teacher.denoise(0.6, X, of=own), rtol=1e-9)


def test_chains_and_their_parts_are_no_mixtures():
    chain = FlowTeacher.chain([TEACHER, TEACHER])
    message = "teacher: expected a field whose states are x_t = a x1 \\+ s x0 at every time, got one of kind"
    for teacher in (chain, chain.window(0.1, 0.4), chain.reversed(), chain.window(0.1, 0.4).reversed()):
        with pytest.raises(ArgumentError, match=message):
            teacher.denoise(0.3, X)


def test_students_of_windows_name_what_they_cannot_do():
    small = {"observables": 8, "width": 16, "steps": 2, "trajectories": 64}
    student = KoopmanDistiller(**small).fit(TEACHER.window(0.25, 0.75), progress=False)
    with pytest.raises(ArgumentError, match="teacher: expected one whose states are known.*'window'"):
        student.denoise(0.5, X)


@pytest.fixture(scope="module")
def growing() -> FlowTeacher:
    """Of cells whose number grows by 2 and by 3, in 24 hours."""
    quick = {"width": 16, "depth": 1, "steps": 30, "progress": False}
    return FlowTeacher.snapshots(CELLS, [0, 12, 24], growth=[1.0, 2.0, 6.0], **quick)


def test_what_a_flow_gains_the_reversed_one_loses(growing):
    back, x = growing.reversed(), CELLS[1]
    np.testing.assert_allclose(back.growth(6.0, x), -growing.growth(18.0, x), rtol=1e-6)
    times = np.linspace(0.0, 24.0, 9)
    path = growing.trajectory(CELLS[0], times=times)
    forth, behind = growing.masses(times, path), back.masses(times, path[::-1].copy())
    assert forth[-1].mean() > 2.0
    np.testing.assert_allclose(behind, forth[::-1] / forth[-1], rtol=1e-5)
    part = growing.window(6.0, 12.0)
    np.testing.assert_allclose(part.growth(9.0, x), growing.growth(9.0, x), rtol=1e-6)


def test_chains_grow_where_their_parts_do(growing):
    still = FlowTeacher.from_torch(lambda t, x: 0.0 * x, (2,))
    chain = FlowTeacher.chain([still, growing, still], breaks=[0.0, 10.0, 58.0, 60.0])
    x = CELLS[1][:4]
    # The middle one takes 48 hours for its 24.
    middle = np.array([10.0, 22.0, 34.0, 50.0])
    own = growing.growth((middle - 10.0) / 2.0, x) / 2.0
    np.testing.assert_allclose(chain.growth(middle, x), own, rtol=1e-5)
    np.testing.assert_array_equal(chain.growth(5.0, x), np.zeros(4))
    mixed = chain.growth(np.array([5.0, 22.0, 59.0, 34.0]), x)
    own_at_12 = growing.growth(12.0, x) / 2.0
    np.testing.assert_allclose(mixed, [0.0, own[1], 0.0, own_at_12[3]], rtol=1e-5)
    back = chain.reversed()
    np.testing.assert_allclose(back.growth(60.0 - middle, x), -own, rtol=1e-5)
    keeping = FlowTeacher.chain([still, still])
    for teacher in (keeping, keeping.reversed(), TEACHER):
        with pytest.raises(ArgumentError, match="growth: expected a teacher of snapshots"):
            teacher.growth(0.5, x)
