"""One feature map of a hierarchy: its eigenvalues, and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .spectrum import Complex, Real


@dataclass(frozen=True, eq=False)
class MapSpectrum:
    """One feature map: its size and eigenvalues; ``"8x8, 1"`` is the first of its size on the way down.

    In a selection, arrays are of the eigenfunctions that are selected.

    Attributes
    ----------
    level : int
        The map's resolution: 0 is the full one, each further one is coarser.
    eigenvalues : array, ``[r]``, complex128
        One of each conjugate pair, with its positive frequency, then the real ones; per whole flow.
    energy : array, ``[r]``
        Mean square, over noise and summed over pixels, of what the eigenfunctions change from noise to data,
        |psi(0, x0) (e^lambda - 1)|^2, as a share of that of all maps.
    spread : array, ``[r]``
        Standard deviation of psi(0, x0) over noise, of all pixels together.
    mean : array, complex ``[r, height, width]``, or ``[r]`` if every pixel has eigenvalues of its own
        Mean of psi(0, x0) over noise: what eigenfunctions that are left out start from.
    residual : array, ``[r]`` or None
        RMS distance of the eigenfunctions at the teacher's endpoints from e^lambda psi(0, x0), over their
        deviation there; 0 for eigenfunctions of the flow. None without a teacher.
    """

    name: str
    level: int
    channels: int
    height: int
    width: int
    eigenvalues: Complex
    energy: Real
    spread: Real
    mean: Complex
    residual: Real | None

    @property
    def growth(self) -> Real:
        """Re lambda, ``[r]``."""
        return np.asarray(self.eigenvalues.real)

    @property
    def frequency(self) -> Real:
        """Im lambda, ``[r]``, in radians per whole flow."""
        return np.asarray(self.eigenvalues.imag)

    @property
    def size(self) -> str:
        """Height and width, such as ``"8x8"``."""
        return f"{self.height}x{self.width}"

    def only(self, places: NDArray[np.int64]) -> MapSpectrum:
        """The same map with some of its eigenfunctions."""
        of = {name: getattr(self, name)[places] for name in ("eigenvalues", "energy", "spread", "mean")}
        residual = None if self.residual is None else self.residual[places]
        return MapSpectrum(
            self.name, self.level, self.channels, self.height, self.width, residual=residual, **of
        )

    @property
    def pixels(self) -> int:
        """Number of pixels that share eigenvalues."""
        return int(self.mean[0].size)

    @property
    def features(self) -> int:
        """Number of real features of the whole map."""
        return self.channels * self.height * self.width

    def mean_features(self, t: float) -> NDArray[np.float64]:
        """The features of a whole map whose eigenfunctions are their means at time t: [real parts, imaginary
        parts, real ones], pixels innermost."""
        mean = (self.mean.T * np.exp(self.eigenvalues * t)).T
        pairs = self.features // self.pixels - len(self.eigenvalues)
        return np.concatenate([mean[:pairs].real, mean[:pairs].imag, mean[pairs:].real]).reshape(-1)


def maps_of(core: _core.LevelSpectrum) -> list[MapSpectrum]:
    """All maps of a hierarchy, with all eigenfunctions."""
    maps: list[MapSpectrum] = []
    sizes = list(dict.fromkeys((height, width) for _, _, height, width in core.maps))
    for row, values, measured in zip(core.maps, core.eigenvalues, core.measured, strict=True):
        (name, channels, height, width), (energy, spread, parts, residual) = row, measured
        mean = parts[..., 0] + 1j * parts[..., 1]
        mean = mean[:, 0] if mean.shape[1] == 1 else mean.reshape(-1, height, width)
        level = sizes.index((height, width))
        maps.append(
            MapSpectrum(
                name, level, channels, height, width, values, energy, spread, np.asarray(mean), residual
            )
        )
    return maps
