"""Teachers and students of the bench, trained once and kept in a folder, and the spectra of their paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koopflow import FlowSpectrum, FlowTeacher, KoopmanDistiller, datasets
from koopflow.analysis import flow_spectrum

TRAINING = 1300  # Number of digits for training teachers; the others are held out.


@dataclass(frozen=True)
class Problem:
    """Data, and options of the teacher trained on them."""

    name: str
    data: Callable[[], NDArray[Any]]
    teacher: dict[str, Any] = field(default_factory=dict)


def digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Images ``[1797, 64]`` and labels in one order for all seeds; the first ``TRAINING`` train teachers."""
    images, labels = datasets.digits()
    order = np.random.default_rng(0).permutation(len(images))
    return images[order].reshape(len(images), -1), labels[order]


def plane(make: Callable[..., NDArray[Any]]) -> Callable[[], NDArray[Any]]:
    return lambda: make(20_000, seed=0)


# Flows in the plane have no optimal transport coupling, with which paths would be nearly straight lines.
PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("moons", plane(datasets.moons), {"coupling": "independent"}),
        Problem("eight_gaussians", plane(datasets.eight_gaussians), {"coupling": "independent"}),
        Problem("digits", lambda: digits()[0][:TRAINING]),
    )
}


def kept(folder: Path, name: str, train: Callable[[], Any], kind: Any = FlowTeacher) -> Any:
    """The model of that name in the folder; if there is none, it is trained and written."""
    file = folder / f"{name}.safetensors"
    if file.exists():
        return kind.load(file)
    model = train()
    folder.mkdir(parents=True, exist_ok=True)
    model.save(file)
    print(f"trained {file.name}", flush=True)
    return model


class Models:
    """Models of one problem by seed. Only training depends on the seed: all teachers have the same data."""

    def __init__(
        self,
        problem: Problem,
        folder: Path,
        *,
        steps: int | None = None,
        teacher_steps: int | None = None,
        n: int = 4096,
    ) -> None:
        self.problem, self.folder, self.n = problem, folder, n
        self.steps, self.teacher_steps = steps, teacher_steps
        self._kept: dict[str, Any] = {}

    def teacher(self, seed: int) -> FlowTeacher:
        def train() -> FlowTeacher:
            data = self.problem.data()
            options = {"steps": self.teacher_steps, "seed": seed, **self.problem.teacher}
            return FlowTeacher(event_shape=data.shape[1:], **options).fit(data, progress=False)

        name = f"teacher-{seed}-{self.teacher_steps or 'default'}"
        teacher: FlowTeacher = self._model(FlowTeacher, name, train)
        return teacher

    def student(self, seed: int, number: int) -> KoopmanDistiller:
        """Student ``number`` of the teacher of a seed. All students have different seeds."""

        def train() -> KoopmanDistiller:
            own = KoopmanDistiller(seed=1000 + 100 * seed + number, steps=self.steps)
            return own.fit(self.teacher(seed), progress=False)

        name = f"student-{seed}-{number}-{self.steps or 'default'}-of-{self.teacher_steps or 'default'}"
        student: KoopmanDistiller = self._model(KoopmanDistiller, name, train)
        return student

    def spectrum(self, seed: int, number: int | None = None, rates: int | None = None) -> FlowSpectrum:
        """The spectrum of a teacher or of one of its students, with the same noise for all.

        By default the number of rates is chosen automatically.
        """
        name = f"spectrum-{seed}-{number}-{rates}"
        if name not in self._kept:
            model: Any = self.teacher(seed) if number is None else self.student(seed, number)
            self._kept[name] = flow_spectrum(model, n=self.n, rates=rates)
        spectrum: FlowSpectrum = self._kept[name]
        return spectrum

    def _model(self, kind: Any, name: str, train: Callable[[], Any]) -> Any:
        if name not in self._kept:
            self._kept[name] = kept(self.folder, f"{self.problem.name}-{name}", train, kind)
        return self._kept[name]
