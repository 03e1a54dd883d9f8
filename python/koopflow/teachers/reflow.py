"""Rectified flow (Liu et al. 2209.03003): straighter paths between the same noise and data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, as_seed, checked_count
from .._conditioning import Conditioning
from ..progress import ProgressFunction
from .flow import Flow, checked_teacher
from .teacher import FlowTeacher


def reflow(
    teacher: Flow,
    rounds: int = 1,
    *,
    pairs: int | None = None,
    condition: Array | None = None,
    seed: int | None = 0,
    progress: bool | ProgressFunction = True,
    **options: Any,
) -> FlowTeacher:
    """Train a teacher on another one's own pairs of noise and endpoint, once or several times in a row.

    Where the lines of independently drawn pairs cross, a flow has to bend. It carries noise to data along
    paths that never cross, so that a flow between these pairs bends less; one that does not bend takes a
    single Euler step (Liu et al. 2209.03003, Algorithm 1). Errors of a teacher are passed on to the next.

    Parameters
    ----------
    teacher : FlowTeacher
        Fitted or attached. It is left as it is.
    rounds : int, default 1
        Number of rounds; each solves the flow that the one before trained.
    pairs : int, optional
        Number of noise samples whose endpoints are solved in each round, by dopri5; by default as many as a
        student solves trajectories.
    condition : array, optional
        Labels ``[P]`` or vectors ``[P, dim]`` to draw from, for a conditional teacher; by default every class
        equally often, or the vectors of ``teacher.training_data_``.
    seed, progress, **options
        As in :class:`koopflow.FlowTeacher` and its ``fit``, for the teachers to train; by default options are
        those of ``teacher``, if koopflow trained it.

    Returns
    -------
    FlowTeacher
        A fitted one. Its pairs are its training data, so that the simulation-free points of a student's
        ``consistency`` term lie between them.

    Examples
    --------
    >>> from koopflow import FlowTeacher, datasets, reflow
    >>> teacher = FlowTeacher((2,), coupling="independent", width=16, depth=1, steps=50)
    >>> teacher = teacher.fit(datasets.moons(256), progress=False)
    >>> straighter = reflow(teacher, pairs=256, progress=False)
    >>> straighter.sample(5, solver="euler", steps=1).shape
    (5, 2)
    """
    rounds, seed = checked_count(rounds, "rounds"), as_seed(seed)
    shape = checked_teacher(teacher).event_shape_
    if pairs is None:
        pairs = json.loads(_core.student_defaults(int(np.prod(shape))))["trajectories"]
    count = checked_count(pairs, "pairs")
    known = teacher.training_data_
    pool = Conditioning.of(teacher.field).pool(condition, None if known is None else known.condition)
    trained = teacher.field.kind == "network" and teacher.history_
    like = teacher if isinstance(teacher, FlowTeacher) and trained else FlowTeacher._around(teacher.field)
    source = teacher.field.source
    # Mirrored pairs would not be the teacher's own.
    own = {name: n for name, n in like.get_params(deep=False).items() if name not in ("event_shape", "flip")}
    own |= {"source": "normal" if source.kind == "normal" else source, "source_noise": source.noise}
    own |= {"horizon": (teacher.clock.start, teacher.clock.end)}
    current: Flow = teacher
    for turn in range(rounds):
        sequence = np.random.SeedSequence([seed, turn])
        # Not the noise that sample(seed=seed) starts from: pairs are for training only.
        drawn = None if pool is None else pool[np.random.default_rng(sequence).permutation(count) % len(pool)]
        drawing = int(sequence.generate_state(1, np.uint64)[0])
        noise = teacher.field.source.draw(count, drawing, condition=drawn)
        ends = current.sample(x0=noise, condition=drawn, progress=progress)
        straighter = FlowTeacher(shape, **{**own, **options, "seed": seed})
        current = straighter.fit(ends, noise=noise, condition=drawn, progress=progress)
        if straighter.history_["stopped"] == "interrupted":
            break
    return straighter
