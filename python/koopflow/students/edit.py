"""Changing eigenfunctions of samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array, as_batch
from ..exceptions import ArgumentError
from ..spectrum import Spectrum


def edit(
    chosen: Spectrum,
    x: Array | None,
    *,
    x0: Array | None,
    scale: float | Array | None,
    shift: complex | Array | None,
    rotate: float | Array | None,
    at: float,
    project: bool,
    condition: Array | None,
) -> Array:
    """Samples with the chosen modes changed: see :meth:`koopflow.KoopmanDistiller.edit`."""
    if (x is None) == (x0 is None):
        raise ArgumentError(f"expected one of x and x0, got {'neither' if x is None else 'both'}")
    if rotate is not None and np.any(chosen.eigenvalues.imag == 0.0):
        raise ArgumentError("rotate: expected complex modes only, got real ones among them")
    turn = np.exp(1j * _for_modes("rotate", 0.0 if rotate is None else rotate, len(chosen)))
    gains = _for_modes("scale", 1.0 if scale is None else scale, len(chosen)) * turn
    shifts = _for_modes("shift", 0.0 if shift is None else shift, len(chosen))
    shifts = shifts * chosen.spread * np.exp(chosen.growth * at)
    return chosen.core.edit(
        as_batch(x if x0 is None else x0, "x"),
        _of_all_modes(gains, chosen, 1.0),
        _of_all_modes(shifts, chosen, 0.0),
        noise=x is None,
        at=float(at),
        project=project,
        condition=condition,
    )


def _for_modes(name: str, values: complex | Array, count: int) -> NDArray[np.complex128]:
    """Numbers of ``count`` modes, ``[r]`` or ``[B, r]``. Raises ``ArgumentError`` for other shapes."""
    given = np.asarray(values, dtype=np.complex128)
    if given.ndim and given.shape[-1] not in (1, count):
        raise ArgumentError(f"{name}: expected a number or one for each of {count} modes, got {given.shape}")
    return np.broadcast_to(given, (*given.shape[:-1], count))


def _of_all_modes(values: NDArray[np.complex128], chosen: Spectrum, rest: float) -> NDArray[np.float64]:
    """Real and imaginary parts ``[..., 2]``: values of the chosen modes, their conjugates for partners, and
    ``rest`` for all others."""
    partners = np.asarray(chosen.core.partners)
    target = np.full((*values.shape[:-1], len(partners)), rest, dtype=np.complex128)
    target[..., partners[chosen.places]] = np.conj(values)
    target[..., chosen.places] = values
    return np.stack([target.real, target.imag], axis=-1)
