"""What several test files share: one analytic teacher, and one small student of it, fitted once."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, _core

MEAN = np.array([1.0, -2.0])
COV = np.array([[2.0, 0.5], [0.5, 1.0]])


def pytest_configure() -> None:
    # Shells start background jobs with Ctrl-C ignored, and the commands that tests start inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("probe") and not hasattr(_core, "_fail"):
        pytest.skip("needs an extension with the cargo feature 'probe', as .ci/run builds it")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread for each operation: on a busy machine the waiting of several costs tens of times more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def gaussian() -> FlowTeacher:
    return FlowTeacher.gaussian(MEAN, COV)


@pytest.fixture(scope="session")
def student(gaussian: FlowTeacher) -> KoopmanDistiller:
    small = KoopmanDistiller(observables=16, width=32, depth=2, steps=400, trajectories=2048, seed=3)
    return small.fit(gaussian, progress=False)


# The peak of this process alone, in KiB: getrusage's also counts the process that it was forked from.
PRINT_PEAK_MEMORY = """
from pathlib import Path
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
