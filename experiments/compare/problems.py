"""The problems: data sets with ways to train a teacher on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koopflow import datasets
from koopflow.exceptions import ArgumentError
from koopflow.teachers.teacher import FlowTeacher

Split = tuple[NDArray[Any], NDArray[Any]]

TRAINING_POINTS, HELD_OUT_POINTS = 20_000, 4_000
HELD_OUT_DIGITS = 500


@dataclass(frozen=True)
class Problem:
    """A data set and a kind of teacher, by a name such as ``"moons/ot"``."""

    data_name: str
    teacher_name: str

    @property
    def name(self) -> str:
        """The name ``set/teacher``."""
        return f"{self.data_name}/{self.teacher_name}"

    @property
    def file_name(self) -> str:
        """The name as part of file names."""
        return file_name(self.name)

    @property
    def curved(self) -> bool:
        """Whether the teacher's paths are curved, which all but those of optimal-transport pairs are."""
        return self.teacher_name != "ot"

    def data(self, seed: int) -> Split:
        """Training and held-out samples for a seed."""
        if self.data_name in SETS:
            return SETS[self.data_name](seed)
        images, _ = datasets.images(self.data_name.removeprefix(FILES))
        train, held_out = datasets.split(images, held_out=max(len(images) // 10, 4), seed=seed)
        return train, held_out

    def teacher(self, data: NDArray[Any], seed: int, **options: Any) -> FlowTeacher:
        """An untrained teacher; images ``(C, H, W)`` get a U-Net."""
        network: dict[str, Any] = {"network": "unet"} if data.ndim == 4 else {}
        return FlowTeacher(data.shape[1:], seed=seed, **network, **TEACHERS[self.teacher_name], **options)


def file_name(name: str) -> str:
    """A problem's name with every character that is not a letter or digit replaced by a hyphen."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def problem(name: str) -> Problem:
    """A problem by name.

    Raises
    ------
    ArgumentError
        If there is no such set or teacher.
    """
    data_name, _, teacher_name = name.rpartition("/")
    if teacher_name not in TEACHERS:
        raise ArgumentError(
            f"problems: expected a teacher among {sorted(TEACHERS)} after the slash, got {name!r}"
        )
    if data_name not in SETS and not data_name.startswith(FILES):
        known = [*sorted(SETS), f"{FILES}<path>"]
        raise ArgumentError(f"problems: expected a set among {known} before the slash, got {name!r}")
    return Problem(data_name, teacher_name)


def _plane(make: Callable[..., NDArray[Any]]) -> Callable[[int], Split]:
    # Two independent draws.
    return lambda seed: (make(TRAINING_POINTS, seed=2 * seed), make(HELD_OUT_POINTS, seed=2 * seed + 1))


def _digits(size: int | None) -> Callable[[int], Split]:
    def split(seed: int) -> Split:
        images, _ = datasets.digits(size=size)
        train, held_out = datasets.split(images, held_out=HELD_OUT_DIGITS, seed=seed)
        return np.asarray(train), np.asarray(held_out)

    return split


SETS: dict[str, Callable[[int], Split]] = {
    "moons": _plane(datasets.moons),
    "eight_gaussians": _plane(datasets.eight_gaussians),
    "checkerboard": _plane(datasets.checkerboard),
    "swiss_roll": _plane(datasets.swiss_roll),
    "digits": _digits(None),
    "digits16": _digits(16),
}
"""Functions of a seed that give training and held-out samples."""

FILES = "files:"
"""Prefix of a path to any images that :func:`koopflow.datasets.images` reads: ``files:data/mnist``."""

TEACHERS: dict[str, dict[str, Any]] = {
    "ot": {"coupling": "ot"},
    "independent": {"coupling": "independent"},
    "vp": {"coupling": "independent", "path": "vp"},
}
"""Options of :class:`koopflow.FlowTeacher`: for straight paths, and for two kinds of curved ones."""
