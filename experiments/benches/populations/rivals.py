"""Other methods for populations through snapshots: torchcfm's loop, McCann's interpolation, MIOFlow."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher
from torchcfm.models.models import MLP
from torchdiffeq import odeint

from ..forecasting.environments import Unavailable, last_line
from .problems import Problem

Real = NDArray[np.float64]
MIOFLOW = "mioflow==0.1.14"


def midpoint(problem: Problem, time: float, seed: int) -> Real:
    """McCann's interpolation with the exact transport plan between the snapshots around a time."""
    k = int(np.searchsorted(problem.times, time)) - 1
    before, after = problem.snapshots[k], problem.snapshots[k + 1]
    share = (time - problem.times[k]) / (problem.times[k + 1] - problem.times[k])
    plan = np.asarray(ot.emd([], [], ot.dist(before, after), numItermax=1_000_000))
    random = np.random.default_rng([seed, 6])
    drawn = random.choice(plan.size, size=len(after), p=plan.ravel() / plan.sum())
    rows, columns = np.unravel_index(drawn, plan.shape)
    return (1.0 - share) * before[rows] + share * after[columns]


def torchcfm(problem: Problem, starts: Real, times: list[float], seed: int, steps: int) -> Real:
    """States ``[T, B, d]`` at times, by the loop of torchcfm's single-cell example.

    Each step has a minibatch of every interval, coupled by optimal transport, in standardised coordinates.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng([seed, 8])
    mean, scale = _standard(problem)
    sets = [torch.from_numpy((rows - mean) / scale).float() for rows in problem.snapshots]
    at = torch.tensor(problem.times)
    at = (at - at[0]) / (at[-1] - at[0])
    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.1)
    model = MLP(dim=mean.size, time_varying=True, w=64)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(steps):
        parts = []
        for k in range(len(sets) - 1):
            x0, x1 = (rows[random.integers(len(rows), size=128)] for rows in sets[k : k + 2])
            t, x, u = matcher.sample_location_and_conditional_flow(x0, x1)
            length = at[k + 1] - at[k]
            parts.append((at[k] + length * t, x, u / length))
        t, x, u = (torch.cat(part) for part in zip(*parts, strict=True))
        loss = (model(torch.cat([x, t[:, None]], 1)) - u).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    grid = (torch.tensor([problem.times[0], *times]) - problem.times[0]) / (
        problem.times[-1] - problem.times[0]
    )

    def velocity(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = model(torch.cat([x, t.expand(len(x), 1)], 1))
        return answer

    return _solved(velocity, (starts - mean) / scale, grid) * scale + mean


def mioflow(problem: Problem, starts: Real, times: list[float], seed: int, epochs: int, folder: Path) -> Real:
    """States by MIOFlow's own ODE, losses and training, in standardised coordinates.

    Its autoencoder is left out, since a few dimensions do not need it. Raises ``Unavailable`` if MIOFlow
    cannot be installed.
    """
    place = str(installed(MIOFLOW, folder))
    if place not in sys.path:
        sys.path.insert(0, place)
    sys.modules.setdefault("phate", types.ModuleType("phate"))  # Only the autoencoder needs it.
    from mioflow.core.datasets import TimeSeriesDataset
    from mioflow.core.models.ode_model import ODEFunc
    from mioflow.mioflow import train_mioflow

    torch.manual_seed(seed)
    mean, scale = _standard(problem)
    at = np.asarray(problem.times)
    unit = (at[-1] - at[0]) / (len(at) - 1)
    sets = [
        (((rows - mean) / scale).astype(np.float32), float((time - at[0]) / unit))
        for rows, time in zip(problem.snapshots, at, strict=True)
    ]
    model = ODEFunc(input_dim=mean.size, hidden_dim=64)
    with contextlib.redirect_stderr(io.StringIO()):  # Hides the progress bar.
        train_mioflow(model, TimeSeriesDataset(sets), epochs, device="cpu", lambda_density=0.0)
    grid = (torch.tensor([at[0], *times]) - at[0]) / unit
    return _solved(model, (starts - mean) / scale, grid) * scale + mean


def installed(requirement: str, folder: Path) -> Path:
    """A folder with a package but without its requirements, which this environment has."""
    place = folder.resolve() / requirement.split("==")[0]
    if not place.exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(place),
            requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"not installed: {last_line(done.stderr, 'pip failed')}")
    return place


def _standard(problem: Problem) -> tuple[Real, Real]:
    every = np.concatenate(problem.snapshots)
    return every.mean(0), every.std(0)


def _solved(velocity: object, starts: Real, grid: torch.Tensor) -> Real:
    with torch.no_grad():
        states = odeint(velocity, torch.from_numpy(starts).float(), grid.float(), rtol=1e-5, atol=1e-5)
    return np.asarray(states[1:].double())
