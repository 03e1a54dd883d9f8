"""The spectrum of a hierarchical student: how the feature maps of every level move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_condition, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..teachers.flow import Flow, checked_count
from .facts import NOISE_SEED, conditions_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..students.student import FittedStudent

_Complex = NDArray[np.complex128]
_Real = NDArray[np.float64]
# As the core has it: channels, height, width, pixels that share eigenvalues, complex pairs.
_Layout = tuple[int, int, int, int, int]


@dataclass(frozen=True, eq=False)
class MapSpectrum:
    """One feature map's eigenvalues.

    Attributes
    ----------
    name : str
        ``"8x8, 1"``: its size and its place among maps of that size, on the way down; ``"middle"``.
    channels, height, width : int
        Of the map.
    eigenvalues : array, ``[r]``, complex128
        One of each conjugate pair, with its positive frequency, then the real ones. Per unit of time, the
        time from noise to data.
    energy : array, ``[r]``
        Mean square, over noise and summed over pixels, of what the eigenfunctions change from noise to data,
        |psi(0, x0) (e^lambda - 1)|^2, as a share of that of all maps.
    residual : array, ``[r]`` or None
        How far from e^lambda psi(0, x0) the eigenfunctions are at the teacher's endpoints, over their
        deviation there; 0 where they are the flow's. None without a teacher.
    """

    name: str
    channels: int
    height: int
    width: int
    eigenvalues: _Complex
    energy: _Real
    residual: _Real | None

    @property
    def growth(self) -> _Real:
        """Re lambda, ``[r]``."""
        return np.asarray(self.eigenvalues.real)

    @property
    def frequency(self) -> _Real:
        """Im lambda, ``[r]``, in radians per unit of time."""
        return np.asarray(self.eigenvalues.imag)


class LevelSpectrum(Sequence[MapSpectrum]):
    """The eigenvalues of every feature map of a hierarchy, from full resolution down to the middle.

    Along the student's flow, each channel z of a map, a complex one where two real ones turn together, obeys
    dz/dt = lambda z at all pixels. A decoder makes images of them, so that there are no modes in data space:
    what a map's motion does to an image is seen by decoding with and without it.
    :meth:`FittedStudent.spectrum` makes one.

    Examples
    --------
    ``for level in student.spectrum(teacher): print(level.name, level.eigenvalues)``
    """

    def __init__(self, student: FittedStudent, maps: list[MapSpectrum], layout: list[_Layout]) -> None:
        self._student, self._maps, self._layout = student, maps, layout

    def __len__(self) -> int:
        return len(self._maps)

    def __iter__(self) -> Iterator[MapSpectrum]:
        return iter(self._maps)

    def __getitem__(self, index: Any) -> Any:
        return self._maps[index]

    @property
    def eigenvalues(self) -> _Complex:
        """Of all maps, one after another."""
        return np.concatenate([level.eigenvalues for level in self._maps])

    def eigenfunctions(
        self, t: Array | float, x: Array, index: int, *, condition: Array | None = None
    ) -> NDArray[Any]:
        """psi(t, x) of one map.

        Parameters
        ----------
        t : float or array, ``[B]``
            Times in [0, 1].
        x : array, ``[B, C, H, W]``
            States.
        index : int
            Of the map.
        condition : array, optional
            For a conditional student.

        Returns
        -------
        array, complex128
            ``[B, r, height, width]``; ``[B, r]`` where every pixel has eigenvalues of its own.
        """
        if not -len(self) <= index < len(self):
            raise ArgumentError(f"index: expected one of {len(self)} feature maps, got {index}")
        g = to_numpy(self._student.encode(t, x, condition=condition))
        psi = _complex_maps(g, self._layout)[index]
        _, height, width, shared, _ = self._layout[index]
        return psi.reshape(*psi.shape[:2], height, width) if shared > 1 else psi[:, :, 0]

    def summary(self) -> str:
        """A table: what the maps are, how fast they move, and their share of the motion."""
        lines = [f"{'map':<14}{'channels':>9}{'growth':>16}{'frequency':>11}{'energy':>9}{'residual':>10}"]
        for level in self._maps:
            residual = "-" if level.residual is None else f"{np.median(level.residual):.2f}"
            growth = f"{level.growth.min():.2f} .. {level.growth.max():.2f}"
            lines.append(
                f"{level.name:<14}{level.channels:>9}{growth:>16}{np.abs(level.frequency).max():>11.2f}"
                f"{level.energy.sum():>9.1%}{residual:>10}"
            )
        return "\n".join(lines)

    def plot_eigenvalues(self, ax: Axes | None = None) -> Axes:
        """Eigenvalues in the complex plane; see :func:`koopflow.plotting.level_eigenvalues`."""
        from ..plotting import level_eigenvalues

        return level_eigenvalues(self, ax=ax)

    def __repr__(self) -> str:
        count = sum(len(level.eigenvalues) for level in self._maps)
        return f"<LevelSpectrum of {len(self)} feature maps, {count} eigenvalues>"


def build_level_spectrum(
    student: FittedStudent,
    teacher: Flow | None,
    *,
    condition: Array | None,
    n: int,
    seed: int = NOISE_SEED,
) -> LevelSpectrum:
    """See :meth:`FittedStudent.spectrum`."""
    fitted = student._fitted()
    layout = fitted.feature_maps
    noise = _core.normal((checked_count(n), *fitted.event_shape), seed)
    condition = conditions_for(student, n, condition)
    values = _map_eigenvalues(np.asarray(fitted.eigenvalues()), layout)
    start = _complex_maps(to_numpy(student.encode(0.0, noise, condition=condition)), layout)
    moved = [
        (np.abs(psi) ** 2).mean(axis=0).sum(axis=1) * np.abs(np.expm1(rates)) ** 2
        for psi, rates in zip(start, values, strict=True)
    ]
    total = max(sum(float(part.sum()) for part in moved), 1e-300)
    residuals: list[_Real | None] = [None] * len(layout)
    if teacher is not None:
        if not isinstance(teacher, Flow):
            raise TypeError(f"teacher: expected a FlowTeacher, got {type(teacher).__name__}")
        if tuple(teacher.event_shape) != tuple(fitted.event_shape):
            raise ShapeError(
                f"teacher: expected event shape {tuple(fitted.event_shape)}, got {teacher.event_shape}"
            )
        ends = teacher.sample(x0=noise, condition=as_condition(condition))
        after = _complex_maps(to_numpy(student.encode(1.0, ends, condition=condition)), layout)
        residuals = [
            _gap(a, b * np.exp(rates)[None, :, None])
            for a, b, rates in zip(after, start, values, strict=True)
        ]
    maps = [
        MapSpectrum(name, channels, height, width, rates, part / total, residual)
        for name, (channels, height, width, _, _), rates, part, residual in zip(
            _names(layout), layout, values, moved, residuals, strict=True
        )
    ]
    return LevelSpectrum(student, maps, layout)


def _gap(found: _Complex, expected: _Complex) -> _Real:
    """RMS of the difference over the deviation of what was found, for each eigenfunction."""
    difference = (np.abs(found - expected) ** 2).mean(axis=(0, 2))
    spread = (np.abs(found - found.mean(axis=0)) ** 2).mean(axis=(0, 2))
    return np.asarray(np.sqrt(difference / np.maximum(spread, 1e-300)))


def _names(layout: list[_Layout]) -> list[str]:
    counts: dict[tuple[int, int], int] = {}
    names = []
    for _, height, width, *_ in layout[:-1]:
        counts[height, width] = counts.get((height, width), 0) + 1
        names.append(f"{height}x{width}, {counts[height, width]}")
    return [*names, "middle"]


def _map_eigenvalues(values: _Complex, layout: list[_Layout]) -> list[_Complex]:
    """One of each pair, then the real ones. The core lists two zeros, and then each as often as pixels share
    it."""
    maps, place = [], 2
    for channels, height, width, shared, pairs in layout:
        features = channels * height * width // shared
        own = values[place : place + features]
        place += features * shared
        maps.append(np.concatenate([own[: 2 * pairs : 2], own[2 * pairs :]]))
    return maps


def _complex_maps(g: NDArray[Any], layout: list[_Layout]) -> list[_Complex]:
    """Observables ``[B, m]`` as eigenfunctions ``[B, r, shared pixels]``, map by map.

    A map holds [real parts, imaginary parts, real features], with its pixels innermost.
    """
    maps, place = [], 2
    for channels, height, width, shared, pairs in layout:
        size = channels * height * width
        rows = g[:, place : place + size].astype(np.float64).reshape(len(g), size // shared, shared)
        place += size
        turning = rows[:, :pairs] + 1j * rows[:, pairs : 2 * pairs]
        maps.append(np.concatenate([turning, rows[:, 2 * pairs :].astype(np.complex128)], axis=1))
    return maps
