"""The observables of a fitted student, and the generator of their linear evolution."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_number, as_states
from .._clock import UNIT, Clock
from .._conditioning import Conditioning
from ..exceptions import NotFittedError


class Observables:
    """The observables g(t, x) of a student in the core, which follow dg/dt = g L."""

    _student: _core.Student
    teacher_: dict[str, Any]

    @property
    def clock(self) -> Clock:
        """Times of source and data, from the teacher's ``horizon``. Spectra, the generator and the spans of
        :meth:`propagate` do not use it: there the whole flow takes time 1."""
        known = self.teacher_.get("horizon") if hasattr(self, "teacher_") else None
        return UNIT if known is None else Clock(*known)

    def encode(
        self, t: Array | float, x: Array, *, direction: str = "forward", condition: Array | None = None
    ) -> Array:
        """Observables g(t, x) = [1, t, x, phi(t, x)], ``[B, m]``, of the kind of ``x``.

        ``t`` is a time of :attr:`clock`, [0, 1] by default, or an array of them, ``[B]``.
        ``direction="backward"`` uses the lift for decoding at earlier times. With ``lifts=1`` both lifts are
        the same.
        """
        x = as_states(x)
        options: dict[str, Any] = {"direction": str(direction), "condition": self._checked(condition)}
        return self._fitted().encode(self.clock.times_for(t, x), x, **options)

    def encode_with_tangent(
        self,
        t: Array | float,
        x: Array,
        velocity: Array,
        *,
        direction: str = "forward",
        condition: Array | None = None,
    ) -> tuple[Array, Array]:
        """Observables and their exact rate of change J g (1, v) along a velocity ``[B, *event]``.

        Both results are ``[B, m]``. The other arguments are those of :meth:`encode`. With the teacher's
        velocity, the rate in the student's :meth:`own_time` is g L if the student follows the flow (paper,
        equation of the generator).
        """
        x = as_states(x)
        options: dict[str, Any] = {"direction": str(direction), "condition": self._checked(condition)}
        rate = as_states(velocity, "velocity") * (1.0 if self.clock.is_unit else self.clock.length)
        return self._fitted().encode_with_tangent(self.clock.times_for(t, x), x, rate, **options)

    def own_time(self, t: float) -> float:
        """The time in which observables evolve linearly, for a time ``t`` of :attr:`clock`.

        It is ``t`` mapped to [0, 1]. A student of data far from mean 0 and deviation 1 uses another time
        (docs/distillation.md). The time among the observables is this one.
        """
        return self._fitted().own_time(self.clock.own(as_number(t, "t")))

    def propagate(self, g: Array, tau: Array | float) -> Array:
        """Observables ``[B, m]`` propagated over a span ``tau`` of :meth:`own_time`: g exp(tau L).

        ``tau`` is a number or ``[B]``, of either sign.
        """
        tau = as_number(tau, "tau") if np.ndim(tau) == 0 else as_states(tau, "tau")
        return self._fitted().propagate(as_states(g, "g"), tau)

    def readout(self, g: Array) -> Array:
        """States ``[B, *event]`` of observables ``[B, m]``: a slice of them, or the learnt ``decoder``."""
        return self._fitted().readout(as_states(g, "g"))

    def generator_matrix(self) -> NDArray[np.float64]:
        """The matrix L, ``[m, m]`` in float64, with dg/dt = g L for row vectors g."""
        return self._fitted().generator_matrix()

    def eigenvalues(self) -> NDArray[np.complex128]:
        """The eigenvalues of L, ``[m]`` in complex128. Conjugate pairs are adjacent."""
        return self._fitted().eigenvalues()

    @property
    def evaluations(self) -> int:
        """Number of batched evaluations of the observables so far (NFE)."""
        return self._fitted().evaluations

    def _fitted(self) -> _core.Student:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("this KoopmanDistiller is not fitted yet: call fit(teacher) first")
        return self._student

    def _checked(self, condition: Array | None) -> Array | None:
        """The condition, after a warning about classes that training did not see."""
        self._fitted()
        kind = Conditioning.from_plain(self.teacher_.get("conditioning", "none"))
        return kind.known(condition, self.teacher_.get("classes"))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_student")
