"""Changing eigenfunctions of samples: what a student's ``edit`` and semantic directions share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array, as_batch
from ..exceptions import ArgumentError
from ..spectrum import Spectrum


def edit(
    spectrum: Spectrum,
    x: Array | None,
    *,
    x0: Array | None,
    gains: NDArray[np.complex128] | None = None,
    shifts: NDArray[np.complex128] | None = None,
    at: float,
    project: bool,
    condition: Array | None,
) -> Array:
    """Change the eigenfunctions of a selection: gains ``[r]`` and shifts ``[r]`` or ``[B, r]`` of its
    modes."""
    if (x is None) == (x0 is None):
        raise ArgumentError(f"expected one of x and x0, got {'neither' if x is None else 'both'}")
    count = len(spectrum.core.partners)
    gain, shift = np.ones(count, dtype=np.complex128), np.zeros(count, dtype=np.complex128)
    if gains is not None:
        _scatter(gain, gains, spectrum)
    if shifts is not None:
        shift = np.zeros((*shifts.shape[:-1], count), dtype=np.complex128)
        _scatter(shift, shifts, spectrum)
    return spectrum.core.edit(
        as_batch(x if x0 is None else x0),
        _parts(gain),
        _parts(shift),
        noise=x is None,
        at=float(at),
        project=project,
        condition=condition,
    )


def _scatter(target: NDArray[np.complex128], values: NDArray[np.complex128], spectrum: Spectrum) -> None:
    """Values of the chosen modes, and their conjugates for partners, among those of all modes."""
    partners = np.asarray(spectrum.core.partners)
    target[..., partners[spectrum.places]] = np.conj(values)
    target[..., spectrum.places] = values


def _parts(values: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Real and imaginary parts, ``[..., 2]``."""
    return np.stack([values.real, values.imag], axis=-1)
