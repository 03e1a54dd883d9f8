"""Endpoint errors of the same problem in several units: the table of docs/distillation.md.

    python -m experiments.benches.units            # five minutes on 2 cores
    python -m experiments.benches.units --cases moons --steps 3000
    python -m experiments.benches.units --raw      # without standardisation, as in earlier versions
    python -m experiments.benches.units --quick    # whether it runs

Each row is one problem. Teachers are trained with the same seed on the same data, scaled to mean 0 and
deviation 1 and then converted to other units. One teacher is attached: the field of a Gaussian, as a model
from elsewhere. A cell has the student's endpoint error, divided by the deviation of the endpoints, and the
loss of a trained teacher. The endpoints are the teacher's samples, or exact ones for the Gaussian.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from experiments.environment import versions
from koopflow import Architecture, FlowTeacher, KoopmanDistiller, UNet, datasets
from koopflow.metrics import endpoint_error

# (scale, shift)
UNITS = {
    "standard": (1.0, 0.0),
    "x 1e-4": (1e-4, 0.0),
    "x 0.3": (0.3, 0.0),
    "x 3": (3.0, 0.0),
    "x 60": (60.0, 0.0),
    "x 1e3": (1e3, 0.0),
    "+ 128": (1.0, 128.0),
    "+ 1e3": (1.0, 1e3),
    "x 60 + 128": (60.0, 128.0),
}
# Numbers of steps of teacher and student, and their options.
CASES: dict[str, tuple[int, int, dict[str, Any], dict[str, Any]]] = {
    "Gaussian, attached": (0, 400, {}, {"width": 32, "depth": 2, "trajectories": 4096}),
    "moons": (600, 400, {"width": 64}, {"width": 64, "depth": 2, "trajectories": 4096}),
    "digits": (300, 150, {"width": 128}, {"width": 128, "depth": 2, "trajectories": 2048}),
    "digits as images, U-Nets": (
        40,
        40,
        {"network": UNet(channels=8, multipliers=(1, 2)), "batch_size": 64},
        {
            "basis": "unet",
            "unet": UNet(channels=8, multipliers=(1, 2)),
            "trajectories": 256,
            "batch_size": 16,
        },
    ),
}


def standard_data(case: str) -> np.ndarray:
    if case == "moons":
        data = datasets.moons(4096)
    else:
        images, _ = datasets.digits()
        data = images.reshape((-1, 1, 8, 8) if "images" in case else (-1, 64))
    data = data.astype(np.float64)
    if data.ndim == 4:
        return (data - data.mean()) / data.std()
    return (data - data.mean(0)) / np.sqrt(data.var(0).mean())


COVARIANCE = np.array([[1.2, 0.4], [0.4, 0.8]])


def attached_gaussian(scale: float, shift: float) -> FlowTeacher:
    """The field of N(shift, scale^2 C) as a function, without information about its data."""
    covariance = torch.from_numpy(COVARIANCE) * scale**2
    eye = torch.eye(2, dtype=torch.float64)

    def velocity(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        times = t.double()[:, None, None]
        spread = times**2 * covariance + (1 - times) ** 2 * eye
        gap = (x.double() - shift * times[:, 0])[..., None]
        pull = (times * covariance - (1 - times) * eye) @ torch.linalg.solve(spread, gap)
        return (shift + pull[..., 0]).to(x.dtype)

    return FlowTeacher.from_torch(velocity, event_shape=(2,))


def measured(case: str, units: str, options: argparse.Namespace) -> str:
    """One cell of the table."""
    scale, shift = UNITS[units]
    teacher_steps, steps, teacher_options, student_options = CASES[case]
    if options.steps is not None:
        steps = options.steps
    if options.quick:
        teacher_steps, steps = min(teacher_steps, 5), 5
    rng = np.random.default_rng(987_654_321)
    if case == "Gaussian, attached":
        teacher, loss = attached_gaussian(scale, shift), ""
    else:
        data = (standard_data(case) * scale + shift).astype(np.float32)
        teacher = FlowTeacher(
            data.shape[1:],
            steps=teacher_steps,
            seed=options.seed,
            standardise=not options.raw,
            **teacher_options,
        )
        teacher.fit(data, progress=False)
        loss = f" ({teacher.history_['loss'][-1][1]:.4f})"
    student = KoopmanDistiller(
        steps=steps,
        seed=options.seed,
        architecture=Architecture(standardise=not options.raw),
        **student_options,
    )
    student.fit(teacher, progress=False)
    noise = rng.normal(size=(500, *teacher.event_shape_)).astype(np.float32)
    if not loss:
        values, axes = np.linalg.eigh(COVARIANCE)
        ends = shift + scale * noise @ (axes * np.sqrt(values) @ axes.T)
        gap = np.square(student.sample(x0=noise) - ends).sum(axis=1).mean()
        return f"{np.sqrt(gap / ends.var(axis=0).sum()):.4f}"
    return f"{endpoint_error(student, teacher, noise).value:.4f}{loss}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--units", nargs="+", choices=UNITS, default=list(UNITS))
    parser.add_argument("--steps", type=int, help="training steps of the students")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--raw", action="store_true", help="without standardisation")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    options = parser.parse_args()
    print(versions())
    print(f"| | {' | '.join(options.units)} | seconds |\n|---{'|---' * len(options.units)}|---|", flush=True)
    for case in options.cases:
        started = time.perf_counter()
        cells = []
        for units in options.units:
            try:
                cells.append(measured(case, units, options))
            except Exception as error:  # a fit that diverges is a result
                cells.append(type(error).__name__)
        print(f"| {case} | {' | '.join(cells)} | {time.perf_counter() - started:.0f} |", flush=True)


if __name__ == "__main__":
    main()
