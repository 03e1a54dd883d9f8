"""Speed of koopflow's U-Net and of torchcfm's ``UNetModel``, the same architecture, eager and compiled.

    python -m experiments.benches.unet_speed                        # 28x28, 32 channels, a CPU: ten minutes
    python -m experiments.benches.unet_speed --threads 2 --no-compile
    python -m experiments.benches.unet_speed --batch 4 --rounds 2 --no-compile    # a quick look

Forward passes, training steps (loss, gradients, clipping, Adam) and passes with a tangent take turns in one
process. Each value is the median, over rounds, of the ratio to PyTorch's eager pass in the same round.
Seconds are processor time of all threads, which varies less than wall-clock time on a busy machine. Peak
memory is that of training steps in a separate process, minus the memory of the process before them (Linux).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchcfm.models.unet import UNetModel  # type: ignore[import-untyped]

from koopflow import FlowTeacher, KoopmanDistiller, UNet

from ..environment import versions

SIDE = 28
CONTENDERS = ["koopflow", "PyTorch", "PyTorch, channels last", "PyTorch, compiled"]


def network(options: argparse.Namespace) -> UNet:
    return UNet(channels=options.channels, multipliers=(1, 2, 2), attention=(4,), heads=4, blocks=1)


def reference(options: argparse.Namespace) -> torch.nn.Module:
    """torchcfm's network with the same blocks."""
    model: torch.nn.Module = UNetModel(
        dim=(1, SIDE, SIDE),
        num_channels=options.channels,
        num_res_blocks=1,
        channel_mult=(1, 2, 2),
        attention_resolutions=str(SIDE // 4),
        num_heads=4,
        use_scale_shift_norm=True,
    )
    return model


def images(count: int) -> Any:
    return np.random.default_rng(0).standard_normal((count, 1, SIDE, SIDE)).astype(np.float32)


def taught(steps: int, options: argparse.Namespace) -> FlowTeacher:
    teacher = FlowTeacher(
        (1, SIDE, SIDE),
        network=network(options),
        steps=steps,
        batch_size=options.batch,
        coupling="independent",
    )
    return teacher.fit(images(4 * options.batch), progress=False)


def torch_step(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """One training step of torchcfm's network on a straight path."""
    model, x1 = variant(name, options), torch.from_numpy(images(options.batch))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    last = torch.channels_last if name.endswith("channels last") else torch.contiguous_format

    def step() -> None:
        x0, t = torch.randn_like(x1), torch.rand(len(x1))
        x = torch.lerp(x0, x1, t[:, None, None, None]).contiguous(memory_format=last)
        optimiser.zero_grad()
        (model(t, x) - (x1 - x0)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return step


def variant(name: str, options: argparse.Namespace) -> torch.nn.Module:
    model = reference(options)
    if name.endswith("channels last"):
        return model.to(memory_format=torch.channels_last)
    if name.endswith("compiled"):
        compiled: torch.nn.Module = torch.compile(model)  # type: ignore[assignment]
        return compiled
    return model


def applied(model: torch.nn.Module, t: torch.Tensor, x: torch.Tensor, last: torch.memory_format) -> Any:
    return model(t, x.contiguous(memory_format=last))


def seconds(work: Callable[[], Any], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


def in_turns(works: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round, after one round of warm-up."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            spent = work()
            if turn:
                found[name].append(spent)
    return found


def row(label: str, found: dict[str, list[float]], base: str) -> None:
    cells = []
    for name, spent in found.items():
        ratios = sorted(a / b for a, b in zip(spent, found[base], strict=True))
        middle = statistics.median(ratios)
        cells.append(f"{name}: {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(f"{label}: " + "; ".join(cells) + f"; {base}: {statistics.median(found[base]):.3f} s", flush=True)


def forward(names: list[str], options: argparse.Namespace) -> None:
    x, t = torch.from_numpy(images(options.batch)), torch.rand(options.batch)
    teacher = taught(1, options)
    works: dict[str, Callable[[], Any]] = {}
    for name in names:
        if name == "koopflow":
            works[name] = lambda: teacher.velocity(t, x)
            continue
        model = variant(name, options).eval()
        last = torch.channels_last if name.endswith("channels last") else torch.contiguous_format
        works[name] = partial(applied, model, t, x, last)
    with torch.no_grad():
        each = {name: partial(seconds, work, 3) for name, work in works.items()}
        row("forward", in_turns(each, options.rounds), "PyTorch")


def training(names: list[str], options: argparse.Namespace) -> None:
    def own() -> float:
        """Seconds of a step, by the difference of a longer and a shorter training."""
        few, many = (seconds(partial(taught, steps, options), 1) for steps in (1, 4))
        return (many - few) / 3

    works: dict[str, Callable[[], float]] = {"koopflow": own}
    for name in names[1:]:
        works[name] = partial(seconds, torch_step(name, options), 3)
    row("training step", in_turns(works, options.rounds), "PyTorch")


def tangents(options: argparse.Namespace) -> None:
    """Compare observables alone and with their derivative along a velocity."""
    student = KoopmanDistiller(
        basis="unet",
        unet=network(options),
        steps=1,
        batch_size=4,
        trajectories={"count": 16, "path_steps": 2},
        training={"evaluate_every": 10**6},
    ).fit(taught(1, options), progress=False)
    x = torch.from_numpy(images(options.batch))
    model, t, v = reference(options).eval(), torch.rand(len(x)), torch.randn_like(x)
    works: dict[str, Callable[[], Any]] = {
        "koopflow, value": lambda: student.encode(t, x),
        "koopflow, value and tangent": lambda: student.encode_with_tangent(t, x, v),
        "PyTorch": lambda: model(t, x),
        "PyTorch, jvp": lambda: torch.func.jvp(model, (t, x), (torch.ones_like(t), v)),
    }
    with torch.no_grad():
        each = {name: partial(seconds, work, 2) for name, work in works.items()}
        row("observables", in_turns(each, options.rounds), "PyTorch")


def resident() -> int:
    """Peak memory of this process so far in KiB; ``getrusage`` would include the process that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def peak(name: str, options: argparse.Namespace) -> float:
    """Peak memory of training steps in MiB."""
    before = resident()
    if name == "koopflow":
        taught(4, options)
    else:
        step = torch_step(name, options)
        for _ in range(4):
            step()
    return (resident() - before) / 1024


def memory(names: list[str], arguments: list[str]) -> None:
    cells = []
    for name in names:
        command = [sys.executable, "-m", "experiments.benches.unet_speed", *arguments, "--peak-of", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        cells.append(f"{name}: {float(done.stdout.split()[-1]):.0f} MiB")
    print("peak memory of training: " + "; ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--no-compile", action="store_true", help="without torch.compile, which needs a compiler"
    )
    parser.add_argument("--peak-of", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        print(peak(options.peak_of, options))
        return
    names = CONTENDERS[: 3 if options.no_compile else 4]
    print(versions(), flush=True)
    forward(names, options)
    training(names, options)
    tangents(options)
    memory(names, sys.argv[1:])


if __name__ == "__main__":
    main()
