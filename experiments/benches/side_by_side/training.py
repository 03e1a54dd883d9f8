"""Training steps, compared with ``paper.py`` and ``recipe.py``, and for teachers with torchcfm."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from koopflow import FlowTeacher

from .models import RATE, stored_paths, student_of, teacher_of
from .paper import WEIGHTS, PaperStep
from .recipe import RecipeStep
from .timing import KOOPFLOW, Bench, compiled

PLAIN, BEST, COMPILED = "plain PyTorch", "best PyTorch, eager", "best PyTorch, compiled"
# Number of observables that are not learnt in the plane: the constant, time and the state.
KNOWN = 4
BATCH = 256


def with_compiled(bench: Bench, made: Callable[[], Any], name: str = COMPILED) -> Iterator[tuple[str, Any]]:
    """A step with a compiled loss, if it can be compiled here."""
    if not bench.compiled:
        return
    step = made()
    step.loss = compiled(step.loss)
    try:
        step()
    except Exception as error:  # whatever the compiler raises
        print(f"torch.compile failed: {type(error).__name__}: {str(error).splitlines()[0]}")
        return
    yield name, step


def paper(bench: Bench, generator: str, sizes: list[int], targets: dict[int, dict[str, float]]) -> None:
    """Compare training steps with the paper's terms, at several numbers m of observables, in the plane."""
    teacher = teacher_of((2,), bench.seed)
    module, paths = teacher.to_torch(), stored_paths(teacher, bench.seed)
    batch = 32 if bench.quick else BATCH

    def fit(steps: int, size: int, kind: str) -> Any:
        return student_of(
            teacher,
            steps,
            bench.seed,
            generator=kind,
            observables=size - KNOWN,
            batch_size=batch,
            architecture={"lifts": 1},
            objective={"weights": dict(WEIGHTS)},
            trajectories={"pairs": "endpoints"},
        )

    for size in sizes:

        def step(*, best: bool, size: int = size) -> PaperStep:
            torch.manual_seed(bench.seed)
            return PaperStep(fit(1, size, "dense").to_torch(), module, paths, batch, best=best)

        works = {KOOPFLOW: bench.step_of(partial(fit, size=size, kind=generator))}
        works[PLAIN] = bench.seconds(step(best=False))
        if generator == "dense":
            works[BEST] = bench.seconds(step(best=True))
            for name, made in with_compiled(bench, partial(step, best=True)):
                works[name] = bench.seconds(made)
        part = f"training step, {generator}, the paper's terms"
        bench.compare(part, f"m = {size}", works, targets.get(size, {}))


def recipe(bench: Bench, cases: dict[str, tuple[int, dict[str, Any]]]) -> None:
    """Compare training steps with koopflow's own terms. Each case has a dimension and options."""
    for name, (dimension, options) in cases.items():
        teacher = teacher_of((dimension,), bench.seed)
        paths = stored_paths(teacher, bench.seed)
        batch = 16 if bench.quick else 128 if dimension <= 8 else 256
        fit = partial(student_of, teacher, seed=bench.seed, batch_size=batch, **options)

        def step(fit: Any = fit, paths: Tensor = paths, batch: int = batch) -> RecipeStep:
            return RecipeStep(fit(1).to_torch(), paths, batch)

        works = {KOOPFLOW: bench.step_of(fit), BEST: bench.seconds(step())}
        for label, made in with_compiled(bench, step):
            works[label] = bench.seconds(made)
        bench.compare("training step, koopflow's recipe", name, works, {BEST: 1.2, COMPILED: 1.2})


class PlainField(nn.Module):
    """The teacher's perceptron of states and embedded times alone."""

    def __init__(self, teacher: FlowTeacher) -> None:
        super().__init__()
        module = teacher.to_torch()
        self.time, self.network = module.time, module.network

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        velocity: Tensor = self.network(torch.cat([x, self.time(t)], 1))
        return velocity


class Coupled:
    """torchcfm's matcher of exact optimal transport (2302.00482), written with POT alone."""

    def sample_location_and_conditional_flow(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ot = importlib.import_module("ot")
        cost = (torch.cdist(x0, x1) ** 2).numpy()
        plan = ot.emd(ot.unif(len(x0)), ot.unif(len(x1)), cost).flatten()
        drawn = torch.from_numpy(plan / plan.sum()).multinomial(len(x0), replacement=True)
        x0, x1 = x0[drawn // len(x1)], x1[drawn % len(x1)]
        t = torch.rand(len(x0))
        return t, x0 + t[:, None] * (x1 - x0), x1 - x0


def matcher() -> tuple[str, Any] | None:
    """torchcfm's matcher with its name, or :class:`Coupled` without torchcfm, or None without POT."""
    try:
        torchcfm = importlib.import_module("torchcfm")
        return "torchcfm's loop", torchcfm.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    except ImportError:
        print("torchcfm is not installed: its loop is written out instead")
    try:
        importlib.import_module("ot")
    except ImportError:
        print("POT is not installed either: teachers' training is not compared")
        return None
    return "torchcfm's loop, written out", Coupled()


def teaching(bench: Bench, cases: dict[str, int]) -> None:
    """Compare training steps of teachers with optimal transport in each batch, by dimension."""
    found = matcher()
    if found is None:
        return
    name, pairing = found
    for case, dimension in cases.items():
        batch = 16 if bench.quick else BATCH

        def fit(steps: int, dimension: int = dimension, batch: int = batch) -> FlowTeacher:
            options = {"batch_size": batch, "coupling": "ot", "steps": steps}
            return teacher_of((dimension,), bench.seed, **options)

        field = PlainField(fit(1))
        optimiser = torch.optim.Adam(field.parameters(), lr=RATE)
        data = torch.randn(512, dimension)

        def step(
            field: PlainField = field,
            optimiser: torch.optim.Optimizer = optimiser,
            data: Tensor = data,
            batch: int = batch,
        ) -> None:
            optimiser.zero_grad()
            x1 = data[torch.randint(len(data), (batch,))]
            t, x, u = pairing.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
            ((field(t, x) - u) ** 2).mean().backward()
            optimiser.step()

        works = {KOOPFLOW: bench.step_of(fit), name: bench.seconds(step)}
        bench.compare("teacher's training step, OT", f"{case}, {batch} rows", works, {name: 1.3})


def all_parts(bench: Bench, parts: list[str]) -> None:
    """Run the training parts among ``parts``."""
    quick = bench.quick
    if "dense" in parts:
        sizes = [16] if quick else [64, 256, 512, 1569]
        goals = {PLAIN: 2.0, BEST: 1.3, COMPILED: 1.3}
        paper(bench, "dense", sizes, dict.fromkeys(sizes, goals))
    if "spectral" in parts:
        least = {64: math.nan, 256: 5.0, 512: math.nan, 1024: 50.0, 1569: 100.0}
        sizes = [16] if quick else list(least)
        paper(
            bench, "spectral", sizes, {m: {PLAIN: goal} for m, goal in least.items() if not math.isnan(goal)}
        )
    if "recipe" in parts:
        small = {"width": 8, "depth": 1, "observables": 8} if quick else {}
        recipe(bench, {"2 dimensions": (2, small)} | ({} if quick else {"64 dimensions": (64, small)}))
    if "teacher" in parts:
        teaching(bench, {"2 dimensions": 2} | ({} if quick else {"64 dimensions": 64}))
