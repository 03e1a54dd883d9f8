"""What a fitted student can do: sample, follow paths, invert, encode, read its generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from . import _core
from ._arrays import Array, as_batch, as_condition
from ._flow import checked_count, noise_or, times_for
from .exceptions import NotFittedError
from .progress import ProgressFunction, ProgressMeter

S = TypeVar("S", bound="FittedStudent")


class FittedStudent(BaseEstimator):  # type: ignore[misc]
    """A student in the core; :class:`koopflow.KoopmanDistiller` says where it comes from."""

    _student: _core.Student
    conversion_: dict[str, Any]

    def sample(
        self,
        n: int | None = None,
        *,
        x0: Array | None = None,
        steps: int = 1,
        seed: int = 0,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """Data from noise, by one evaluation of the observables.

        Parameters
        ----------
        n : int, optional
            How many fresh samples, made in chunks of bounded memory; or give ``x0``.
        x0 : array, ``[B, *event]``, optional
            Noise to start from.
        steps : int, default 1
            Encode this often, at equal distances in time. Observables evolve linearly, so every encoding is
            carried along and averaged: the noise's has two votes for each step, each later one has one.
            On the students measured so far more steps lower the error a little (docs/distillation.md).
        seed : int, default 0
            Fixes the fresh noise.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional student.
        progress : bool or callable, default False
            See :mod:`koopflow.progress`.

        Returns
        -------
        array, ``[B, *event]``
            Of the kind of ``x0``; NumPy for fresh samples.
        """
        student = self._fitted()
        with ProgressMeter(progress=progress) as meter:
            if x0 is None and n is not None and condition is None:
                return student.sample_count(checked_count(n), seed=seed, steps=steps, monitor=meter.monitor)
            x0 = noise_or(x0, n, student.event_shape, seed)
            return student.sample(x0, steps=steps, condition=as_condition(condition), monitor=meter.monitor)

    def sample_path(
        self,
        x0: Array | int | None = None,
        *,
        n: int | None = None,
        times: Sequence[float],
        seed: int = 0,
        condition: Array | None = None,
    ) -> Array:
        """States along the path from one encoding of the noise, in closed form.

        Parameters
        ----------
        x0 : array, ``[B, *event]``, or int, optional
            Noise to start from; an integer counts fresh samples, as ``n`` does.
        n : int, optional
            How many fresh samples.
        times : sequence of float
            In [0, 1], in any order.
        seed : int, default 0
            Fixes the fresh noise.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional student.

        Returns
        -------
        array, ``[len(times), B, *event]``
            Of the kind of ``x0``; NumPy for fresh samples.
        """
        student = self._fitted()
        if isinstance(x0, int | np.integer):
            n = int(x0)
            x0 = None
        x0 = noise_or(x0, n, student.event_shape, seed)
        return student.sample_path(x0, [float(t) for t in times], condition=as_condition(condition))

    def invert(self, x: Array, *, condition: Array | None = None) -> Array:
        """The noise that data came from.

        Parameters
        ----------
        x : array, ``[B, *event]``
            Data.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional student.

        Returns
        -------
        array, ``[B, *event]``
            Of the kind of ``x``.
        """
        return self._fitted().invert(as_batch(x), condition=as_condition(condition))

    def encode(
        self, t: Array | float, x: Array, *, direction: str = "forward", condition: Array | None = None
    ) -> Array:
        """Observables g(t, x) = [1, t, x, phi(t, x)].

        Parameters
        ----------
        t : float or array, ``[B]``
            Times in [0, 1].
        x : array, ``[B, *event]``
            States.
        direction : {"forward", "backward"}, default "forward"
            Which lift: the one for decoding at later times or at earlier ones. The same with ``lifts=1``.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional student.

        Returns
        -------
        array, ``[B, m]``
            Of the kind of ``x``.
        """
        student = self._fitted()
        x = as_batch(x)
        return student.encode(times_for(t, x), x, direction=direction, condition=as_condition(condition))

    def encode_with_tangent(
        self,
        t: Array | float,
        x: Array,
        velocity: Array,
        *,
        direction: str = "forward",
        condition: Array | None = None,
    ) -> tuple[Array, Array]:
        """Observables and their exact rate of change along a velocity: g and J g (1, v).

        With the teacher's velocity the second is g L for a student that follows the flow (paper, equation of
        the generator).

        Parameters
        ----------
        t : float or array, ``[B]``
            Times in [0, 1].
        x, velocity : array, ``[B, *event]``
            States and their velocities.
        direction, condition
            As in :meth:`encode`.

        Returns
        -------
        tuple of two arrays, ``[B, m]``
            Of the kind of ``x``.
        """
        student = self._fitted()
        x = as_batch(x)
        return student.encode_with_tangent(
            times_for(t, x), x, as_batch(velocity), direction=direction, condition=as_condition(condition)
        )

    def propagate(self, g: Array, tau: Array | float) -> Array:
        """Carry observables through time: g exp(tau L).

        Parameters
        ----------
        g : array, ``[B, m]``
            Observables.
        tau : float or array, ``[B]``
            How far in time, of either sign.

        Returns
        -------
        array, ``[B, m]``
            Of the kind of ``g``.
        """
        return self._fitted().propagate(as_batch(g), tau)

    def readout(self, g: Array) -> Array:
        """The state that observables carry: a slice of them, or what ``decoder`` learnt.

        Parameters
        ----------
        g : array, ``[B, m]``
            Observables.

        Returns
        -------
        array, ``[B, *event]``
            Of the kind of ``g``.
        """
        return self._fitted().readout(as_batch(g))

    def generator_matrix(self) -> NDArray[np.float64]:
        """L, ``[m, m]``, float64, in the row convention dg/dt = g L, whatever the parametrisation."""
        return self._fitted().generator_matrix()

    def eigenvalues(self) -> NDArray[np.complex128]:
        """The eigenvalues of L, ``[m]``, complex128, conjugate pairs side by side."""
        return self._fitted().eigenvalues()

    def to_spectral(self: S) -> S:
        """The same student with a spectral generator: the dense one's eigenvalues as its parameters.

        Returns
        -------
        KoopmanDistiller
            A fitted one with the same samples and paths, whose observables are linear mixtures of this
            one's. Its ``conversion_`` says how well conditioned the change of coordinates was.

        Raises
        ------
        ValueError
            When the generator is spectral already.
        DivergenceError
            When it has no spectral form: nearly parallel eigenvectors, growth beyond 8, or an eigenvalue
            of nearly zero that an affine motion would need.
        """
        return self._converted("spectral", self._fitted().to_spectral())

    def to_dense(self: S) -> S:
        """The same student with a dense generator, over the same observables.

        Returns
        -------
        KoopmanDistiller
            A fitted one with the same samples and paths.

        Raises
        ------
        ValueError
            When the generator is dense already.
        """
        return self._converted("dense", self._fitted().to_dense())

    def _converted(self: S, generator: str, outcome: tuple[_core.Student, str]) -> S:
        student, report = outcome
        # The stability asked for is part of the parameters found: the new ones are bare.
        other = type(self)(**{**self.get_params(), "generator": generator, "stability": "free"})
        other._adopt(student, self.teacher_)
        other.conversion_ = json.loads(report)
        return other

    @property
    def evaluations(self) -> int:
        """The number of batched evaluations of the observables so far (NFE)."""
        return self._fitted().evaluations

    def _adopt(self, student: _core.Student, teacher: dict[str, Any]) -> None:
        self._student = student
        self.event_shape_ = tuple(student.event_shape)
        self.n_observables_ = student.size
        self.config_: dict[str, Any] = json.loads(student.config)
        self.history_: dict[str, Any] = json.loads(student.history)
        self.history_["log"] = [
            {"step": entry["step"], "seconds": entry["seconds"], **dict(entry["values"])}
            for entry in self.history_["log"]
        ]
        self.teacher_ = teacher

    def _fitted(self) -> _core.Student:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("this KoopmanDistiller is not fitted yet: call fit(teacher) first")
        return self._student

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_student")
