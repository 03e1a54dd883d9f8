"""Rayleigh-Bénard convection in the plane: a pseudo-spectral solver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2

from .scores import Real

Complex = NDArray[np.complex128]
HEIGHT, WIDTH = 32, 64  # Numbers of points between the plates, and along them.
CRITICAL = 27.0 * np.pi**4 / 4.0  # Rayleigh number above which the fluid moves between free-slip plates.
# Weights of the last steps' rates, newest first, of Adams and Bashforth's methods of orders one to three.
WEIGHTS = ((1.0,), (1.5, -0.5), (23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0))


@dataclass(frozen=True)
class Convection:
    """A fluid between free-slip plates at fixed temperatures, periodic along them.

    Units are the distance of the plates, the time in which heat diffuses across it, and the difference of the
    plates' temperatures. With u = -d psi/dz, w = d psi/dx, vorticity omega = lap psi, and theta the
    difference of the temperature from 1 - z:

        d omega/dt = -J(psi, omega) + Pr lap omega + Ra Pr d theta/dx
        d theta/dt = -J(psi, theta) + d psi/dx + lap theta

    All three are odd at both plates, so they are extended to odd functions in a doubly periodic box, where
    Fourier series give exact derivatives. The upper third of wave numbers is left out, so that products are
    exact too. Diffusion is exact in time; the rest is integrated by Adams-Bashforth of order three.
    """

    rayleigh: float
    prandtl: float = 1.0
    aspect: float = 2.0
    height: int = HEIGHT
    width: int = WIDTH
    kx: Real = field(init=False, repr=False)
    kz: Real = field(init=False, repr=False)
    square: Real = field(init=False, repr=False)
    kept: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        x, z = np.arange(self.width // 2 + 1), np.fft.fftfreq(2 * self.height, 0.5 / self.height)
        kx, kz = 2.0 * np.pi / self.aspect * x[None, :], np.pi * z[:, None]
        kept = (3 * x[None, :] < self.width) & (3 * np.abs(z[:, None]) < 2 * self.height)
        kept[0, 0] = False
        square = kx**2 + kz**2
        square[0, 0] = 1.0
        for name, value in {"kx": kx, "kz": kz, "square": square, "kept": kept}.items():
            object.__setattr__(self, name, value)

    def spectrum(self, fields: Real) -> Complex:
        """Coefficients of fields ``[..., height, width]`` at heights (j + 1/2) / height, extended oddly."""
        whole = np.concatenate([fields, -fields[..., ::-1, :]], axis=-2)
        return np.asarray(rfft2(whole) * self.kept, dtype=np.complex128)

    def odd(self, spectrum: Complex) -> Complex:
        """The odd part of coefficients.

        Without plates, even waves such as jets from top to bottom grow without limit, like exp(sqrt(Pr Ra)
        t). Those from rounding would dominate after a time of 37 / sqrt(Pr Ra).
        """
        count = 2 * self.height
        turn = np.exp(
            2j * np.pi * np.fft.fftfreq(count)[:, None]
        )  # As heights are half a point off the plate.
        mirrored = np.roll(spectrum[..., ::-1, :], 1, axis=-2) * turn
        return np.asarray((spectrum - mirrored) / 2.0)

    def extended(self, spectrum: Complex) -> Real:
        """Values ``[..., 2 height, width]`` in the whole periodic box."""
        return np.asarray(irfft2(spectrum, s=(2 * self.height, self.width)), dtype=np.float64)

    def fields(self, spectrum: Complex) -> Real:
        """Values ``[..., height, width]`` between the plates."""
        return self.extended(spectrum)[..., : self.height, :]

    def rates(self, state: Complex) -> Complex:
        """All of d/dt but diffusion, of coefficients ``[..., 2, 2 height, width / 2 + 1]``: omega, theta."""
        omega, theta = state[..., 0, :, :], state[..., 1, :, :]
        psi = -omega / self.square
        rise = 1j * self.kx * psi
        u, w = self.extended(-1j * self.kz * psi), self.extended(rise)
        values = self.extended(state)
        along, across = rfft2(u[..., None, :, :] * values), rfft2(w[..., None, :, :] * values)
        moved = -1j * (self.kx * along + self.kz * across)
        moved[..., 0, :, :] += self.rayleigh * self.prandtl * 1j * self.kx * theta
        moved[..., 1, :, :] += rise
        return np.asarray(moved * self.kept, dtype=np.complex128)

    def run(self, state: Complex, dt: float, substeps: int) -> Iterator[Complex]:
        """An endless sequence of coefficients, from the given ones on, ``substeps`` steps ``dt`` apart."""
        fade = np.exp(-dt * self.square * np.array([self.prandtl, 1.0])[:, None, None])
        past: list[Complex] = []
        while True:
            state = self.odd(state)
            yield state
            for _ in range(substeps):
                past = [self.rates(state), *(fade * rate for rate in past[:2])]
                rate = sum(w * r for w, r in zip(WEIGHTS[len(past) - 1], past, strict=True))
                state = fade * (state + dt * rate)

    def speed(self, state: Complex) -> Real:
        """Root mean square of the speed, ``[...]``."""
        psi = -state[..., 0, :, :] / self.square
        squares = self.extended(-1j * self.kz * psi) ** 2 + self.extended(1j * self.kx * psi) ** 2
        return np.asarray(np.sqrt(squares.mean(axis=(-1, -2))))

    def begin(self, count: int, seed: int, size: float = 0.1) -> Complex:
        """Coefficients of fluids at rest with random disturbances of the longest waves of temperature."""
        random = np.random.default_rng(seed)
        z = (np.arange(self.height)[:, None] + 0.5) / self.height
        x = np.arange(self.width)[None, :] / self.width
        theta = np.zeros((count, self.height, self.width))
        for m in range(1, 5):
            for n in range(4):
                size_, phase = random.normal(size=(2, count, 1, 1))
                theta += size * size_ * np.sin(m * np.pi * z) * np.cos(2.0 * np.pi * (n * x + phase)) / m
        return self.spectrum(np.stack([np.zeros_like(theta), theta], axis=1))
