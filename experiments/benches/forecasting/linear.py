"""Part 4: errors of the eigenvalues of a stable linear system, observed with noise at irregular times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from koopflow import KoopmanForecaster

from . import rivals
from .clock import WALL, WORKED, Clock
from .environments import Unavailable
from .scores import Real, eigenvalue_error

EIGENVALUES = np.array([-0.05 + 2.0j, -0.05 - 2.0j, -0.2 + 5.0j, -0.2 - 5.0j])
NOISE, SPACING = 0.01, 0.05  # Noise in deviations of the data, and mean time between two rows.
OFF = "an eigenvalue off by, %"
ONE, MANY, SHORTEST, LONGEST = 200, 1000, 20, 60


def matrix(seed: int) -> Real:
    """The matrix A of dx/dt = A x, with the eigenvalues above in randomly mixed coordinates."""
    blocks = np.zeros((4, 4))
    for place in (0, 2):
        rate = EIGENVALUES[place]
        blocks[place : place + 2, place : place + 2] = [[rate.real, rate.imag], [-rate.imag, rate.real]]
    mixed = np.eye(4) + 0.3 * np.random.default_rng([seed, 4]).normal(size=(4, 4))
    return mixed @ blocks @ np.linalg.inv(mixed)


def paths(a: Real, lengths: Sequence[int], seed: int) -> tuple[list[Real], list[Real]]:
    """Rows ``[T, 4]`` with noise, and their times ``[T]``, of every path."""
    random = np.random.default_rng([seed, 5])
    rates, vectors = np.linalg.eig(a)
    rows, times = [], []
    for length in lengths:
        at = np.cumsum(SPACING * random.uniform(0.2, 1.8, size=length))
        begin = np.linalg.solve(vectors, random.normal(size=4).astype(complex))
        rows.append(((np.exp(at[:, None] * rates) * begin) @ vectors.T).real)
        times.append(at)
    scale = NOISE * np.concatenate(rows).std(axis=0)
    return [x + scale * random.normal(size=x.shape) for x in rows], times


def fitted(rows: list[Real], times: list[Real], seed: int) -> dict[str, float]:
    """The error of a fit in closed form, since ``method="refine"`` needs rows on a grid."""
    model = KoopmanForecaster(basis="polynomial", degree=1, seed=seed)
    clock = Clock()
    model.fit(rows, times, progress=False)
    took = clock.row()
    found = model.spectrum().eigenvalues
    return {OFF: 100.0 * eigenvalue_error(found, EIGENVALUES)} | took


def measure(
    seed: int, others: rivals.Rivals | None = None, *, quick: bool = False
) -> dict[str, dict[str, float]]:
    """Largest relative error of an eigenvalue, of koopflow and of PyDMD's BOP-DMD."""
    a = matrix(seed)
    one = paths(a, [60 if quick else ONE], seed)
    lengths = np.random.default_rng([seed, 6]).integers(SHORTEST, LONGEST + 1, size=30 if quick else MANY)
    many = paths(a, lengths.tolist(), seed)
    rows: dict[str, dict[str, float]] = {}
    for text, given in ((f"one path of {len(one[0][0])} rows", one), (f"{len(lengths)} paths", many)):
        rows[f"{text}: koopflow"] = fitted(*given, seed)
        print(f"linear, seed {seed}: {rows}", flush=True)
    if others is not None and "pydmd" in others.names:
        rows |= bop_dmd(*one, others)
    return rows


def bop_dmd(rows: list[Real], times: list[Real], others: rivals.Rivals) -> dict[str, dict[str, float]]:
    label = f"one path of {len(rows[0])} rows: PyDMD, BOP-DMD"
    try:
        task: dict[str, NDArray[np.float64]] = {"rows": rows[0], "times": times[0]}
        found = rivals.ask("pydmd", ["BOP-DMD"], task, others.folder, others.seconds)
    except Unavailable as error:
        return {f"{label}: {error}": {}}
    error = 100.0 * eigenvalue_error(found["eigenvalues"], EIGENVALUES)
    return {label: {OFF: error, WALL: float(found["seconds"]), WORKED: float(found["worked"])}}
