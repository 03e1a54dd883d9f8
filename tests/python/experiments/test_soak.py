"""A tenth of the long soak; ``python -m experiments.benches.soak`` is the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SIZES = {"--fits": 200, "--samplings": 2000, "--count": 5, "--writers": 20, "--rounds": 10}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_stays_kills_lose_nothing_and_writers_do_not_disturb_each_other() -> None:
    sizes = [word for flag, count in SIZES.items() for word in (flag, str(count))]
    command = [sys.executable, "-m", "experiments.benches.soak", *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing lost, nothing grown\n")
