"""Measured values with intervals from resampling, sampling floors and standard errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import _core
from .._arrays import Array, as_batch, as_number, as_samples, as_seed, checked_count, method_of, to_numpy
from ..exceptions import ArgumentError, NonFiniteError, ShapeError

RESAMPLES = 200
# Smallest number of samples that can be halved.
FEWEST = 4


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval and the value of a perfect model. ``float()`` gives the value.

    Attributes
    ----------
    value : float
        Value of the metric.
    low, high : float
        Ends of the interval in which the value would lie, with probability ``confidence``, if the same number
        of samples were drawn again. For a biased metric it is not an interval for the limit of infinitely
        many samples.
    floor : float or None
        Value of the same metric between data and other data, with the same number of samples. No model is
        expected to be lower. It is 0 for errors, and None if it is not known.
    samples : int
        Number of measured samples; for distances, of each set.
    """

    value: float
    low: float
    high: float
    floor: float | None
    samples: int
    confidence: float = 0.95

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        floor = "" if self.floor is None else f"; floor {self.floor:.4g}"
        interval = f"{self.confidence:.0%} interval {self.low:.4g} to {self.high:.4g}"
        return f"{self.value:.4g} ({interval}{floor}; {self.samples} samples)"


def measured(
    metric: Callable[[Any, Any], float],
    samples: Array,
    data: Array,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Measure a distance between samples and data, with its sampling floor and an interval.

    Let n = min(len(samples), len(data) // 2). The value is the distance between n samples and n data. The
    floor is the distance between n other data and the same n data. The numbers are equal because most
    distances grow when there are fewer samples.

    The interval comes from random halves of both sets, drawn without replacement: the deviations of their
    distances from the mean of these distances are added to the value. A half deviates from the whole as much
    as the whole from the truth; for subsets of m the factor sqrt(m / (n - m)) accounts for the difference.
    Near the floor these intervals are too wide rather than too narrow. A bootstrap with replacement is not
    used, because distances would treat its copies as structure.

    Parameters
    ----------
    metric : callable
        Function of two arrays ``[n, ...]`` that returns a float, such as those of :mod:`koopflow.metrics`.
    samples : array, ``[N, ...]``
        Samples of the model, at least 4, or their features by :func:`koopflow.metrics.extract_features`.
    data : array, ``[M, ...]``
        Data that the model was not trained on, at least 8.
    resamples, confidence, seed
        Number of halves, at least 2; confidence of the interval, in (0, 1); and random seed of the choice of
        rows and halves. The metric is called once for each half, on n / 2 samples, and twice on n samples.

    Examples
    --------
    >>> from koopflow import datasets
    >>> from koopflow.metrics import energy_distance, measured
    >>> samples, data = datasets.moons(300, seed=1), datasets.moons(600, seed=2)
    >>> near, far = (measured(energy_distance, x, data, resamples=50) for x in (samples, samples + 0.5))
    >>> near.low < near.floor < near.high < far.low
    True
    """
    samples, data = as_samples(samples, "samples"), as_samples(data, "data")
    random, tails = _options(resamples, confidence, seed)
    if not callable(metric):
        raise ArgumentError(f"metric: expected a function of two arrays, got {metric!r}")
    n = min(len(samples), len(data) // 2)
    if n < FEWEST:
        raise ShapeError(
            f"samples: expected at least {FEWEST}, and at least {2 * FEWEST} data, "
            f"got {len(samples)} and {len(data)}"
        )
    samples, order = samples[random.permutation(len(samples))[:n]], random.permutation(len(data))
    reference, fresh = data[order[:n]], data[order[n : 2 * n]]
    value, floor = (as_number(metric(x, reference), "metric") for x in (samples, fresh))
    m = n // 2
    halves = []
    for _ in range(resamples):
        ours, theirs = samples[random.permutation(n)[:m]], reference[random.permutation(n)[:m]]
        halves.append(as_number(metric(ours, theirs), "metric"))
    deviations = (np.array(halves) - np.mean(halves)) * np.sqrt(m / (n - m))
    low, high = value + np.quantile(deviations, tails)
    return Estimate(value, float(low), float(high), floor, n, float(confidence))


def bootstrapped(
    statistic: _core.Statistic, *, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """A statistic of the errors of independent samples, with its percentile bootstrap interval."""
    random, tails = _options(resamples, confidence, seed)
    n = statistic.samples
    again = [statistic.value_of(random.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.quantile(again, tails)
    return Estimate(statistic.value, float(low), float(high), 0.0, n, float(confidence))


@dataclass(frozen=True)
class LogLikelihood:
    """The mean log-density of data under a model.

    Attributes
    ----------
    nats, standard_error : float
        Mean of log p(x), and its standard error.
    bits_per_dimension : float
        -nats / (d log 2), in the data's own units. For images whose bytes were dequantised by uniform noise
        and scaled by s (s = 2 / 255 for [-1, 1]), add -log2(s) to convert to units of bytes.
    samples : int
        Number of samples of data.
    """

    nats: float
    standard_error: float
    bits_per_dimension: float
    samples: int


def log_likelihood(model: Any, data: Array, **options: Any) -> LogLikelihood:
    """Measure the mean log-density of data under a model.

    Parameters
    ----------
    model : FlowTeacher
        Model, or any object with ``log_prob(data, **options)`` that returns ``[N]`` finite values in nats.
    data : array, ``[N, *event]``
        Data that the model was not trained on, at least two samples.
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


def plain_batch(array: Array, argument: str) -> Array:
    """A batch without gradients, since measured values are plain numbers."""
    batch = as_batch(array, argument)
    return batch.detach() if isinstance(batch, torch.Tensor) else batch


def _options(resamples: int, confidence: float, seed: int | None) -> tuple[np.random.Generator, list[float]]:
    """A generator, and the quantiles at the ends of an interval."""
    if checked_count(resamples, "resamples") < 2:
        raise ArgumentError(f"resamples: expected at least 2, got {resamples}")
    inside = as_number(confidence, "confidence", "a number between 0 and 1", lambda share: 0.0 < share < 1.0)
    return np.random.default_rng(as_seed(seed)), [(1.0 - inside) / 2.0, (1.0 + inside) / 2.0]
