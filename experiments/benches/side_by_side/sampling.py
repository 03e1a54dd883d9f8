"""Sampling of students, compared with their network alone, solvers of the teacher, and matrix products."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from koopflow import FlowTeacher, KoopmanDistiller, datasets

from .models import student_of, teacher_of
from .timing import KOOPFLOW, Bench

CHUNK = 1024


def cases(bench: Bench) -> dict[str, tuple[int, KoopmanDistiller]]:
    """A dimension and a student for each case; small ones with ``--quick``."""
    small: dict[str, Any] = {"width": 8, "depth": 1, "observables": 8} if bench.quick else {}
    found = {}
    for name, dimension in {"2 dimensions": 2, "64 dimensions": 64}.items():
        teacher = teacher_of((dimension,), bench.seed, **({"width": 8} if bench.quick else {}))
        found[name] = (dimension, student_of(teacher, 1, bench.seed, **small))
        if bench.quick:
            break
    return found


def bare(student: KoopmanDistiller, x0: Tensor) -> tuple[nn.Module, Tensor]:
    """The student's network alone, and its input for noise."""
    module = student.to_torch().requires_grad_(False)
    return module.forward_lift, module.coordinates(torch.zeros(len(x0)), x0)


def network(bench: Bench) -> None:
    """Compare samples at once, in chunks and one by one, and paths, with the network's forward pass."""
    for name, (dimension, student) in cases(bench).items():
        count = 64 if bench.quick else 10_000
        x0 = torch.randn(count, dimension)
        net, seen = bare(student, x0)
        works = {
            KOOPFLOW: bench.seconds(lambda student=student, x0=x0: student.sample(x0=x0)),
            "the bare network": bench.seconds(lambda net=net, seen=seen: net(seen)),
        }
        bench.compare(f"{count} samples", name, works, {"the bare network": 1 / 1.15})
        parts, seen_parts = x0.split(CHUNK), seen.split(CHUNK)
        works = {
            KOOPFLOW: bench.seconds(lambda s=student, xs=parts: [s.sample(x0=x) for x in xs]),
            "the bare network": bench.seconds(lambda net=net, xs=seen_parts: [net(x) for x in xs]),
        }
        bench.compare(f"{count} samples in {CHUNK}s", name, works, {"the bare network": 1 / 1.15})
        one, seen_one = x0[:1].contiguous(), seen[:1].contiguous()
        module = student.to_torch().requires_grad_(False)
        works = {
            KOOPFLOW: bench.seconds(lambda s=student, x=one: s.sample(x0=x)),
            "the network's eager forward": bench.seconds(lambda net=net, x=seen_one: net(x)),
            "the whole student's eager forward": bench.seconds(lambda m=module, x=one: m(x)),
        }
        bench.compare("one sample", name, works, {other: 1.0 for other in works if other != KOOPFLOW})
        rows = x0[:CHUNK].contiguous()
        times = np.linspace(0.01, 1.0, 5 if bench.quick else 100)
        works = {
            KOOPFLOW: bench.seconds(lambda s=student, x=rows, at=times: s.sample_path(x0=x, times=at)),
            "one step": bench.seconds(lambda s=student, x=rows: s.sample(x0=x)),
        }
        bench.compare(f"path at {len(times)} times", f"{name}, {len(rows)}", works, {"one step": 1 / 3})


def solvers(bench: Bench) -> None:
    """Compare one step with solutions of a trained teacher's equation."""
    for name in ["2 dimensions"] if bench.quick else ["2 dimensions", "64 dimensions"]:
        plane = name == "2 dimensions"
        data = datasets.moons(2048) if plane else datasets.digits()[0].reshape(-1, 64)
        steps = 2 if bench.quick else 1500 if plane else 500
        teacher = FlowTeacher(data.shape[1:], steps=steps, seed=bench.seed).fit(data, progress=False)
        student = student_of(teacher, 1, bench.seed)
        x0 = torch.randn(32 if bench.quick else 10_000, *data.shape[1:])
        works = {KOOPFLOW: bench.seconds(lambda student=student, x0=x0: student.sample(x0=x0))}
        targets = {}
        for label, (solve, target) in solutions(teacher, x0, 4 if bench.quick else 100).items():
            works[label], targets[label] = bench.seconds(solve, 0.0), target
        bench.compare(f"{len(x0)} samples, solvers", name, works, targets)


def solutions(teacher: FlowTeacher, x0: Tensor, steps: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """Solvers, each with the target of how many times slower than one step it should be."""
    # The flow itself: dopri5 takes as many steps as its field asks for.
    field = teacher.to_torch().requires_grad_(False).eval()
    ends = torch.tensor([0.0, 1.0])
    every = torch.linspace(0.0, 1.0, steps + 1)

    def alike(t: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return field(t.expand(len(x)), x)

    def euler() -> Tensor:
        x = x0
        for step in range(steps):
            x = x + alike(every[step], x) * (1.0 / steps)
        return x

    adaptive = {"rtol": 1e-5, "atol": 1e-5}
    own = partial(teacher.sample, x0=x0)
    ways: dict[str, tuple[Callable[[], Any], float]] = {
        f"Euler, {steps}, koopflow": (partial(own, solver="euler", steps=steps), 60.0),
        f"Euler, {steps}, a loop in PyTorch": (euler, 60.0),
        "dopri5, koopflow": (partial(own, solver="dopri5", **adaptive), 30.0),
    }
    try:
        odeint = importlib.import_module("torchdiffeq").odeint
        ways[f"Euler, {steps}, torchdiffeq"] = (partial(odeint, alike, x0, every, method="euler"), 60.0)
        ways["dopri5, torchdiffeq"] = (partial(odeint, alike, x0, ends, method="dopri5", **adaptive), 30.0)
    except ImportError:
        print("torchdiffeq is not installed")
    try:
        node = importlib.import_module("torchdyn.core").NeuralODE

        class Field(nn.Module):
            forward = staticmethod(alike)

        def made(solver: str, **options: Any) -> Any:
            return node(Field(), solver=solver, sensitivity="autograd", **options)

        fixed, adapted = made("euler"), made("dopri5", **adaptive)
        ways[f"Euler, {steps}, torchdyn"] = (lambda: fixed.trajectory(x0, t_span=every), 60.0)
        ways["dopri5, torchdyn"] = (lambda: adapted.trajectory(x0, t_span=ends), 30.0)
    except ImportError:
        print("torchdyn is not installed")
    return ways


def products(bench: Bench) -> None:
    """Compare a wide network with one matrix product of the same number of operations."""
    width, rows, dimension = (16, 32, 64) if bench.quick else (2048, 2048, 64)
    teacher = teacher_of((dimension,), bench.seed, width=16)
    student = student_of(teacher, 1, bench.seed, width=width, depth=3, batch_size=8)
    x0 = torch.randn(rows, dimension)
    net, seen = bare(student, x0)
    weights = sum(layer.numel() for layer in net.parameters() if layer.ndim == 2)
    left, right = torch.randn(rows, width), torch.randn(width, width)
    product = bench.seconds(lambda: left @ right)
    # The product has the number of operations of the network's products.
    works = {
        KOOPFLOW: bench.seconds(lambda: student.sample(x0=x0)),
        "matrix products": lambda: product() * weights / width**2,
        "the bare network": bench.seconds(lambda: net(seen)),
    }
    bench.compare(f"width {width}", f"{rows} samples", works, {"matrix products": 1 / 1.5})


def all_parts(bench: Bench, parts: list[str]) -> None:
    """Run the sampling parts among ``parts``."""
    known = {"network": network, "solvers": solvers, "products": products}
    for name, measure in known.items():
        if name in parts:
            with torch.no_grad():
                measure(bench)
