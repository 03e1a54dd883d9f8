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
    """Train a teacher on the pairs of noise and endpoint of another teacher, in one or more rounds.

    The lines between independently drawn pairs cross, so that a flow between them must bend. The paths of a
    flow never cross, so that a flow trained on their endpoints bends less. A flow that does not bend needs
    only one Euler step (Liu et al. 2209.03003, Algorithm 1). Each round inherits the errors of the previous
    teacher.

    Parameters
    ----------
    teacher : FlowTeacher
        Teacher, fitted or attached. It is not changed.
    rounds : int, default 1
        Number of rounds. Each solves the flow that the previous round trained.
    pairs : int, optional
        Number of noise samples whose endpoints are solved in each round, by dopri5. By default the number of
        trajectories of a student.
    condition : array, optional
        Labels ``[P]`` or vectors ``[P, dim]`` to draw from, for a conditional teacher. By default every class
        equally often, or the vectors of ``teacher.training_data_``.
    seed, progress, **options
        As in :class:`koopflow.FlowTeacher` and its ``fit``, for the teachers to train. Other options are
        those of ``teacher`` if koopflow trained it.

    Returns
    -------
    FlowTeacher
        Fitted teacher. Its training data are the pairs, and the points of a student's ``consistency`` term
        lie between them.

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
    # Mirrored or augmented pairs would not be the teacher's own.
    without = ("event_shape", "flip", "augment")
    own = {name: n for name, n in like.get_params(deep=False).items() if name not in without}
    own |= {"source": "normal" if source.kind == "normal" else source, "source_noise": source.noise}
    own |= {"horizon": (teacher.clock.start, teacher.clock.end)}
    own |= {**options, "seed": seed}
    FlowTeacher(shape, **own)  # An option that does not exist is an error before any pair is solved.
    current: Flow = teacher
    for turn in range(rounds):
        sequence = np.random.SeedSequence([seed, turn])
        # Different from the noise of sample(seed=seed), since pairs are training data.
        drawn = None if pool is None else pool[np.random.default_rng(sequence).permutation(count) % len(pool)]
        drawing = int(sequence.generate_state(1, np.uint64)[0])
        noise = teacher.field.source.draw(count, drawing, condition=drawn)
        ends = current.sample(x0=noise, condition=drawn, progress=progress)
        straighter = FlowTeacher(shape, **own)
        current = straighter.fit(ends, noise=noise, condition=drawn, progress=progress)
        if straighter.history_["stopped"] == "interrupted":
            break
    return straighter
