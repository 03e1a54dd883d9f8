"""pykoopman: EDMD on all pairs of rows, with koopflow's default number of observables."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pykoopman
from exchange import Forecast, Real, pairs, repeated, serve

COSINES, GAMMA = 300, 0.5  # Each frequency gives a cosine and a sine; gamma is the tutorial's.
DEGREE = 3


def fit(paths: Real, dt: float, *, observables: Any, linear: bool) -> Forecast:
    """``predict`` encodes again at every step, ``simulate`` never does."""
    model = pykoopman.Koopman(observables=observables(), regressor=pykoopman.regression.EDMD(), quiet=True)
    first, second = pairs(paths)
    model.fit(first, second, dt=dt)

    def simulated(contexts: Real, count: int) -> Real:
        found = [model.simulate(context[-1], n_steps=count) for context in contexts]
        return np.stack(found, axis=1).real

    def predicted(contexts: Real, count: int) -> Real:
        return repeated(model.predict, contexts[:, -1], count)

    return simulated if linear else predicted


def fourier() -> Any:
    return pykoopman.observables.RandomFourierFeatures(gamma=GAMMA, D=COSINES, random_state=0)


def polynomials() -> Any:
    return pykoopman.observables.Polynomial(degree=DEGREE)


serve(
    {
        "EDMD, random Fourier features, predict": partial(fit, observables=fourier, linear=False),
        "EDMD, random Fourier features, simulate": partial(fit, observables=fourier, linear=True),
        "EDMD, polynomials, predict": partial(fit, observables=polynomials, linear=False),
        "EDMD, polynomials, simulate": partial(fit, observables=polynomials, linear=True),
    }
)
