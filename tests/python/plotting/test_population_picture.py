"""The picture of a population."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from koopflow import plotting
from koopflow.exceptions import ArgumentError, ShapeError

CELLS = [np.random.default_rng(k).normal(k, 0.3, (50, 2)) for k in range(3)]
PATHS = np.stack([rows[:8] for rows in CELLS])


def lines(ax) -> LineCollection:
    return next(found for found in ax.collections if isinstance(found, LineCollection))


def test_snapshots_are_coloured_by_their_time():
    ax = plotting.population(CELLS, [0, 5, 20], title="cells")
    assert ax.get_title(loc="left") == "cells"
    assert [float(found.get_array()[0]) for found in ax.collections] == [0.0, 5.0, 20.0]
    np.testing.assert_allclose(ax.collections[2].get_offsets(), CELLS[2])


def test_paths_are_drawn_whole_or_in_pieces_of_their_growth():
    ax = plotting.population(CELLS, [0, 1, 2], paths=PATHS)
    assert len(lines(ax).get_segments()) == 8
    growth = np.linspace(-1.0, 2.0, 24).reshape(3, 8)
    ax = plotting.population(CELLS, [0, 1, 2], paths=PATHS, growth=growth)
    assert len(lines(ax).get_segments()) == 16
    np.testing.assert_allclose(lines(ax).get_array(), (0.5 * (growth[1:] + growth[:-1])).ravel())
    plotting.population(CELLS, [0, 1, 2], paths=PATHS, growth=np.zeros((3, 8)))


def test_what_does_not_fit_is_named():
    with pytest.raises(ArgumentError, match="times"):
        plotting.population(CELLS, [0, 1])
    with pytest.raises(ShapeError, match=r"snapshots\[1\]"):
        plotting.population([CELLS[0], CELLS[1][:, :1]], [0, 1])
    with pytest.raises(ShapeError, match="growth"):
        plotting.population(CELLS, [0, 1, 2], paths=PATHS, growth=np.zeros((2, 8)))
    with pytest.raises(ShapeError, match="paths"):
        plotting.population(CELLS, [0, 1, 2], paths=PATHS[0])
    with pytest.raises(ArgumentError, match="growth"):
        plotting.population(CELLS, [0, 1, 2], growth=np.zeros((2, 8)))
