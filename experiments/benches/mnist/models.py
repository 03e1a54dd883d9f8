"""Training of the teacher and its students, which are kept in files for later calls."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from koopflow import FlowTeacher, KoopmanDistiller, UNet, baselines

from ..images import CLASSES
from .judge import Judge

# Only the endpoint is trained, with one lift, which makes a plain U-Net from noise to data.
PLAIN = dict.fromkeys(("path", "target", "inverse", "round_trip", "phase"), 0.0)
PAPER = dict.fromkeys(("endpoint", "path", "inverse", "round_trip"), 0.0)
PAPER |= {"consistency": 1.0, "phase": 1.0, "target": 1.0}
# Round trips have a larger weight than the teacher's own noise; the two are in conflict (docs/images.md).
HIERARCHY: dict[str, Any] = {
    "basis": "hierarchy",
    "warm_start": True,
    "objective": {"weights": {"path": 1.0, "inverse": 0.5, "round_trip": 2.0}, "endpoint_first": 0.4},
}
STUDENTS: dict[str, dict[str, Any]] = {
    "hierarchical": {**HIERARCHY, "eyes": 5.0},
    "hierarchical, pixels alone": HIERARCHY,
    "paper": {
        "basis": "unet",
        "generator": "dense",
        "architecture": {"lifts": 1},
        "trajectories": {"pairs": "endpoints"},
        "objective": {"weights": PAPER},
    },
    "plain U-Net": {
        "basis": "unet",
        "architecture": {"lifts": 1},
        "objective": {"weights": PLAIN},
        "training": {"metric": "endpoint_error"},
    },
}
# Options that are changed one at a time, compared with "hierarchical" after the same number of steps.
LEVERS: dict[str, dict[str, Any]] = {
    "cold start": {"warm_start": False},
    "all terms from the start": {"endpoint_first": 0.0},
    "row weights, power 0.5": {"row_power": 0.5},
    "row weights, power 1": {"row_power": 1.0},
    "inverse first": {"weights": {"path": 1.0, "inverse": 1.0, "round_trip": 0.4}},
    "two averages": {"averages": (0.9, 0.99)},
    "the teacher's maps": {"weights": {**HIERARCHY["objective"]["weights"], "levels": 0.1}},
    "the distribution corrected": {"weights": {**HIERARCHY["objective"]["weights"], "correction": 3.0}},
    "one lift, told its direction": {"architecture": {"lifts": 1, "directed": True}},
}
# Baselines with perceptrons, the only networks that they support.
BASELINES: dict[str, type[baselines.TrainedBaseline]] = {
    "KDM": baselines.KDM,
    "mean velocity": baselines.MeanVelocity,
}
NAMES = [*STUDENTS, *BASELINES]
OTHERS = [f"lever: {name}" for name in LEVERS]
Model = KoopmanDistiller | baselines.TrainedBaseline


def file_of(name: str, seed: int, folder: Path) -> Path:
    letters = "".join(letter if letter.isalnum() else "-" for letter in name)
    return folder / f"{letters}-{seed}.safetensors"


def untaught(judge: Judge, seed: int, steps: int, options: argparse.Namespace, **changes: Any) -> FlowTeacher:
    """An unfitted teacher, with changes of its options."""
    return FlowTeacher(
        judge.train.shape[1:],
        network=UNet(channels=options.channels, multipliers=(1, 2, 2), attention=(4,), heads=4),
        num_classes=CLASSES,
        steps=steps,
        batch_size=64,
        seed=seed,
        device=options.device,
        **changes,
    )


def taught(judge: Judge, seed: int, options: argparse.Namespace) -> FlowTeacher:
    """The teacher of a seed, from its file or trained."""
    file = file_of("teacher", seed, options.output)
    if file.exists():
        return FlowTeacher.load(file, device=options.device)
    started = time.process_time()
    teacher = untaught(judge, seed, options.teacher_steps, options)
    teacher.fit(judge.train, condition=judge.train_labels, progress=options.progress)
    finished(teacher, file, started)
    return teacher


def pulled(name: str) -> dict[str, Any]:
    """The hierarchical student's options with one change of :data:`LEVERS`."""
    change = LEVERS[name.removeprefix("lever: ")]
    given = dict(STUDENTS["hierarchical"])
    elsewhere = {"warm_start", "architecture", "averages"}
    of_terms = {key: value for key, value in change.items() if key not in elsewhere}
    given["objective"] = {**given["objective"], **of_terms}
    if "averages" in change:
        given["training"] = {"averages": change["averages"]}
    return given | {key: change[key] for key in change.keys() & {"warm_start", "architecture"}}


def finished(model: FlowTeacher | Model, file: Path, started: float) -> None:
    """Write a model and the processor seconds of its training, over all threads."""
    model.save(file)
    file.with_suffix(".seconds").write_text(f"{time.process_time() - started:.1f}\n")


def seconds_of(name: str, seed: int, folder: Path) -> float:
    return float(file_of(name, seed, folder).with_suffix(".seconds").read_text())


def distilled(name: str, teacher: FlowTeacher, judge: Judge, seed: int, options: argparse.Namespace) -> Model:
    """A student of a teacher, from its file or trained on the trajectories that all its students share."""
    file, known = file_of(name, seed, options.output), BASELINES.get(name, KoopmanDistiller)
    if file.exists():
        return known.load(file, device=options.device)
    paths = {"count": options.trajectories, "path_steps": 8, "solver": "ab2", "solver_steps": 8}
    common: dict[str, Any] = {"seed": seed, "device": options.device}
    fitting: dict[str, Any] = {
        "trajectory_file": file_of("trajectories", seed, options.output),
        "progress": options.progress,
    }
    model: Model
    started = time.process_time()
    if name in BASELINES:
        model = BASELINES[name](trajectories=paths, steps=options.baseline_steps, **common)
    else:
        given = pulled(name) if name in OTHERS else dict(STUDENTS[name])
        if weight := given.pop("eyes", 0.0):
            fitting["features"] = judge.eyes
            objective = given["objective"]
            weights = {**objective["weights"], "feature_distance": weight}
            given["objective"] = {**objective, "weights": weights}
        # A held-out evaluation costs as much as many steps. Rounded up, so that the last step has only one.
        looks: dict[str, Any] = {"evaluate_every": -(-options.steps // 4)}
        if "averages" not in given.get("training", {}):
            looks["ema_decay"] = 0.99
        model = KoopmanDistiller(
            unet=teacher.network,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            **common,
            **{
                **given,
                "training": {**looks, **given.get("training", {})},
                "trajectories": {**paths, **given.get("trajectories", {})},
            },
        )
    model.fit(teacher, **fitting)
    finished(model, file, started)
    return model
