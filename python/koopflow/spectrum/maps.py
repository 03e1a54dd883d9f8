"""One feature map of a hierarchy: its eigenvalues and their measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .spectrum import Complex, Real


@dataclass(frozen=True, eq=False)
class MapSpectrum:
    """One feature map with its size and eigenvalues. ``"8x8, 1"`` is the first of its size on the way down.

    In a selection, arrays hold only the selected eigenfunctions.

    Attributes
    ----------
    level : int
        Level of resolution: 0 is full resolution, and each further level is coarser.
    eigenvalues : array, ``[r]``, complex128
        Eigenvalues per whole flow: one of each conjugate pair, that with positive frequency, then the real
        ones.
    energy : array, ``[r]``
        Mean over noise of |psi(0, x0) (e^lambda - 1)|^2, the squared change from noise to data, summed over
        pixels and divided by the sum over all maps.
    spread : array, ``[r]``
        Standard deviation of psi(0, x0) over noise, of all pixels together.
    mean : array, complex ``[r, height, width]``, or ``[r]`` if every pixel has its own eigenvalues
        Mean of psi(0, x0) over noise, from which eigenfunctions outside a selection start.
    residual : array, ``[r]`` or None
        RMS distance of the eigenfunctions at the teacher's endpoints from e^lambda psi(0, x0), divided by
        their deviation there. It is 0 for eigenfunctions of the teacher's flow, and None without a teacher.
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
        """Growth rates Re lambda, ``[r]``."""
        return np.asarray(self.eigenvalues.real)

    @property
    def frequency(self) -> Real:
        """Angular frequencies Im lambda, ``[r]``, in radians per whole flow."""
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
        """The features at time t of a whole map whose eigenfunctions started from their means.

        The order is real parts of pairs, their imaginary parts, real eigenfunctions, with pixels innermost.
        """
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
