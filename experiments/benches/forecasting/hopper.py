"""A hopper that falls: the benchmark "MuJoCo physics" of latent ODEs, with gaps and beyond what was seen.

Rubanova, Chen and Duvenaud, "Latent ODEs for irregularly-sampled time series" (NeurIPS 2019), section 4.3.
The model of dm_control's hopper begins with random positions and velocities and is left alone: 10,000 paths
of 200 rows of 14 numbers, the last fifth of them for tests. Of the first 100 rows of a test path a tenth to a
half are seen. Interpolation says all of these 100, extrapolation the 100 that follow. Of the train paths
only the first 2,000 are fitted to, seen whole.

Two things in the authors' code are not in their paper, and both are followed here, as the published numbers
are compared with. Rows are divided by their largest value after the least is taken off, not by the range, so
that errors are about four times those of rows in [0, 1], which columns "by range" have. Rows for
interpolation begin anywhere in a path ("any window"), and extrapolation sees the first 66 rows and says the
134 that follow ("third").

    python -m experiments.benches.forecasting.hopper --seeds 0
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koopflow import KoopmanForecaster

from ..flow_spectrum.tables import plain
from .clock import WORKED, Clock
from .environments import Unavailable
from .scores import Real

PATHS, ROWS, WIDTH, TRAINED = 10_000, 200, 14, 0.8
FITTED, TESTED = 2000, 200  # Of 8,000 and of 2,000.
DT = 0.005
HALF, THIRD = ROWS // 2, ROWS // 3
SHARES = (0.1, 0.2, 0.3, 0.5)
LEVEL = 0.9


@dataclass(frozen=True)
class Choice:
    """Options of a fit, and steps between encodings of a forecast."""

    options: dict[str, Any]
    re_encode: int


# Chosen on train paths that no model was fitted to. Encoding anew as often as a fit chooses is for leads near
# and far alike and for deviations of each number; the mean of all squared errors is one of far leads.
MODELS = {
    "Fourier": Choice({"observables": 700, "lengths": (0.15, 0.5), "ridge": 1e-4}, 64),
    "cubic": Choice({"basis": "polynomial", "degree": 3, "ridge": 1e-2}, 16),
}
# Mean squared errors times 100 of the published table, by the share that is seen.
PUBLISHED = {
    "interpolation": dict(zip(SHARES, (0.360, 0.295, 0.300, 0.285), strict=True)),
    "extrapolation": dict(zip(SHARES, (1.441, 1.400, 1.175, 1.258), strict=True)),
}


def simulated(count: int, seed: int) -> Real:
    """Paths ``[count, 200, 14]``, positions before velocities. Seed 0 begins as the authors' code does.

    Raises ``Unavailable`` without MuJoCo or the model.
    """
    os.environ.setdefault("MUJOCO_GL", "disable")
    try:
        mujoco = importlib.import_module("mujoco")
        text, assets = importlib.import_module("dm_control.suite.hopper").get_model_and_assets()
    except Exception as error:
        raise Unavailable(f"no MuJoCo: {error}") from error
    # dm_control's own stepping wants a MuJoCo of its very version; the model alone does not.
    text = text.decode() if isinstance(text, bytes) else text
    model = mujoco.MjModel.from_xml_string(text, assets)
    data = mujoco.MjData(model)
    draws = np.random.RandomState(123 + seed)
    out = np.empty((count, ROWS, WIDTH))
    for path in out:
        mujoco.mj_resetData(model, data)
        data.qpos[:2] = draws.uniform(0.0, 0.5, size=2)
        data.qpos[2:] = draws.uniform(-2.0, 2.0, size=WIDTH // 2 - 2)
        data.qvel[:] = draws.uniform(-5.0, 5.0, size=WIDTH // 2)
        for row in path:
            row[: WIDTH // 2], row[WIDTH // 2 :] = data.qpos, data.qvel
            mujoco.mj_step(model, data)
    return out


@dataclass(frozen=True)
class Problem:
    """Paths in the unit of the published errors, and what an error is in units of the range."""

    train: Real
    test: Real
    by_range: Real

    @classmethod
    def of(cls, paths: Real, fitted: int, tested: int) -> Problem:
        """The least and largest values are those of all paths, as the authors have it."""
        low, high = paths.min(axis=(0, 1)), paths.max(axis=(0, 1))
        scaled = (paths - low) / high
        first = round(len(paths) * TRAINED)
        return cls(scaled[: min(first, fitted)], scaled[first : first + tested], high / (high - low))

    @cached_property
    def mean(self) -> Real:
        return np.asarray(self.train.mean(axis=(0, 1)))

    def errors(self, name: str, found: Real, truth: Real) -> dict[str, float]:
        """Mean squared errors times 100, in both units."""
        off = found - truth
        return {
            name: 100.0 * float((off**2).mean()),
            f"{name}, by range": 100.0 * float(((off * self.by_range) ** 2).mean()),
        }


def seen(paths: Real, share: float, draws: np.random.Generator) -> Real:
    """The same paths with NaN in all rows but a share of each, drawn anew for every path."""
    out = np.full_like(paths, np.nan)
    count = int(paths.shape[1] * share)
    for path, rows in zip(paths, out, strict=True):
        kept = draws.choice(len(path), count, replace=False)
        rows[kept] = path[kept]
    return out


def windows(paths: Real, length: int, draws: np.random.Generator) -> Real:
    """As many rows of each path, from anywhere in it."""
    begins = draws.integers(paths.shape[1] - length + 1, size=len(paths))
    return np.stack([path[at : at + length] for path, at in zip(paths, begins, strict=True)])


def straight(observed: Real) -> Real:
    """Straight lines between the rows that were seen, which stay before the first and after the last."""
    at = np.arange(observed.shape[1])
    out = np.empty_like(observed)
    for path, rows in zip(observed, out, strict=True):
        known = np.flatnonzero(np.isfinite(path[:, 0]))
        for place in range(path.shape[1]):
            rows[:, place] = np.interp(at, known, path[known, place])
    return out


def inside(low: NDArray[Any], high: NDArray[Any], truth: Real, hidden: NDArray[np.bool_]) -> float:
    """Share of what was hidden, ``[B, T]``, that lies in intervals ``[T, B, D]``."""
    within = (low <= truth.swapaxes(0, 1)) & (truth.swapaxes(0, 1) <= high)
    return float(within[hidden.T].mean())


def reconstructed(
    model: KoopmanForecaster, problem: Problem, observed: Real, truth: Real
) -> dict[str, float]:
    """Errors of the smoother's means, and how often its intervals hold what was hidden."""
    clock = Clock()
    found = model.smooth(observed, DT * np.arange(observed.shape[1]))
    took = clock.row()
    low, high = (np.asarray(end) for end in found.interval(LEVEL))
    errors = problem.errors("interpolation", np.asarray(found.mean).swapaxes(0, 1), truth)
    hidden = ~np.isfinite(observed[..., 0])
    return errors | {
        f"coverage of {LEVEL:.0%}": inside(low, high, truth, hidden),
        "smooth, CPU s": took[WORKED],
    }


def extrapolated(model: KoopmanForecaster, observed: Real, ahead: int, re_encode: int) -> Real:
    """Forecasts ``[B, ahead, D]`` from what was seen, which is filtered first."""
    found = np.asarray(model.forecast(observed, DT * np.arange(1, ahead + 1), re_encode=re_encode))
    return np.moveaxis(found, 0, 1)


@dataclass(frozen=True)
class Given:
    """What is seen of test paths at one share, the same for every model, and what is to be said."""

    first: Real
    anywhere: Real
    third: Real
    window: Real

    @classmethod
    def of(cls, paths: Real, share: float, seed: int) -> Given:
        draws = np.random.default_rng([seed, round(100 * share)])
        window = windows(paths, HALF, draws)
        first = seen(paths[:, :HALF], share, draws)
        anywhere = seen(window, share, draws)
        return cls(first, anywhere, seen(paths[:, :THIRD], share, draws), window)


def of_model(model: KoopmanForecaster, problem: Problem, given: Given, re_encode: int) -> dict[str, float]:
    """Errors of a fitted model."""
    first, later, last = problem.test[:, :HALF], problem.test[:, HALF:], problem.test[:, THIRD:]
    row = reconstructed(model, problem, given.first, first)
    other = reconstructed(model, problem, given.anywhere, given.window)
    row["interpolation, any window"] = other["interpolation"]
    found = extrapolated(model, given.first, ROWS - HALF, re_encode)
    row |= problem.errors("extrapolation", found, later)
    found = extrapolated(model, given.third, ROWS - THIRD, re_encode)
    return row | {"extrapolation, third": problem.errors("off", found, last)["off"]}


def of_lines(problem: Problem, given: Given) -> dict[str, float]:
    """Errors of straight lines between what was seen and of the mean after it: nothing of the motion."""
    later = problem.test[:, HALF:]
    row = problem.errors("interpolation", straight(given.first), problem.test[:, :HALF])
    other = problem.errors("off", straight(given.anywhere), given.window)["off"]
    row["interpolation, any window"] = other
    row |= problem.errors("extrapolation", problem.mean, later)
    return row | {"extrapolation, third": problem.errors("off", problem.mean, problem.test[:, THIRD:])["off"]}


def fitted(problem: Problem, seed: int, choice: Choice) -> tuple[KoopmanForecaster, dict[str, float]]:
    """A model, and what its fit took; with errors of forecasts that begin with rows seen without gaps."""
    clock = Clock()
    times = DT * np.arange(problem.train.shape[1])
    model = KoopmanForecaster(seed=seed, **choice.options).fit(problem.train, times, progress=False)
    took = clock.row()
    rows = problem.test[:, HALF - model.history : HALF]
    begin = rows[:, 0] if model.history == 1 else rows
    later = problem.test[:, HALF:]
    found = extrapolated(model, begin, ROWS - HALF, choice.re_encode)
    return model, problem.errors("extrapolation", found, later) | took


def measure(
    seed: int, *, quick: bool = False, models: Sequence[str] = tuple(MODELS)
) -> dict[str, dict[str, float]]:
    """Errors at every share that is seen, beside the published ones; without MuJoCo a row that says why."""
    try:
        paths = simulated(30 if quick else PATHS, seed)
    except Unavailable as error:
        return {str(error): {}}
    problem = Problem.of(paths, FITTED, TESTED)
    shares = SHARES[::3] if quick else SHARES
    given = {share: Given.of(problem.test, share, seed) for share in shares}
    rows: dict[str, dict[str, float]] = {}

    def say(name: str, row: dict[str, float]) -> None:
        rows[name] = row
        print(f"hopper, seed {seed}: {name}: {row}", flush=True)

    for share, these in given.items():
        say(f"{share:.0%} seen: latent ODE, published", {name: row[share] for name, row in PUBLISHED.items()})
        say(f"{share:.0%} seen: straight lines, then the mean", of_lines(problem, these))
    for name in models:
        choice = MODELS[name]
        model, row = fitted(problem, seed, choice)
        say(f"all seen: koopflow, {name}", row)
        print(model.summary(), flush=True)
        for share, these in given.items():
            row = of_model(model, problem, these, choice.re_encode)
            say(f"{share:.0%} seen: koopflow, {name}", row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args()
    table: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name, row in measure(seed, quick=options.quick, models=options.models).items():
            table.setdefault(name, []).append(row)
    if options.output:
        options.output.write_text(json.dumps(table, indent=2) + "\n")
    print(plain(table))


if __name__ == "__main__":
    main()
