"""How far rates can go and explain a flow as well, against searches in NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from koopflow import FlowSpectrum, FlowTeacher
from koopflow.analysis import flow_spectrum

from .reference import TIMES, known, unexplained


def curved(t, x):
    turned = torch.stack([torch.sin(2.0 * x[:, 1]), torch.cos(x[:, 0] - t) - 0.5], dim=1)
    return 1.5 * turned - 0.4 * x


@pytest.fixture(scope="module")
def two() -> FlowSpectrum:
    """A flow in the plane that two rates explain to 0.1%."""
    return flow_spectrum(FlowTeacher.from_torch(curved, event_shape=(2,)), n=1024, rates=2, tolerance=1e-2)


def test_a_lone_pair_goes_to_where_it_leaves_the_bound(two):
    covariance, (rate, conjugate) = two.core.array("covariance"), two.rates
    assert rate.imag > 0.0
    own = unexplained([rate, conjugate], covariance, two.times)
    assert two.bound == pytest.approx(max(1e-2, 2.0 * own))
    whole = two.regions[0]
    for end in whole[whole.imag > 0.1]:
        assert unexplained([end, end.conjugate()], covariance, two.times) == pytest.approx(
            two.bound, rel=0.05
        )
        beyond = end + 0.2 * (end - rate)
        assert unexplained([beyond, beyond.conjugate()], covariance, two.times) > two.bound
    # All directions, and the conjugate's are its mirror images.
    assert len(set(np.round(np.angle(whole - rate), 6))) == 16
    np.testing.assert_allclose(np.sort_complex(two.regions[1]), np.sort_complex(whole.conj()))
    assert two.reach[0] == pytest.approx(np.abs(whole - rate).max() / abs(rate))


def test_the_others_adapt():
    flow = known([0.4, 0.2, 0.05])
    spec = flow_spectrum(flow.paths, times=TIMES.tolist(), rates=3, tolerance=1e-3)
    covariance = spec.core.array("covariance")
    (place,) = np.flatnonzero(spec.rates.imag == 0.0)
    pair = spec.rates[spec.rates.imag > 0.0][0]
    ends = np.unique(spec.regions[place].real)
    assert len(ends) == 3  # Both ways along the line, and where it stands.
    assert np.all(spec.regions[place].imag == 0.0)
    for end, beyond in ((ends[0], 1.3), (ends[2], 1.3)):

        def least(real: float) -> float:
            """The share that the real rate leaves with the best pair beside it."""

            def left(point):
                other = complex(point[0], abs(point[1]))
                return np.log(unexplained([real, other, other.conjugate()], covariance, TIMES))

            start = np.array([pair.real, pair.imag])
            return float(np.exp(minimize(left, start, method="Nelder-Mead").fun))

        real = float(spec.rates[place].real)
        assert least(end) == pytest.approx(spec.bound, rel=0.1)
        assert least(real + beyond * (end - real)) > spec.bound


def test_rates_of_an_exact_flow_are_its_own():
    matrix = torch.tensor([[-0.3, 2.0], [-2.0, -0.3]])
    teacher = FlowTeacher.from_torch(lambda t, x: x @ matrix.to(x.dtype), event_shape=(2,), dtype="float64")
    spec = flow_spectrum(teacher, n=256, rtol=1e-9, atol=1e-9)
    assert spec.bound == pytest.approx(1e-10)
    assert spec.reach.max() < 1e-3
    assert spec.looseness is None


def test_a_spectrum_says_that_its_rates_are_loose(two):
    assert two.reach.max() > 0.1
    assert "2 of 2 rates can change by more than 10%" in str(two.looseness)
    assert str(two.looseness) in two.summary()
    assert f"within {two.reach[0]:.1%}" in two.summary()


def test_rates_of_another_flow_are_judged_by_what_they_leave(two):
    def slower(t, x):
        return curved(t, x) * 0.9

    def turning(t, x):
        return torch.stack([12.0 * x[:, 1], -12.0 * x[:, 0]], dim=1)

    for field, alike in ((slower, True), (turning, False)):
        other = flow_spectrum(
            FlowTeacher.from_torch(field, event_shape=(2,)), n=1024, rates=2, tolerance=1e-2
        )
        found = two.compare(other, permutations=0)
        left = unexplained(other.rates, two.core.array("covariance"), two.times)
        assert found.unexplained[1] == pytest.approx(left, rel=1e-6)
        assert found.interchangeable is (left <= two.bound)
        assert found.interchangeable is alike
        assert ("as good as" if alike else "worse than") in found.summary()


def test_regions_are_kept_in_a_file(two, tmp_path):
    two.save(tmp_path / "flow.safetensors")
    again = FlowSpectrum.load(tmp_path / "flow.safetensors")
    np.testing.assert_array_equal(again.regions, two.regions)
    assert again.bound == two.bound
