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

#: Entropic regularisation of the plans that determine growth, in units of the mean squared distance.
ENTROPY = 0.01
#: Row sums of a plan that differ by more than this share of their mean imply growth.
EVEN = 1e-3


def given_plans(coupling: Any) -> list[Plan]:
    """Plans ``[N_k, N_{k+1}]`` given by the user, as dense arrays or SciPy's sparse matrices."""
    if isinstance(coupling, str) or not isinstance(coupling, Sequence):
        expected = "'ot', 'unbalanced', 'independent' or a plan for each two snapshots"
        raise ArgumentError(f"coupling: expected {expected}, got {coupling!r}")
    dense = [plan.toarray() if hasattr(plan, "toarray") else plan for plan in coupling]
    return [np.asarray(to_numpy(as_batch(plan, f"coupling[{k}]")), float) for k, plan in enumerate(dense)]


def unbalanced_plans(snapshots: Sequence[Array], relaxation: float) -> list[Plan]:
    """Semi-relaxed plans between consecutive snapshots ``[N_k, *event]``.

    All rows of the later snapshot receive the same mass. Rows of the earlier one may send different masses,
    at a cost of ``relaxation`` mean squared distances per unit of relative entropy. The row sums are those of
    the entropic plan that minimises <C, P> + relaxation KL(P 1 | a) (Séjourné et al. 2211.08775, solved by
    POT). The plan is the exact one between these sums and the later snapshot.

    Raises ``ImportError`` without POT, and ``ArgumentError`` if no mass is left.
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
            f"relaxation: expected a value that leaves a finite mass above 0, got {relaxation:g}, with which "
            "the mass vanishes or is not finite"
        )
    return np.asarray(ot.emd(sums / sums.sum(), b, costs, numItermax=1_000_000))


def uneven(plans: Sequence[Plan]) -> bool:
    """Whether the rows of any plan send different masses."""
    sums = [plan.sum(1) for plan in plans]
    return any(np.ptp(rows) > EVEN * rows.mean() for rows in sums)
