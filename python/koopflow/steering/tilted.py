"""A one-step model whose samples are weighted by a reward, an observation or an energy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch, as_integer, as_seed, checked_count, to_numpy
from ..exceptions import ArgumentError, NonFiniteError, ShapeError, SteeringError
from ..progress import ProgressFunction, ProgressMeter
from .chains import chains
from .found import TiltedSamples
from .importance import importance
from .laplace import fits, laplace
from .objective import Objective
from .observation import Observation
from .one_step import OneStep
from .particles import particles
from .reliability import UNRELIABLE, multiplicity
from .run import Run

METHODS: dict[str, Callable[[Run], TiltedSamples]] = {
    "importance": importance,
    "laplace": laplace,
    "smc": particles,
    "mcmc": chains,
}
MOVES = ("auto", "pcn", "mala")
PILOT = 1024  # Largest number of draws by which "auto" chooses a method.
# Importance sampling is used from this effective fraction of them, or this effective number of the n samples.
ENOUGH, PLENTY = 0.1, 400
UNSEEN = "parts of the target that the model never samples are missing here: pass reference= to detect them"
CHECKED, LARGEST_CHECKED = 32, 64  # Number of samples whose multiplicity is estimated, and most dimensions.


class Tilted:
    """A student or teacher whose samples are weighted by a reward, an observation or an energy.

    :meth:`koopflow.KoopmanDistiller.tilt` and :meth:`koopflow.FlowTeacher.tilt` make it. Nothing is computed
    until :meth:`sample` is called.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def sample(
        self,
        n: int,
        *,
        method: str = "auto",
        seed: int | None = 0,
        moves: int = 10,
        move: str = "auto",
        chains: int | None = None,
        burn_in: int = 200,
        thin: int = 5,
        reference: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> TiltedSamples:
        """Draw weighted samples, with measures of their reliability.

        Parameters
        ----------
        n : int
            Number of samples.
        method : {"auto", "importance", "laplace", "smc", "mcmc"}, default "auto"
            Sampling method. ``"importance"`` weights the model's own samples; it needs one evaluation for
            each and suits targets close to the model. ``"laplace"`` draws from Gaussians around the modes in
            noise space and weights the draws; it is for observations. ``"smc"`` moves particles from the
            model to the target through temperatures, each of which halves the effective sample size, with
            moves at every temperature. ``"mcmc"`` continues from there with Markov chains. ``"auto"`` tries
            the first three in this order and takes the first with reliable weights. It judges importance
            sampling by a pilot of at most 1,024 draws.
        seed : int or None, default 0
            Random seed; None draws one.
        moves : int, default 10
            Least number of moves of each particle at each temperature. Up to ten times as many are made,
            until the correlation of particles with their earlier positions is at most 0.1.
        move : {"auto", "pcn", "mala"}, default "auto"
            Kind of move: preconditioned Crank-Nicolson, which needs no gradient, or Langevin moves
            (``"mala"``) with the gradient of the functions, pulled back through the map. ``"auto"`` uses
            Langevin moves if there is a gradient.
        chains : int, optional
            Number of chains of ``"mcmc"``; 64 by default.
        burn_in, thin : int, default 200 and 5
            Number of moves of a chain before its first sample, and between two samples.
        reference : array, ``[N, *event]``, optional
            Samples of the target itself, for an energy. The evidence is estimated from them as well.
        progress : bool or callable, default False
            Progress bar or function: see :mod:`koopflow.progress`.

        Raises
        ------
        SteeringError
            If a given function raises, or returns another shape or NaN. The exception's ``found`` holds the
            samples that were made before, or None.
        ArgumentError
            If ``method``, ``move`` or ``reference`` does not apply to the reward, observation or energy.
        DivergenceError
            If no sample of the model has a weight above zero.
        """
        if not isinstance(method, str) or method not in ("auto", *METHODS):
            raise ArgumentError(
                f"method: expected {', '.join(map(repr, ('auto', *METHODS)))}, got {method!r}"
            )
        if reference is not None and self.objective.energy is None:
            raise ArgumentError("reference: expected None without an energy, got an array")
        count, number, reference = checked_count(n), as_seed(seed), self._reference(reference)
        with ProgressMeter(progress=progress) as meter:
            run = Run(
                self.objective,
                count,
                number,
                monitor=meter.monitor,
                moves=as_integer(moves, "moves", least=1),
                chains=None if chains is None else as_integer(chains, "chains", least=2),
                burn_in=as_integer(burn_in, "burn_in", least=0),
                thin=as_integer(thin, "thin", least=1),
            )
            try:
                run.kind = self._kind(run, move)
                found = self._automatic(run) if method == "auto" else METHODS[method](run)
                return self._checked(run, found, reference)
            except SteeringError as error:
                error.found = None if run.kept is None else run.kept()
                raise

    def _reference(self, reference: Array | None) -> NDArray[Any] | None:
        """The samples of the target, checked before long computations begin."""
        if reference is None:
            return None
        data, shape = to_numpy(as_batch(reference, "reference")), self.objective.step.event_shape
        if data.shape[1:] != shape or len(data) == 0:
            expected = f"(N, {', '.join(map(str, shape))})"
            raise ShapeError(f"reference: expected shape {expected}, got {data.shape}")
        if not np.isfinite(data).all():
            raise NonFiniteError("reference: expected finite samples, got NaN or infinite values")
        return data

    def _kind(self, run: Run, move: str) -> str:
        if not isinstance(move, str) or move not in MOVES:
            raise ArgumentError(f"move: expected 'auto', 'pcn' or 'mala', got {move!r}")
        known = self.objective.slopes_known(self.objective.step.sample(run.noise(2)))
        if move == "mala" and not known:
            raise ArgumentError(
                "move: expected 'pcn' for a function without a gradient (of NumPy, or detached), got 'mala'"
            )
        if not known:
            run.notes.append("moves without gradients: the functions, or the model's map, have none")
        return "mala" if known and move != "pcn" else "pcn"

    def _automatic(self, run: Run) -> TiltedSamples:
        pilot = dataclasses.replace(run, n=min(run.n, PILOT), notes=list(run.notes))
        try:
            tried = importance(pilot)
        finally:
            run.draws, run.kept = pilot.draws, pilot.kept
        share = tried.ess / len(tried)
        if not tried.pareto_k > UNRELIABLE and (share >= ENOUGH or share * run.n >= PLENTY):
            return tried if run.n <= PILOT else importance(run)
        if fits(run) is None:
            before = list(run.notes)
            found = laplace(run)
            if found.ess >= ENOUGH * len(found) and not found.pareto_k > UNRELIABLE and not found.doubts:
                return found
            # Nothing of it is in what particles find.
            run.notes = before
        return particles(run)

    def _checked(self, run: Run, found: TiltedSamples, reference: NDArray[Any] | None) -> TiltedSamples:
        """The result for an energy, with multiplicity and the evidence from ``reference``."""
        objective, step = self.objective, self.objective.step
        if objective.energy is None:
            return found
        known: dict[str, Any] = {}
        if step.is_student and step.dimension <= LARGEST_CHECKED:
            places = np.random.default_rng(run.seed).choice(
                len(found.x), min(CHECKED, len(found.x)), replace=False
            )
            noise = found.noise[places].reshape(len(places), -1).astype(np.float64)
            x, log_prob = step.density(noise)
            known["multiplicity"] = multiplicity(step, x, noise, log_prob, seed=run.seed)
        if reference is not None:
            data = reference.astype(found.x.dtype)
            log_weights = objective.energy.values(data, sign=-1.0) / objective.temperature
            log_weights = log_weights - step.log_prob(data)
            known["log_evidence_backwards"] = -float(_core.weighed(-log_weights, resamples=1)[2])
        else:
            known["notes"] = [*found.notes, UNSEEN]
        return dataclasses.replace(found, evaluations=run.evaluations, **known)

    def __repr__(self) -> str:
        asked = [
            name for name in ("reward", "residuals", "energy") if getattr(self.objective, name) is not None
        ]
        names = ["observation" if name == "residuals" else name for name in asked]
        return f"<Tilted: {' and '.join(names)}, temperature {self.objective.temperature:g}>"


def tilted_model(
    model: _core.Student | _core.VelocityField,
    *,
    reward: Callable[[Any], Any] | None = None,
    observation: Observation | None = None,
    energy: Callable[[Any], Any] | None = None,
    temperature: float = 1.0,
    condition: Array | None = None,
    solving: Mapping[str, Any] | None = None,
) -> Tilted:
    """A model of the core as a :class:`Tilted`: see :meth:`koopflow.KoopmanDistiller.tilt`."""
    step = OneStep(model, condition, solving)
    return Tilted(
        Objective(step, reward=reward, observation=observation, energy=energy, temperature=temperature)
    )
