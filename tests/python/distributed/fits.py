"""What every rank runs, ``python fits.py OUTPUT``; one process takes as many micro-batches as two ranks."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch

from koopflow import FlowTeacher, KoopmanDistiller, KoopmanForecaster, baselines, distributed
from koopflow.exceptions import ArgumentError, DistributedError

RANKS = 2
SMALL = {"width": 24, "depth": 1, "dtype": "float64"}


def message(work) -> str:
    """What is raised."""
    try:
        work()
    except (ArgumentError, DistributedError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def paths() -> list[np.ndarray]:
    """Rotations with a decay, of several lengths."""
    angle = 0.3
    turn = 0.98 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rows = [[np.random.default_rng(k).normal(size=2)] for k in range(5)]
    for k, path in enumerate(rows):
        for _ in range(30 + 7 * k):
            path.append(turn @ path[-1])
    return [np.asarray(path) for path in rows]


def main(output: str) -> None:
    torch.set_num_threads(1)
    ranks = distributed.join(timeout=100)
    parts = RANKS // ranks.size
    found: dict[str, object] = {}
    seen: list[str] = []
    data = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 0.3] + [0.5, 0.0]
    labels = np.arange(500) % 3
    quick = {"steps": 30, "batch_size": 32, "coupling": "independent", "seed": 3, **SMALL}
    teacher = FlowTeacher((2,), **quick).fit(data, progress=lambda event: seen.append(event["stage"]))
    found["reports"] = len(seen)
    found["teacher losses"] = [loss for _, loss in teacher.history_["loss"]]
    found["teacher"] = teacher.sample(20)
    conditional = FlowTeacher((2,), num_classes=3, label_dropout=0.3, **quick)
    conditional.fit(data, condition=labels, progress=False)
    found["conditional"] = conditional.sample(20, condition=1)

    student = KoopmanDistiller(
        observables=12,
        steps=30,
        batch_size=32,
        trajectories=4100,
        training={"accumulate": parts, "evaluate_every": 10},
        **SMALL,
    )
    file = f"{output}.student.safetensors"
    student.fit(teacher, checkpoint=file, trajectory_file=f"{output}.paths", progress=False)
    entries = student.history_["log"]
    found["terms"] = [value for entry in entries for name, value in entry.items() if name != "seconds"]
    found["student"] = student.sample(20)
    found["samples"] = distributed.sample(student, 3000, seed=5)
    found["labelled"] = distributed.sample(
        conditional, 2500, condition=np.arange(2500) % 3, steps=4, solver="heun"
    )
    # A file of these ranks goes on.
    student.steps = 40
    student.fit(teacher, resume=file, trajectory_file=f"{output}.paths", progress=False)
    found["resumed"] = student.sample(20)

    other = baselines.MeanVelocity(steps=20, batch_size=32, trajectories=64, **SMALL)
    found["mean velocity"] = other.fit(teacher, progress=False).sample(20)
    flow = baselines.ConsistencyFlow(steps=20, batch_size=32, coupling="independent", **SMALL)
    found["consistency flow"] = flow.fit(teacher, data=data, progress=False).sample(20)
    forecaster = KoopmanForecaster(observables=8, ridge=1e-8).fit(paths(), progress=False)
    found["forecast"] = forecaster.forecast(paths()[0][-1:], [1.0, 5.0])

    # Of a function nothing is known: rank 0 samples it, and trajectories are solved against the clock.
    attached = FlowTeacher.from_torch(lambda t, x: 20.0 + 0.0 * x, event_shape=(2,))
    timed = KoopmanDistiller(steps=20, observables=6, max_seconds=3.0, **SMALL)
    found["attached"] = timed.fit(attached, progress=False).sample(20)

    if ranks.size > 1:
        # Every rank learns of what is not the same.
        own = np.full(3, ranks.rank)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found["other data"] = message(lambda: FlowTeacher((2,), **quick).fit(data + own[0]))
            found["other options"] = message(
                lambda: FlowTeacher((2,), **{**quick, "seed": ranks.rank}).fit(data)
            )
            mine = FlowTeacher.gaussian(own[:2], np.eye(2))
            found["other teachers"] = message(lambda: KoopmanDistiller(steps=5).fit(mine))
            found["small batch"] = message(lambda: KoopmanDistiller(steps=5, batch_size=2).fit(teacher))
        drawn = FlowTeacher((2,), **{**quick, "seed": None, "steps": 3}).fit(data, progress=False)
        found["drawn seed"] = drawn.history_["seed"]
        alone = FlowTeacher((2,), **quick).fit(data, progress=False, distributed=False)
        found["alone"] = alone.sample(20)

    def stop(event) -> None:
        if event["stage"] == "student" and event["step"] >= 20:
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Rank 0 alone has the callback.
        student.fit(teacher, callback=stop, trajectory_file=f"{output}.paths", progress=False)
    found["stopped"] = student.history_["stopped"]
    found["stopped at"] = student.history_["steps"]
    np.savez(f"{output}.{ranks.size}.{ranks.rank}.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1])
