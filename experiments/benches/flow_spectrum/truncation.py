"""Number of modes that a flow needs, compared with optimal components and with a generator's modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koopflow import FlowSpectrum

from .agreement import columns
from .models import Models

Real = NDArray[np.float64]
COUNTS = (1, 2, 6, 12, 23, 61)
SHARE = 0.1


def trapezium(times: Real) -> Real:
    steps = np.diff(times)
    return np.asarray((np.r_[steps, 0.0] + np.r_[0.0, steps]) / 2.0)


def optimum(rest: Real, weights: Real, counts: Sequence[int]) -> Real:
    """Relative RMS errors of the best approximations of ``rest`` ``[T, B, d]`` by k components.

    The components in space and time are chosen for these samples themselves, by singular values without a
    mean.
    """
    flat = (rest * np.sqrt(weights)[:, None, None]).transpose(1, 0, 2).reshape(rest.shape[1], -1)
    gram = flat @ flat.T if flat.shape[0] < flat.shape[1] else flat.T @ flat
    energy = np.clip(np.linalg.eigvalsh(gram)[::-1], 0.0, None)
    held = np.r_[0.0, np.cumsum(energy)] / max(float(energy.sum()), 1e-300)
    return np.asarray(np.sqrt(np.clip([1.0 - held[min(k, len(energy))] for k in counts], 0.0, None)))


def fewest(counts: Sequence[int], errors: Sequence[float], bar: float) -> float:
    """The first count whose error is at most ``bar``; NaN if there is none."""
    return float(next((k for k, error in zip(counts, errors, strict=True) if error <= bar), np.nan))


def remainder(spectrum: FlowSpectrum, noise: NDArray[Any]) -> tuple[Real, Real]:
    """Paths without drift and affine part, ``[T, B, d]``, and the amplitudes ``[B, K]``, of some noise."""
    paths = np.asarray(spectrum.source.states(noise, spectrum.times.tolist(), None))
    base = np.stack([np.asarray(spectrum.base(noise, t=float(t))) for t in spectrum.times])
    rest = (paths.astype(np.float64) - base).reshape(*paths.shape[:2], -1)
    return rest, spectrum.amplitudes_of_paths(paths)


def over_time(spectrum: FlowSpectrum, rest: Real, amplitudes: Real, counts: Sequence[int]) -> Real:
    """RMS errors of the first k modes over all times, divided by the RMS of ``rest``."""
    weights, squares = trapezium(spectrum.times), np.zeros(len(counts))
    for t, weight, left in zip(spectrum.times, weights, rest, strict=True):
        modes = spectrum.modes_at(float(t)).reshape(len(spectrum), -1)
        for place, k in enumerate(counts):
            squares[place] += weight * ((left - amplitudes[:, :k] @ modes[:k]) ** 2).sum()
    whole = max(float((weights * (rest**2).sum(axis=(1, 2))).sum()), 1e-300)
    return np.asarray(np.sqrt(squares / whole))


def measure(models: Models, seeds: Sequence[int], students: int, n: int = 2000) -> dict[str, Any]:
    """Errors by k canonical modes of a problem's teachers, and numbers of modes that its students need."""
    result: dict[str, Any] = {"counts": [], "canonical": [], "optimum": []}
    rows = []
    for seed in seeds:
        spectrum = models.spectrum(seed)
        noise = (
            np.random.default_rng(10_000 + seed).normal(size=(n, *spectrum.event_shape)).astype(np.float32)
        )
        rest, amplitudes = remainder(spectrum, noise)
        counts = [k for k in COUNTS if k <= len(spectrum)]
        result["counts"] = counts if not result["counts"] else [k for k in result["counts"] if k in counts]
        result["canonical"].append(over_time(spectrum, rest, amplitudes, counts).tolist())
        result["optimum"].append(optimum(rest, trapezium(spectrum.times), counts).tolist())
        for number in range(students):
            rows.append(needed(models, seed, number, noise[:500]))
    result["needed"] = columns(rows)
    shown = len(result["counts"])
    for name in ("canonical", "optimum"):
        result[name] = [errors[:shown] for errors in result[name]]
    return result


def needed(models: Models, seed: int, number: int, noise: NDArray[Any]) -> dict[str, float]:
    """Numbers of modes with which a student's samples reach three error levels.

    They are counted for its canonical modes (added to drift and affine part) and for those of its generator
    (added to the drift). ``whole``: RMS error of 10% of the displacement of samples without the drift, as in
    ``Spectrum.truncation_curve``. ``energy``: 10% of the energy of the remainder that is not affine. ``rms``:
    10% of the RMS of that remainder, which is 1% of its energy.
    """
    student, flow = models.student(seed, number), models.spectrum(seed, number)
    generator: Any = student.spectrum()
    end = np.asarray(student.sample(x0=noise)).astype(np.float64)
    rest = rms(end - np.asarray(flow.base(noise)))
    moved = {"canonical": rms(end - np.asarray(flow.base(noise, affine=False)))}
    moved["today"] = rms(end - np.asarray(generator.base(noise)))
    own = np.arange(len(flow) + 1)
    errors = {"canonical": flow.truncation_curve(noise, counts=own.tolist())[1] * rest}
    theirs, shares = generator.truncation_curve(noise, counts=range(len(generator) + 1))
    errors["today"] = shares * moved["today"]
    row: dict[str, float] = {}
    for name, counts in (("canonical", own), ("today", theirs)):
        bars = {"whole": SHARE * moved[name], "energy": np.sqrt(SHARE) * rest, "rms": SHARE * rest}
        for bar, value in bars.items():
            row[f"{name}_{bar}"] = fewest(counts.tolist(), errors[name].tolist(), value)
    return row | {"all_canonical": float(len(flow)), "all_today": float(len(generator))}


def rms(values: NDArray[Any]) -> float:
    return float(np.sqrt((values.astype(np.float64) ** 2).mean()))
