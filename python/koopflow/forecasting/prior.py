"""Sampling of whole sequences: a one-step model of their first rows, continued by a forecaster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import Array, as_seed, checked_count
from ..students import KoopmanDistiller
from ..teachers import FlowTeacher
from .paths import as_lead_times


class SequencePrior:
    """A distribution over sequences, made by :meth:`koopflow.KoopmanForecaster.prior`.

    Attributes
    ----------
    teacher : FlowTeacher
        A flow from noise to the first rows of the paths.
    student : KoopmanDistiller
        Its one-step student.
    forecaster : KoopmanForecaster
        The forecaster that continues the sequences.
    """

    def __init__(self, teacher: FlowTeacher, student: KoopmanDistiller, forecaster: Any) -> None:
        self.teacher, self.student, self.forecaster = teacher, student, forecaster

    def sample(
        self,
        n: int,
        times: Sequence[float] | Array,
        *,
        seed: int | None = 0,
        noisy: bool = False,
        condition: Array | None = None,
    ) -> Any:
        """Draw new sequences ``[T, n, *event]`` at times since their beginning.

        Parameters
        ----------
        n : int
            Number of sequences.
        times : sequence of float, ``[T]``
            Times; 0 is the beginning.
        seed : int or None, default 0
            Random seed; None draws one.
        noisy : bool, default False
            Whether every step adds noise with the covariance of the data's steps, as for a member of an
            ensemble.
        condition : array, optional
            Condition of each sequence, for a forecaster fitted with conditions.
        """
        seed, leads = as_seed(seed), as_lead_times(times)
        flat = np.asarray(self.student.sample(checked_count(n), seed=seed), dtype=np.float64)
        model = self.forecaster
        rows = flat.reshape(len(flat), model._sizes["history"], *model.event_shape_)
        if rows.shape[1] == 1:
            rows = rows[:, 0]
        options: dict[str, Any] = {"condition": condition, "seed": seed}
        found = model.forecast(rows, leads, members=1 if noisy else 0, **options)
        return found[0] if noisy else found


def fitted_prior(
    forecaster: Any,
    beginnings: Any,
    teacher: FlowTeacher | None,
    student: KoopmanDistiller | None,
    **options: Any,
) -> SequencePrior:
    """The prior fitted to first rows ``[N, h * d]``."""
    teacher = FlowTeacher(seed=forecaster.seed) if teacher is None else teacher
    student = KoopmanDistiller(seed=forecaster.seed) if student is None else student
    teacher.fit(np.asarray(beginnings, dtype=np.float32), **options)
    student.fit(teacher, **options)
    return SequencePrior(teacher, student, forecaster)
