"""Fits that two processes share: the same numbers as one process that takes as many micro-batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from koopflow import KoopmanDistiller, distributed
from koopflow.exceptions import ArgumentError

from . import _launch

PROGRAM = str(Path(__file__).parent / "fits.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process finds, and each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    for name, size in (("one", 1), ("two", 2)):
        _launch.run([PROGRAM, str(folder / name)], size)
    read = lambda file: dict(np.load(folder / file))  # noqa: E731
    return [read("one.1.0.npz"), read("two.2.0.npz"), read("two.2.1.npz")]


SAME = (
    "teacher losses",
    "teacher",
    "conditional",
    "terms",
    "student",
    "resumed",
    "mean velocity",
    "forecast",
)


@pytest.mark.parametrize("name", SAME)
def test_ranks_follow_one_process_to_rounding(found, name):
    one, *ranks = found
    for own in ranks:
        assert np.allclose(own[name], one[name], rtol=1e-7, atol=1e-7), np.abs(own[name] - one[name]).max()
        assert np.array_equal(own[name], ranks[0][name]), "ranks end with the same bits"


def test_a_consistency_flow_is_the_same_on_both_ranks(found):
    # Its own average over a batch is that of a rank's rows.
    one, first, second = found
    assert np.array_equal(first["consistency flow"], second["consistency flow"])
    assert np.allclose(first["consistency flow"], one["consistency flow"], atol=0.05)


@pytest.mark.parametrize("name", ["samples", "labelled"])
def test_samples_are_the_same_whatever_the_number_of_ranks(found, name):
    one, *ranks = found
    for own in ranks:
        assert own[name].shape[0] in (2500, 3000)
        # Models are the same to rounding alone, and so are their samples.
        assert np.allclose(own[name], one[name], atol=1e-7)
        assert np.array_equal(own[name], ranks[0][name])


def test_blocks_are_those_of_one_call_bit_for_bit(student: KoopmanDistiller):
    blocks = distributed.sample(student, 2500, seed=4)
    x0 = student._fresh(2500, 4, None)
    parts = [student.sample(x0=x0[at : at + 1024]) for at in range(0, 2500, 1024)]
    assert np.array_equal(blocks, np.concatenate(parts))
    assert np.allclose(blocks, student.sample(2500, seed=4), atol=1e-5)


def test_a_function_and_a_clock_are_the_same_on_both_ranks(found):
    _, first, second = found
    assert np.array_equal(first["attached"], second["attached"])
    assert abs(first["attached"].mean() - 20.0) < 2.0


def test_only_rank_0_reports_and_writes(found):
    one, first, second = found
    assert one["reports"] == first["reports"] > 0
    assert second["reports"] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other data", "DistributedError: data: expected the same on every rank, got an array"),
        (
            "other options",
            "DistributedError: seed: expected the same on every rank, got 0 on rank 0 and 1 on rank 1",
        ),
        ("other teachers", "DistributedError: teacher: expected the same on every rank"),
        ("small batch", "ArgumentError: batch_size: expected at least"),
    ],
)
def test_what_differs_is_told_on_every_rank(found, name, words):
    for own in found[1:]:
        assert str(own[name]).startswith(words), own[name]


def test_a_drawn_seed_is_rank_0_s(found):
    assert found[1]["drawn seed"] == found[2]["drawn seed"]


def test_a_fit_may_be_left_alone(found):
    one, *ranks = found
    for own in ranks:
        assert np.allclose(own["alone"], one["teacher"], atol=1e-12)


def test_a_stop_on_one_rank_stops_both_at_one_step(found):
    for own in found:
        assert str(own["stopped"]) == "interrupted"
        assert own["stopped at"] == found[0]["stopped at"]


def test_true_asks_for_ranks():
    with pytest.raises(ArgumentError, match="distributed: expected a process group"):
        distributed.world(distributed=True)
    with pytest.raises(ArgumentError, match="distributed: expected True, False or None, got 2"):
        distributed.world(distributed=2)  # type: ignore[arg-type]


def test_a_seed_is_asked_for(student: KoopmanDistiller):
    with pytest.raises(ArgumentError, match="seed: expected a number that all ranks share"):
        distributed.sample(student, 10, seed=None)
