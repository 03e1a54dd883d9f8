"""dysts: paths of its first attractors by the rule of ``attractors.py``."""

from __future__ import annotations

import signal
import sys
from typing import Any

import dysts.flows
import numpy as np
from dysts.systems import get_attractor_list

SECONDS = 300  # Of the processor, for one attractor.


def stop(*_: Any) -> None:
    raise TimeoutError


given, answer = sys.argv[1:3]
with np.load(given) as found:
    count, rows = int(found["count"]), int(found["rows"])
signal.signal(signal.SIGPROF, stop)
names, paths, steps, exponents = [], [], [], []
for name in sorted(get_attractor_list("continuous_no_delay")):
    model = getattr(dysts.flows, name)()
    exponent = getattr(model, "maximum_lyapunov_estimated", None)
    if np.ndim(model.ic) != 1 or len(model.ic) != 3 or not exponent or exponent <= 0:
        continue
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        times, path = model.make_trajectory(rows, return_times=True)
    except Exception as error:
        print(f"{name}: {error!r}", file=sys.stderr)
        continue
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if path is None or path.shape != (rows, 3) or not np.isfinite(path).all():
        continue
    names.append(name)
    paths.append(path)
    steps.append(times[1] - times[0])
    exponents.append(exponent)
    if len(names) == count:
        break
np.savez(answer, names=names, paths=np.stack(paths), dt=steps, exponents=exponents)
