"""Teachers of populations: flows through their snapshots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from typing import Any, TypeVar

import numpy as np

from .. import _core
from .._arrays import Array, as_batch, as_numbers, as_states
from .._checkpointing import checkpointing
from .._ending import tell_ending
from ..distributed import world
from ..exceptions import ArgumentError, DivergenceError
from ..options import to_json
from ..progress import ProgressFunction, ProgressMeter
from .flow import Flow
from .latent import Latent
from .plans import given_plans, unbalanced_plans, uneven
from .source import OF_THE_FIELD

Teacher = TypeVar("Teacher", bound="Populations")


class Populations(Flow):
    """A flow that can be trained on snapshots of a population.

    Attributes
    ----------
    latent_ : Latent or None
        Functions ``encode`` and ``decode`` given to :meth:`snapshots`. Files do not hold them.
    """

    latent_: Latent | None = None

    @classmethod
    def snapshots(
        cls: type[Teacher],
        snapshots: Sequence[Array],
        times: Array | Sequence[float],
        *,
        interpolant: str = "linear",
        coupling: str | Sequence[Any] = "ot",
        growth: Array | Sequence[float] | None = None,
        relaxation: float = 1.0,
        latent: Any = None,
        progress: bool | ProgressFunction = True,
        callback: ProgressFunction | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_minutes: float | None = None,
        resume: str | PathLike[str] | None = None,
        distributed: bool | None = None,
        **options: Any,
    ) -> Teacher:
        """Train a teacher whose flow passes through snapshots of a population.

        The rows of different snapshots need not correspond. Transport plans connect each snapshot to the
        next, and curves follow the plans from row to row. The teacher's velocity at x is the mean velocity of
        the curves through x (docs/populations.md). Its source are the rows of the first snapshot, and its
        clock is that of ``times``.

        Parameters
        ----------
        snapshots : sequence of arrays, ``[N_k, *event]``
            Snapshots of the population: at least two, each with at least two rows.
        times : sequence of float
            Rising times of the snapshots, in any unit.
        interpolant : {"linear", "spline"}, default "linear"
            Curve between rows: straight lines, or the natural cubic spline through a chain of one row per
            snapshot.
        coupling : {"ot", "unbalanced", "independent"} or sequence of arrays, default "ot"
            Method that makes the plans. ``"ot"``: exact assignments within each minibatch, which has the same
            number of rows of each snapshot. ``"unbalanced"``: semi-relaxed plans, in which some rows have
            more descendants than others, so that growth rates are learnt (needs POT:
            ``koopflow[populations]``). ``"independent"``: random pairs. Or your own plans
            ``[N_k, N_{k+1}]``; growth rates are learnt if their row sums differ.
        growth : sequence of float, optional
            Size of the whole population at the time of each snapshot, in any unit. If it is given, growth
            rates are learnt. By default the size is constant.
        relaxation : float, default 1.0
            Cost of unequal numbers of descendants with ``coupling="unbalanced"``, in mean squared distances
            between two snapshots. A smaller value explains more by growth and less by motion.
        latent : (encode, decode) or transformer, optional
            Two functions of rows, or an object with ``transform`` and ``inverse_transform``. The states of
            the teacher are then the outputs of ``encode``. :meth:`encode` and :meth:`decode` convert between
            rows and states.
        progress, callback, checkpoint, checkpoint_every, checkpoint_minutes, resume
            As in :meth:`fit`.
        **options
            Options of :class:`koopflow.FlowTeacher`: ``width``, ``steps``, ``seed``, ``device`` and so on.

        Returns
        -------
        FlowTeacher
            Fitted teacher.

        Raises
        ------
        ArgumentError, ShapeError, NonFiniteError
            If there is only one snapshot, a snapshot has only one row, widths differ, times do not rise,
            plans or sizes do not fit, their mass vanishes, or an option does not apply to snapshots.
        ImportError
            If ``coupling="unbalanced"`` and POT is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> cells = [np.random.default_rng(k).normal(k, 0.2, (40, 2)) for k in range(3)]
        >>> quick = {"width": 16, "depth": 1, "steps": 20, "progress": False}
        >>> teacher = FlowTeacher.snapshots(cells, [0, 12, 36], **quick)
        >>> teacher.trajectory(cells[0], times=[0, 6, 36]).shape
        (3, 40, 2)
        """
        maps = None if latent is None else Latent.of(latent)
        sets = [as_batch(rows, f"snapshots[{k}]") for k, rows in enumerate(snapshots)]
        if maps is not None:
            sets = [maps.encoded(rows) for rows in sets]
        clock = as_numbers(times, "times", "[0, 12, 24]")
        # Checked before plans are computed from them.
        _core.check_snapshots(sets, clock)
        plans, named = None, coupling if isinstance(coupling, str) else "ot"
        sizes = None if growth is None else as_numbers(growth, "growth", "[1, 2, 4]")
        if coupling == "unbalanced":
            plans, named = unbalanced_plans(sets, float(relaxation)), "ot"
        elif coupling not in ("ot", "independent"):
            plans = given_plans(coupling)
        if plans is not None and sizes is None and (coupling == "unbalanced" or uneven(plans)):
            sizes = [1.0] * len(sets)
        own = {"source": sets[0], "horizon": (clock[0], clock[-1]), "coupling": named}
        make: Any = cls
        teacher = make(tuple(sets[0].shape[1:]), **own, **options)
        if teacher.source_noise != 0.0:
            raise ArgumentError(
                f"source_noise: expected 0 for snapshots, got {teacher.source_noise!r}: "
                "use teacher.starting_from(rows, noise=...) after training"
            )
        config = teacher._config()
        files = checkpointing("a teacher", checkpoint, checkpoint_every, checkpoint_minutes, resume)
        written = teacher._written(without=OF_THE_FIELD)
        ranks = world(distributed=distributed)
        config = ranks.options(config, seeded=teacher.seed is not None)
        ranks.agree(**{f"snapshots[{k}]": rows for k, rows in enumerate(sets)}, times=np.asarray(clock))
        files, progress, callback = ranks.leading(files, progress, callback)
        with ProgressMeter(progress=progress, callback=callback) as meter:
            field, history = _core.train_on_snapshots(
                sets,
                clock,
                to_json(config),
                interpolant=str(interpolant),
                plans=plans,
                sizes=sizes,
                monitor=meter.monitor,
                header=to_json({"params": {**written, "seed": config["seed"]}}),
                world=ranks.core,
                **files,
            )
        teacher._take(field, {"seed": config["seed"], **json.loads(history)})
        teacher.latent_ = maps
        if maps is not None:
            teacher._history["latent"] = True
        tell_ending(teacher._history, "the teacher so far")
        found: Teacher = teacher
        return found

    def growth(self, t: Array | float, x: Array, *, extrapolate: bool = False) -> Array:
        """Growth rates g ``[B]`` of mass, d log m / dt = g(t, x), per unit of the clock.

        ``t`` is a number or ``[B]``, and ``x`` are states ``[B, *event]``. The rates are of the kind of
        ``x``. Raises ``ArgumentError`` for a teacher that did not learn growth.
        """
        x = as_states(x)
        rates = self.field.growth(self.clock.times_for(t, x, extrapolate=extrapolate), x)
        if rates is None:
            raise ArgumentError(
                "growth: expected a teacher of snapshots with coupling='unbalanced' or growth=[...], got one "
                "that did not learn growth"
            )
        return rates / self.clock.length

    def masses(self, times: Array | Sequence[float], states: Array) -> Array:
        """Masses ``[T, B]`` of states ``[T, B, *event]`` along their paths, with mass 1 at the first time.

        A mass is the exponential of the integral of :meth:`growth`, by the trapezoidal rule over ``times``.
        The states come from :meth:`trajectory`, or from a student's ``sample_path``, which takes one
        evaluation.

        Raises ``ArgumentError`` for a teacher that did not learn growth, ``ShapeError`` for states that do
        not match the times, and ``DivergenceError`` if all mass vanishes or any is not finite.
        """
        own = self.clock.times(times)
        logs = self.field.log_masses(own, as_batch(states, "states"))
        masses = logs.exp() if hasattr(logs, "exp") else np.exp(logs)
        if bool((masses.sum(1) == 0).any()):
            raise DivergenceError("the mass of all states vanishes along their paths")
        return masses

    def encode(self, rows: Array) -> Array:
        """Coordinates ``[N, *event]`` of measured rows, by ``latent``. Without ``latent``, the rows.

        Raises ``ArgumentError`` for a teacher that was loaded, since files do not hold the functions of
        ``latent``.
        """
        maps = self._latent()
        return as_batch(rows, "rows") if maps is None else maps.encoded(as_batch(rows, "rows"))

    def decode(self, states: Array) -> Array:
        """States ``[..., *event]`` mapped to the space of the measured rows, by ``latent``. Without
        ``latent``, the states. Raises the errors of :meth:`encode`."""
        maps = self._latent()
        return states if maps is None else maps.decoded(states, self.event_shape_)

    def _latent(self) -> Latent | None:
        if self.latent_ is None and self._history.get("latent"):
            told = "which no file holds: set teacher.latent_ = koopflow.teachers.latent.Latent.of(latent)"
            raise ArgumentError(f"latent: expected the functions of the training, {told}; got none")
        return self.latent_
