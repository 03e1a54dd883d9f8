"""What a student is fitted on: a teacher, its data with their conditions, and facts about both."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, as_condition, to_numpy
from .._batches import with_condition
from .._conditioning import Conditioning
from ..exceptions import ArgumentError
from ..metrics.features import feature_distance
from ..teachers.flow import Flow, checked_teacher


def learnt(
    source: Flow | Array | None,
    y: Array | None,
    teacher: Flow | None,
    data: Array | None,
    condition: Array | None,
) -> tuple[Flow, Array | None, Array | None]:
    """Teacher, data and their condition, from either of the two signatures of ``fit``."""
    if teacher is None and hasattr(source, "__len__") and not callable(source):
        raise TypeError(
            "teacher: expected a FlowTeacher, or rows of data with one (data, teacher=teacher), since copies "
            f"and files of students do not hold their teacher; got None with a {type(source).__name__}"
        )
    if isinstance(source, Flow) or teacher is None:
        if teacher is not None:
            raise ArgumentError("teacher: expected None with a teacher as the first argument, got another")
        return checked_teacher(source), data, condition
    if source is not None and data is not None:
        raise ArgumentError("data: expected None with rows of data as the first argument, got an array")
    known = Conditioning.of(checked_teacher(teacher).field)
    return teacher, data if source is None else source, known.of_rows(y, condition)


def points_of(
    teacher: Flow, data: Array | None, condition: Array | None, config: dict[str, Any]
) -> dict[str, Any]:
    """The data that training points are drawn from, and the condition and noise of each row."""
    if data is not None:
        kind = Conditioning.of(teacher.field)
        data, brought = with_condition(data, condition, teacher.event_shape_, conditional=bool(kind))
        return {"data": data, "data_condition": as_condition(brought)}
    known = teacher.training_data_
    if known is not None:
        # The objective may ask for a coupling other than the given pairs.
        noise = known.noise if config["coupling"] == "given" else None
        return {"data": known.data, "data_condition": known.condition, "data_noise": noise}
    if teacher.history_ and config.get("weights", {}).get("consistency"):
        given = config["coupling"] == "given"
        warnings.warn(
            "the teacher was loaded from a file, which does not hold "
            + ("the pairs that it was trained on" if given else "its training data")
            + ": the consistency term uses points of solved trajectories"
            + ("" if given else "; fit(teacher, data=...) draws them from the teacher's probability path"),
            UserWarning,
            stacklevel=3,
        )
    return {}


def facts_of(
    teacher: Flow, data: Array | None, condition: Array | None
) -> tuple[dict[str, Any], Array | None]:
    """What a student keeps of its teacher, and the conditions of trajectories.

    The default conditions are those of the data or all classes, but none that the teacher has not seen.
    """
    field = teacher.field
    kind = Conditioning.of(field)
    facts = {"kind": field.kind, "event_shape": list(field.event_shape), "conditioning": kind.plain()}
    if not teacher.clock.is_unit:
        facts["horizon"] = teacher.clock.plain()
    facts["mixing"] = None if field.mixing is None else json.loads(field.mixing)
    if kind.classes is not None:
        known = teacher.history_.get("classes", range(kind.classes))
        if condition is None and data is None and len(known) < kind.classes:
            condition = known
        labels = to_numpy(as_condition(condition))
        seen = np.unique(labels) if labels.dtype.kind in "iub" else known
        facts["classes"] = [int(label) for label in seen]
    return facts, condition


def distance_of(
    features: Any, weights: str | PathLike[str] | None, field: _core.VelocityField
) -> Callable[[Any, Any], tuple[Any, Any]] | None:
    """The distance in the features of a network; None without a network."""
    if features is not None:
        return feature_distance(features, field.device, weights=weights, event_shape=field.event_shape)
    if weights is not None:
        raise ArgumentError(f"feature_weights: expected None without features, got {weights!r}")
    return None
