"""Unnormalised targets, sampled by a student and its teacher."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from koopflow import FlowTeacher, KoopmanDistiller, energies

from ..flow_spectrum.models import kept
from . import rivals

TARGETS = {
    "gmm40": energies.gmm40,
    "many_well": energies.many_well,
    "double_well": energies.double_well,
    "phi4": energies.phi4,
    "lennard_jones": energies.lennard_jones,
}
TRAINING, COUNT = 20_000, 10_000


class Scaled:
    """A target in units of the deviation of its samples, since networks need standardised coordinates."""

    def __init__(self, target: Any, scale: float) -> None:
        self.target, self.scale = target, scale

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.target(x.double() * self.scale)

    @property
    def log_z(self) -> float:
        return float(self.target.log_z - np.prod(self.target.event_shape) * np.log(self.scale))


def measure(
    name: str,
    seed: int,
    folder: Path,
    steps: int | None,
    teacher_steps: int | None,
    count: int = COUNT,
    *,
    compared: bool = False,
) -> dict[str, float]:
    """Effective fractions of importance weights of student and teacher, and errors of log Z.

    With ``compared`` those of other libraries' flows are added, with the processor time that training of
    teacher and student took in this run.
    """
    begun = time.process_time()
    target = TARGETS[name]()
    data = target.sample(TRAINING, seed=seed)
    scale = float(data.std())
    scaled = Scaled(target, scale)
    data = (data / scale).astype(np.float32)
    held = (target.sample(2000, seed=500 + seed) / scale).astype(np.float32)

    def teach() -> FlowTeacher:
        return FlowTeacher(data.shape[1:], steps=teacher_steps, seed=seed).fit(data, progress=False)

    teacher = kept(folder, f"{name}-target-teacher-{seed}-{teacher_steps or 'default'}", teach)
    distill = partial(KoopmanDistiller(seed=seed, steps=steps).fit, teacher, progress=False)
    label = f"{name}-target-student-{seed}-{steps or 'default'}-{teacher_steps or 'default'}"
    student = kept(folder, label, distill, KoopmanDistiller)
    trained = time.process_time() - begun
    row: dict[str, float] = {"dimension": float(data.shape[1]), "seconds of training": trained}
    for kind, model, own in (("student", student, count), ("teacher", teacher, min(count, 2000))):
        found = model.tilt(energy=scaled).sample(own, method="importance", seed=seed, reference=held)
        row[f"{kind}: effective share"] = found.ess / own
        row[f"{kind}: Pareto k"] = found.pareto_k
        row[f"{kind}: log Z off by"] = abs(found.log_evidence - scaled.log_z)
        row[f"{kind}: log Z from data off by"] = abs(found.log_evidence_backwards - scaled.log_z)
        row[f"{kind}: evaluations"] = found.evaluations / own
        row[f"{kind}: reliable"] = float(found.reliable)
    annealed = student.tilt(energy=scaled).sample(2048, method="smc", seed=seed)
    row["student, smc: log Z off by"] = abs(annealed.log_evidence - scaled.log_z)
    row["student, smc: effective of 2048"] = annealed.ess
    if compared:
        row |= rivals.measure(data, scaled, scaled.log_z, trained, count, seed)
    print(f"{name} {seed}: {row}", flush=True)
    return row
