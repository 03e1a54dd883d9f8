"""Densities of students, by the change of variables through their one-step map, and tilted samples."""

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

# A warning is given when the sample of the inverse is farther than this from the data, relative to the data's
# total deviation: the density is then that of another point.
TOLERANCE = 0.01


@dataclass(frozen=True)
class StudentDensity:
    """The result of :meth:`koopflow.KoopmanDistiller.density`; arrays are of the kind of the data.

    Attributes
    ----------
    log_prob : array, ``[B]``
        Log-density in nats, log N(noise; 0, I) - log_determinant, at ``sample(x0=noise)``. It is that of the
        data if ``residuals`` are small.
    noise : array, ``[B, *event]``
        Inverse of the data.
    residuals : array, ``[B]``
        Distances ``||sample(x0=noise) - x||``.
    log_determinant, standard_errors : array, ``[B]``
        Value of log |det dS/dz| of the one-step map S at the noise, and its standard error over probes (0 if
        exact).
    spread : float
        Total deviation of the data that the student was fitted to, a scale for the residuals.
    """

    log_prob: Array
    noise: Array
    residuals: Array
    log_determinant: Array
    standard_errors: Array
    spread: float

    @property
    def bits_per_dim(self) -> Array:
        """Minus ``log_prob`` in bits per dimension, ``[B]``."""
        return self.log_prob / (-math.prod(self.noise.shape[1:]) * math.log(2.0))


def warn_of_residuals(residuals: Any, spread: float) -> None:
    """Warn of inverses whose samples are not the data."""
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
    """Densities of data under a student, and its tilted samples."""

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
        is approximate, so z is refined until its sample is x. The result holds the remaining distances. A
        RuntimeWarning is given if samples miss the data by more than 1% of the data's total deviation.

        Parameters
        ----------
        x : array, ``[B, *event]``
            Data.
        determinant : {"auto", "exact", "lanczos"}, default "auto"
            Method for the determinant. ``"exact"`` computes one vector-Jacobian product per dimension, and
            the determinant in float64. ``"lanczos"`` estimates it from products with random signs (stochastic
            Lanczos quadrature), for students that do not decode by a network. ``"auto"`` is exact up to 1024
            dimensions.
        polish : int, default 10
            Number of refinement steps of the inverse, as in :meth:`invert`: Newton steps up to 1024
            dimensions, fixed-point steps beyond.
        probes, products : int, default 8 and 32
            Number of random probes per sample of the estimate (at least 2, for a standard error), and of
            products per probe. Too few products overestimate the determinant, and the more so the larger the
            condition number of S is. With as many products as dimensions there is no such error.
        seed, condition, progress
            As in :meth:`sample`; the seed is that of the probes. With ``progress``, Ctrl-C can interrupt the
            computation.
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
        """The student's distribution tilted by a reward, an observation or an energy.

        Weighted samples come from :meth:`koopflow.steering.Tilted.sample` of the result.

        Parameters
        ----------
        reward : callable, optional
            Reward r(x): takes a torch tensor ``[B, *event]`` and returns numbers ``[B]``, torch or NumPy.
            Minus infinity forbids a sample. The target is p(x) exp(r(x) / T).
        observation : Observation, optional
            Measurement y, for the target p(x | y). It may be combined with a reward.
        energy : callable, optional
            Energy E(x), with the signature of a reward. The target is exp(-E(x) / T), whatever the student
            learnt, as far as its samples reach.
        temperature : float, default 1.0
            Temperature T, above 0.
        condition : array, optional
            Label or vector for a conditional student, one for all samples.

        Raises
        ------
        ArgumentError
            If an energy is combined with a reward or an observation, or none of the three is given.

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
