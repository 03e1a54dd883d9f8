"""Densities of students, by the change of variables through their one-step map, and what they are worth given
something."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array, as_condition, as_integer, as_seed, as_states, to_numpy
from ..progress import ProgressFunction, ProgressMeter
from ..steering import Observation, Tilted, tilted_model
from .observables import Observables

# Largest distance of a sample from the data whose density it stands for, in the data's total deviation.
TOLERANCE = 0.01


@dataclass(frozen=True)
class StudentDensity:
    """The result of :meth:`koopflow.KoopmanDistiller.density`; arrays are of the kind of the data.

    Attributes
    ----------
    log_prob : array, ``[B]``
        Log-density in nats, log N(noise; 0, I) - log_determinant, at ``sample(x0=noise)``; it is that at the
        data as far as ``residuals`` are small.
    noise : array, ``[B, *event]``
        Inverse of the data.
    residuals : array, ``[B]``
        ``||sample(x0=noise) - x||``.
    log_determinant, standard_errors : array, ``[B]``
        log |det dS/dz| of the one-step map S at the noise, and its standard error over probes (0 if exact).
    spread : float
        Total deviation of the data that the student was fitted to: the unit of residuals.
    """

    log_prob: Array
    noise: Array
    residuals: Array
    log_determinant: Array
    standard_errors: Array
    spread: float

    @property
    def bits_per_dim(self) -> Array:
        """Minus ``log_prob`` in bits, for each dimension: ``[B]``."""
        return self.log_prob / (-math.prod(self.noise.shape[1:]) * math.log(2.0))


def warn_of_residuals(residuals: Any, spread: float) -> None:
    """Warn of samples that are not the data whose densities were asked for."""
    away = int((residuals > TOLERANCE * spread).sum())
    if away:
        warnings.warn(
            f"the inverse of {away} of {len(residuals)} samples misses them by more than {TOLERANCE:.0%} of "
            f"the data's total deviation {spread:.3g}, at most by {np.max(residuals):.3g}: their densities "
            "are those of points nearby (try a larger polish)",
            RuntimeWarning,
            stacklevel=3,
        )


class Densities(Observables):
    """How likely data are under a student, and its samples given something."""

    def log_prob(self, x: Array, **options: Any) -> Array:
        """Log-density of data ``[B, *event]`` in nats, ``[B]``: ``density(x, **options).log_prob``."""
        return self.density(x, **options).log_prob

    def density(
        self,
        x: Array,
        *,
        determinant: str = "auto",
        polish: int = 10,
        probes: int = 8,
        products: int = 32,
        seed: int | None = 0,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> StudentDensity:
        """Density of data, by the change of variables through the one-step map S.

        log p(x) = log N(z; 0, I) - log |det dS/dz| at the noise z whose sample is x. A student's own inverse
        is approximate, so z is polished until its sample is x; the answer says how near that came, and a
        RuntimeWarning if samples miss the data by more than 1% of the data's total deviation.

        Parameters
        ----------
        x : array, ``[B, *event]``
            Data.
        determinant : {"auto", "exact", "lanczos"}, default "auto"
            Method. ``"exact"`` takes one vector-Jacobian product for each dimension, and the determinant in
            float64. ``"lanczos"`` estimates it from products with random signs (stochastic Lanczos
            quadrature), for students that do not decode by a network. ``"auto"`` is exact up to 1024
            dimensions.
        polish : int, default 10
            Number of steps of the inverse, as in :meth:`invert`: Newton's up to 1024 dimensions, fixed-point
            steps beyond.
        probes, products : int, default 8 and 32
            Number of random probes for each sample of the estimate (at least 2, for a standard error) and of
            products for each probe. Too few products overestimate the determinant, by more for a worse
            condition number of S; as many as dimensions leave no such error.
        seed, condition, progress
            As in :meth:`sample`, the seed being that of the probes; with ``progress``, Ctrl-C is looked for.
        """
        with ProgressMeter(progress=progress) as meter:
            counts = {"probes": probes, "products": products}
            options: dict[str, Any] = {name: as_integer(count, name) for name, count in counts.items()}
            options["polish"] = as_integer(polish, "polish")
            options |= {"seed": as_seed(seed), "condition": self._checked(condition)}
            found, spread = self._fitted().density(
                as_states(x), determinant=str(determinant), **options, monitor=meter.monitor
            )
        density = StudentDensity(*found, spread)
        warn_of_residuals(to_numpy(density.residuals), spread)
        return density

    def tilt(
        self,
        *,
        reward: Callable[[Any], Any] | None = None,
        observation: Observation | None = None,
        energy: Callable[[Any], Any] | None = None,
        temperature: float = 1.0,
        condition: Array | None = None,
    ) -> Tilted:
        """This student, given something: its :meth:`koopflow.steering.Tilted.sample` has weighted samples.

        Parameters
        ----------
        reward : callable, optional
            r(x), of a torch tensor ``[B, *event]``: numbers ``[B]``, torch or NumPy, where minus infinity
            forbids a sample. Samples are of p(x) exp(r(x) / T).
        observation : Observation, optional
            What was measured: samples are of p(x | y). With a reward as well, of both.
        energy : callable, optional
            E(x), as a reward. Samples are of exp(-E(x) / T), whatever the student learnt, as far as it goes
            there.
        temperature : float, default 1.0
            T, above 0.
        condition : array, optional
            Label or vector for a conditional student, one for all samples.

        Raises
        ------
        ArgumentError
            For an energy together with another, or nothing at all.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher, KoopmanDistiller
        >>> teacher = FlowTeacher.gaussian(np.zeros(2), np.eye(2))
        >>> student = KoopmanDistiller(observables=8, width=16, steps=50, trajectories=256)
        >>> found = student.fit(teacher, progress=False).tilt(reward=lambda x: x[:, 0]).sample(256)
        >>> bool(found.expectation()[0][0] > 0.5)
        True
        """
        return tilted_model(
            self._fitted(),
            reward=reward,
            observation=observation,
            energy=energy,
            temperature=temperature,
            condition=as_condition(condition),
        )
