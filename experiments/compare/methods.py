"""The methods: koopflow's students and the alternatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from koopflow import baselines
from koopflow.students.distiller import KoopmanDistiller
from koopflow.students.segmented import SegmentedDistiller

from .problems import Problem

# More steps than any budget of seconds allows, so that only the time limit ends training.
UNLIMITED_STEPS = 10**9
# Number of steps between two held-out evaluations if the time limit ends training.
LOOK_EVERY = 500


@dataclass(frozen=True)
class Budget:
    """The training budget of a student: either seconds of wall-clock time or steps."""

    seconds: float | None = None
    steps: int | None = None

    @property
    def name(self) -> str:
        """``"8 s"`` or ``"1000 steps"``."""
        return f"{self.steps} steps" if self.seconds is None else f"{self.seconds:g} s"

    def options(self) -> dict[str, Any]:
        """Keyword arguments that every student takes."""
        if self.seconds is None:
            return {"steps": self.steps}
        return {"steps": UNLIMITED_STEPS, "max_seconds": self.seconds}


@dataclass(frozen=True)
class Method:
    """One method to map noise to data.

    Attributes
    ----------
    name : str
        Name in the rows.
    make : callable
        Function of keyword arguments (budget, seed, device, trajectories) that makes an unfitted student.
    trains : bool
        Whether it is trained within a budget; solvers and lines are not.
    distils : bool
        Whether it is fitted to stored trajectories, which all such methods share.
    straightened : bool
        Whether its teacher is the one after reflow.
    steps : tuple of int
        Numbers of sampling steps that it is measured with.
    images_only : bool
        Whether it needs samples of shape ``(C, H, W)``.
    by_steps : bool
        Whether it is also compared at an equal number of steps.
    koopman : bool
        Whether it is a method of koopflow.
    segments : int
        Number of students in succession. If there are several, they share the budget, which then includes
        solving their own trajectories.
    by_default : bool
        Whether it is compared by default.
    """

    name: str
    make: Callable[..., Any]
    trains: bool = True
    distils: bool = True
    straightened: bool = False
    steps: tuple[int, ...] = (1,)
    images_only: bool = False
    by_steps: bool = False
    koopman: bool = False
    by_default: bool = True
    segments: int = 1


def _koopman(name: str, options: Mapping[str, Any] | None = None, **about: Any) -> Method:
    return Method(name, _distiller(**(options or {})), koopman=True, **about)


def _distiller(**options: Any) -> Callable[..., KoopmanDistiller]:
    def make(**common: Any) -> KoopmanDistiller:
        paths = {**options.get("trajectories", {}), "count": common.pop("trajectories", None)}
        training = {"evaluate_every": LOOK_EVERY} if "max_seconds" in common else None
        return KoopmanDistiller(**{**options, **common, "trajectories": paths, "training": training})

    return make


def _segments(count: int, **about: Any) -> Method:
    def make(**common: Any) -> SegmentedDistiller:
        shares = {name: common[name] / count for name in ("max_seconds",) if name in common}
        shares["steps"] = max(1, common["steps"] // count)
        return SegmentedDistiller(count, student=_distiller()(**{**common, **shares}))

    return Method(f"koopflow, {count} segments", make, koopman=True, segments=count, **about)


def _solver(solver: str, steps: int | None = None) -> Callable[..., Any]:
    def make(**_: Any) -> baselines.OdeSolver:
        return baselines.OdeSolver(solver=solver, **({} if steps is None else {"steps": steps}))

    return make


def _solvers() -> list[Method]:
    kinds: list[tuple[str, str, int | None]] = [("dopri5", "dopri5", None)]
    kinds += [(f"Euler, {k} step{'s' * (k > 1)}", "euler", k) for k in EULER_STEPS]
    kinds += [(f"Heun, {k} steps", "heun", k) for k in HEUN_STEPS]
    kinds += [(f"{solver.upper()}, {k} steps", solver, k) for solver, k in MULTISTEP]
    return [Method(name, _solver(solver, k), trains=False, distils=False) for name, solver, k in kinds]


EULER_STEPS = (1, 2, 4, 8, 20, 100)
HEUN_STEPS = (2, 10)
MULTISTEP = (("ab2", 4), ("ab2", 8), ("ab3", 4), ("ab3", 8))

# Turan et al., arXiv 2506.22304, ablation: dense, one lift, three losses of weight 1, noise and endpoint.
PAPER: Mapping[str, Any] = {
    "generator": "dense",
    "architecture": {"lifts": 1},
    "trajectories": {"pairs": "endpoints"},
    "objective": {
        "weights": {
            **dict.fromkeys(("endpoint", "path", "inverse", "round_trip"), 0.0),
            **dict.fromkeys(("consistency", "phase", "target"), 1.0),
        }
    },
}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *_solvers(),
        Method("straight line", lambda **_: baselines.StraightLine(), trains=False, distils=False),
        _koopman("koopflow", by_steps=True),
        _koopman("koopflow, endpoint", {"fidelity": "endpoint"}, by_default=False),
        _koopman("koopflow, endpoint first", {"objective": {"endpoint_first": 0.5}}, by_default=False),
        _segments(2),
        _segments(4, by_default=False),
        _koopman("paper's losses, our inputs", PAPER),
        _koopman("paper", {**PAPER, "architecture": {"lifts": 1, "inputs": "raw"}}),
        _koopman("hierarchical", {"basis": "hierarchy", "warm_start": True}, images_only=True),
        _koopman("U-Net pixels", {"basis": "unet"}, images_only=True),
        Method("plain network", baselines.PlainNetwork, by_steps=True),
        Method("KDM", baselines.KDM),
        Method("mean velocity", baselines.MeanVelocity, steps=(1, 4)),
        Method("consistency flow", baselines.ConsistencyFlow, distils=False, steps=(1, 2)),
        Method("reflow, plain network", baselines.PlainNetwork, straightened=True),
        _koopman("reflow, koopflow", straightened=True),
    )
}
"""Every method by name."""


def methods_for(problem: Problem, *, images: bool) -> list[Method]:
    """The default methods for a problem, with reflow only for curved paths and U-Nets only for images."""
    return [
        method
        for method in METHODS.values()
        if method.by_default
        and (problem.curved or not method.straightened)
        and (images or not method.images_only)
    ]


TEACHER = "dopri5"
"""Name of the method that is the teacher itself."""
