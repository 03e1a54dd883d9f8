"""``koopflow demo``: from data to one-step samples, with a table and pictures."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__, datasets, plotting
from .._tables import text_table
from ..baselines import OdeSolver
from ..compare import COLUMNS, DECIMALS, compare
from ..students import KoopmanDistiller
from ..teachers import FlowTeacher
from .options import Option, Settings, command
from .results import DEVICE, output_folder, progress, say, write

# Different from every seed that is used for training here.
NOISE_SEED = 987_654_321
# Number of samples to measure, which is also that of held-out samples.
SAMPLES = 4_000
EULER_STEPS = (1, 4, 20, 100)
STUDENT = "student, 1 step"
QUICK = "Whether to train for fewer steps (under 90 seconds on 2 cores)."


@dataclass(frozen=True)
class Case:
    """One data set, and the options of its teacher and student. No option is a time limit."""

    name: str
    train: NDArray[Any]
    held_out: NDArray[Any]
    teacher: Mapping[str, Any]
    student: Mapping[str, Any]
    # Limits for a good student: its endpoint error, and by how much its energy distance from the data exceeds
    # its teacher's, from the same noise. With other noise each distance varies by more than that.
    endpoint_error: float
    energy_above: float


@command(
    alone=(
        Option("quick", QUICK, bool, False),
        Option("output", "Folder for the table and pictures.", str, "koopflow-demo"),
        Option("seed", "Random seed of everything.", int, 0),
        DEVICE,
    )
)
def demo(settings: Settings) -> int:
    """Trains a flow-matching teacher on two moons and on handwritten digits, and distils each into a Koopman
    student. Writes a table (also as JSON) and pictures. They show how close the student's one-step samples
    are to its teacher's and to held-out data, and at what cost. The errors for a seed do not depend on the
    speed or load of the machine."""
    folder, seed, device = output_folder(settings), settings["seed"], settings["device"]
    # A cheap call that raises an error if the device is not available.
    FlowTeacher.gaussian(np.zeros(1, np.float32), np.eye(1, dtype=np.float32), device=device)
    started = time.perf_counter()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads"
    results: dict[str, Any] = {"koopflow": __version__, "torch": torch.__version__, "machine": machine}
    results |= {"device": device, "seed": seed, "quick": settings["quick"], "cases": {}}
    for case in cases(seed, quick=settings["quick"]):
        results["cases"][case.name] = run_case(case, settings, folder)
    results["seconds"] = time.perf_counter() - started
    write(folder / "results.json", results)
    say(f"\n{results['seconds']:.0f} s in all; results.json, students and pictures are in {folder}")
    return 0


def cases(seed: int, *, quick: bool) -> list[Case]:
    """Two moons and handwritten digits."""
    train, held_out = datasets.split(datasets.digits()[0], held_out=500, seed=seed)
    moons = datasets.moons(20_000, seed=2 * seed), datasets.moons(4_000, seed=2 * seed + 1)
    # Independent pairs take a fifth of the time of optimal ones, which allows more steps in the plane.
    plane = {"coupling": "independent", "steps": 6_000 if quick else 12_000}
    of_moons = {"steps": 1_000, "trajectories": 8_192} if quick else {"steps": 4_000, "trajectories": 32_768}
    of_digits = {"steps": 3_000, "trajectories": 32_768}
    if quick:
        of_digits = {"steps": 1_000, "trajectories": 4_096, "batch_size": 128}
    return [
        Case("moons", *moons, plane, of_moons, 0.03, 0.001),
        Case("digits", train, held_out, {"steps": 800 if quick else 3_000}, of_digits, 0.2, 0.02),
    ]


def run_case(case: Case, settings: Settings, folder: Path) -> dict[str, Any]:
    """Train, distil, measure and draw one case. Returns its part of results.json."""
    shape, shown, seed = case.train.shape[1:], progress(), settings["seed"]
    say(f"\n{case.name}: {len(case.train)} samples of shape {shape}, {len(case.held_out)} held out")
    shared = {"seed": seed, "device": settings["device"]}
    teacher = FlowTeacher(shape, **case.teacher, **shared)
    of_teacher = finished(teacher.fit(case.train, progress=shown).history_)
    say(f"  teacher: {of_teacher['steps']} steps in {of_teacher['seconds']:.0f} s")
    student = KoopmanDistiller(**case.student, **shared)
    of_student = finished(student.fit(teacher, progress=shown).history_)
    say(f"  student: {of_student['steps']} steps in {of_student['seconds']:.0f} s, trajectories included\n")
    methods: dict[str, Any] = {f"teacher, Euler {k}": OdeSolver(solver="euler", steps=k) for k in EULER_STEPS}
    # The same number of samples and of data.
    n = min(SAMPLES, len(case.held_out))
    methods[STUDENT] = student
    table = compare(teacher, case.held_out, methods=methods, n=n, seed=seed, progress=False)
    if table.interrupted:
        raise KeyboardInterrupt
    report = student.evaluate(teacher, case.held_out, n=min(n, 1_000), seed=NOISE_SEED)
    floor = {"energy": report.floor.energy, "wasserstein2": report.floor.wasserstein2}
    rows = [*table.rows, {**dict.fromkeys(COLUMNS), "method": "data against data", **floor}]
    columns = {name: head for name, head in COLUMNS.items() if name not in ("fit_seconds", "steps", "reason")}
    say(text_table(rows, columns, decimals=DECIMALS))
    said = verdict(case, table.rows[0], table.rows[-1])
    say(f"\n{said}")
    student.save(folder / f"{case.name}-student.safetensors")
    draw(case, teacher, student, folder)
    of_student = {"observables": student.n_observables_, **of_student}
    models = {"teacher": of_teacher, "student": of_student}
    return {"rows": rows, "verdict": said, "evaluation": report.to_dict(), **models}


def finished(history: dict[str, Any]) -> dict[str, Any]:
    """The facts of a training. Raises KeyboardInterrupt if Ctrl-C ended it, since the demo needs a whole
    one."""
    if history.get("stopped") == "interrupted":
        raise KeyboardInterrupt
    return {name: history[name] for name in ("steps", "seconds", "stopped")}


def verdict(case: Case, teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """One line that says whether the student is close enough to its teacher and to the data."""
    above = student["energy"] - teacher["energy"]
    near = student["endpoint_error"] <= case.endpoint_error and above <= case.energy_above
    return (
        f"The student is {'as it should be' if near else 'NOT as it should be'}: endpoint error "
        f"{student['endpoint_error']:.3f} (at most {case.endpoint_error:g}), energy distance "
        f"{student['energy']:.4f} (at most {case.energy_above:g} above the teacher's "
        f"{teacher['energy']:.4f})."
    )


def draw(case: Case, teacher: FlowTeacher, student: KoopmanDistiller, folder: Path) -> None:
    """Samples, paths, spectrum and training."""
    plane = teacher.event_shape == (2,)
    count = 4_000 if plane else 64
    noise = teacher.field.source.draw(count, NOISE_SEED)
    sets = {
        "data": case.held_out[:count],
        "teacher, dopri5": teacher.sample(x0=noise),
        "student, one step, from the same noise": student.sample(x0=noise),
    }
    noise, times = noise[: 24 if plane else 5], np.linspace(0.0, 1.0, 33 if plane else 11).tolist()
    exact, ours = teacher.trajectory(noise, times=times), student.sample_path(noise, times=times)
    if plane:
        samples = plotting.side_by_side(sets)[0]
        title = "student's paths over the teacher's, same noise"
        paths = plotting.paths(ours, exact, background=case.held_out[:1500], title=title)
    else:
        panels = plotting.new_figure((10.4, 3.7)).subplots(1, 3)
        for axes, (title, images) in zip(panels, sets.items(), strict=True):
            samples = plotting.image_grid(images, ax=axes, columns=8, title=title)
        # Two arrays [T, B, 64] become two rows per digit: the teacher's path above the student's.
        rows = np.stack([exact, ours]).transpose(2, 0, 1, 3).reshape(-1, exact.shape[-1])
        title = "noise to digit: teacher's path above, student's below"
        paths = plotting.image_grid(rows, columns=len(times), limits=(-1.5, 1.5), title=title)
    title = f"{case.name}: spectrum of the student's generator"
    pictures = {
        "samples": samples,
        "paths": paths,
        "spectrum": plotting.spectrum(student.spectrum(), title=title),
        "training": plotting.loss_history(student.history_, title=f"{case.name}: distillation"),
    }
    for name, axes in pictures.items():
        write(folder / f"{case.name}-{name}.png", axes)
