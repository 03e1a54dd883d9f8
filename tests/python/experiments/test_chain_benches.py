"""The pure parts of the benches of chains and of phase space."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.benches import local_flows, phase_space
from koopflow import FlowTeacher, datasets


@pytest.mark.parametrize("width", [16, 64])
def test_weights_are_counted(width):
    teacher = FlowTeacher((2,), width=width, depth=local_flows.DEPTH, steps=1)
    teacher.fit(datasets.moons(50), progress=False)
    assert sum(weight.numel() for weight in teacher.state_dict().values()) == local_flows.weights(width)


def test_one_flow_has_as_many_weights_as_its_chain():
    for blocks in (2, 4):
        wanted = blocks * local_flows.weights(local_flows.WIDTH)
        assert local_flows.weights(local_flows.width_of(wanted)) == pytest.approx(wanted, rel=0.02)


def test_tables_show_means_and_ranges():
    row = {"case": "tree", "model": "4 blocks", "weights": 100, "floor": 0.1, "seconds": 7.0}
    rows = [{**row, "seed": seed, "nll": 2.0 + seed, "w2": 0.5} for seed in (0, 1)]
    table = local_flows.table(rows)
    assert table.startswith("tree, W2 of data 0.100 (0.100 to 0.100):\n\n| model | NLL |")
    assert "| 4 blocks | 2.500 (2.000 to 3.000) | 0.500" in table
    rows = [{"case": "grid", "teacher": "positions", "seed": 0, "data": 0.1, "student, 1": 0.25}]
    assert "| grid | positions | 0.100 | 0.250 |" in phase_space.table(rows)


def test_rolls_and_grid_are_where_they_should_be():
    rolls, grid = phase_space.five_rolls(4000, 0), phase_space.grid(4000, 0)
    assert rolls.shape == grid.shape == (4000, 2)
    assert np.abs(rolls.mean(0)).max() < 0.2
    cells = np.unique(np.round(grid / 2.0), axis=0)
    assert len(cells) == 9
    np.testing.assert_allclose((grid - 2.0 * np.round(grid / 2.0)).std(), 0.15, rtol=0.05)
