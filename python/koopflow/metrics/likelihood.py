"""The log-likelihood of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array, method_of, to_numpy
from ..exceptions import NonFiniteError, ShapeError
from .errors import plain_batch


@dataclass(frozen=True)
class LogLikelihood:
    """The mean log-density of data under a model.

    Attributes
    ----------
    nats, standard_error : float
        Mean of log p(x), and its standard error.
    bits_per_dimension : float
        -nats / (d log 2), in the data's own units. For images whose bytes were dequantised by uniform noise
        and scaled by s (s = 2 / 255 for [-1, 1]), add -log2(s) to have units of bytes.
    samples : int
        Number of data.
    """

    nats: float
    standard_error: float
    bits_per_dimension: float
    samples: int


def log_likelihood(model: Any, data: Array, **options: Any) -> LogLikelihood:
    """The mean log-density of data.

    Parameters
    ----------
    model : FlowTeacher
        Model; anything with ``log_prob(data, **options)`` that returns ``[N]`` finite nats will do.
    data : array, ``[N, *event]``
        At least two data that the model was not trained on.
    **options
        Options of ``log_prob``, such as ``condition``.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher
    >>> teacher = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
    >>> found = log_likelihood(teacher, np.array([[0.0, 0.0], [1.0, 1.0]], dtype=np.float32))
    >>> round(found.nats, 3), round(found.bits_per_dimension, 3)   # -log(2 pi) - 1/2
    (-2.338, 1.686)
    """
    data = plain_batch(data, "data")
    answer = to_numpy(method_of("model", model, "log_prob")(data, **options)).astype(np.float64)
    if len(data) < 2 or answer.shape != (len(data),):
        raise ShapeError(f"log_prob: expected ({max(len(data), 2)},), got {answer.shape}")
    if not np.isfinite(answer).all():
        bad = int((~np.isfinite(answer)).sum())
        raise NonFiniteError(f"log_prob: expected finite values, got {bad} of {len(answer)} that are not")
    nats = float(answer.mean())
    bits = -nats / (int(np.prod(data.shape[1:])) * float(np.log(2.0)))
    return LogLikelihood(nats, float(answer.std(ddof=1) / np.sqrt(len(answer))), bits, len(answer))
