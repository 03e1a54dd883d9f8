"""Part 7: Rayleigh-Bénard convection in the plane: fields of 2,048 values that move in few directions."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from koopflow import KoopmanForecaster

from . import convection_rivals, rivals
from .clock import WALL, WORKED, Clock
from .environments import Unavailable, interpreter, last_line
from .rayleigh_benard import HEIGHT, WIDTH, Convection
from .scores import Real, deviation


@dataclass(frozen=True)
class Problem:
    """Options of the paths: time of a row, steps of the solver in it, and rows left out at the beginning.

    A row lasts a fiftieth to a fifteenth of the turnover time of the fluid.
    """

    row: float
    substeps: int
    spin_up: int


PROBLEMS = {1e4: Problem(2e-3, 20, 10), 1e5: Problem(1e-3, 50, 20), 1e6: Problem(3e-4, 100, 33)}
FITTED, TESTED, ROWS = 16, 4, 150
LEADS = (1, 5, 20, 50)  # Lead times of the errors, in rows.
RANKS, MORE, LATENTS = (16, 5), 64, 5
EVERY = 5  # Number of rows between the starts of two forecasts.


@dataclass(frozen=True)
class Data:
    """Temperatures ``[N, T, 1, 32, 64]`` to fit to, and others to test on, a time ``dt`` apart."""

    paths: Real
    held: Real
    dt: float

    @cached_property
    def along(self) -> Principal:
        """The principal components of the fit's data, as many as hold nearly all variance."""
        return Principal.of(self.paths, MORE)

    @property
    def last(self) -> int:
        """The first row from which no forecast starts."""
        return int(self.held.shape[1]) - LEADS[-1]

    @property
    def starts(self) -> Real:
        """The starts of forecasts, ``[B, 1, 32, 64]``."""
        return self.held[:, : self.last : EVERY].reshape(-1, *self.held.shape[2:])

    def truth(self, lead: int) -> Real:
        """The fields that follow the starts after ``lead`` rows, ``[B, 1, 32, 64]``."""
        return self.held[:, lead : self.last + lead : EVERY].reshape(-1, *self.held.shape[2:])


def data(rayleigh: float, seed: int, *, quick: bool = False) -> Data:
    """Sequences from different initial disturbances, after convection has set in."""
    problem, fluid = PROBLEMS[rayleigh], Convection(rayleigh)
    fitted, tested, rows = (4, 2, LEADS[-1] + 10) if quick else (FITTED, TESTED, ROWS)
    dt = problem.row / problem.substeps
    if quick:
        problem = Problem(5 * dt, 5, problem.spin_up)
    states = fluid.run(fluid.begin(fitted + tested, seed), dt, problem.substeps)
    seen = islice(states, problem.spin_up, problem.spin_up + rows)
    out = np.stack([fluid.fields(state[:, 1]) for state in seen], axis=1)[:, :, None]
    if not np.isfinite(out).all():
        raise FloatingPointError(
            f"the solver's step {dt:g} is too long for a Rayleigh number of {rayleigh:g}"
        )
    return Data(out[:fitted], out[fitted:], problem.row)


class Scorer:
    """Errors of forecasts in deviations of the data. Forecasting the mean has the error 1."""

    def __init__(self, given: Data) -> None:
        self.given, self.scale = given, deviation(given.paths.reshape(*given.paths.shape[:2], -1))

    def error(self, forecast: Real, truth: Real) -> float:
        away = (forecast - truth).reshape(len(truth), -1)
        with np.errstate(over="ignore", invalid="ignore"):
            found = float(np.sqrt((away**2).sum(axis=1).mean())) / self.scale
        return found if np.isfinite(found) else float("inf")

    def row(self, forecasts: Real) -> dict[str, float]:
        """Errors by lead of forecasts ``[leads, B, ...]``."""
        pairs = zip(LEADS, forecasts, strict=True)
        return {f"NRMSE, {lead} rows": self.error(found, self.given.truth(lead)) for lead, found in pairs}


@dataclass(frozen=True)
class Principal:
    """Rows ``[..., 1, 32, 64]`` along principal components of the data, in the data's deviation."""

    mean: Real
    basis: Real
    scale: float

    @classmethod
    def of(cls, paths: Real, count: int) -> Principal:
        rows = paths.reshape(-1, HEIGHT * WIDTH)
        away = rows - rows.mean(axis=0)
        few = len(away) < away.shape[1]  # The products of the fewer, rows or numbers of one.
        directions = np.linalg.eigh(away @ away.T if few else away.T @ away)[1][:, : -count - 1 : -1]
        basis = np.linalg.qr(away.T @ directions)[0] if few else directions
        return cls(rows.mean(axis=0), basis, float(np.sqrt((away**2).sum(axis=1).mean())))

    def first(self, count: int) -> Principal:
        return Principal(self.mean, self.basis[:, :count], self.scale)

    def into(self, fields: Real) -> Real:
        flat = fields.reshape(*fields.shape[:-3], HEIGHT * WIDTH)
        return np.asarray((flat - self.mean) @ self.basis / self.scale)

    def out(self, coordinates: Real) -> Real:
        flat = coordinates @ self.basis.T * self.scale + self.mean
        return np.asarray(flat.reshape(*flat.shape[:-1], 1, HEIGHT, WIDTH))


def forecasters(rank: int, seed: int, *, quick: bool = False) -> dict[str, KoopmanForecaster]:
    """koopflow's forecasters of fields that are reduced to ``rank`` principal components."""
    return {
        "koopflow": KoopmanForecaster(components=rank, observables=40 if quick else None, seed=seed),
        "koopflow, polynomial of degree 1": KoopmanForecaster(
            components=rank, basis="polynomial", degree=1, seed=seed
        ),
    }


def own(given: Data, rank: int, seed: int, *, quick: bool = False) -> Iterator[tuple[str, dict[str, float]]]:
    """Rows of koopflow's forecasters, by default and with a single encoding."""
    times, leads, scorer = (
        given.dt * np.arange(given.paths.shape[1]),
        given.dt * np.array(LEADS),
        Scorer(given),
    )
    for name, model in forecasters(rank, seed, quick=quick).items():
        clock = Clock()
        model.fit(given.paths, times, progress=False)
        took = clock.row()
        for text, choice in (("", "auto"), (", never encoded anew", "never")):
            if text and "polynomial" in name:
                continue
            forecast = np.asarray(model.forecast(given.starts, leads, re_encode=choice))
            yield f"{name}{text}, r = {rank}", scorer.row(forecast) | took


def kernel_dmd(
    given: Data, rank: int, folder: Path, seconds: float
) -> Iterator[tuple[str, dict[str, float]]]:
    """Rows of kooplearn, in its own environment, on the components that hold nearly all variance."""
    along, label = given.along, f"kooplearn, Nyström reduced rank, r = {rank}"
    try:
        python = interpreter("kooplearn", folder)
        with tempfile.TemporaryDirectory() as place:
            task, answer = Path(place) / "task.npz", Path(place) / "answer.npz"
            arrays: dict[str, Any] = {"paths": along.into(given.paths), "starts": along.into(given.starts)}
            np.savez(task, leads=np.array(LEADS), rank=rank, **arrays)
            environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            script = Path(convection_rivals.__file__)
            try:
                done = subprocess.run(
                    [str(python), "-W", "ignore", str(script), str(task), str(answer)],
                    capture_output=True,
                    text=True,
                    timeout=seconds,
                    env=environment | {"OMP_NUM_THREADS": "1"},
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise Unavailable(f"not done in {seconds:.0f} s") from None
            if done.returncode or not answer.exists():
                raise Unavailable(last_line(done.stderr, f"ended with {done.returncode}"))
            with np.load(answer) as found:
                numbers = dict(found)
    except Unavailable as error:
        yield f"{label}: {error}", {}
        return
    took = {WALL: float(numbers["seconds"]), WORKED: float(numbers["worked"])}
    for name in ("n_steps", "one step repeated"):
        yield f"{label}, {name}", Scorer(given).row(along.out(numbers[name])) | took


def described(latents: Real, rows: Real) -> dict[str, float]:
    """Redundancy of latents ``[R, r]``, and the energy of rows that they explain linearly.

    The determinant of their correlations is 1 if they are orthogonal, and 0 if one is a combination of
    others.
    """
    z, y = latents - latents.mean(axis=0), rows.reshape(len(rows), -1)
    y = y - y.mean(axis=0)
    spread = z.std(axis=0)
    z = z[:, spread > 1e-12 * max(float(spread.max()), 1e-300)]  # Without the constant, if it is among them.
    left = y - z @ np.linalg.lstsq(z, y, rcond=None)[0]
    correlations = np.atleast_2d(np.corrcoef(z.T))
    return {
        "latents": float(z.shape[1]),
        "determinant of correlations": float(np.linalg.det(correlations)),
        "explained energy, %": 100.0 * (1.0 - float((left**2).sum() / (y**2).sum())),
    }


def latents(
    given: Data, seed: int, learnt: convection_rivals.Recurrent, *, quick: bool = False
) -> dict[str, dict[str, float]]:
    """Orthogonality and explained energy, on the data of the fit, of five latents of each kind."""
    rows = given.paths.reshape(-1, *given.paths.shape[2:])
    model = KoopmanForecaster(components=RANKS[0], rank=LATENTS, observables=40 if quick else None, seed=seed)
    model.fit(given.paths, given.dt * np.arange(given.paths.shape[1]), progress=False)
    found = {
        f"five latents: koopflow, components={RANKS[0]}, rank=5": np.asarray(model.encode(rows)),
        "five latents: principal components": given.along.first(LATENTS).into(rows),
        "five latents: LRAN": learnt.encode(given.along.into(rows)),
    }
    return {name: described(z, rows) for name, z in found.items()}


def measure(
    rayleigh: float,
    seed: int,
    others: rivals.Rivals | None = None,
    *,
    quick: bool = False,
    steps: int = 1500,
    given: Data | None = None,
) -> dict[str, dict[str, float]]:
    """Rows of every forecaster at a Rayleigh number.

    ``others`` has the environment of kooplearn; None leaves it out. ``given`` are data made before.
    """
    given = data(rayleigh, seed, quick=quick) if given is None else given
    scorer, steps = Scorer(given), 5 if quick else steps
    rows = {"persistence": scorer.row(np.stack([given.starts] * len(LEADS)))}
    along, learnt = given.along, {}
    begin = along.into(given.starts)
    for rank in RANKS:
        exact = along.first(rank)
        least = np.stack([exact.out(exact.into(given.truth(lead))) for lead in LEADS])
        rows[f"least error of {rank} components"] = scorer.row(least)
        rows |= dict(own(given, rank, seed, quick=quick))
        if others is not None and "kooplearn" in others.names:
            rows |= dict(kernel_dmd(given, rank, others.folder, others.seconds))
        clock = Clock()
        learnt[rank] = convection_rivals.lran(along.into(given.paths), rank, seed, steps)
        took = clock.row()
        rows[f"LRAN, r = {rank}"] = scorer.row(along.out(learnt[rank].forecast(begin, LEADS))) | took
        print(f"convection, Ra {rayleigh:g}, seed {seed}: {rows}", flush=True)
    if not quick:
        rows |= dict(own(given, MORE, seed))
    return rows | latents(given, seed, learnt[LATENTS], quick=quick)
