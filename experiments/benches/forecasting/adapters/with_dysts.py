"""dysts: the names of its first attractors by the rule of ``attractors.py``, or paths of one of them.

The package's own ``make_trajectory`` takes minutes for a path of some thousand rows, since it uses an
implicit method with a tolerance of 1e-12. Therefore only its equations, parameters, initial states, periods
and Lyapunov exponents are used. LSODA integrates them; it switches to an implicit method if the equations are
stiff.
"""

from __future__ import annotations

import sys
from typing import Any

import dysts.flows
import numpy as np
from dysts.systems import get_attractor_list
from integration import TOLERANCE, halving, integrated, near


def fits(model: Any) -> bool:
    """Whether a system is three-dimensional, autonomous, bounded and chaotic, and is not Lorenz' system."""
    exponent = getattr(model, "maximum_lyapunov_estimated", None)
    return (
        model.dimension == 3
        and not model.nonautonomous
        and not model.unbounded_indices
        and bool(exponent and exponent > 0.0)
        and model.name != "Lorenz"
    )


def names(count: int) -> list[str]:
    every = sorted(get_attractor_list("continuous_no_delay"))
    return [name for name in every if fits(getattr(dysts.flows, name)())][:count]


def paths(name: str, task: dict[str, Any]) -> dict[str, Any]:
    """Paths from near the initial state of dysts, without the beginning that depends on it."""
    model = getattr(dysts.flows, name)()
    scale, exponent = np.asarray(model.std, dtype=float), float(model.maximum_lyapunov_estimated)
    dt = float(model.period) / int(task["points"])
    lyapunov_times, periods = task["forgotten"]
    forgotten = int(np.ceil(max(lyapunov_times / exponent, periods * float(model.period)) / dt))
    ahead = int(min(np.ceil(float(task["ahead"]) / exponent / dt), int(task["most"])))
    rows = max(int(task["rows"]), int(task["context"]) + ahead)
    begin = near(np.ravel(model.ic), scale, int(task["count"]), int(task["seed"]))
    out = integrated(model.rhs, begin, scale, dt, forgotten + rows, TOLERANCE)[:, forgotten:]
    if not np.isfinite(out).all():
        raise ArithmeticError("LSODA does not reach its tolerance")
    off = halving(model.rhs, out, scale, dt, TOLERANCE)
    return {"paths": out, "dt": dt, "exponent": exponent, "ahead": ahead, "off": off}


given, answer, word = sys.argv[1:4]
with np.load(given) as found:
    asked = dict(found)
if word == "names":
    np.savez(answer, names=names(int(asked["count"])))
else:
    np.savez(answer, **paths(word, asked))
