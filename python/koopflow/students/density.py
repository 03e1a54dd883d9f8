"""Densities of students, by the change of variables through their one-step map."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, as_batch, as_condition, to_numpy
from ..progress import ProgressFunction, ProgressMeter

# Of the data's total deviation: farther away than this a sample is not the data.
TOLERANCE = 0.01


@dataclass(frozen=True)
class StudentDensity:
    """What :meth:`koopflow.KoopmanDistiller.density` finds; arrays are of the kind of the data.

    Attributes
    ----------
    log_prob : array, ``[B]``
        In nats: log N(noise; 0, I) - log_determinant. It is the density at ``sample(x0=noise)``, and at the
        data as far as ``residuals`` are small.
    noise : array, ``[B, *event]``
        The inverse that was found.
    residuals : array, ``[B]``
        ``||sample(x0=noise) - x||``.
    log_determinant : array, ``[B]``
        log |det dS/dz| of the one-step map S at the noise.
    standard_errors : array, ``[B]``
        Of estimated log-determinants, over their probes; 0 for exact ones.
    spread : float
        The total deviation of the data that the student was fitted to: what residuals compare with.
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
        dimension = math.prod(self.noise.shape[1:])
        return self.log_prob / (-dimension * math.log(2.0))


class WithDensity(ABC):
    """The part of a student that measures densities."""

    @abstractmethod
    def _fitted(self) -> _core.Student:
        """The student in the core."""

    def log_prob(
        self,
        x: Array,
        *,
        determinant: str = "auto",
        polish: int = 10,
        probes: int = 8,
        products: int = 32,
        seed: int = 0,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """Log-density in nats, by the change of variables through the one-step map S.

        log p(x) = log N(z; 0, I) - log |det dS/dz| at the noise z whose sample is x. A student's own inverse
        is approximate, so z is polished until its sample is x; :meth:`density` says how near that came, and a
        warning where it stayed away by more than 1% of the data's total deviation.

        Parameters
        ----------
        x : array, ``[B, *event]``
            Data.
        determinant : {"auto", "exact", "lanczos"}, default "auto"
            ``"exact"`` takes one vector-Jacobian product for each dimension and the determinant in float64;
            ``"lanczos"`` estimates it from products with random signs (stochastic Lanczos quadrature), for
            students that do not decode by a network. ``"auto"`` is exact up to 1024 dimensions.
        polish : int, default 10
            Steps of the inverse, as in :meth:`invert`: Newton's up to 1024 dimensions, fixed-point steps
            beyond.
        probes : int, default 8
            Of the estimate, for each sample; at least 2, for a standard error.
        products : int, default 32
            Of the estimate, for each probe. Too few overestimate the determinant and so underestimate the
            density, the more the worse S is conditioned; as many as dimensions leave no such error.
        seed : int, default 0
            Of the probes.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional student.
        progress : bool or callable, default False
            See :mod:`koopflow.progress`; for interruptions too.

        Returns
        -------
        array, ``[B]``
            Of the kind of ``x``.

        Raises
        ------
        ArgumentError
            When an option is out of its range, or an estimate is wanted of a student that decodes by a
            network.

        Warns
        -----
        RuntimeWarning
            When samples of the noise that was found are not the data.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher, KoopmanDistiller
        >>> teacher = FlowTeacher.gaussian([1.0, 2.0], np.diag([4.0, 0.25]))
        >>> student = KoopmanDistiller(observables=8, width=16, depth=1, steps=300, trajectories=512, seed=0)
        >>> student = student.fit(teacher, progress=False)
        >>> x = teacher.sample(200, seed=1)
        >>> error = student.log_prob(x) - teacher.log_prob(x)
        >>> bool(np.abs(error).mean() < 0.2)
        True
        """
        found = self.density(
            x,
            determinant=determinant,
            polish=polish,
            probes=probes,
            products=products,
            seed=seed,
            condition=condition,
            progress=progress,
        )
        return found.log_prob

    def density(
        self,
        x: Array,
        *,
        determinant: str = "auto",
        polish: int = 10,
        probes: int = 8,
        products: int = 32,
        seed: int = 0,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> StudentDensity:
        """What :meth:`log_prob` answers with all that it rests on; takes, raises and warns the same.

        Returns
        -------
        StudentDensity
            Densities, the noise behind the data, how far its samples are from them, and log-determinants.
        """
        with ProgressMeter(progress=progress) as meter:
            (log_prob, noise, residuals, log_determinant, standard_errors), spread = self._fitted().density(
                as_batch(x),
                determinant=determinant,
                polish=polish,
                probes=probes,
                products=products,
                seed=seed,
                condition=as_condition(condition),
                monitor=meter.monitor,
            )
        _warn_of_residuals(to_numpy(residuals), spread)
        return StudentDensity(log_prob, noise, residuals, log_determinant, standard_errors, spread)


def _warn_of_residuals(residuals: Any, spread: float) -> None:
    away = int((residuals > TOLERANCE * spread).sum())
    if away:
        warnings.warn(
            f"the inverse of {away} of {len(residuals)} samples misses them by more than {TOLERANCE:.0%} of "
            f"the data's total deviation {spread:.3g}, at most by {np.max(residuals):.3g}: their densities "
            "are those of points nearby (try a larger polish)",
            RuntimeWarning,
            stacklevel=3,
        )
