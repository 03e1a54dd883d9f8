"""A rank that is killed, hangs or is interrupted: the other ends in time, and the file is a whole student."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from koopflow import KoopmanDistiller

from . import _launch

PROGRAM = str(Path(__file__).parent / "long_fit.py")
TIMEOUT = 20.0


def after(processes, step: int) -> None:
    """Returns once rank 0 has told of so many steps of training."""
    for line in processes[0].stdout:
        stage, done = line.split()
        if stage == "student" and int(done) >= step:
            return
    pytest.fail(f"rank 0 ended early: {processes[0].stderr.read()}")


def lose(checkpoint: Path, rank: int, step: int, by: signal.Signals, timeout: float = TIMEOUT):
    """Ends of both ranks after one of them got a signal."""
    processes = _launch.start([PROGRAM, str(checkpoint), str(timeout)], 2)
    try:
        after(processes, step)
        processes[rank].send_signal(by)
        other = _launch.finish([processes[1 - rank]])[0]
    finally:
        for process in processes:
            process.kill()
        # What a rank that hung has left to say.
        processes[rank].communicate()
    return other


def check(checkpoint: Path, step: int) -> None:
    """A whole student of the last steps."""
    student = KoopmanDistiller.load(checkpoint)
    assert np.isfinite(student.sample(10)).all()
    assert student.history_["steps"] >= step - 1
    assert student.history_["stopped"] == "interrupted"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_other(tmp_path: Path, rank: int):
    checkpoint = tmp_path / "student.safetensors"
    other = lose(checkpoint, rank, 20, signal.SIGKILL)
    assert other.code == 1
    last = other.error.strip().splitlines()[-1]
    assert "DistributedError: a sum over all ranks failed" in last, other.error
    assert "another rank is gone" in last
    assert "timeout" in last
    check(checkpoint, 20)


@pytest.mark.slow
def test_kills_at_twenty_moments(tmp_path: Path):
    random = np.random.default_rng(0)
    for attempt in range(20):
        checkpoint = tmp_path / f"{attempt}.safetensors"
        rank, step = int(random.integers(2)), int(random.integers(1, 200))
        other = lose(checkpoint, rank, step, signal.SIGKILL)
        assert other.code == 1, (attempt, other)
        assert "DistributedError" in other.error, (attempt, other)
        check(checkpoint, step)


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up(tmp_path: Path):
    checkpoint = tmp_path / "student.safetensors"
    other = lose(checkpoint, 1, 20, signal.SIGSTOP, timeout=5.0)
    assert other.code == 1
    assert "did not answer within the timeout" in other.error, other.error
    check(checkpoint, 20)


def test_ctrl_c_on_one_rank_ends_both_well(tmp_path: Path):
    checkpoint = tmp_path / "student.safetensors"
    processes = _launch.start([PROGRAM, str(checkpoint), str(TIMEOUT)], 2)
    try:
        after(processes, 10)
        processes[1].send_signal(signal.SIGINT)
    finally:
        ended = _launch.finish(processes)
    for one in ended:
        assert one.code == 0, one.error
        assert "interrupted after" in one.error
    check(checkpoint, 10)
