"""The canonical spectrum of a flow against a reading in NumPy and SciPy, and of flows that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from koopflow import FlowSpectrum, FlowTeacher, _core
from koopflow.analysis import flow_spectrum
from koopflow.spectrum import NOISE_SEED

from .reference import (
    TIMES,
    Known,
    components,
    cosine,
    fitted_rates,
    functions,
    known,
    motion,
    trapezium,
    unexplained,
)

ENERGIES = (0.4, 0.2, 0.05)
TURNING = np.array([[-0.3, 2.0, 0.0], [-2.0, -0.3, 0.5], [0.0, 0.0, 0.7]])


def linear(matrix, dtype: str = "float32") -> FlowTeacher:
    own = torch.tensor(np.asarray(matrix, dtype=float))
    return FlowTeacher.from_torch(lambda t, x: x @ own.to(x.dtype), event_shape=(len(matrix),), dtype=dtype)


def curved(t, x):
    """A flow in the plane that is not linear."""
    turned = torch.stack([torch.sin(2.0 * x[:, 1]), torch.cos(x[:, 0] - t) - 0.5], dim=1)
    return 1.5 * turned - 0.4 * x


def affine_of(spec: FlowSpectrum, t: float) -> np.ndarray:
    """A(t) as what the base makes of unit vectors."""
    d = int(np.prod(spec.event_shape))
    ends = np.concatenate([np.zeros((1, d)), np.eye(d)])
    moved = spec.base(ends.reshape(-1, *spec.event_shape), t=t).reshape(d + 1, d) - ends
    return moved[1:] - moved[0]


def same(one: FlowSpectrum, two: FlowSpectrum, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(one.rates, two.rates, rtol=rtol, atol=1e-6)
    for name in ("affine", "nonlinear", "drift_energy"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=rtol, abs=1e-9)
    np.testing.assert_allclose(one.energy, two.energy, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(one.modes_at(1.0), two.modes_at(1.0), atol=1e-4)


@pytest.fixture(scope="module")
def flow() -> Known:
    return known(ENERGIES)


@pytest.fixture(scope="module")
def spec(flow) -> FlowSpectrum:
    return flow_spectrum(flow.paths, times=flow.times)


@pytest.fixture(scope="module")
def bent() -> FlowSpectrum:
    """Of a model, with amplitudes."""
    return flow_spectrum(FlowTeacher.from_torch(curved, event_shape=(2,), dtype="float64"), n=300, times=17)


# Linear and Gaussian flows.


@pytest.mark.parametrize(
    "matrix",
    [
        TURNING,
        np.diag([-2.0, -0.5, 1.0]),
        np.diag([-1.0, -1.1, 0.6]),
        np.diag([-1.0, -1.0, -1.0]),
        [[-1.5]],
        np.diag([-1.0, 0.0, 0.0]),
        [[0.0, 9.0], [-9.0, 0.0]],
    ],
    ids=["a turning pair", "real", "nearly equal", "equal", "one dimension", "still dimensions", "fast"],
)
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
def test_a_linear_flow_has_its_own_eigenvalues_and_no_modes(matrix, dtype):
    # Neighbours amplify the solver's error ten times.
    near = np.allclose(np.diag(matrix), [-1.0, -1.1, 0.6]) if len(matrix) == 3 else False
    spec = flow_spectrum(linear(matrix, dtype), n=64, **({"rtol": 1e-8, "atol": 1e-8} if near else {}))
    own = np.linalg.eigvals(np.asarray(matrix, dtype=float))
    moving = [value for value in own if abs(value) > 1e-9]
    for rate in spec.rates:
        assert np.abs(own - rate).min() <= 1e-3 * abs(rate)
    for value in moving:
        assert np.abs(spec.rates - value).min() <= 1e-3 * abs(value)
    assert spec.affine == pytest.approx(1.0, abs=1e-6)
    assert len(spec) == 0
    assert spec.groups == []
    for t in (0.3, 1.0):
        np.testing.assert_allclose(
            affine_of(spec, t), expm(np.multiply(t, matrix)) - np.eye(len(own)), atol=1e-4
        )


def test_a_flow_without_modes_is_read_like_any_other(tmp_path):
    spec = flow_spectrum(linear(TURNING, "float64"), n=64)
    x0 = np.random.default_rng(3).normal(size=(5, 3))
    assert spec.amplitudes(x0).shape == (5, 0)
    assert spec.contributions(x0).shape == (5, 0, 3)
    assert spec.modes_at(1.0).shape == (0, 3)
    assert spec.profiles().shape == (33, 0)
    assert spec.records() == []
    assert len(spec.to_frame()) == 0
    assert len(spec.cloud) == 40
    assert spec.caveats == []
    assert "0 of 0 modes in 0 groups" in spec.summary()
    counts, errors = spec.truncation_curve(x0)
    assert counts.tolist() == [0]
    assert errors.shape == (1,)
    np.testing.assert_allclose(spec.sample_path(x0, times=[1.0])[0], x0 @ expm(TURNING), atol=1e-5)
    spec.save(tmp_path / "flow.safetensors")
    assert len(FlowSpectrum.load(tmp_path / "flow.safetensors")) == 0
    compared = spec.compare(flow_spectrum(linear(TURNING), n=64))
    assert compared.first == []
    assert compared.found_energy == 0.0
    assert isinstance(compared.summary(), str)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gaussian_teacher_is_affine_as_its_closed_form_says(dtype):
    mean, turn = np.array([1.0, -0.5, 0.3]), np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    variances = np.array([4.0, 0.3, 0.05])
    teacher = FlowTeacher.gaussian(mean, turn @ np.diag(variances) @ turn.T, dtype=dtype)
    # Rates enough that exponentials are no worse than 1e-4 of the motion.
    spec = flow_spectrum(teacher, n=300, rates=4)
    assert spec.affine == pytest.approx(1.0, abs=1e-6)
    assert len(spec) == 0
    assert spec.unexplained[3] < 1e-4
    # x(t) = t mean + x0 sigma(t), with sigma(t)² = (1 - t)² + t² cov (Lipman et al., for independent pairs).
    moved = np.sqrt((1 - TIMES[:, None]) ** 2 + TIMES[:, None] ** 2 * variances) - 1.0
    for place in (8, 20, 32):
        expected = turn @ np.diag(moved[place]) @ turn.T
        np.testing.assert_allclose(affine_of(spec, TIMES[place]), expected, atol=1e-2)
    # Axes are those of the data, with its standard deviations.
    np.testing.assert_allclose(spec.axis_values, np.sqrt(variances), atol=2e-2)
    np.testing.assert_allclose(np.abs(spec.axes @ turn), np.eye(3), atol=1e-2)
    np.testing.assert_allclose(spec.axis_modes(1.0), moved[-1][:, None] * spec.axes, atol=2e-2)
    assert [group.tolist() for group in spec.axis_groups] == [[0], [1], [2]]
    x0 = np.random.default_rng(5).normal(size=(50, 3))
    # The mean of the noise that was drawn is in the drift, and taken from the affine part.
    expected = mean + x0 @ turn @ np.diag(np.sqrt(variances)) @ turn.T
    np.testing.assert_allclose(spec.base(x0), expected, atol=4e-2)


# Rates.


def test_rates_are_those_of_known_paths(flow, spec):
    np.testing.assert_allclose(spec.rates, flow.rates, rtol=1e-5)
    np.testing.assert_allclose(spec.cloud, np.tile(flow.rates, (40, 1)), rtol=1e-4)
    np.testing.assert_allclose(spec.halves, np.tile(flow.rates, (2, 1)), rtol=1e-4)
    assert spec.uncertainty.max() < 1e-4
    assert spec.unexplained[2] < 1e-10
    assert spec.unresolved < 1e-8
    np.testing.assert_allclose(spec.affine_rates, flow.rates, rtol=1e-4)


@pytest.mark.parametrize(
    ("matrix", "tolerance"),
    [(TURNING, 1e-6), (np.diag([-1.0, -1.05, 0.6]), 1e-3), ([[3.0, 0.0], [0.0, -30.0]], 1e-6)],
    ids=["a turning pair", "nearly equal", "fast"],
)
def test_rates_of_exact_linear_paths(matrix, tolerance):
    d = len(matrix)
    x0 = np.random.default_rng(1).normal(size=(200, d))
    # With a little that is not affine.
    paths = np.stack([x0 + (x0 + 1e-2 * x0**2) @ (expm(np.multiply(t, matrix)) - np.eye(d)) for t in TIMES])
    own = np.linalg.eigvals(np.asarray(matrix))
    for given in (paths, paths.astype(np.float32)):
        rates = flow_spectrum(given, times=TIMES).rates
        assert len(rates) == d
        assert max(np.abs(rates - value).min() / abs(value) for value in own) < tolerance * (
            1.0 if given is paths else 100.0
        )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rates_of_a_curved_flow_are_as_good_as_those_of_many_starts(count):
    x0, times = np.random.default_rng(6).normal(size=(200, 2)), np.linspace(0.0, 1.0, 17)
    paths = FlowTeacher.from_torch(curved, event_shape=(2,), dtype="float64").trajectory(x0=x0, times=times)
    covariance = motion(paths)
    expected, left = fitted_rates(covariance, times, count, starts=3)
    spec = flow_spectrum(paths, times=times, rates=count)
    assert unexplained(spec.rates, covariance, times) <= left * 1.001 + 1e-12
    np.testing.assert_allclose(spec.rates, expected, rtol=1e-2, atol=1e-3)


def test_motion_in_one_function_of_time_that_is_no_exponential_takes_several_rates():
    """N(0, 4) from independent pairs: everything moves by sqrt((1 - t)² + 4 t²) - 1."""
    moved = (np.sqrt((1.0 - TIMES) ** 2 + 4.0 * TIMES**2) - 1.0)[:, None, None]
    x0 = np.random.default_rng(0).normal(size=(200, 1))
    spec = flow_spectrum(x0 + moved * (x0 + 0.1 * x0**2), times=TIMES)
    # Two rates leave 3e-5 of it, one leaves 4%.
    assert len(spec.rates) >= 2
    assert spec.unexplained[len(spec.rates) - 1] < 1e-4


def test_rates_of_a_flow_that_nearly_blows_up():
    """dx/dt = 0.33 x², from -3 to 3."""
    x0 = np.linspace(-3.0, 3.0, 101)[:, None]
    paths = x0 / (1.0 - 0.33 * x0 * TIMES[:, None, None])
    left = fitted_rates(motion(paths), TIMES, 2, starts=5)[1]
    spec = flow_spectrum(paths, times=TIMES, rates=2)
    assert unexplained(spec.rates, motion(paths), TIMES) <= 1.01 * left


def test_held_out_paths_are_the_other_half():
    """One path that moves otherwise is in one of the halves: the other half's rate is exact and leaves it."""
    x0 = np.random.default_rng(0).normal(size=(64, 1))
    paths = x0 + np.expm1(-TIMES)[:, None, None] * x0
    paths[:, 17] = x0[17] + 4.0 * np.sin(9.0 * TIMES)[:, None]
    spec = flow_spectrum(paths, times=TIMES, rates=1)
    apart = np.sort(np.abs(spec.halves[:, 0] + 1.0))
    assert apart[0] < 1e-6
    assert apart[1] > 0.1
    # What the rate of the half with it leaves of the other, a plain exponential, is half of the mean.
    own = spec.halves[np.argmax(np.abs(spec.halves[:, 0] + 1.0))]
    plain = np.expm1(-TIMES)
    left = unexplained(own, np.outer(plain, plain), TIMES)
    assert left > 0.01
    assert spec.unexplained[0] > 0.5 * left


@pytest.mark.parametrize(
    "times", [TIMES**2, np.r_[0.0, 0.1, 0.15, 0.4, 0.42, 0.9, 1.0], 0.5 * TIMES], ids=["square", "7", "half"]
)
def test_times_need_not_be_even_nor_end_at_one(times):
    flow = known((0.4, 0.1), times=times, rates=(0.4, -1.2))
    spec = flow_spectrum(flow.paths, times=times)
    np.testing.assert_allclose(spec.rates, flow.rates, rtol=1e-5)
    np.testing.assert_allclose(spec.energy, [0.8, 0.2], atol=2e-2)
    drift, affine, nonlinear = flow.shares
    assert spec.drift_energy == pytest.approx(drift / (affine + nonlinear), rel=1e-6)


@pytest.mark.parametrize("unit", [1e-2, 0.1])
def test_rates_of_a_short_time_are_found_in_its_unit(unit):
    # The same motion, said in other units of time.
    flow = known((0.4, 0.1), times=TIMES * unit, rates=np.asarray([0.6, -1.5 + 3.0j, -1.5 - 3.0j]) / unit)
    spec = flow_spectrum(flow.paths, times=flow.times)
    np.testing.assert_allclose(spec.rates * unit, [0.6, -1.5 + 3.0j, -1.5 - 3.0j], rtol=1e-4)


def straight(seed: int = 0) -> np.ndarray:
    x0 = np.random.default_rng(seed).normal(size=(400, 2))
    return x0 + TIMES[:, None, None] * (2.0 * np.tanh(2.0 * x0) * [1.0, 0.5] - 0.5 * x0)


def test_a_straight_flow_has_rate_zero_and_nothing_to_warn_of():
    spec = flow_spectrum(straight(), times=TIMES)
    np.testing.assert_allclose(spec.rates, [0.0], atol=1e-9)
    np.testing.assert_allclose(spec.functions([0.5, 1.0])[:, 0], [0.5, 1.0], atol=1e-9)
    # A rate of 1e-4 ± 1e-4 is resolved as well as can be: e^{1e-4} is 1.
    bend = 1e-3 * np.sin(3.0 * TIMES)[:, None, None] * straight()[0][:, ::-1] ** 2
    spec = flow_spectrum(straight() + bend, times=TIMES, rates=1)
    assert np.abs(spec.cloud).max() < 1e-2
    assert not any("rates change" in caveat for caveat in spec.caveats)


# Parts.


def test_drift_and_shares_are_those_of_known_paths(flow, spec):
    np.testing.assert_allclose(spec.drift, flow.drift, atol=1e-6)
    drift, affine, nonlinear = flow.shares
    # What a map of that size explains by chance is taken from the affine part.
    assert spec.nonlinear == pytest.approx(nonlinear / (affine + nonlinear), rel=0.03)
    assert spec.affine + spec.nonlinear == pytest.approx(1.0)
    assert spec.drift_energy == pytest.approx(drift / (affine + nonlinear), rel=1e-6)
    moved = flow.paths - flow.paths[0]
    variance = ((moved - moved.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(spec.shares[:, 1:].sum(axis=1), variance / variance[-1], atol=1e-9)
    np.testing.assert_allclose(spec.shares[:, 0], (flow.drift**2).sum(axis=1) / variance[-1], atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(400, 3), (60, 12), (40, 25)])
def test_the_affine_part_is_the_best_ridge_by_cross_validation(n, d):
    flow = known((2.0, 1.0), n=n, d=d, rates=(0.5, -2.0), seed=2)
    spec = flow_spectrum(flow.paths, times=TIMES, rates=2)
    x = flow.paths[0] - flow.paths[0].mean(axis=0)
    moved = flow.paths - flow.paths[0] - flow.drift[:, None]
    unit = (x**2).sum() / d
    # Shrunk towards the multiple of the identity that is best at each time.
    multiples = np.einsum("nd,tnd->t", x, moved) / (x**2).sum()
    rest = moved - multiples[:, None, None] * x
    weights, found = trapezium(TIMES), []
    for ridge in (0.0, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e3):
        solve = np.linalg.solve(x.T @ x + ridge * unit * np.eye(d), x.T)
        hat = x @ solve
        left = np.einsum("t,tnd->", weights, (rest - hat @ rest) ** 2)
        # A map of more parameters than half the paths is none that they determine.
        if (freedom := np.trace(hat) + 2.0) > 0.5 * n:
            continue
        found.append((left / (1.0 - freedom / n) ** 2, ridge, solve, left, freedom))
    _, _, solve, left, freedom = min(found, key=lambda fit: fit[0])
    for place in (10, 32):
        expected = solve @ rest[place] + multiples[place] * np.eye(d)
        np.testing.assert_allclose(affine_of(spec, TIMES[place]), expected, atol=1e-6)
    motion_ = np.einsum("t,tnd->", weights, moved**2)
    assert spec.nonlinear == pytest.approx(left / motion_ * n / (n - freedom), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(60, 64), (40, 64), (17, 17)])
def test_paths_that_are_too_few_do_not_make_a_flow_affine(n, d):
    x0 = np.random.default_rng(0).normal(size=(n, d))
    paths = x0 + (np.expm1(-1.3 * TIMES)[:, None, None] * (x0**2 - 1.0))
    spec = flow_spectrum(paths, times=TIMES)
    # Nothing of this flow is affine. The object may say that it does not know, but not that all of it is.
    assert spec.affine < 0.5


@pytest.mark.parametrize("affine", [0.0, 0.3])
def test_shares_of_a_flow_that_is_affine_in_part(affine):
    x0 = np.random.default_rng(1).normal(size=(600, 20))
    moved = np.sqrt(affine) * x0 + np.sqrt(1.0 - affine) * (x0**2 - 1.0) / np.sqrt(2.0)
    spec = flow_spectrum(x0 + np.expm1(-TIMES)[:, None, None] * moved, times=TIMES)
    assert spec.affine == pytest.approx(affine, abs=0.03)


def test_modes_are_those_of_known_paths(flow, spec):
    assert len(spec) == 3
    np.testing.assert_allclose(spec.energy, np.divide(ENERGIES, sum(ENERGIES)), rtol=0.02)
    modes = np.stack([spec.modes_at(t) for t in TIMES], axis=1)
    for place in range(3):
        assert cosine(modes[place : place + 1], flow.modes[place : place + 1], TIMES) > 0.999
    amplitudes = spec.amplitudes_of_paths(flow.paths)
    for place in range(3):
        assert abs(np.corrcoef(amplitudes[:, place], flow.amplitudes[:, place])[0, 1]) > 0.999
        assert np.std(amplitudes[:, place]) == pytest.approx(np.sqrt(ENERGIES[place]), rel=0.01)
    assert spec.standing == 3


def remainder(spec: FlowSpectrum, paths: np.ndarray) -> np.ndarray:
    """What the drift and this affine part leave."""
    return np.stack([state - spec.base(paths[0], t=t) for state, t in zip(paths, spec.times, strict=True)])


@pytest.mark.parametrize(
    ("n", "event"), [(400, (3,)), (24, (2, 3, 2)), (60, (1, 5, 5)), (30, (4,)), (16, (2,))]
)
def test_modes_are_the_principal_components_of_what_is_left(n, event):
    """With fewer paths than dimensions too, where the core takes the paths' products instead."""
    d = int(np.prod(event))
    flow = known((0.5, 0.2, 0.1, 0.05), n=n, d=d, rates=(0.5, -2.0, 3.0j, -3.0j))
    paths = flow.paths.reshape(33, n, *event)
    spec = flow_spectrum(paths, times=TIMES)
    assert spec.event_shape == event
    rest = remainder(spec, paths).reshape(33, n, d)
    energies, modes, amplitudes = components(rest, TIMES)
    count = len(spec)
    np.testing.assert_allclose(spec.energy, energies[:count] / energies.sum(), rtol=1e-4, atol=1e-6)
    own = np.stack([spec.modes_at(t) for t in TIMES], axis=1).reshape(count, 33, d)
    products = np.einsum("t,ktd,ltd->kl", trapezium(TIMES), own, modes[:count])
    np.testing.assert_allclose(np.abs(products), np.eye(count), atol=1e-3)
    signs = np.sign(np.diag(products))
    np.testing.assert_allclose(spec.amplitudes_of_paths(paths), amplitudes[:, :count] * signs, atol=1e-3)


def test_equal_energies_are_one_group_and_separate_ones_are_not():
    equal = flow_spectrum(known((0.3, 0.3, 0.3)).paths, times=TIMES)
    assert [group.tolist() for group in equal.groups] == [[0, 1, 2]]
    assert any("nearly equal energies" in caveat for caveat in equal.caveats)
    apart = flow_spectrum(known((1.0, 0.1, 0.01)).paths, times=TIMES)
    assert [group.tolist() for group in apart.groups] == [[0], [1], [2]]
    assert apart.caveats == []
    mixed = flow_spectrum(known((1.0, 0.1, 0.1)).paths, times=TIMES)
    assert [group.tolist() for group in mixed.groups] == [[0], [1, 2]]
    for spec in (equal, apart, mixed):
        assert np.all(spec.low <= spec.energy)
        assert np.all(spec.energy <= spec.high)
        assert spec.agreement.min() > 0.95


def test_a_mode_that_grows_as_a_whole_is_a_profile_times_an_image():
    x0 = np.random.default_rng(2).normal(size=(300, 4))
    profile, image = np.expm1(1.2 * TIMES), np.array([0.5, -0.5, 0.1, 0.7])
    image /= np.linalg.norm(image)
    paths = x0 + profile[:, None, None] * (x0[:, :1] ** 2 - 1.0) * image - 0.3 * TIMES[:, None, None] * x0
    spec = flow_spectrum(paths.reshape(33, 300, 2, 2), times=TIMES)[:1]
    assert spec.separability[0] == pytest.approx(1.0, abs=1e-3)
    assert spec.images.shape == (1, 2, 2)
    assert abs(spec.images.ravel() @ image) == pytest.approx(1.0, abs=1e-3)
    grown = spec.profiles()[:, 0]
    assert grown[-1] > 0.0
    np.testing.assert_allclose(grown / grown[-1], profile / profile[-1], atol=1e-3)
    whole = np.einsum("t,d->td", grown, spec.images.ravel())
    np.testing.assert_allclose(whole[-1], spec.modes_at(1.0).ravel(), atol=1e-2)


# Samples.


def test_all_modes_make_known_paths_again(flow, spec):
    amplitudes = spec.amplitudes_of_paths(flow.paths)
    for place in (0, 7, 32):
        t = TIMES[place]
        moved = np.einsum("bk,kd->bd", amplitudes, spec.modes_at(t))
        rest = flow.paths[place] - spec.base(flow.paths[0], t=t)
        # Components hold 99.9% of what drift and affine part leave.
        assert ((rest - moved) ** 2).sum() <= 2e-3 * (rest**2).sum() + 1e-20
    x0 = flow.paths[0]
    np.testing.assert_array_equal(spec.base(x0, drift=False, affine=False), x0)
    only = spec.base(x0, drift=True, affine=False) - x0
    np.testing.assert_allclose(only, np.tile(flow.drift[-1], (len(x0), 1)), atol=1e-6)


def test_a_models_modes_make_its_samples(bent):
    x0 = np.random.default_rng(8).normal(size=(40, 2))
    times = bent.times.tolist()
    paths = bent.source.states(x0, times, None)
    amplitudes = bent.amplitudes(x0)
    np.testing.assert_allclose(amplitudes, bent.amplitudes_of_paths(paths), atol=1e-9)
    every = bent.contributions(x0, t=0.75)
    assert every.shape == (40, len(bent), 2)
    made = bent.sample_path(x0, times=[0.0, 0.75, 1.0])
    np.testing.assert_allclose(made[0], x0, atol=1e-9)
    np.testing.assert_allclose(made[1], bent.base(x0, t=0.75) + every.sum(axis=1), atol=1e-9)
    left = np.sqrt(((made[2] - paths[-1]) ** 2).mean() / ((paths[-1] - x0) ** 2).mean())
    assert left < 0.05
    first = bent[:1].sample_path(x0, times=[1.0])[0]
    expected = bent.base(x0) + bent[:1].contributions(x0)[:, 0]
    np.testing.assert_allclose(first, expected, atol=1e-9)
    assert bent.sample_path(x0.astype(np.float32), times=[1.0]).dtype == np.float32
    np.testing.assert_allclose(bent.axis_amplitudes(x0), (x0 - bent.core.array("noise_mean")) @ bent.axes.T)


def test_a_student_is_read_as_a_teacher_is(student):
    x0 = np.random.default_rng(12).normal(size=(10, 2))
    spec = flow_spectrum(student, n=64, times=9)
    times = spec.times.tolist()
    paths = np.array(student.sample_path(x0, times=times), dtype=float)
    # Paths begin at the noise itself, which what a student reads off at 0 is not quite.
    paths[0] = x0
    np.testing.assert_allclose(spec.amplitudes(x0), spec.amplitudes_of_paths(paths), atol=1e-5)
    noise = _core.normal((64, 2), NOISE_SEED)
    again = np.array(student.sample_path(noise, times=times))
    again[0] = noise
    same(spec, flow_spectrum(again, times=times), rtol=1e-3)


def test_the_truncation_curve_is_the_error_of_samples(bent):
    x0 = np.random.default_rng(9).normal(size=(40, 2))
    end = bent.source.states(x0, bent.times.tolist(), None)[-1]
    counts, errors = bent.truncation_curve(x0, counts=[0, 1, len(bent)])
    whole = ((end - bent.base(x0)) ** 2).sum()
    for count, error in zip(counts, errors, strict=True):
        made = bent[: int(count)].sample_path(x0, times=[1.0])[0] if count else bent.base(x0)
        assert error == pytest.approx(np.sqrt(((end - made) ** 2).sum() / whole), rel=1e-6)
    assert errors[0] == 1.0
    assert np.all(np.diff(bent.truncation_curve(x0)[0]) > 0)


def test_bands_add_the_functions_of_rates_below_their_edges(flow, spec):
    rest = flow.paths - flow.paths[0] - flow.drift[:, None]
    span = functions(flow.rates, TIMES)
    weights = np.sqrt(trapezium(TIMES))[:, None]
    held = np.linalg.lstsq(span * weights, (rest * weights[:, :, None]).reshape(33, -1), rcond=None)[0]
    slow = (span[-1, :1] @ held[:1]).reshape(-1, 3)
    keep = (np.abs(spec.rates.imag) < 1.0).tolist()
    assert sum(keep) == 1
    below = spec.core.with_rates(flow.paths, keep, 1.0)
    np.testing.assert_allclose(below, flow.paths[0] + flow.drift[-1] + slow, atol=1e-5)


def test_bands_of_a_model_end_in_its_samples(bent):
    x0 = np.random.default_rng(10).normal(size=(20, 2))
    bands = bent.bands(x0, edges=[1e-9, 1e3], times=[0.5, 1.0])
    assert bands.shape == (2, 2, 20, 2)
    paths = bent.source.states(x0, [0.0, 0.5, 1.0], None)
    np.testing.assert_allclose(bands[1], paths[1:], atol=0.05)
    moved = np.abs(bands[0] - bands[1]).max()
    assert (moved > 1e-3) == bool((np.abs(bent.rates.imag) > 0).any())
