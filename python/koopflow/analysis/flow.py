"""The canonical spectrum of a flow, and what several of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import (
    Array,
    as_batch,
    as_condition,
    as_grid,
    as_integer,
    as_number,
    as_seed,
    as_times,
    checked_count,
)
from .._conditioning import Conditioning
from ..exceptions import ArgumentError, ShapeError
from ..progress import ProgressFunction, ProgressMeter
from ..spectrum import (
    NOISE_SEED,
    SLOWEST,
    FlowComparison,
    FlowSpectrum,
    Paths,
    core_of,
    read_flow,
    read_paths,
)

FEWEST = 16


def flow_spectrum(
    source: Any,
    n: int = 4096,
    times: int | Sequence[float] = 33,
    condition: Array | None = None,
    *,
    rates: int | None = None,
    tolerance: float = 1e-3,
    components: int = 256,
    solver: str = "dopri5",
    steps: int = 100,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    grid: str | Sequence[float] | None = None,
    seed: int | None = NOISE_SEED,
    progress: bool | ProgressFunction = False,
) -> FlowSpectrum:
    """Read the canonical spectrum of a flow off its paths: rates, drift, affine part and nonlinear modes.

    Parameters
    ----------
    source : FlowTeacher, student or array ``[T, B, *event]``
        Model whose paths are read; or the states of paths, from noise on, at ``times``.
    n : int, default 4096
        Number of paths, at least 16. An affine map in d dimensions asks for several times d. Not used with
        paths that are given.
    times : int or sequence of float, default 33
        Rising times from 0 on within [0, 1], at least four, or a number of them at equal distances.
    condition : array, optional
        Condition of all paths, or of each; for a conditional model every class in turn by default.
    rates : int, optional
        Number of shared rates, both of a conjugate pair counted; by default the fewest that leave at most
        ``tolerance`` of the motion of held-out paths unexplained, and more if each leaves a hundred times
        less, as those of a linear flow do. At most 6 are tried. Modes are sums of as many functions of
        time as leave a hundredth of ``tolerance``.
    components : int, default 256
        Most nonlinear modes that are kept; fewer if they hold 99.9% of the energy.
    solver, steps, rtol, atol, grid
        Solver of a teacher's paths, as in :meth:`koopflow.FlowTeacher.sample`, but at tolerances of 1e-6:
        those of sampling, 1e-5, move rates by a thousandth. For a large network ``times=17,
        solver="midpoint", steps=16``, 32 evaluations, is enough for shares and modes; rates move by percents.
    seed : int, optional
        Random seed of the noise and of resamples. Spectra of one seed can be compared sample by sample.
    progress : bool or callable, default False
        Progress bar or function: see :mod:`koopflow.progress`.

    Returns
    -------
    FlowSpectrum
        The reading; memory stays within a few hundred bytes for each path and dimension.

    Raises
    ------
    ShapeError, ArgumentError, NonFiniteError
        For paths, times or conditions that do not fit, and fewer than 16 paths.
    DivergenceError
        If all samples move alike, or the solver of a teacher fails.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher
    >>> from koopflow.analysis import flow_spectrum
    >>> spec = flow_spectrum(FlowTeacher.gaussian([1.0, 0.0], np.diag([4.0, 0.25])), n=256)
    >>> round(spec.affine, 6), len(spec)
    (1.0, 0)
    """
    reading: dict[str, Any] = {
        "tolerance": as_number(tolerance, "tolerance"),
        "components": checked_count(components, "components"),
        "seed": as_seed(seed),
    }
    if rates is not None:
        reading["rates"] = checked_count(rates, "rates")
    if isinstance(times, int | np.integer):
        times = np.linspace(0.0, 1.0, as_integer(times, "times", least=4, most=10_000)).tolist()
    given = as_times(times)
    number = as_integer(n, "n", least=FEWEST)
    with ProgressMeter(progress=progress) as meter:
        options: dict[str, Any] = {"times": given, "reading": reading, "monitor": meter.monitor}
        if hasattr(source, "sample"):
            pool = Conditioning.from_plain(Paths(core_of(source)).conditioning).pool(as_condition(condition))
            if pool is not None and len(pool) > number:
                raise ShapeError(
                    f"condition: expected at most one for each of {number} paths, got {len(pool)}"
                )
            asked = None if pool is None else pool[np.arange(number) % len(pool)]
            solving = {"solver": str(solver), "steps": checked_count(steps, "steps")}
            solving |= {"rtol": as_number(rtol, "rtol"), "atol": as_number(atol, "atol")}
            solving["grid"] = as_grid(grid)
            options["solving"] = solving
            return read_flow(source, n=number, condition=asked, seed=reading["seed"], **options)
        if condition is not None:
            raise ArgumentError("condition: expected None with paths that are given, got an array")
        paths = as_batch(source, "source")
        if paths.ndim < 3 or paths.shape[0] != len(given):
            raise ShapeError(f"source: expected paths ({len(given)}, B, *event), got {tuple(paths.shape)}")
        return read_paths(paths, **options)


@dataclass(frozen=True, eq=False)
class Consensus:
    """What several flows share, as :func:`koopflow.analysis.consensus` finds it.

    Attributes
    ----------
    spectrum : FlowSpectrum
        The modes of the first flow that are there again in all others.
    comparisons : list of FlowComparison
        The first flow beside each of the others.
    energy : float
        Share of those modes in the first flow's nonlinear energy.
    rates, spread : array, ``[r]``
        Mean of each of the first flow's rates and those nearest to it, and their largest distance from it
        over its modulus or 0.1. NaN for a rate that some flow lacks.
    affine : array, ``[S]``
        Affine share of every flow.
    """

    spectrum: FlowSpectrum
    comparisons: list[FlowComparison]
    energy: float
    rates: NDArray[np.complex128]
    spread: NDArray[np.float64]
    affine: NDArray[np.float64]

    def summary(self) -> str:
        """Two lines: what is shared, and by how much the rates differ."""
        known = self.spread[np.isfinite(self.spread)]
        apart = f"within {known.max():.1%}" if len(known) else "not comparable"
        return (
            f"{len(self.spectrum)} modes are shared by {len(self.affine)} flows, {self.energy:.1%} of the "
            f"energy\nrates {apart}; affine share {self.affine.min():.1%} to {self.affine.max():.1%}"
        )

    def __repr__(self) -> str:
        return f"<Consensus: {self.summary()}>"


def consensus(spectra: Sequence[FlowSpectrum], *, permutations: int = 99, seed: int | None = 0) -> Consensus:
    """The modes that all of several flows share: those of the first that each other one has again.

    Parameters
    ----------
    spectra : sequence of FlowSpectrum
        At least two, of the same events; whole ones, since selections are compared as a whole as well.
    permutations, seed : int
        As in :meth:`koopflow.FlowSpectrum.compare`.
    """
    spectra = list(spectra)
    if len(spectra) < 2 or not all(isinstance(spectrum, FlowSpectrum) for spectrum in spectra):
        raise ArgumentError(f"spectra: expected two or more of FlowSpectrum, got {spectra!r}")
    first = spectra[0]
    found = [first.compare(other, permutations=permutations, seed=seed) for other in spectra[1:]]
    shared = np.ones(len(first.places), dtype=bool)
    near = np.full((len(found), len(first.rates)), np.nan, dtype=np.complex128)
    for row, comparison in zip(near, found, strict=True):
        again = [group for group, there in zip(comparison.first, comparison.found, strict=True) if there]
        shared &= np.isin(first.places, np.concatenate(again) if again else [])
        for rate, other in zip(comparison.rates, comparison.others, strict=True):
            row[first.rates == rate] = other
    every = np.concatenate([first.rates[None], near])
    apart = np.abs(near - first.rates).max(axis=0) / np.maximum(np.abs(first.rates), SLOWEST)
    return Consensus(
        spectrum=first[shared],
        comparisons=found,
        energy=float(first.energy[shared].sum() / max(float(first.energy.sum()), 1e-300)),
        rates=every.mean(axis=0),
        spread=np.asarray(apart),
        affine=np.asarray([spectrum.affine for spectrum in spectra]),
    )
