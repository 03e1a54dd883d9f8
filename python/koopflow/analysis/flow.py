"""The canonical spectrum of a flow, and the modes that several flows share."""

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
    """Compute the canonical spectrum of a flow from its paths: rates, drift, affine part, nonlinear modes.

    Parameters
    ----------
    source : FlowTeacher, student or array ``[T, B, *event]``
        Model from which paths are drawn, or the states of paths at ``times``, with the noise first.
    n : int, default 4096
        Number of paths, at least 16. An affine map in d dimensions needs several times d. Not used with given
        paths.
    times : int or sequence of float, default 33
        Increasing times within [0, 1], of which the first is 0, or a number of times at equal distances. At
        least four times are needed.
    condition : array, optional
        Condition of all paths, or of each path. By default the paths of a conditional model take every class
        in turn.
    rates : int, optional
        Number of shared rates; a conjugate pair counts as two. The default is the smallest number that leaves
        at most ``tolerance`` of the motion of held-out paths unexplained. More are taken if each further one
        leaves a hundred times less, as for a linear flow. At most 6 are tried. Modes are sums of as many
        functions of time as leave a hundredth of ``tolerance`` unexplained.
    tolerance : float, default 1e-3
        Fraction of the motion of held-out paths that may stay unexplained: see ``rates``.
    components : int, default 256
        Largest number of nonlinear modes that are kept. Fewer are kept if they hold 99.9% of the energy.
    solver, steps, rtol, atol, grid
        Solver of a teacher's paths, as in :meth:`koopflow.FlowTeacher.sample`, but with tolerances of 1e-6,
        since those of sampling, 1e-5, change rates by a thousandth. For a large network, ``times=17,
        solver="midpoint", steps=16`` (32 evaluations) is accurate enough for shares and modes; rates then
        change by percents.
    seed : int, optional
        Random seed of the noise and of resampling. Spectra with the same seed can be compared sample by
        sample.
    progress : bool or callable, default False
        Progress bar or function: see :mod:`koopflow.progress`.

    Returns
    -------
    FlowSpectrum
        The spectrum. Memory stays within a few hundred bytes for each path and dimension.

    Raises
    ------
    ShapeError, ArgumentError, NonFiniteError
        For invalid paths, times or conditions, and for fewer than 16 paths.
    DivergenceError
        If all samples move in the same way, or a teacher's solver fails.

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
            raise ArgumentError("condition: expected None with given paths, got an array")
        paths = as_batch(source, "source")
        if paths.ndim < 3 or paths.shape[0] != len(given):
            raise ShapeError(f"source: expected paths ({len(given)}, B, *event), got {tuple(paths.shape)}")
        return read_paths(paths, **options)


@dataclass(frozen=True, eq=False)
class Consensus:
    """The modes that several flows share, found by :func:`koopflow.analysis.consensus`.

    Attributes
    ----------
    spectrum : FlowSpectrum
        The modes of the first flow that all others have too.
    comparisons : list of FlowComparison
        The comparison of the first flow with each of the others.
    energy : float
        Fraction of the first flow's nonlinear energy in those modes.
    rates, spread : array, ``[r]``
        Mean of each of the first flow's rates and the nearest rate of every other flow; and the largest
        distance of these from the first flow's rate, divided by its modulus or by 0.1, whichever is larger.
        NaN for a rate that some flow lacks.
    affine : array, ``[S]``
        Affine share of each flow.
    """

    spectrum: FlowSpectrum
    comparisons: list[FlowComparison]
    energy: float
    rates: NDArray[np.complex128]
    spread: NDArray[np.float64]
    affine: NDArray[np.float64]

    def summary(self) -> str:
        """Two lines of text: the shared modes, and the differences of the rates."""
        known = self.spread[np.isfinite(self.spread)]
        apart = f"within {known.max():.1%}" if len(known) else "not comparable"
        return (
            f"{len(self.spectrum)} modes are shared by {len(self.affine)} flows, {self.energy:.1%} of the "
            f"energy\nrates {apart}; affine share {self.affine.min():.1%} to {self.affine.max():.1%}"
        )

    def __repr__(self) -> str:
        return f"<Consensus: {self.summary()}>"


def consensus(spectra: Sequence[FlowSpectrum], *, permutations: int = 99, seed: int | None = 0) -> Consensus:
    """Find the modes of the first flow that all others have too.

    Parameters
    ----------
    spectra : sequence of FlowSpectrum
        At least two spectra of the same event shape. Selections are compared as whole spectra.
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
