"""Transport plans from each snapshot of a population to the next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .._arrays import Array, as_batch, to_numpy
from ..exceptions import ArgumentError

Plan = npt.NDArray[np.float64]

#: Entropy of the plans that growth is read from, in mean squared distances.
ENTROPY = 0.01
#: Sums of rows that differ by more than this, of their mean, are growth.
EVEN = 1e-3


def given_plans(coupling: Any) -> list[Plan]:
    """Plans that somebody made, ``[N_k, N_{k+1}]`` each, dense or SciPy's sparse matrices."""
    if isinstance(coupling, str) or not isinstance(coupling, Sequence):
        expected = "'ot', 'unbalanced', 'independent' or a plan for each two snapshots"
        raise ArgumentError(f"coupling: expected {expected}, got {coupling!r}")
    dense = [plan.toarray() if hasattr(plan, "toarray") else plan for plan in coupling]
    return [np.asarray(to_numpy(as_batch(plan, f"coupling[{k}]")), float) for k, plan in enumerate(dense)]


def unbalanced_plans(snapshots: Sequence[Array], relaxation: float) -> list[Plan]:
    """Semi-relaxed plans between snapshots ``[N_k, *event]``: all rows of the later one are reached alike,
    and those of the earlier one send as much as suits them, at the cost of ``relaxation`` mean squared
    distances for each unit of relative entropy.

    The sums of rows are those of the entropic plan of least <C, P> + relaxation KL(P 1 | a) (Séjourné et al.
    2211.08775, solved by POT); the plan is the exact one between those sums and the later snapshot.

    Raises ``ImportError`` without POT, and ``ArgumentError`` where no mass is left.
    """
    if not 0.0 < relaxation < np.inf:
        raise ArgumentError(f"relaxation: expected a finite number above 0, got {relaxation!r}")
    sets = [np.asarray(to_numpy(rows), float).reshape(len(rows), -1) for rows in snapshots]
    return [_semi_relaxed(before, after, relaxation) for before, after in pairwise(sets)]


def _semi_relaxed(before: Plan, after: Plan, relaxation: float) -> Plan:
    try:
        import ot
    except ImportError as error:
        text = "coupling='unbalanced' needs POT: pip install 'koopflow[populations]'"
        raise ImportError(text) from error
    costs = np.asarray(ot.dist(before, after))
    costs /= costs.mean() or 1.0
    a, b = (np.full(len(rows), 1.0 / len(rows)) for rows in (before, after))
    entropic = ot.unbalanced.sinkhorn_unbalanced(
        a, b, costs, ENTROPY, (relaxation, float("inf")), method="sinkhorn_translation_invariant"
    )
    sums = np.asarray(entropic).sum(1)
    if not np.isfinite(sums).all() or sums.sum() <= 0.0:
        raise ArgumentError(
            f"relaxation: expected a value at which mass is left, but with {relaxation:g} it vanishes or is "
            "not finite"
        )
    return np.asarray(ot.emd(sums / sums.sum(), b, costs, numItermax=1_000_000))


def uneven(plans: Sequence[Plan]) -> bool:
    """Whether rows of a plan send different masses."""
    sums = [plan.sum(1) for plan in plans]
    return any(np.ptp(rows) > EVEN * rows.mean() for rows in sums)
