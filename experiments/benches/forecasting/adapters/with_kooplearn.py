"""kooplearn: reduced-rank regression with Nyström's approximation of a Gaussian kernel."""

from __future__ import annotations

from functools import partial

import numpy as np
from exchange import Forecast, Real, repeated, serve
from kooplearn.kernel import NystroemKernelRidge

CENTERS, RANK, RIDGE = 600, 100, 1e-8
# ``predict(n_steps=1)`` of 2.0.3 returns the initial state, since it combines the first rows of its pairs and
# not the second ones. Therefore one more step is requested.
SHIFT = 1
ROWS = 50_000  # Largest number of rows, since the library keeps kernels of all rows with all centres.


def fit(paths: Real, dt: float, *, linear: bool) -> Forecast:
    """``predict`` of many steps never encodes again; a repeated ``predict`` of one step always does."""
    length, width = paths.shape[1:]
    kept = paths[: max(ROWS // length, 1)]
    # The library takes one path. Interleaved rows of all paths, with their number as the lag, give the same
    # pairs.
    rows = kept.swapaxes(0, 1).reshape(len(kept) * length, width)
    model = NystroemKernelRidge(
        n_components=RANK,
        lag_time=len(kept),
        kernel="rbf",
        alpha=RIDGE,
        n_centers=min(CENTERS, len(rows) // 2),
        random_state=0,
    ).fit(rows)

    def together(contexts: Real, count: int) -> Real:
        return np.stack([model.predict(contexts[:, -1], n_steps=n + SHIFT).real for n in range(1, count + 1)])

    def again(contexts: Real, count: int) -> Real:
        return repeated(lambda x: model.predict(x, n_steps=1 + SHIFT), contexts[:, -1], count)

    return together if linear else again


serve(
    {
        "Nyström reduced rank, n_steps": partial(fit, linear=True),
        "Nyström reduced rank, one step repeated": partial(fit, linear=False),
    }
)
