"""Speed of image models: samples and training steps per second, and memory, in float32 and bfloat16.

    python -m experiments.benches.image_speed --device cuda                   # about 1M parameters, 28x28
    python -m experiments.benches.image_speed --device cuda --shape 3 32 32 --channels 128 \\
        --multipliers 1 2 2 2 --blocks 2 --attention 2 --heads 4              # about 35M parameters
    python -m experiments.benches.image_speed --shape 1 8 8 --channels 8 --batch 16      # quick, on a CPU

With ``--compare`` the plain PyTorch modules of teacher and students (``to_torch``) are measured as well,
eager and with ``torch.compile``: one evaluation of the velocity, and one step of a student.

Weights are untrained, since speed does not depend on them, apart from the number of steps of an adaptive
solver. A sampling rate is the median of ``--repeats`` runs after a warm-up. A training rate follows from the
difference between a longer and a shorter run. Teacher and students run in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import koopflow
from koopflow import FlowTeacher, KoopmanDistiller, UNet

SOLVERS: dict[str, dict[str, Any]] = {
    "dopri5, 1e-5": {"solver": "dopri5"},
    "Euler, 100": {"solver": "euler", "steps": 100},
    "Euler, 20": {"solver": "euler", "steps": 20},
    "Euler, 4": {"solver": "euler", "steps": 4},
}
STUDENTS: dict[str, dict[str, Any]] = {
    "U-Net pixels, spectral": {"basis": "unet"},
    "hierarchical": {"basis": "hierarchy"},
}


def clock(work: Callable[[], Any], options: argparse.Namespace) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(options.repeats + 1):
        synchronise(options.device)
        started = time.perf_counter()
        work()
        synchronise(options.device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def memory(options: argparse.Namespace) -> str:
    """Peak memory on the device in GiB. koopflow's tensors use torch's allocator."""
    if not options.device.startswith("cuda"):
        return "-"
    return f"{torch.cuda.max_memory_reserved() / 2**30:.2f}"


def row(*cells: Any) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def steps_a_second(fit: Callable[[int], dict[str, float]], options: argparse.Namespace) -> float:
    """Training steps per second, from the difference between a longer and a shorter training.

    The difference removes the time of all other work. The result is NaN if the difference is not positive
    because of other work on the machine.
    """
    few, many = options.training_steps, 5 * options.training_steps
    difference = fit(many)["seconds"] - fit(few)["seconds"]
    return (many - few) / difference if difference > 0 else float("nan")


def compared(
    label: str,
    module: torch.nn.Module,
    own: Callable[[], Any],
    inputs: list[Any],
    options: argparse.Namespace,
) -> None:
    """Print images per second of koopflow and its PyTorch module, eager and compiled, in both precisions."""
    compiled = torch.compile(module)
    for precision in ("float32", "bf16"):
        if precision == "bf16" and not options.device.startswith("cuda"):
            continue
        lowered = torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

        def eager(network: Callable[..., Any], lowered: Any = lowered) -> Any:
            with torch.no_grad(), lowered:
                return network(*inputs)

        with koopflow.autocast(precision):
            seconds = [clock(own, options)]
        seconds += [clock(lambda network=network: eager(network), options) for network in (module, compiled)]
        row(f"{label}, {precision}", *(f"{options.batch / each:.1f}" for each in seconds))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28])
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--multipliers", type=float, nargs="+", default=[1, 2])
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--attention", type=int, nargs="*", default=[])
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--training-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compare", action="store_true", help="also measure PyTorch, eager and compiled")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    shape = tuple(options.shape)
    network = UNet(
        channels=options.channels,
        multipliers=tuple(options.multipliers),
        blocks=options.blocks,
        attention=tuple(options.attention),
        heads=options.heads,
    )
    data = np.random.default_rng(0).standard_normal((max(1024, options.batch), *shape)).astype(np.float32)
    common = {"network": network, "coupling": "independent", "batch_size": options.batch}

    def teach(steps: int) -> FlowTeacher:
        teacher = FlowTeacher(shape, steps=steps, device=options.device, **common)
        return teacher.fit(data, progress=False)

    teacher = teach(1)
    count = sum(int(tensor.numel()) for tensor in teacher.state_dict().values())
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.machine()
    print(f"koopflow {koopflow.__version__}, torch {torch.__version__}, {name}; {count:,} weights\n")
    x0 = torch.from_numpy(data[: options.batch]).to(options.device)

    row("model", "images/s, float32", "images/s, bf16", "peak GiB")
    row(*["---"] * 4)
    for solver, given in SOLVERS.items():
        rates = []
        for precision in ("float32", "bf16"):
            with koopflow.autocast(precision):
                rates.append(clock(lambda given=given: teacher.sample(x0=x0, **given), options))
        row(f"teacher, {solver}", *(f"{options.batch / seconds:.1f}" for seconds in rates), memory(options))

    def distil(steps: int, precision: str, given: dict[str, Any]) -> KoopmanDistiller:
        student = KoopmanDistiller(
            unet=network,
            steps=steps,
            batch_size=options.batch,
            trajectories={"count": max(64, options.batch), "path_steps": 2},
            training={"evaluate_every": 10**6, "precision": precision},
            device=options.device,
            **given,
        )
        return student.fit(teacher, progress=False)

    students = {label: distil(1, "float32", given) for label, given in STUDENTS.items()}
    for label, student in students.items():
        rates = []
        for precision in ("float32", "bf16"):
            with koopflow.autocast(precision):
                rates.append(clock(lambda student=student: student.sample(x0=x0), options))
        row(f"student, {label}", *(f"{options.batch / seconds:.1f}" for seconds in rates), memory(options))

    print()
    row("training", "steps/s, float32", "steps/s, bf16", "peak GiB")
    row(*["---"] * 4)
    rates = []
    for precision in ("float32", "bf16"):
        with koopflow.autocast(precision):
            rates.append(steps_a_second(lambda steps: teach(steps).history_, options))
    row("teacher", *(f"{rate:.2f}" for rate in rates), memory(options))
    for label, given in STUDENTS.items():
        rates = [
            steps_a_second(
                lambda steps, precision=precision, given=given: distil(steps, precision, given).history_,
                options,
            )
            for precision in ("float32", "bf16")
        ]
        row(f"student, {label}", *(f"{rate:.2f}" for rate in rates), memory(options))

    if options.compare:
        print()
        row("one evaluation, images/s", "koopflow", "PyTorch", "torch.compile")
        row(*["---"] * 4)
        velocity = teacher.to_torch().to(options.device).eval()
        time_of_all = torch.full((options.batch,), 0.5, device=options.device)
        compared("teacher", velocity, lambda: teacher.velocity(0.5, x0), [time_of_all, x0], options)
        for label, student in students.items():
            module = student.to_torch().eval()
            own = lambda student=student: student.sample(x0=x0)  # noqa: E731
            compared(f"student, {label}", module, own, [x0], options)


if __name__ == "__main__":
    main()
