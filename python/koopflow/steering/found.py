"""Weighted samples, with measures of their reliability."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _core
from .._arrays import as_seed, checked_count, to_numpy
from ..exceptions import DivergenceError, DtypeError, ShapeError
from .reliability import UNRELIABLE

Real = NDArray[np.float64]
REMEMBERED = 0.3  # Correlation above which particles have not been moved enough.
FEWEST = 4  # Smallest number of independent parts from whose spread an error is estimated.
FEW = 100.0  # Fewer effective samples are not reliable.
BACKWARDS = 0.5  # Largest acceptable difference between the log evidences from noise and from data.


@dataclass(frozen=True, eq=False)
class TiltedSamples:
    """Weighted samples that :meth:`koopflow.steering.Tilted.sample` returns.

    Attributes
    ----------
    x, noise : array, ``[n, *event]``
        Samples, and the noise that they were made from.
    log_weights : array, ``[n]``, float64
        Logarithms of unnormalised weights, all equal for Markov chains. For importance sampling the mean of
        the weights is the evidence.
    method : str
        ``"importance"``, ``"laplace"``, ``"smc"`` or ``"mcmc"``.
    ess : float
        Effective sample size. For independent draws it is (sum w)^2 / sum w^2. For particles this is
        multiplied by the fraction of distinct ones. For chains it follows from the spread of their means.
    ess_interval : (float, float)
        5% and 95% quantiles of ``ess`` over bootstrap resamples; NaN for chains.
    pareto_k : float
        Shape of the tail of the weights. Above 0.7 averages do not converge, even if ``ess`` is large. For
        particles it is the largest value of all temperatures; NaN for chains.
    log_evidence, log_evidence_error : float
        Logarithm of the mean of exp(reward / T), of p(y), or of the integral of exp(-E / T), and its
        standard error; NaN for chains.
    acceptance : float
        Fraction of accepted moves; NaN without moves.
    evaluations : int
        Number of evaluations of the model's network, each of one sample, including those that ``"auto"``
        needs to choose the method.
    blocks : array, ``[n]``, int
        Number of the chain or island of each sample. Only samples of different ones are independent.
    temperatures : list of float
        Temperatures that particles went through, from 0 to 1.
    log_evidence_backwards : float
        ``log_evidence`` estimated from the samples of the target in ``reference``, if given. If the two
        differ much, one of them has seen only a part of the target.
    memory : float
        Largest correlation, over all temperatures, between particles before and after the moves at that
        temperature; NaN for other methods.
    multiplicity : float
        Ratio of the model's density at a sample to the density from the sample's own noise, averaged over
        samples; 1 for a map that is one to one. NaN if it was not estimated.
    doubts : list of str
        Problems that the method itself reports.
    notes : list of str
        Further remarks.
    """

    x: NDArray[Any]
    noise: NDArray[Any]
    log_weights: Real
    method: str
    ess: float
    ess_interval: tuple[float, float]
    pareto_k: float
    log_evidence: float
    log_evidence_error: float
    acceptance: float
    evaluations: int
    blocks: NDArray[np.int64]
    temperatures: list[float] = field(default_factory=list)
    log_evidence_backwards: float = float("nan")
    memory: float = float("nan")
    multiplicity: float = float("nan")
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def weights(self) -> Real:
        """Normalised weights, ``[n]``. Raises ``DivergenceError`` if no sample has a weight above zero."""
        largest = float(self.log_weights.max())
        if not math.isfinite(largest):
            raise DivergenceError("no sample has a weight above zero")
        weights = np.exp(self.log_weights - largest)
        return np.asarray(weights / weights.sum())

    @property
    def concerns(self) -> list[str]:
        """Reasons not to rely on the samples, as sentences; empty if there are none."""
        if not math.isfinite(float(self.log_weights.max())):
            return ["no sample has a weight above zero"]
        found = list(self.doubts)
        if (groups := len(np.unique(self.blocks))) < FEWEST:
            found.append(f"there are {groups} independent chains or islands, too few for an error")
        if self.pareto_k > UNRELIABLE:
            found.append(
                f"the tail of the weights is too heavy (Pareto k is {self.pareto_k:.2f}, expected at most "
                f"{UNRELIABLE}): a few samples dominate, and others that would were not drawn"
            )
        if not self.ess >= FEW:
            count = "an unknown number of" if math.isnan(self.ess) else f"{self.ess:.0f}"
            found.append(f"there are {count} effective samples, expected at least {FEW:.0f}")
        if self.method == "smc" and self.log_evidence_error > 1.0:
            found.append(f"islands disagree on the evidence by {self.log_evidence_error:.1f} nats")
        if self.memory > REMEMBERED:
            found.append(
                f"particles still depend on their earlier positions (correlation {self.memory:.2f}): "
                "evidence and samples lag behind the target; increase moves"
            )
        gap = self.log_evidence_backwards - self.log_evidence
        if abs(gap) > BACKWARDS:
            found.append(
                f"log evidence is {self.log_evidence:.2f} from noise and {self.log_evidence_backwards:.2f} "
                "from data: the model misses a part of the target, or samples regions outside it"
            )
        if self.multiplicity > 1.05:
            found.append(
                "different noise leads to the same sample (the density is "
                f"{self.multiplicity:.2f} times that of one noise): weights count such samples several times"
            )
        return found

    @property
    def verdict(self) -> str:
        """One line: ``"reliable: ..."`` or ``"unreliable: ..."`` with the reasons."""
        if concerns := self.concerns:
            return f"unreliable: {'; '.join(concerns)}"
        return f"reliable: {self.ess:.0f} effective of {len(self.x)} samples by {self.method}"

    @property
    def reliable(self) -> bool:
        """Whether there are no :attr:`concerns`."""
        return not self.concerns

    def expectation(self, function: Callable[[Any], Any] | None = None) -> tuple[Any, Any]:
        """Mean of a function of samples under the target, and its standard error.

        Parameters
        ----------
        function : callable, optional
            Function of a torch tensor ``[n, *event]`` that returns ``[n]`` or ``[n, ...]``, torch or NumPy;
            by default the samples themselves.

        Returns
        -------
        value, error : float or array
            Mean and standard error, in the shape of one value of the function. Samples of weight zero are
            ignored. The error follows from the spread of the weighted terms, or of chains or islands,
            whichever are independent. Raises ``ShapeError`` if there is not one value for each sample, and
            ``DtypeError`` for values that are not real numbers.
        """
        if function is not None and not callable(function):
            raise TypeError(f"function: expected a function of samples, got {type(function).__name__}")
        given = self.x if function is None else function(torch.as_tensor(self.x).clone())
        answers = np.asarray(to_numpy(given) if isinstance(given, torch.Tensor) else given)
        if answers.dtype.kind not in "fiub":
            raise DtypeError(f"function: expected real numbers, got {answers.dtype}")
        if answers.ndim == 0 or len(answers) != len(self.x):
            raise ShapeError(f"function: expected {len(self.x)} values, got shape {answers.shape}")
        weights = self.weights.reshape(-1, *([1] * (answers.ndim - 1)))
        # Values of samples without weight may be anything, also NaN.
        values = np.where(weights > 0.0, answers.astype(np.float64), 0.0)
        mean = (weights * values).sum(axis=0)
        names, places = np.unique(self.blocks, return_inverse=True)
        terms = np.zeros((len(names), *values.shape[1:]))
        np.add.at(terms, places, weights * (values - mean))
        count = len(names)
        error = np.sqrt((terms**2).sum(axis=0) * count / max(count - 1, 1))
        return (float(mean), float(error)) if mean.ndim == 0 else (mean, error)

    def resample(self, n: int | None = None, *, seed: int | None = 0) -> NDArray[Any]:
        """Draw ``n`` samples of equal weight in random order, ``[n, *event]``.

        Each sample is drawn n times its normalised weight, rounded up or down. The default ``n`` is the
        number of samples.
        """
        count, number = len(self.x) if n is None else checked_count(n), as_seed(seed)
        _ = self.weights
        places = np.asarray(_core.systematic_resample(self.log_weights, count, number))
        return np.asarray(self.x[np.random.default_rng(number).permutation(places)])

    def summary(self) -> str:
        """The verdict and all measures, as text."""
        low, high = self.ess_interval
        each = f" ({self.evaluations / self.ess:.1f} for each effective sample)" if self.ess >= 1.0 else ""
        within = f" ({low:.0f} to {high:.0f})" if math.isfinite(low) else ""
        lines = [
            self.verdict,
            f"{len(self.x)} samples by {self.method}, {self.evaluations} evaluations{each}",
            f"effective {self.ess:.1f}{within}",
        ]
        if not math.isnan(self.pareto_k):
            lines.append(f"Pareto k {self.pareto_k:.2f}")
        if not math.isnan(self.log_evidence):
            lines.append(f"log evidence {self.log_evidence:.4f} ± {self.log_evidence_error:.4f}")
        if not math.isnan(self.log_evidence_backwards):
            lines.append(f"log evidence from data {self.log_evidence_backwards:.4f}")
        if not math.isnan(self.acceptance):
            lines.append(f"accepted {self.acceptance:.0%} of moves")
        if len(self.temperatures) > 1:
            told = f"memory {self.memory:.2f} at most"
            lines.append(f"{len(self.temperatures) - 1} temperatures, {told}")
        if not math.isnan(self.multiplicity):
            lines.append(f"density over that of one noise {self.multiplicity:.3f}")
        return "\n".join([*lines, *self.notes])

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"<TiltedSamples: {self.verdict}>"
