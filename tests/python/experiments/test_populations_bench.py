"""The pure parts of the bench of populations: its problems, its distances and what stands beside koopflow."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.benches.populations import measure, ours, problems, rivals, scores
from experiments.benches.populations.__main__ import parsed
from experiments.benches.populations.problems import Problem
from koopflow import FlowTeacher


@pytest.mark.parametrize("name", ["toggle", "petals", "tree"])
def test_problems_are_snapshots_of_a_seed(name, tmp_path):
    first, again, other = (problems.PROBLEMS[name](seed, tmp_path) for seed in (0, 0, 1))
    assert len(first.snapshots) == len(first.times) == 5
    for one, two, three in zip(first.snapshots, again.snapshots, other.snapshots, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.isfinite(one).all()
        assert one.shape != three.shape or (one != three).any()
    seen = problems.without(first, problems.HELD)
    assert len(seen.times) == 4
    assert first.times[problems.HELD] not in seen.times


def test_cells_with_the_second_gene_divide():
    problem = problems.toggle(0)
    assert problem.sizes == [float(len(rows)) for rows in problem.snapshots]
    assert problem.sizes == sorted(problem.sizes)
    assert problem.sizes[-1] > 1.5 * problem.sizes[0]
    # Those of the other start stay as many as they were.
    assert sum(problem.snapshots[-1][:, 2] > 1.0) == pytest.approx(250, abs=25)


def test_distances_are_those_of_shifts_and_shares():
    rows = np.random.default_rng(0).normal(size=(60, 2))
    assert scores.wasserstein1(rows, rows + [3.0, 4.0]) == pytest.approx(5.0)
    ends = np.array([[0.0], [1.0]])
    assert scores.wasserstein1(ends, ends, np.array([3.0, 1.0])) == pytest.approx(0.25)
    assert 0.0 < scores.floor(rows, 0) < 1.5


def test_the_midpoint_of_a_shift_is_half_of_it():
    rows = np.random.default_rng(1).normal(size=(80, 2))
    problem = Problem([rows, rows + 2.0], [0.0, 4.0])
    found = rivals.midpoint(problem, 1.0, seed=0)
    gaps = np.abs(found[:, None] - (rows + 0.5)[None]).max(axis=2).min(axis=1)
    assert gaps.max() < 1e-9


def test_torchcfms_loop_learns_a_shift():
    rows = np.random.default_rng(1).normal(size=(200, 2))
    problem = Problem([rows, rows + 1.0, rows + 2.0], [0.0, 1.0, 2.0])
    found = rivals.torchcfm(problem, rows, [2.0], seed=0, steps=300)
    assert np.abs(found[-1].mean(0) - rows.mean(0) - 2.0).max() < 0.3


def test_masses_weigh_states_of_teachers():
    problem = Problem(
        [np.random.default_rng(k).normal(size=(30, 2)) for k in range(2)], [0.0, 1.0], [1.0, 2.0]
    )
    teacher = ours.teach(problem, 0, 5, growing=True)
    assert isinstance(teacher, FlowTeacher)
    states, masses = ours.weighed(teacher, teacher, problem.snapshots[0], 0.5)
    assert states.shape == (30, 2)
    assert masses.shape == (30,)
    assert (masses > 0).all()


def test_quick_is_quick():
    options = parsed(["--quick"])
    assert (options.steps, options.epochs, options.seeds) == (30, 1, [0])
    assert measure.HELD == 2
