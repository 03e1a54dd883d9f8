"""Systems with known equations, integrated by the classical Runge-Kutta method of order four."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Field = Callable[[Real], Real]

SPIN_UP, SPIN_STEP = 10.0, 0.01
SPREAD = 5.0  # Deviation of the random initial states of chaotic paths, before their spin-up.


def rk4(field: Field, x: Real, dt: float, rows: int, substeps: int = 1) -> Real:
    """Rows ``[N, rows, D]`` a time ``dt`` apart, the first of them ``x``, ``[N, D]``."""
    out, h = [x], dt / substeps
    for _ in range(rows - 1):
        for _ in range(substeps):
            k1 = field(x)
            k2 = field(x + h / 2 * k1)
            k3 = field(x + h / 2 * k2)
            k4 = field(x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        out.append(x)
    return np.stack(out, axis=1)


def lorenz63(x: Real) -> Real:
    a, b, c = x[..., 0], x[..., 1], x[..., 2]
    return np.stack([10.0 * (b - a), a * (28.0 - c) - b, a * b - 8.0 / 3.0 * c], axis=-1)


def lorenz96(x: Real) -> Real:
    """Lorenz's system of 1996 with forcing 8."""
    near = np.roll(x, -1, axis=-1) - np.roll(x, 2, axis=-1)
    return near * np.roll(x, 1, axis=-1) - x + 8.0


def pendulum(x: Real) -> Real:
    return np.stack([x[..., 1], -np.sin(x[..., 0])], axis=-1)


def duffing(x: Real) -> Real:
    """The Duffing oscillator with two wells and friction."""
    place, speed = x[..., 0], x[..., 1]
    return np.stack([speed, -0.5 * speed + place - place**3], axis=-1)


def van_der_pol(x: Real) -> Real:
    place, speed = x[..., 0], x[..., 1]
    return np.stack([speed, (1.0 - place**2) * speed - place], axis=-1)


@dataclass(frozen=True)
class Chaos:
    """A chaotic system: its equations, dimension, largest Lyapunov exponent and fine steps."""

    field: Field
    dimension: int
    exponent: float
    dt: float
    substeps: int

    def paths(self, count: int, rows: int, seed: int) -> Real:
        """Paths ``[count, rows, D]`` on the attractor."""
        x = SPREAD * np.random.default_rng(seed).normal(size=(count, self.dimension))
        x = rk4(self.field, x, SPIN_STEP, 1 + round(SPIN_UP / SPIN_STEP))[:, -1]
        return rk4(self.field, x, self.dt, rows, self.substeps)


@dataclass(frozen=True)
class Oscillator:
    """A planar system, the box of initial states, and the length of the window of the fit."""

    field: Field
    box: tuple[float, float]
    window: float

    def paths(self, count: int, rows: int, dt: float, seed: int, substeps: int = 10) -> Real:
        """Paths ``[count, rows, 2]`` from random states in the box."""
        x = np.random.default_rng(seed).uniform(-1.0, 1.0, size=(count, 2)) * self.box
        return rk4(self.field, x, dt, rows, substeps)


OSCILLATORS = {
    "pendulum": Oscillator(pendulum, (2.0, 1.0), 6.0),
    "Duffing": Oscillator(duffing, (2.0, 2.0), 20.0),
    "van der Pol": Oscillator(van_der_pol, (2.5, 2.5), 20.0),
}
