"""The sampling error of the teacher's distance from data, with which students are compared."""

from __future__ import annotations

from koopflow import metrics

from .measure import Reference

# Each resample is an exact assignment of half the samples.
RESAMPLES = 40


def teacher_interval(reference: Reference, seed: int) -> dict[str, float]:
    """The 95% interval of the teacher's exact W2, and the W2 between two sets of data.

    See :func:`koopflow.metrics.measured`. If there are fewer held-out samples than twice the number compared,
    the interval is that of fewer samples, and wider.
    """
    exact = reference.exact
    ends, data = (x.reshape(len(x), -1) for x in (reference.ends, reference.held_out))
    value = metrics.wasserstein2(ends[:exact], data[:exact])
    some = ends[:exact], data[: 2 * exact]
    estimate = metrics.measured(metrics.wasserstein2, *some, resamples=RESAMPLES, seed=seed)
    floor = float("nan") if estimate.floor is None else estimate.floor
    return {
        "teacher_w2_low": value + estimate.low - estimate.value,
        "teacher_w2_high": value + estimate.high - estimate.value,
        "w2_floor": floor,
    }
