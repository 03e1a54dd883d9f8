"""Agreement of the spectra of several flows in rates, shares and groups of modes, with controls for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koopflow import FlowSpectrum, FlowTeacher, _core
from koopflow.analysis import flow_spectrum
from koopflow.spectrum import NOISE_SEED, FlowComparison

from .models import Models

Real = NDArray[np.float64]
SHUFFLES = 199
FEW = 2  # A second number of rates, in addition to the one that the default chooses.


def weighted(values: Real, energy: Real) -> float:
    """Mean over groups, weighted by their energy; NaN without groups, as for an affine flow."""
    return float((values * energy).sum() / energy.sum()) if energy.sum() > 0.0 else float("nan")


def shuffled_chance(comparison: FlowComparison, n: int) -> Real:
    """Mean of the squared correlations for shuffled noise, ``[G]``.

    For n independent pairs a squared correlation is 1 / (n - 1) on average. Groups of a and b modes have a b
    of them, divided by the larger number.
    """
    sizes = [min(len(a), len(b)) for a, b in zip(comparison.first, comparison.second, strict=True)]
    return np.asarray(sizes, dtype=np.float64) / (n - 1)


def rotation(size: int, seed: int) -> Real:
    """An orthogonal matrix ``[size, size]``, uniformly drawn."""
    made, upper = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return np.asarray(made * np.sign(np.diag(upper)))


def turned_cosine(
    first: Real, second: Real, comparison: FlowComparison, draws: int = 32, seed: int = 0
) -> Real:
    """Mean squared cosines of the groups, ``[G]``, for random directions of the second flow's modes.

    Its modes ``[K', r', d]`` are rotated in space and time; the result is the mean of several draws. If one
    flow has fewer functions of time, zeros are added.
    """
    functions, d = max(first.shape[1], second.shape[1]), first.shape[2]
    wide = [np.pad(modes, ((0, 0), (0, functions - modes.shape[1]), (0, 0))) for modes in (first, second)]
    a, b = (modes.reshape(len(modes), functions * d) for modes in wide)
    squares = np.mean(
        [(a @ rotation(functions * d, 1000 * seed + draw) @ b.T) ** 2 for draw in range(draws)], axis=0
    )
    cosines = [
        squares[np.ix_(own, other)].sum() / max(len(own), len(other), 1)
        for own, other in zip(comparison.first, comparison.second, strict=True)
    ]
    return np.asarray(cosines, dtype=np.float64)


def compared(a: FlowSpectrum, b: FlowSpectrum, *, shuffles: int = SHUFFLES) -> dict[str, float]:
    """Agreement of two flows of the same noise, and its values by chance."""
    found = a.compare(b, permutations=shuffles)
    energy = found.energy
    turned = turned_cosine(a.core.array("modes"), b.core.array("modes"), found)
    row = {
        "rates": float(found.distance.max()),
        "same_number": float(len(a.rates) == len(b.rates)),
        "left": found.unexplained[0],
        "left_by_other": found.unexplained[1],
        "interchangeable": float(found.interchangeable),
        "affine_points": 100.0 * abs(a.affine - b.affine),
        "found": found.found_energy if len(energy) else float("nan"),
        "cosine": weighted(found.cosine, energy),
        "turned": weighted(turned, energy),
        "chance": weighted(found.chance, energy),
    }
    if found.amplitude is not None and found.shuffled is not None and found.p is not None:
        row |= {
            "amplitude": weighted(found.amplitude, energy),
            "shuffled": weighted(found.shuffled, energy),
            "shuffled_chance": weighted(shuffled_chance(found, a.paths), energy),
            "p": float(found.p.max(initial=0.0)),
        }
    return row


def turned_flow(a: FlowSpectrum, other: FlowSpectrum, seed: int) -> dict[str, float]:
    """Comparison of the first flow with another flow that is rotated as a whole, from the same noise.

    The rotated flow has the paths R x(t) from the noise R x0, for an orthogonal R. Its profiles in time are
    unchanged, and its directions in space are random.
    """
    event, turn = other.event_shape, rotation(int(np.prod(other.event_shape)), seed)
    noise = np.asarray(_core.normal((a.paths, *event), NOISE_SEED), dtype=np.float32)

    def by(matrix: Real, states: NDArray[Any]) -> NDArray[np.float32]:
        flat = states.reshape(*states.shape[: states.ndim - len(event)], -1)
        return np.asarray((flat @ matrix).reshape(states.shape), dtype=np.float32)

    paths = by(turn, np.asarray(other.source.states(by(turn.T, noise), other.times.tolist(), None)))
    paths[0] = noise
    found = a.compare(flow_spectrum(paths, times=other.times.tolist()), permutations=SHUFFLES)
    return {
        "turned_found": found.found_energy,
        "turned_cosine": weighted(found.cosine, found.energy),
        **({} if found.amplitude is None else {"turned_amplitude": weighted(found.amplitude, found.energy)}),
    }


def pairs(
    spectra: Sequence[FlowSpectrum], measure: Callable[..., dict[str, float]]
) -> list[dict[str, float]]:
    """A row for each ordered pair."""
    return [measure(a, b) for a, b in permutations(spectra, 2)]


def rate_distances(spectra: Sequence[FlowSpectrum]) -> list[float]:
    """The largest relative distance of rates in each ordered pair."""
    return [float(a.compare(b, permutations=0).distance.max()) for a, b in permutations(spectra, 2)]


def measure(models: Models, seeds: Sequence[int], students: int) -> dict[str, Any]:
    """Agreement between the models of one problem: lists of numbers by name."""
    teachers = [models.spectrum(seed) for seed in seeds]
    own = {seed: [models.spectrum(seed, number) for number in range(students)] for seed in seeds}
    across = pairs(teachers, compared)
    one = [row for seed in seeds for row in pairs(own[seed], compared)]
    following = [
        compared(teacher, student)
        for seed, teacher in zip(seeds, teachers, strict=True)
        for student in own[seed]
    ]
    two = {
        seed: [models.spectrum(seed, number, rates=FEW) for number in (None, *range(students))]
        for seed in seeds
    }
    turned = [
        turned_flow(a, b, seed=place)
        for place, (a, b) in enumerate(zip(teachers, teachers[1:] + teachers[:1], strict=True))
        if a is not b
    ]
    every = [*teachers, *(spectrum for seed in seeds for spectrum in own[seed])]
    return {
        "teachers": columns(across),
        "students": columns(one),
        "following": columns(following),
        "turned": columns(turned),
        "few": {
            "teachers": rate_distances([spectra[0] for spectra in two.values()]),
            "students": [gap for spectra in two.values() for gap in rate_distances(spectra[1:])],
            "following": [
                float(spectra[0].compare(other, permutations=0).distance.max())
                for spectra in two.values()
                for other in spectra[1:]
            ],
        },
        "spectra": [described(spectrum) for spectrum in every],
    }


def described(spectrum: FlowSpectrum) -> dict[str, Any]:
    return {
        "rates": [[float(rate.real), float(rate.imag)] for rate in spectrum.rates],
        "uncertainty": float(spectrum.uncertainty.max()),
        "reach": float(spectrum.reach.max()),
        "unexplained": spectrum.unexplained.tolist(),
        "affine": spectrum.affine,
        "drift": spectrum.drift_energy,
        "modes": len(spectrum),
        "groups": [len(group) for group in spectrum.groups],
        "standing": spectrum.standing,
        "energy": spectrum.energy[:8].tolist(),
    }


def columns(rows: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows if name in row] for name in (rows[0] if rows else {})}


def known(seeds: Sequence[int], n: int) -> dict[str, list[float]]:
    """Results for flows with known spectra.

    They are the errors of a linear flow's eigenvalues, relative to their modulus, and the affine shares of
    Gaussian flows.
    """
    result: dict[str, list[float]] = {"linear": [], "linear_float32": [], "linear_solved": [], "gaussian": []}
    for seed in seeds:
        random = np.random.default_rng(seed)
        for eigenvalues in LINEAR:
            matrix = with_eigenvalues(eigenvalues, random)
            times = np.linspace(0.0, 1.0, 33).tolist()
            noise = random.normal(size=(n, len(matrix)))
            paths = np.stack([noise @ exponential(matrix, t) for t in times])
            teacher = FlowTeacher.from_torch(Linear(matrix), event_shape=(len(matrix),))
            result["linear"].append(rate_error(flow_spectrum(paths, times=times), eigenvalues))
            result["linear_float32"].append(
                rate_error(flow_spectrum(paths.astype(np.float32), times=times), eigenvalues)
            )
            result["linear_solved"].append(rate_error(flow_spectrum(teacher, n=n), eigenvalues))
        for d in (2, 16, 64):
            scale = random.uniform(0.3, 2.0, size=d)
            cov = (turn := rotation(d, seed)) * scale @ turn.T
            gaussian = FlowTeacher.gaussian(random.normal(size=d), cov)
            result["gaussian"].append(flow_spectrum(gaussian, n=n).affine)
    return result


LINEAR: tuple[tuple[complex, ...], ...] = (
    (-0.4 + 3j, -0.4 - 3j),
    (0.7, -0.5 + 2j, -0.5 - 2j),
    (-1 + 2j, -1 - 2j, 0.3 + 5j, 0.3 - 5j),
)


class Linear:
    """The velocity field v(t, x) = x A."""

    def __init__(self, matrix: Real) -> None:
        self.matrix = matrix

    def __call__(self, t: Any, x: Any) -> Any:
        return x @ x.new_tensor(self.matrix)


def with_eigenvalues(eigenvalues: Sequence[complex], random: np.random.Generator) -> Real:
    """A real matrix with these eigenvalues and skew eigenvectors; conjugate pairs are neighbours."""
    d = len(eigenvalues)
    blocks, place = np.zeros((d, d)), 0
    while place < d:
        value = complex(eigenvalues[place])
        size = 1 if value.imag == 0 else 2
        block = [[value.real]] if size == 1 else [[value.real, value.imag], [-value.imag, value.real]]
        blocks[place : place + size, place : place + size] = block
        place += size
    # Singular values from 0.7 to 1.4.
    left, right = (np.linalg.qr(random.normal(size=(d, d)))[0] for _ in range(2))
    basis = left * np.linspace(0.7, 1.4, d) @ right
    return np.asarray(np.linalg.inv(basis) @ blocks @ basis)


def exponential(matrix: Real, t: float) -> Real:
    values, vectors = np.linalg.eig(matrix)
    return np.asarray((vectors * np.exp(values * t) @ np.linalg.inv(vectors)).real)


def rate_error(spectrum: FlowSpectrum, eigenvalues: Sequence[complex]) -> float:
    """The largest relative distance of an eigenvalue from its nearest rate; 1 if their numbers differ."""
    if len(spectrum.rates) != len(eigenvalues):
        return 1.0
    gaps = [np.abs(spectrum.rates - value).min() / abs(value) for value in eigenvalues]
    return float(max(gaps))
