"""The fits of the bench. As a program it runs one fit on one rank: ``fits.py NAME SEED SHARE``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from koopflow import FlowTeacher, KoopmanDistiller, KoopmanForecaster, UNet, datasets, distributed

Made = tuple[int, float]


def weights_of(student: KoopmanDistiller) -> int:
    return sum(x.numel() for x in student.to_torch().parameters())


def moons(seed: int) -> FlowTeacher:
    """A quick teacher of two moons, the same on all ranks."""
    data = datasets.moons(4000, seed=seed)
    return FlowTeacher((2,), steps=600, seed=seed).fit(data, progress=False, distributed=False)


def fit_teacher(seed: int, share: float, **options: Any) -> Callable[[], Made]:
    data = datasets.moons(20_000, seed=seed)
    steps = max(round(1000 * share), 2)
    teacher = FlowTeacher((2,), steps=steps, batch_size=1024, width=256, depth=3, seed=seed, **options)

    def fit() -> Made:
        teacher.fit(data, progress=False)
        return sum(x.numel() for x in teacher.state_dict().values()), teacher.history_["loss"][-1][1]

    return fit


def fit_student(seed: int, share: float, **options: Any) -> Callable[[], Made]:
    teacher = moons(seed)
    student = KoopmanDistiller(steps=max(round(1000 * share), 2), seed=seed, **options)

    def fit() -> Made:
        student.fit(teacher, progress=False)
        return weights_of(student), student.evaluate(teacher, n=2000).endpoint_error

    return fit


def fit_digits(seed: int, share: float) -> Callable[[], Made]:
    digits = datasets.digits()[0].reshape(-1, 64)
    teacher = FlowTeacher((64,), steps=800, seed=seed).fit(digits, progress=False, distributed=False)
    student = KoopmanDistiller(steps=max(round(400 * share), 2), seed=seed)

    def fit() -> Made:
        student.fit(teacher, progress=False)
        return weights_of(student), student.evaluate(teacher, n=1000).endpoint_error

    return fit


def fit_images(seed: int, share: float) -> Callable[[], Made]:
    """Of MNIST's shape and the default batch; noise in place of digits takes as long."""
    unet = UNet(channels=16, multipliers=(1, 2, 2), attention=(4,), heads=4)
    images = np.random.default_rng(seed).standard_normal((512, 1, 28, 28)).astype(np.float32)
    teacher = FlowTeacher((1, 28, 28), network=unet, steps=5, batch_size=32, seed=seed)
    teacher.fit(images, progress=False, distributed=False)
    # Two chunks of trajectories, one for each of two ranks.
    paths = {"count": 4096, "path_steps": 8, "solver": "ab2", "solver_steps": 8}
    student = KoopmanDistiller(
        basis="hierarchy",
        unet=unet,
        steps=max(round(40 * share), 2),
        trajectories=paths,
        training={"evaluate_every": 20},
        seed=seed,
    )

    def fit() -> Made:
        student.fit(teacher, progress=False)
        return weights_of(student), student.history_["log"][-1]["endpoint_error"]

    return fit


def fit_forecaster(seed: int, share: float) -> Callable[[], Made]:
    random = np.random.default_rng(seed)
    rows = max(round(200_000 * share), 400)
    path = np.cumsum(random.standard_normal((rows, 3)), axis=0) * 0.05
    model = KoopmanForecaster(observables=300, ridge=1e-8, seed=seed)

    def fit() -> Made:
        model.fit(np.sin(path)[None], progress=False)
        return 0, float(model.history_.get("error") or 0.0)

    return fit


FITS: dict[str, Callable[[int, float], Callable[[], Made]]] = {
    # A single process computes the coupling on further threads, so the second core is not free for a second
    # rank.
    "teacher, 2-D, batch 1,024, coupled": fit_teacher,
    "teacher, 2-D, batch 1,024": lambda seed, share: fit_teacher(seed, share, coupling="independent"),
    "student, 2-D": fit_student,
    "student, 2-D, dense": lambda seed, share: fit_student(seed, share, generator="dense", observables=256),
    "student, 64-D": fit_digits,
    "student, U-Net 28x28": fit_images,
    "forecaster, closed form": fit_forecaster,
}


def seconds_of_a_sum(parameters: int, ranks: distributed.World) -> float:
    """Median seconds of one exchange of so many values between ranks, as in training."""
    bucket, taken = torch.zeros(parameters + 100), []
    for _ in range(50):
        began = time.perf_counter()
        ranks.sum(bucket)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def main(name: str, seed: str, share: str) -> None:
    torch.set_num_threads(1)
    ranks = distributed.join()
    if hasattr(os, "sched_setaffinity"):
        # Each rank has one core, also a single rank.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    fit = FITS[name](int(seed), float(share))
    ranks.gather(0)  # Waits until all ranks are ready.
    began = time.perf_counter()
    parameters, error = fit()
    spent = max(ranks.gather(time.perf_counter() - began))
    told = {"seconds": spent, "error": error, "parameters": parameters}
    told["sum"] = seconds_of_a_sum(parameters, ranks)
    if ranks.leads:
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
