"""Other forecasters of convection: a linear recurrent autoencoder, and, run as a program, kooplearn.

The program needs only numpy and kooplearn: ``python convection_rivals.py task.npz answer.npz``. A task has
``paths`` [N, T, D] in one unit, ``starts`` [B, D], ``leads`` and ``rank``. The answer has forecasts
[leads, B, D] of ``n_steps`` and of ``one step repeated``, and the ``seconds`` and processor time, ``worked``,
of the fits, including the choice of options.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
CENTERS = 600
WIDTHS, RIDGES = (0.1, 0.3, 1.0, 3.0), (1e-9, 1e-7, 1e-5)  # Inverse mean squared distances, and ridges.
HIDDEN, UNROLL, BATCH = 128, 25, 64


@dataclass(frozen=True)
class Recurrent:
    """A linear recurrent autoencoder: latents z = encoder(x), z K^n after n rows, decoder(z)."""

    encoder: Any
    decoder: Any
    matrix: Any

    def encode(self, rows: Real) -> Real:
        import torch

        with torch.no_grad():
            return np.asarray(self.encoder(torch.from_numpy(rows).float()).double())

    def forecast(self, starts: Real, leads: Sequence[int]) -> Real:
        """Forecasts ``[leads, B, D]`` with a single encoding."""
        import torch

        with torch.no_grad():
            z = self.encoder(torch.from_numpy(starts).float())
            powers = [torch.linalg.matrix_power(self.matrix, lead) for lead in leads]
            return np.asarray(torch.stack([self.decoder(z @ power) for power in powers]).double())


def lran(paths: Real, rank: int, seed: int, steps: int) -> Recurrent:
    """The autoencoder of Otto and Rowley (SIAM Journal on Applied Dynamical Systems 18, 2019).

    It is trained on paths ``[N, T, D]``. The loss has the errors of rows and of latents over ``UNROLL`` rows
    with equal weights, relative to the size of each row.
    """
    # torch is imported inside functions, since the program's environment does not have it.
    import torch
    from torch import nn

    torch.manual_seed(seed)
    width = paths.shape[2]

    def perceptron(first: int, last: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(first, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, last)
        )

    encoder, decoder = perceptron(width, rank), perceptron(rank, width)
    matrix = nn.Parameter(torch.eye(rank))
    parameters = [*encoder.parameters(), *decoder.parameters(), matrix]
    optimizer = torch.optim.Adam(parameters)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    known = torch.from_numpy(paths).float()
    for _ in range(steps):
        which = torch.randint(len(known), (BATCH, 1))
        first = torch.randint(known.shape[1] - UNROLL, (BATCH, 1))
        windows = known[which, first + torch.arange(UNROLL + 1)]
        z = encoder(windows)
        carried = [z[:, 0]]
        for _ in range(UNROLL):
            carried.append(carried[-1] @ matrix)
        linear = torch.stack(carried, dim=1)
        errors = (decoder(linear) - windows).square().sum(dim=2) / (windows.square().sum(dim=2) + 1e-3)
        hidden = (linear - z).square().sum(dim=2) / (z.square().sum(dim=2) + 1e-3)
        optimizer.zero_grad()
        (errors.mean() + hidden.mean()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return Recurrent(encoder, decoder, matrix.detach())


def kernel(paths: Real, rank: int, width: float, ridge: float) -> Any:
    """Reduced-rank regression with a Gaussian kernel on random rows."""
    from kooplearn.kernel import NystroemKernelRidge  # type: ignore[import-not-found]

    count, length, size = paths.shape
    # It reads one path. Those of all paths in turn, with a lag of their number, make the same pairs of rows.
    rows = paths.swapaxes(0, 1).reshape(count * length, size)
    return NystroemKernelRidge(
        n_components=rank,
        lag_time=count,
        kernel="rbf",
        gamma=width / (2.0 * float(rows.var(axis=0).sum())),
        alpha=ridge,
        n_centers=min(CENTERS, len(rows) // 2),
        eigen_solver="dense",
        random_state=0,
    ).fit(rows)


def together(model: Any, starts: Real, leads: Sequence[int]) -> Real:
    return np.stack([np.real(model.predict(starts, n_steps=lead)) for lead in leads])


def again(model: Any, starts: Real, leads: Sequence[int]) -> Real:
    out, x = [], starts
    for lead in range(1, leads[-1] + 1):
        x = np.clip(np.nan_to_num(np.real(model.predict(x))), -1e3, 1e3)
        if lead in leads:
            out.append(x)
    return np.stack(out)


def main() -> None:
    with np.load(sys.argv[1]) as found:
        task = dict(found)
    paths, leads, rank = task["paths"], task["leads"].tolist(), int(task["rank"])
    begun, worked = time.perf_counter(), time.process_time()
    # Widths and ridges are chosen as in koopflow: on a fifth of the paths, over near and far leads.
    kept = max(len(paths) // 5, 1)
    held, last = paths[-kept:], paths.shape[1] - leads[-1]
    starts = held[:, :last:5].reshape(-1, paths.shape[2])
    truth = np.stack([held[:, lead : last + lead : 5].reshape(-1, paths.shape[2]) for lead in leads])
    answers: dict[str, Any] = {}
    models = {pair: kernel(paths[:-kept], rank, *pair) for pair in product(WIDTHS, RIDGES)}
    for name, forecast in (("n_steps", together), ("one step repeated", again)):
        errors = {}
        for pair, model in models.items():
            each = ((forecast(model, starts, leads) - truth) ** 2).sum(axis=2).mean(axis=1)
            errors[pair] = float(np.sqrt(each).mean())
        best = min(errors, key=lambda pair: errors[pair] if np.isfinite(errors[pair]) else np.inf)
        answers[name] = forecast(kernel(paths, rank, *best), task["starts"], leads)
        answers[f"{name}, chosen"] = np.array([*best, errors[best]])
    answers |= {"seconds": time.perf_counter() - begun, "worked": time.process_time() - worked}
    np.savez(sys.argv[2], **answers)


if __name__ == "__main__":
    main()
