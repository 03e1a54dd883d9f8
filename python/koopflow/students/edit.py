"""Edits of samples by their eigenfunctions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array, as_flag, to_numpy
from ..exceptions import ArgumentError
from ..spectrum import FlowSpectrum, LevelSpectrum, Spectrum


def changes(
    chosen: Spectrum | LevelSpectrum,
    scale: Array | None,
    shift: Array | None,
    rotate: Array | None,
    at: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gains and shifts of all modes, as the core takes them: see :meth:`koopflow.KoopmanDistiller.edit`."""
    if rotate is not None and np.any(chosen.eigenvalues.imag == 0.0):
        raise ArgumentError("rotate: expected complex modes only, got real ones among them")
    count = len(chosen.places)
    turn = np.exp(1j * _for_modes("rotate", 0.0 if rotate is None else rotate, count))
    gains = _for_modes("scale", 1.0 if scale is None else scale, count) * turn
    shifts = (
        _for_modes("shift", 0.0 if shift is None else shift, count)
        * chosen.spread
        * np.exp(chosen.growth * at)
    )
    return _of_all_modes(gains, chosen, 1.0), _of_all_modes(shifts, chosen, 0.0)


def edit_flow(
    chosen: FlowSpectrum,
    states: Array,
    how: dict[str, Any],
    at: float,
    *,
    project: bool,
    noise: bool,
    condition: Array | None,
) -> Array:
    """Data or samples of noise with other amplitudes: see :meth:`koopflow.KoopmanDistiller.edit`."""
    if how["rotate"] is not None:
        raise ArgumentError("rotate: expected None with a FlowSpectrum, whose amplitudes are real")
    if as_flag(project, "project") and at == 0.0:
        raise ArgumentError("at: expected above 0 with project, since nothing has moved at 0")
    values = {"scale": 1.0, "shift": 0.0} | {name: value for name, value in how.items() if value is not None}
    scale, shift = (_for_modes(name, values[name], len(chosen)) for name in ("scale", "shift"))
    if np.any(scale.imag != 0.0) or np.any(shift.imag != 0.0):
        raise ArgumentError("shift: expected real numbers with a FlowSpectrum, got complex ones")
    x0 = states if noise else chosen.source.noise(states, condition)
    own = chosen.amplitudes(x0, condition=condition)
    if shift.ndim == 2 and shift.shape[0] not in (1, len(own)):
        raise ArgumentError(f"shift: expected rows for each of {len(own)} samples, got {shift.shape[0]}")
    change = own * (scale.real - 1.0) + shift.real * chosen.spread
    shifts = np.concatenate([np.zeros((len(own), len(chosen.axis_values))), change], axis=1)
    return chosen.move(states, shifts, noise=noise, at=at, project=project, condition=condition)


def _for_modes(name: str, values: complex | Array, count: int) -> NDArray[np.complex128]:
    """One number for each of ``count`` modes, ``[r]`` or ``[B, r]``. Raises ``ArgumentError`` for other
    shapes."""
    try:
        given = np.asarray(to_numpy(values), dtype=np.complex128)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: expected a number or one for each mode, got {values!r}") from None
    except OverflowError:
        raise ArgumentError(f"{name}: expected numbers of float64, got larger ones") from None
    if not np.isfinite(given).all():
        raise ArgumentError(f"{name}: expected finite numbers, got {values!r}")
    if given.ndim and given.shape[-1] not in (1, count):
        raise ArgumentError(f"{name}: expected a number or one for each of {count} modes, got {given.shape}")
    return np.broadcast_to(given, (*given.shape[:-1], count))


def _of_all_modes(
    values: NDArray[np.complex128], chosen: Spectrum | LevelSpectrum, rest: float
) -> NDArray[np.float64]:
    """Real and imaginary parts ``[..., 2]`` for all modes: the values for the chosen modes, the conjugates
    for their partners, and ``rest`` for all others."""
    partners = np.asarray(chosen.core.partners)
    target = np.full((*values.shape[:-1], len(partners)), rest, dtype=np.complex128)
    target[..., partners[chosen.places]] = np.conj(values)
    target[..., chosen.places] = values
    return np.stack([target.real, target.imag], axis=-1)
