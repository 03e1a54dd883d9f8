"""A falling hopper: interpolation and extrapolation in the benchmark "MuJoCo physics" of latent ODEs.

The benchmark is that of Rubanova, Chen and Duvenaud, "Latent ODEs for irregularly-sampled time series"
(NeurIPS 2019), section 4.3. dm_control's hopper starts from random positions and velocities and moves without
control. There are 10,000 paths of 200 rows of 14 values; the last fifth are test paths. A tenth to a half of
the first 100 rows of a test path are observed. Interpolation estimates all of these 100 rows, and
extrapolation the 100 rows that follow. Only the first 2,000 training paths are used for fitting, completely
observed.

Two details of the authors' code differ from their paper. Both are followed here, since the results are
compared with the published ones. First, the least value of each coordinate is subtracted and the result
divided by the largest value, not by the range; errors are therefore about four times those of rows in [0, 1],
which are in the columns "by range". Second, rows for interpolation begin anywhere in a path ("any window"),
and extrapolation observes the first 66 rows and estimates the 134 that follow ("third").

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
FITTED, TESTED = 2000, 200  # Numbers of paths used, of 8,000 for training and 2,000 for tests.
DT = 0.005
HALF, THIRD = ROWS // 2, ROWS // 3
SHARES = (0.1, 0.2, 0.3, 0.5)
LEVEL = 0.9


@dataclass(frozen=True)
class Choice:
    """Options of a fit, and number of steps between encodings of a forecast."""

    options: dict[str, Any]
    re_encode: int


# Chosen on training paths that no model was fitted to. The number of steps between encodings that a fit
# chooses suits near and far leads equally and errors in deviations of each value, whereas the mean of all
# squared errors is dominated by far leads.
MODELS = {
    "Fourier": Choice({"observables": 700, "lengths": (0.15, 0.5), "ridge": 1e-4}, 64),
    "cubic": Choice({"basis": "polynomial", "degree": 3, "ridge": 1e-2}, 16),
}
# Mean squared errors times 100 in the published table, by the fraction of observed rows.
PUBLISHED = {
    "interpolation": dict(zip(SHARES, (0.360, 0.295, 0.300, 0.285), strict=True)),
    "extrapolation": dict(zip(SHARES, (1.441, 1.400, 1.175, 1.258), strict=True)),
}


def simulated(count: int, seed: int) -> Real:
    """Paths ``[count, 200, 14]``, positions before velocities. Seed 0 is that of the authors' code.

    Raises ``Unavailable`` without MuJoCo or the model.
    """
    os.environ.setdefault("MUJOCO_GL", "disable")
    try:
        mujoco = importlib.import_module("mujoco")
        text, assets = importlib.import_module("dm_control.suite.hopper").get_model_and_assets()
    except Exception as error:
        raise Unavailable(f"no MuJoCo: {error}") from error
    # dm_control's own stepping needs an exact version of MuJoCo; the model alone does not.
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
    """Paths in the unit of the published errors, and the factor to units of the range."""

    train: Real
    test: Real
    by_range: Real

    @classmethod
    def of(cls, paths: Real, fitted: int, tested: int) -> Problem:
        """The least and largest values are those of all paths, as in the authors' code."""
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
    """The paths with NaN in all rows except a fraction, which is drawn for each path."""
    out = np.full_like(paths, np.nan)
    count = int(paths.shape[1] * share)
    for path, rows in zip(paths, out, strict=True):
        kept = draws.choice(len(path), count, replace=False)
        rows[kept] = path[kept]
    return out


def windows(paths: Real, length: int, draws: np.random.Generator) -> Real:
    """A random window of ``length`` rows of each path."""
    begins = draws.integers(paths.shape[1] - length + 1, size=len(paths))
    return np.stack([path[at : at + length] for path, at in zip(paths, begins, strict=True)])


def straight(observed: Real) -> Real:
    """Linear interpolation between observed rows, constant before the first and after the last."""
    at = np.arange(observed.shape[1])
    out = np.empty_like(observed)
    for path, rows in zip(observed, out, strict=True):
        known = np.flatnonzero(np.isfinite(path[:, 0]))
        for place in range(path.shape[1]):
            rows[:, place] = np.interp(at, known, path[known, place])
    return out


def inside(low: NDArray[Any], high: NDArray[Any], truth: Real, hidden: NDArray[np.bool_]) -> float:
    """Fraction of hidden values, ``[B, T]``, inside intervals ``[T, B, D]``."""
    within = (low <= truth.swapaxes(0, 1)) & (truth.swapaxes(0, 1) <= high)
    return float(within[hidden.T].mean())


def reconstructed(
    model: KoopmanForecaster, problem: Problem, observed: Real, truth: Real
) -> dict[str, float]:
    """Errors of the smoother's means, and coverage of hidden values by its intervals."""
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
    """Forecasts ``[B, ahead, D]`` from observed rows, which are filtered first."""
    found = np.asarray(model.forecast(observed, DT * np.arange(1, ahead + 1), re_encode=re_encode))
    return np.moveaxis(found, 0, 1)


@dataclass(frozen=True)
class Given:
    """Observed rows of test paths at one fraction, the same for every model, and the true rows."""

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
    """Errors of linear interpolation between observed rows and of the mean after them, without a model."""
    later = problem.test[:, HALF:]
    row = problem.errors("interpolation", straight(given.first), problem.test[:, :HALF])
    other = problem.errors("off", straight(given.anywhere), given.window)["off"]
    row["interpolation, any window"] = other
    row |= problem.errors("extrapolation", problem.mean, later)
    return row | {"extrapolation, third": problem.errors("off", problem.mean, problem.test[:, THIRD:])["off"]}


def fitted(problem: Problem, seed: int, choice: Choice) -> tuple[KoopmanForecaster, dict[str, float]]:
    """A model, the time of its fit, and its errors of forecasts from rows without gaps."""
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
    """Errors at every fraction of observed rows, and the published ones; without MuJoCo only the reason."""
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
