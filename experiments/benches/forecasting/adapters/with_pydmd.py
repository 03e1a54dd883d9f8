"""PyDMD: linear models of all pairs or of the context of each start, and its two models with kernels."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from exchange import Forecast, Real, pairs, repeated, serve
from pydmd import BOPDMD, DMD, EDMD, LANDO, HankelDMD

DELAYS = 10
PAIRS, RANK = 1000, 200  # Number of pairs and rank of EDMD, which decomposes a matrix of all pairs.
KERNEL = {"gamma": 0.5}
TRIALS = 100  # Number of trials of BOP-DMD.


def linear(paths: Real, dt: float) -> Forecast:
    first, second = pairs(paths)
    model = DMD(svd_rank=-1).fit(first.T, second.T)
    return lambda contexts, count: repeated(lambda x: model.predict(x.T).T, contexts[:, -1], count)


def hankel(paths: Real, dt: float) -> Forecast:
    """The library models one path, so each start has a model of its context, and other paths are not used."""

    def one(context: Real, count: int) -> Real:
        model = HankelDMD(svd_rank=-1, exact=True, d=DELAYS).fit(context.T)
        model.dmd_time["tend"] = len(context) - 1 + count
        return model.reconstructed_data.T[len(context) :].real

    def forecast(contexts: Real, count: int) -> Real:
        if contexts.shape[1] < 2 * DELAYS:
            rows = contexts.shape[1]
            raise ValueError(f"it models one path, and {rows} rows before a start are too few to fit one to")
        return np.stack([one(context, count) for context in contexts], axis=1)

    return forecast


def kernel(paths: Real, dt: float) -> Forecast:
    first, second = pairs(paths, PAIRS)
    model = EDMD(svd_rank=RANK, kernel_metric="rbf", kernel_params=KERNEL).fit(first.T, second.T)
    modes, rates = model.modes, model.eigs

    def forecast(contexts: Real, count: int) -> Real:
        values = np.stack([np.ravel(model.eigenfunctions(row)) for row in contexts[:, -1]])
        out = []
        for _ in range(count):
            values = values * rates
            out.append((values @ modes.T).real)
        return np.stack(out)

    return forecast


def lando(paths: Real, dt: float) -> Forecast:
    """Kernel regression of the next row, on a dictionary that the library chooses."""
    first, second = pairs(paths, 5 * PAIRS)
    model: Any = LANDO(kernel_metric="rbf", kernel_params=KERNEL, dict_tol=1e-6)
    model.fit(first.T, second.T)

    return lambda contexts, count: repeated(lambda x: model.f(x.T).T, contexts[:, -1], count)


def eigenvalues(given: str, answer: str) -> None:
    """Eigenvalues of one path at irregular times, by BOP-DMD with the number of trials of its tutorial."""
    with np.load(given) as found:
        rows, times = found["rows"], found["times"]
    model = BOPDMD(svd_rank=rows.shape[1], num_trials=TRIALS, eig_constraints={"conjugate_pairs"})
    begun, worked = time.perf_counter(), time.process_time()
    model.fit(rows.T, times)
    took = {"seconds": time.perf_counter() - begun, "worked": time.process_time() - worked}
    np.savez(answer, eigenvalues=model.eigs, **took)


CONFIGURATIONS = {
    "DMD of all pairs": linear,
    "Hankel DMD of each context": hankel,
    "EDMD, Gaussian kernel": kernel,
    "LANDO, Gaussian kernel": lando,
}
if sys.argv[3] == "BOP-DMD":
    eigenvalues(*sys.argv[1:3])
else:
    serve(CONFIGURATIONS)
