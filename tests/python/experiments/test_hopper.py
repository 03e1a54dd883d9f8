"""The bench of the hopper: what is hidden, its metrics beside a hand computation, a run on made-up paths."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.benches.flow_spectrum.tables import plain
from experiments.benches.forecasting import hopper
from experiments.benches.forecasting.environments import Unavailable


@pytest.mark.parametrize("share", hopper.SHARES)
def test_the_right_share_is_seen(share):
    paths = np.random.default_rng(0).normal(size=(7, 100, 3))
    found = hopper.seen(paths, share, np.random.default_rng(1))
    known = np.isfinite(found)
    assert (known.all(axis=2) == known.any(axis=2)).all()
    assert (known[..., 0].sum(axis=1) == round(100 * share)).all()
    np.testing.assert_array_equal(found[known], paths[known])
    assert (known[0] != known[1]).any()


def test_windows_are_rows_of_their_path():
    paths = np.arange(50.0).reshape(5, 10, 1)
    found = hopper.windows(paths, 4, np.random.default_rng(0))
    assert found.shape == (5, 4, 1)
    assert (np.diff(found, axis=1) == 1.0).all()
    assert (found[:, 0, 0] // 10 == np.arange(5)).all()


def test_errors_in_both_units():
    """Numbers from -1 to 1 are scaled to [0, 2]; an error of 0.1 there is one of 0.05 of the range."""
    paths = np.linspace(-1.0, 1.0, 10)[:, None, None] * np.ones((10, 4, 2))
    problem = hopper.Problem.of(paths, 5, 1)
    assert (len(problem.train), len(problem.test)) == (5, 1)
    assert problem.test.max() == pytest.approx(1.0 + 7 / 9)
    truth = np.zeros((1, 4, 2))
    found = problem.errors("x", truth + [0.1, 0.0], truth)
    assert found == pytest.approx({"x": 100 * 0.01 / 2, "x, by range": 100 * 0.0025 / 2})


def test_straight_lines_and_intervals_by_hand():
    observed = np.array([[np.nan, 1.0, np.nan, 3.0, np.nan]])[..., None]
    lines = hopper.straight(observed)
    np.testing.assert_allclose(lines[0, :, 0], [1.0, 1.0, 2.0, 3.0, 3.0])
    hidden = ~np.isfinite(observed[..., 0])
    middle = lines.swapaxes(0, 1)
    truth = np.array([[0.9, 9.0, 2.2, 9.0, 3.4]])[..., None]
    assert hopper.inside(middle - 0.3, middle + 0.3, truth, hidden) == pytest.approx(2 / 3)


def swinging(count, seed):
    """Harmonic motion of seven frequencies: positions and their velocities."""
    draws = np.random.RandomState(seed)
    angles = draws.uniform(0, 6, size=(count, 1, 7)) + np.arange(hopper.ROWS)[:, None] * np.linspace(
        0.02, 0.1, 7
    )
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=2)


def test_a_linear_motion_is_found_between_gaps_and_beyond(monkeypatch):
    monkeypatch.setattr(hopper, "simulated", swinging)
    linear = hopper.Choice({"basis": "polynomial", "degree": 1}, 16)
    monkeypatch.setattr(hopper, "MODELS", {"linear": linear})
    rows = hopper.measure(0, quick=True, models=["linear"])
    for share in ("10%", "50%"):
        row = rows[f"{share} seen: koopflow, linear"]
        assert max(row[name] for name in row if name.startswith(("inter", "extra"))) < 0.1
        assert (
            row["interpolation"] < 0.1 * rows[f"{share} seen: straight lines, then the mean"]["extrapolation"]
        )
    assert rows["10% seen: latent ODE, published"] == {"interpolation": 0.360, "extrapolation": 1.441}
    assert "| 50% seen: koopflow, linear |" in plain({name: [row] for name, row in rows.items()})


def test_without_mujoco_a_row_says_why(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(hopper.importlib, "import_module", missing)
    with pytest.raises(Unavailable, match="no MuJoCo"):
        hopper.simulated(1, 0)
    assert list(hopper.measure(0, quick=True).values()) == [{}]


def test_the_hopper_falls():
    pytest.importorskip("mujoco")
    pytest.importorskip("dm_control")
    paths = hopper.simulated(3, 0)
    assert paths.shape == (3, hopper.ROWS, hopper.WIDTH)
    positions, velocities = paths[..., :7], paths[..., 7:]
    assert (np.abs(positions[:, 0, 2:]) <= 2.0).all()
    assert (np.abs(velocities[:, 0]) <= 5.0).all()
    # Velocities are those of the positions, as the integrator takes each step with the new velocity.
    np.testing.assert_allclose(np.diff(positions, axis=1), hopper.DT * velocities[:, 1:], atol=1e-9)
    np.testing.assert_array_equal(paths, hopper.simulated(3, 0))
