"""The spectrum of a hierarchical student: how the feature maps of every level move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch, as_condition, times_for
from .._tables import text_table
from ..exceptions import ArgumentError
from .spectrum import Complex, Real, checked_noise


@dataclass(frozen=True, eq=False)
class MapSpectrum:
    """One feature map: its size and eigenvalues; ``"8x8, 1"`` is the first of its size on the way down.

    Attributes
    ----------
    eigenvalues : array, ``[r]``, complex128
        One of each conjugate pair, with its positive frequency, then the real ones; per whole flow.
    energy : array, ``[r]``
        Mean square, over noise and summed over pixels, of what the eigenfunctions change from noise to data,
        |psi(0, x0) (e^lambda - 1)|^2, as a share of that of all maps.
    residual : array, ``[r]`` or None
        RMS distance of the eigenfunctions at the teacher's endpoints from e^lambda psi(0, x0), over their
        deviation there; 0 for eigenfunctions of the flow. None without a teacher.
    """

    name: str
    channels: int
    height: int
    width: int
    eigenvalues: Complex
    energy: Real
    residual: Real | None

    @property
    def growth(self) -> Real:
        """Re lambda, ``[r]``."""
        return np.asarray(self.eigenvalues.real)

    @property
    def frequency(self) -> Real:
        """Im lambda, ``[r]``, in radians per whole flow."""
        return np.asarray(self.eigenvalues.imag)


class LevelSpectrum(Sequence[MapSpectrum]):
    """The eigenvalues of every feature map of a hierarchy, from full resolution down to the middle.

    Along the student's flow, each channel z of a map (two real channels that turn together count as one
    complex channel) obeys dz/dt = lambda z at all pixels. A decoder turns the maps into images, so there are
    no modes in data space. ``for level in student.spectrum(teacher): print(level.name, level.eigenvalues)``
    """

    def __init__(self, student: _core.Student, core: _core.LevelSpectrum) -> None:
        self._student, self._core = student, core
        self._maps = [MapSpectrum(*facts) for facts in core.maps]

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, index: Any) -> Any:
        return self._maps[index]

    @cached_property
    def eigenvalues(self) -> Complex:
        """Eigenvalues of all maps, one map after another."""
        return np.concatenate([level.eigenvalues for level in self._maps])

    def eigenfunctions(
        self, t: Array | float, x: Array, index: int, *, condition: Array | None = None
    ) -> NDArray[Any]:
        """psi(t, x) of the map at place ``index``: complex ``[B, r, height, width]``, or ``[B, r]`` if every
        pixel has eigenvalues of its own. ``t``, ``x`` and ``condition`` as in
        :meth:`koopflow.Spectrum.eigenfunctions`; ``ArgumentError`` for an index that is no map's."""
        if index not in range(-len(self), len(self)):
            raise ArgumentError(f"index: expected one of {len(self)} feature maps, got {index!r}")
        x, place = as_batch(x, "x"), int(index) % len(self)
        return self._core.eigenfunctions(times_for(t, x), x, place, condition=as_condition(condition))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._student, [(level.energy, level.residual) for level in self._maps])

    def summary(self) -> str:
        """A table of the maps: their size, how fast they move, and their share of the motion."""
        rows = [
            {
                "map": level.name,
                "channels": level.channels,
                "growth": f"{level.growth.min():.2f} .. {level.growth.max():.2f}",
                "frequency": float(np.abs(level.frequency).max()),
                "energy (%)": 100.0 * float(level.energy.sum()),
                "residual": None if level.residual is None else float(np.median(level.residual)),
            }
            for level in self._maps
        ]
        return text_table(rows, decimals={"frequency": 2, "energy (%)": 1, "residual": 2}, missing="-")

    def __repr__(self) -> str:
        return f"<LevelSpectrum of {len(self)} feature maps, {len(self.eigenvalues)} eigenvalues>"


def build_level_spectrum(
    student: _core.Student, teacher: _core.VelocityField | None, **noise: Any
) -> LevelSpectrum:
    """See :meth:`FittedStudent.spectrum`."""
    core = _core.LevelSpectrum(student, teacher=teacher, **checked_noise(**noise))
    return LevelSpectrum(student, core)


def _restored(student: _core.Student, measured: list[Any]) -> LevelSpectrum:
    """The spectrum of a pickle, with what was measured of it."""
    return LevelSpectrum(student, _core.LevelSpectrum.known(student, measured))
