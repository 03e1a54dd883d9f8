"""Normalising flows of other libraries, trained on the same samples in the same processor time.

They are zuko's neural spline flow and nflows' RealNVP, with the settings of their own examples.
``pip install zuko nflows`` installs them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from koopflow import _core
from koopflow.steering.reliability import pareto_k

BATCH, LEARNING_RATE = 256, 1e-3
FEWEST = 50  # Number of training steps between two checks of the time.


def spline_flow(d: int) -> Any:
    import zuko

    return zuko.flows.NSF(d, transforms=3, hidden_features=(64, 64))


def real_nvp(d: int) -> Any:
    from nflows.flows.realnvp import SimpleRealNVP

    return SimpleRealNVP(features=d, hidden_features=64, num_layers=8, num_blocks_per_layer=2)


RIVALS: dict[str, Callable[[int], Any]] = {"zuko NSF": spline_flow, "nflows RealNVP": real_nvp}


def log_prob(flow: Any, x: torch.Tensor) -> torch.Tensor:
    """Log densities. zuko's flows are modules that return a distribution; nflows' are distributions."""
    return flow.log_prob(x) if hasattr(flow, "log_prob") else flow().log_prob(x)


def draws(flow: Any, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    if hasattr(flow, "sample_and_log_prob"):
        return flow.sample_and_log_prob(count)
    return flow().rsample_and_log_prob((count,))


def measure(
    data: NDArray[np.float32],
    energy: Callable[[torch.Tensor], torch.Tensor],
    log_z: float,
    seconds: float,
    count: int,
    seed: int,
) -> dict[str, float]:
    """Effective fractions and errors of log Z after ``seconds`` of maximum likelihood, in processor time."""
    row: dict[str, float] = {}
    points, device_random = torch.from_numpy(data), torch.random.get_rng_state()
    for name, make in RIVALS.items():
        torch.manual_seed(seed)
        flow = make(data.shape[1])
        optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE)
        begun, steps = time.process_time(), 0
        while (spent := time.process_time() - begun) < seconds:
            for group in optimizer.param_groups:
                # A cosine schedule over the time, like koopflow's over its steps.
                group["lr"] = LEARNING_RATE * 0.5 * (1.0 + math.cos(math.pi * min(spent / seconds, 1.0)))
            for _ in range(FEWEST):
                batch = points[torch.randint(len(points), (BATCH,))]
                loss = -log_prob(flow, batch).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
                optimizer.step()
            steps += FEWEST
        with torch.no_grad():
            x, density = draws(flow, count)
            logs = (-energy(x).double() - density.double()).numpy()
        logs = np.where(np.isfinite(logs), logs, -np.inf)
        size, _, mean = _core.weighed(logs, resamples=1)
        row[f"{name}: effective share"] = size / count
        row[f"{name}: Pareto k"] = pareto_k(logs)
        row[f"{name}: log Z off by"] = abs(mean - log_z)
        row[f"{name}: steps"] = float(steps)
    torch.random.set_rng_state(device_random)
    return row
