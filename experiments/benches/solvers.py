"""Errors of solvers of a flow by their number of evaluations: the tables and the picture of docs/solvers.md.

    python -m experiments.benches.solvers                  # all of it: about fifteen minutes on 2 cores
    python -m experiments.benches.solvers --parts exact    # fields of eight Gaussians, in closed form
    python -m experiments.benches.solvers --parts trained  # teachers that are trained here, down to 1e-4
    python -m experiments.benches.solvers --parts picture  # docs/pictures/path-geometry.png
    python -m experiments.benches.solvers --quick          # whether it runs

A cell is the endpoint error: the RMS distance from the solution of the same noise at tolerances of 1e-9 (1e-7
for trained teachers), divided by the total standard deviation of the endpoints. It is the mean over the seeds
of the noise, with the largest deviation of one of them. Evaluations are those of one sample. The two
constants of the grid "log_snr" were chosen on fields similar to the exact ones, with other noise.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from experiments.environment import versions
from koopflow import FlowTeacher, _core, datasets
from koopflow.metrics import path_geometry

SEEDS = (0, 1, 2)
ROWS = 500
# Each solver with its number of evaluations of a step and its grids.
SOLVERS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("euler", 1, ("uniform", "tau", "log_snr")),
    ("heun", 2, ("uniform", "tau", "log_snr")),
    ("rk4", 4, ("uniform", "log_snr")),
    ("ab2", 1, ("tau", "log_snr")),
    ("ab3", 1, ("tau", "log_snr")),
    ("dpm2m", 1, ("tau", "log_snr")),
)
EVALUATIONS = (4, 8, 12, 24)
# Numbers of evaluations in the search for an error of 1e-4.
MANY = (24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
RADIUS, WIDTH = 1.0, math.sqrt(0.1) / 5.0


def denoised(z: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """E[x1 | z = alpha x1 + sigma x0] of eight Gaussians of deviation WIDTH on a circle."""
    angles = torch.arange(8, dtype=z.dtype) * (math.pi / 4)
    centres = RADIUS * torch.stack([angles.cos(), angles.sin()], 1)
    alpha, sigma = alpha[:, None], sigma[:, None]
    variance = (alpha * WIDTH) ** 2 + sigma**2
    squares = (z[:, None] - alpha[:, :, None] * centres).square().sum(-1)
    mean = (-squares / (2 * variance)).softmax(1) @ centres
    return mean + alpha * WIDTH**2 / variance * (z - alpha * mean)


def of_log_snr(z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return denoised(z, torch.sigmoid(noise).sqrt(), torch.sigmoid(-noise).sqrt())


def of_sigma(z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return denoised(z, torch.ones_like(noise), noise)


def linear(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (denoised(x, t, 1 - t) - x) / (1 - t)[:, None]


def exact_teachers() -> dict[str, FlowTeacher]:
    options: dict[str, Any] = {"parametrisation": "x0", "dtype": "float64"}
    return {
        "vp": FlowTeacher.from_diffusion(
            of_log_snr, (2,), schedule="vp", noise_argument="log_snr", **options
        ),
        "edm": FlowTeacher.from_diffusion(of_sigma, (2,), schedule="edm", **options),
        "linear": FlowTeacher.from_torch(
            linear, event_shape=(2,), dtype="float64", time_range=(0.0, 1 - 1e-6)
        ),
    }


def noise_of(teacher: FlowTeacher, seed: int, rows: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    shape = (rows, *teacher.event_shape_)
    return torch.randn(shape, generator=random, dtype=torch.float64).to(getattr(torch, teacher.field.dtype))


class Reference:
    """Endpoints of the flow from some noise, and the errors of solvers against them."""

    def __init__(self, teacher: FlowTeacher, seed: int, rows: int, tolerance: float) -> None:
        self.teacher, self.noise = teacher, noise_of(teacher, seed, rows)
        self.ends = teacher.sample(x0=self.noise, rtol=tolerance, atol=tolerance)
        self.scale = _core.total_std(self.ends)

    def error(self, **how: Any) -> tuple[float, int]:
        """The endpoint error and the evaluations of one solver."""
        before = self.teacher.evaluations
        ends = self.teacher.sample(x0=self.noise, **how)
        return _core.endpoint_error(ends, self.ends, self.scale).value, self.teacher.evaluations - before


def spread(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    return f"{mean:.4f} ± {max(abs(value - mean) for value in values):.4f}"


def exact(seeds: Sequence[int], rows: int, evaluations: Sequence[int]) -> None:
    """Print errors of every solver and grid by evaluations, on fields in closed form."""
    for name, teacher in exact_teachers().items():
        references = [Reference(teacher, seed, rows, 1e-9) for seed in seeds]
        print(f"\nExact field of eight Gaussians, {name}\n")
        print("| solver, grid | " + " | ".join(map(str, evaluations)) + " |")
        print("|---|" + "---|" * len(evaluations))
        for solver, each, grids in SOLVERS:
            for grid in grids:
                if name == "linear" and grid == "tau":
                    continue
                cells = []
                for count in evaluations:
                    how = {"solver": solver, "steps": count // each, "grid": grid}
                    known = [reference.error(**how)[0] for reference in references if count % each == 0]
                    cells.append(spread(known) if known else "")
                print(f"| {solver}, {grid} | " + " | ".join(cells) + " |")


def trained_teachers(*, quick: bool) -> Iterator[tuple[str, FlowTeacher]]:
    """Teachers with their names: perceptrons for the plane, in 3,000 steps, and for digits, in 2,000."""
    short: dict[str, Any] = {"width": 32, "steps": 50} if quick else {}
    points = {"moons": datasets.moons(8192), "eight Gaussians": datasets.eight_gaussians(8192)}
    for name, path in (("moons", "linear"), ("moons", "vp"), ("eight Gaussians", "linear")):
        teacher = FlowTeacher((2,), path=path, **{"steps": 3000, **short})
        yield f"{name}, {path}", teacher.fit(points[name], progress=False)
    digits = datasets.digits()[0]
    yield (
        "digits, linear",
        FlowTeacher(digits.shape[1:], **{"steps": 2000, **short}).fit(digits, progress=False),
    )


def fewest(references: Sequence[Reference], ways: Sequence[dict[str, Any]], goal: float) -> tuple[str, str]:
    """The smallest number of evaluations whose mean error is below the goal, and that error."""
    for how in ways:
        found = [reference.error(**how) for reference in references]
        if np.mean([error for error, _ in found]) <= goal:
            return f"{np.mean([count for _, count in found]):.0f}", spread([1e4 * e for e, _ in found])
    return "more", ""


def trained(seeds: Sequence[int], rows: int, *, quick: bool) -> None:
    """Print evaluations for an endpoint error of 1e-4, on teachers trained by koopflow."""
    goal = 1e-1 if quick else 1e-4

    def fixed(solver: str, each: int, grid: str | None) -> list[dict[str, Any]]:
        counts = [count // each for count in MANY if count % each == 0]
        return [{"solver": solver, "steps": steps, "grid": grid} for steps in counts]

    ways: dict[str, list[dict[str, Any]]] = {
        "dopri5": [{"rtol": tolerance, "atol": tolerance} for tolerance in TOLERANCES],
        "rk4": fixed("rk4", 4, None),
        "heun, log_snr": fixed("heun", 2, "log_snr"),
        "ab2": fixed("ab2", 1, None),
        "ab3": fixed("ab3", 1, None),
        "ab3, tau": fixed("ab3", 1, "tau"),
        "dpm2m": fixed("dpm2m", 1, None),
    }
    names: list[str] = []
    lines = {solver: [solver] for solver in ways}
    for name, teacher in trained_teachers(quick=quick):
        names.append(name)
        references = [Reference(teacher, seed, rows, 1e-7) for seed in seeds]
        for solver, tried in ways.items():
            count, error = fewest(references, tried, goal)
            lines[solver].append(f"{count} ({error})" if error else count)
    print(f"\nEvaluations for an endpoint error of {goal:g} (error in 1e-4)\n")
    print("| solver | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for cells in lines.values():
        print("| " + " | ".join(cells) + " |")


def picture(path: str, rows: int) -> None:
    """Draw paths of two couplings and their measures by path_geometry."""
    from matplotlib import pyplot as plt

    data = datasets.moons(4096)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), constrained_layout=True)
    for index, coupling in enumerate(("ot", "independent")):
        teacher = FlowTeacher((2,), coupling=coupling).fit(data, progress=False)
        paths = teacher.trajectory(n=rows, times=np.linspace(0, 1, 65), seed=0)
        found = path_geometry(paths)
        print(f"{coupling}: {found.summary()}")
        axes[index].plot(paths[:, :60, 0], paths[:, :60, 1], color=f"C{index}", alpha=0.5, lw=0.8)
        axes[index].plot(paths[-1, :60, 0], paths[-1, :60, 1], "k.", ms=3)
        axes[index].set_title(f"coupling {coupling!r}")
        axes[index].set_aspect("equal")
        ranked = np.sort(found.relative_deviation)
        axes[2].plot(ranked, np.linspace(0, 1, len(ranked)), color=f"C{index}", label=coupling)
    axes[2].set_xscale("log")
    axes[2].set_xlabel("largest distance from the chord, in chords")
    axes[2].set_ylabel("share of paths below")
    axes[2].legend()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=["exact", "trained", "picture"])
    parser.add_argument("--picture", default="docs/pictures/path-geometry.png")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    seeds, rows = (SEEDS[:2], 40) if given.quick else (SEEDS, ROWS)
    print(versions())
    if "exact" in given.parts:
        exact(seeds, rows, (4, 8) if given.quick else EVALUATIONS)
    if "trained" in given.parts:
        trained(seeds, rows, quick=given.quick)
    if "picture" in given.parts and not given.quick:
        picture(given.picture, 500)


if __name__ == "__main__":
    main()
