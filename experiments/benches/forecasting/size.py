"""Part 5: time and memory of a large fit, to ten thousand paths of a thousand rows of eight values."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any

import numpy as np

from .clock import Clock
from .scores import deviation
from .systems import lorenz96

PATHS, ROWS, WIDTH, DT = 10_000, 1_000, 8, 0.05
BURN = 100  # Number of rows before those that are kept.
GIB = 2.0**20  # Linux gives the largest resident set in KiB.


def data(count: int, rows: int, seed: int) -> Any:
    """Paths ``[count, rows, 8]`` of Lorenz's system of 1996, integrated in float32."""
    x = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32) * np.float32(3.0)
    out = np.empty((count, rows, WIDTH), dtype=np.float32)
    h = np.float32(DT / 2)
    for row in range(-BURN, rows):
        if row >= 0:
            out[:, row] = x
        k1 = lorenz96(x)
        k2 = lorenz96(x + h * k1)
        k3 = lorenz96(x + h * k2)
        k4 = lorenz96(x + 2 * h * k3)
        x = (x + h / 3 * (k1 + 2 * k2 + 2 * k3 + k4)).astype(np.float32)
    return out


def fitted(count: int, rows: int, seed: int) -> dict[str, float]:
    """Seconds and peak memory of a fit in this process, and the error of a forecast."""
    from koopflow import KoopmanForecaster

    paths = data(count, rows, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    clock = Clock()
    model = KoopmanForecaster(seed=seed).fit(paths, DT * np.arange(rows), progress=False)
    took = clock.row()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    held = data(20, 21, 1000 + seed).astype(np.float64)
    ahead = np.asarray(model.forecast(held[:, 0], DT * np.arange(1, 21)))
    error = np.sqrt(((ahead[-1] - held[:, -1]) ** 2).sum(axis=1).mean()) / deviation(held)
    return {
        "data, GiB": paths.nbytes / 2.0**30,
        "peak before the fit, GiB": before,
        "peak, GiB": after,
        "observables": float(model.n_observables_),
        "relative error 20 steps ahead": float(error),
    } | took


def measure(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """As :func:`fitted`, in a separate process, so that its memory is that of the fit."""
    count, rows = (20, 50) if quick else (PATHS, ROWS)
    command = [sys.executable, "-m", __name__, str(count), str(rows), str(seed)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return {f"{count} x {rows} x {WIDTH}": json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    print(json.dumps(fitted(*(int(text) for text in sys.argv[1:4]))))
