"""The bench of convection: its solver beside independent facts, and a run of it at a tiny size."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from experiments.benches.forecasting import convection
from experiments.benches.forecasting.convection import LEADS, described
from experiments.benches.forecasting.rayleigh_benard import CRITICAL, Convection

ROLLS = 2.0 * np.sqrt(2.0)  # The aspect that the first unstable rolls fit into, k = pi / sqrt(2).


def carried(fluid: Convection, state: np.ndarray, dt: float, steps: int) -> np.ndarray:
    return next(islice(fluid.run(state, dt, steps), 1, None))


def points(fluid: Convection) -> tuple[np.ndarray, np.ndarray]:
    """Places x ``[1, width]`` and z ``[height, 1]``."""
    x = np.arange(fluid.width) * fluid.aspect / fluid.width
    return x[None, :], (np.arange(fluid.height)[:, None] + 0.5) / fluid.height


def turning(rayleigh: float = 1e4, seed: int = 0) -> tuple[Convection, np.ndarray]:
    """A fluid in which convection has set in, nonlinear."""
    fluid = Convection(rayleigh, height=16, width=32)
    return fluid, carried(fluid, fluid.begin(3, seed), 1e-4, 300)


def test_derivatives_and_products_beside_known_fields():
    fluid = Convection(1e4, prandtl=0.7)
    x, z = points(fluid)
    k, n = 2.0 * np.pi / fluid.aspect, np.pi
    # Of psi = cos(kx) sin(nz) and theta = sin(2kx) sin(nz).
    psi, theta = np.cos(k * x) * np.sin(n * z), np.sin(2 * k * x) * np.sin(n * z)
    found = fluid.fields(fluid.rates(fluid.spectrum(np.stack([-(k**2 + n**2) * psi, theta]))))
    slope = 2 * k * np.cos(2 * k * x) * np.sin(n * z)
    np.testing.assert_allclose(found[0], 1e4 * 0.7 * slope, atol=1e-8)  # J(psi, lap psi) is 0 for one wave.
    rise, down = -k * np.sin(k * x) * np.sin(n * z), n * np.cos(k * x) * np.cos(n * z)
    moved = rise * n * np.sin(2 * k * x) * np.cos(n * z) - down * slope
    np.testing.assert_allclose(found[1], rise - moved, atol=1e-10)


@pytest.mark.parametrize("rayleigh", [0.9 * CRITICAL, 1.1 * CRITICAL])
def test_small_rolls_grow_above_the_critical_rayleigh_number_and_decay_below(rayleigh):
    """At the rate of the linear theory of Rayleigh (1916)."""
    fluid = Convection(rayleigh, prandtl=0.7, aspect=ROLLS, height=8, width=16)
    x, z = points(fluid)
    square = 1.5 * np.pi**2
    theta = 1e-6 * np.cos(2.0 * np.pi / ROLLS * x) * np.sin(np.pi * z)
    states = fluid.run(fluid.spectrum(np.stack([0.0 * theta, theta])), 1e-3, 100)
    state, later = islice(states, 8, 10)  # What decays faster has decayed.
    matrix = [[-0.7 * square, -rayleigh * 0.7 * square / 3 / square], [-1.0, -square]]
    expected = np.linalg.eigvals(matrix).real.max()
    found = np.log(np.abs(fluid.fields(later)[1]).max() / np.abs(fluid.fields(state)[1]).max()) / 0.1
    assert (expected > 0) == (rayleigh > CRITICAL)
    assert found == pytest.approx(expected, rel=1e-3)


def test_at_the_critical_rayleigh_number_no_wave_grows():
    """CRITICAL is least over all k of K^6 / k^2."""
    k = np.linspace(0.5, 6.0, 20_001)
    assert ((k**2 + np.pi**2) ** 3 / k**2).min() == pytest.approx(CRITICAL, rel=1e-6)


def test_the_odd_symmetry_is_kept():
    fluid, state = turning()
    whole = fluid.extended(state)
    assert np.abs(whole).max() > 0.1
    np.testing.assert_allclose(whole, -whole[..., ::-1, :], atol=1e-10 * np.abs(whole).max())
    np.testing.assert_allclose(fluid.spectrum(fluid.fields(state)), state, atol=1e-9 * np.abs(state).max())
    # Even waves would grow like exp(100 t) without it, from rounding.
    jet = np.zeros_like(state)
    jet[:, 1, 0, 1] = 1e-3 * np.abs(state).max()
    cleaned = next(fluid.run(state + jet, 1e-4, 1))
    np.testing.assert_allclose(cleaned, state, atol=1e-9 * np.abs(state).max())
    np.testing.assert_allclose(fluid.odd(jet), 0.0, atol=1e-9 * np.abs(jet).max())


def test_energy_and_variance_change_by_buoyancy_and_dissipation_only():
    """d/dt <|u|^2>/2 = Ra Pr <w theta> - Pr <omega^2> and d/dt <theta^2>/2 = <w theta> - <|grad theta|^2>."""
    fluid, state = turning()

    def mean(a: np.ndarray) -> np.ndarray:
        return a.mean(axis=(-1, -2))

    def stored(s: np.ndarray) -> np.ndarray:
        return np.stack([fluid.speed(s) ** 2, mean(fluid.extended(s[:, 1]) ** 2)]) / 2.0

    dt = 1e-5
    one, two, three = islice(fluid.run(state, dt, 1), 2, 5)
    omega, theta = (fluid.extended(two[:, place]) for place in (0, 1))
    w = fluid.extended(-1j * fluid.kx * two[:, 0] / fluid.square)
    slopes = [fluid.extended(1j * k * two[:, 1]) for k in (fluid.kx, fluid.kz)]
    carried_up = mean(w * theta)
    assert (carried_up > 0.5).all()  # Convection has set in.
    expected = np.stack(
        [1e4 * carried_up - mean(omega**2), carried_up - mean(slopes[0] ** 2) - mean(slopes[1] ** 2)]
    )
    found = (stored(three) - stored(one)) / (2.0 * dt)
    scale = np.stack([1e4 * carried_up, carried_up])
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-3)


def test_the_solver_is_of_order_three():
    fluid, state = turning()
    exact = fluid.fields(carried(fluid, state, 2.5e-6, 400))[:, 1]
    errors = [
        np.abs(fluid.fields(carried(fluid, state, 1e-4 / n, 10 * n))[:, 1] - exact).max() for n in (2, 4)
    ]
    # Its first two steps are of lower orders, which leaves an error of order two where rows are few.
    assert errors[0] / errors[1] > 3.5
    assert errors[1] < 1e-3


def test_latents_that_repeat_one_another_are_told():
    random = np.random.default_rng(0)
    z = random.normal(size=(500, 5))
    z = np.linalg.qr(z - z.mean(axis=0))[0]
    rows = z @ random.normal(size=(5, 20))
    row = described(np.concatenate([np.ones((500, 1)), z], axis=1), rows)
    assert row["latents"] == 5
    assert row["determinant of correlations"] == pytest.approx(1.0)
    assert row["explained energy, %"] == pytest.approx(100.0)
    z[:, 4] = z[:, 3] + 1e-3 * z[:, 4]
    assert described(z, rows)["determinant of correlations"] < 1e-5


def test_a_tiny_run():
    rows = convection.measure(1e4, 0, quick=True)
    assert set(rows) >= {"persistence", "koopflow, r = 16", "koopflow, r = 5", "LRAN, r = 16"}
    assert all(np.isfinite(list(row.values())).all() for row in rows.values())
    for rank in convection.RANKS:
        least = rows[f"least error of {rank} components"]
        for name in ("koopflow", "koopflow, polynomial of degree 1"):
            found = rows[f"{name}, r = {rank}"]
            assert all(found[f"NRMSE, {n} rows"] > 0.99 * least[f"NRMSE, {n} rows"] for n in LEADS)
    # Principal components have no correlations, and nothing linear explains more than they do.
    first = rows["five latents: koopflow, components=16, rank=5"]
    second = rows["five latents: principal components"]
    assert second["determinant of correlations"] == pytest.approx(1.0)
    assert first["explained energy, %"] <= second["explained energy, %"] + 1e-9
