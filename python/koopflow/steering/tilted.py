"""A one-step model, given something."""

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
PILOT = 1024  # Draws by which "auto" chooses.
# Effective share of them from which importance weights do, or effective number of all that are asked for.
ENOUGH, PLENTY = 0.1, 400
UNSEEN = "parts of the target that the model never visits have no weight here: reference= would show them"
CHECKED, LARGEST_CHECKED = 32, 64  # Samples whose other noise is looked for, and dimensions.


class Tilted:
    """A student or teacher whose samples are given a reward, an observation or an energy.

    Made by :meth:`koopflow.KoopmanDistiller.tilt` and :meth:`koopflow.FlowTeacher.tilt`; nothing is computed
    until :meth:`sample`.
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
        """Weighted samples, with figures that say how far to trust them.

        Parameters
        ----------
        n : int
            Number of samples.
        method : {"auto", "importance", "laplace", "smc", "mcmc"}, default "auto"
            ``"importance"`` weighs the model's own samples: one evaluation each, for mild wishes.
            ``"laplace"`` draws from Gaussians about the modes in noise space and weighs those: for
            observations. ``"smc"`` carries particles from the model to the target by temperatures, each of
            which halves the effective size, with moves at each. ``"mcmc"`` runs chains from there. ``"auto"``
            takes the first whose weights settle, of a pilot of at most 1,024 draws.
        seed : int or None, default 0
            Random seed; None draws one.
        moves : int, default 10
            Moves of each particle at each temperature, at least: up to ten times as many are made until their
            correlation with where they were is below 0.1.
        move : {"auto", "pcn", "mala"}, default "auto"
            Preconditioned Crank-Nicolson, which asks for no gradient, or Langevin's with the gradient of the
            functions pulled back through the map; the second where there is one.
        chains : int, optional
            Number of chains of ``"mcmc"``, 64 by default.
        burn_in, thin : int, default 200 and 5
            Moves of a chain before the first sample, and from one to the next.
        reference : array, ``[N, *event]``, optional
            Samples of the target itself, for an energy: the evidence is measured from them as well.
        progress : bool or callable, default False
            Progress bar or function: see :mod:`koopflow.progress`.

        Raises
        ------
        SteeringError
            Where a function that was given raises, or answers with another shape or NaN; its ``found``
            holds the samples that were made before, or None.
        ArgumentError
            Naming ``method``, ``move`` or ``reference`` where they do not go with what is asked.
        DivergenceError
            Where no sample of the model has a weight above zero.
        """
        if not isinstance(method, str) or method not in ("auto", *METHODS):
            raise ArgumentError(
                f"method: expected {', '.join(map(repr, ('auto', *METHODS)))}, got {method!r}"
            )
        if reference is not None and self.objective.energy is None:
            raise ArgumentError("reference: expected None without an energy, whose samples these would be")
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
        """Samples of the target, checked before anything long begins."""
        if reference is None:
            return None
        data, shape = to_numpy(as_batch(reference, "reference")), self.objective.step.event_shape
        if data.shape[1:] != shape or len(data) == 0:
            expected = f"(N, {', '.join(map(str, shape))})"
            raise ShapeError(f"reference: expected shape {expected}, got {data.shape}")
        if not np.isfinite(data).all():
            raise NonFiniteError("reference: expected finite samples")
        return data

    def _kind(self, run: Run, move: str) -> str:
        if not isinstance(move, str) or move not in MOVES:
            raise ArgumentError(f"move: expected 'auto', 'pcn' or 'mala', got {move!r}")
        known = self.objective.slopes_known(self.objective.step.sample(run.noise(2)))
        if move == "mala" and not known:
            raise ArgumentError(
                "move: expected 'pcn': no gradient leads through a function of NumPy or a detached one"
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
            found = laplace(run)
            if found.ess >= ENOUGH * len(found) and not found.pareto_k > UNRELIABLE and not found.doubts:
                return found
            run.notes = [note for note in run.notes if not note.endswith(("modes", "mode"))]
        return particles(run)

    def _checked(self, run: Run, found: TiltedSamples, reference: NDArray[Any] | None) -> TiltedSamples:
        """With what the other side says of an energy."""
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
    """A model of the core, given something: see :meth:`koopflow.KoopmanDistiller.tilt`."""
    step = OneStep(model, condition, solving)
    return Tilted(
        Objective(step, reward=reward, observation=observation, energy=energy, temperature=temperature)
    )
