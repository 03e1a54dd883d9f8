"""The Koopman distillation model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .trained import TrainedBaseline


@dataclass(kw_only=True, eq=False)
class KDM(TrainedBaseline):
    """The Koopman distillation model (arXiv 2505.13358): x1 = D(E0(x0) K).

    Noise and data have encoders of their own, and one linear operator carries latents of the first to those
    of the second. It knows the ends of the flow only: its operator is one map rather than a generator in
    time, so there is no path, and its eigenvalues are a basis of its own. The paper's adversarial term, which
    is for images, is left out; time and a condition are seen by the networks as koopflow's own students see
    them.

    Parameters
    ----------
    observables : int, optional
        Size of the latents; None takes the number of a Koopman student's observables.
    weights : dict, optional
        Of the loss, 1 each by default: ``target`` (D(E0(x0) K) against x1), ``latent`` (E0(x0) K against
        E1(x1)), ``reconstruction`` (D(E1(x1)) against x1), each over the variance of what it is compared
        with.
    width, depth, steps, batch_size, ...
        Those of every baseline that is trained: see :mod:`koopflow.baselines`.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, baselines
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.eye(2))
    >>> kdm = baselines.KDM(observables=8, width=16, depth=1, steps=50, trajectories=256)
    >>> kdm.fit(teacher, progress=False).operator().shape
    (8, 8)
    """

    _method: ClassVar[str] = "kdm"

    observables: int | None = None
    weights: Mapping[str, float] | None = None

    def _options(self) -> dict[str, Any]:
        # JSON knows no other mappings.
        return {**super()._options(), "weights": None if self.weights is None else dict(self.weights)}

    def operator(self) -> NDArray[np.float64]:
        """K, ``[m, m]``, float64: latents are rows, those of data are those of noise times K."""
        return self._fitted().operator()

    def eigenvalues(self) -> NDArray[np.complex128]:
        """The eigenvalues of K, ``[m]``, complex128, by falling modulus."""
        values = np.linalg.eigvals(self.operator()).astype(np.complex128)
        return values[np.argsort(-np.abs(values), kind="stable")]
