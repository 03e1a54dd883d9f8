"""Speed of a student's one-step sample in the core and in its PyTorch forms: the table of docs/pytorch.md.

    python -m experiments.benches.export                  # three minutes on 2 cores
    python -m experiments.benches.export --quick          # whether it runs

Weights are hardly trained, since speed does not depend on them. In each round every form samples the same
noise once (or many times for a single sample), in random order and with the same number of threads. Times are
medians over rounds. Ratios are relative to the core's time in the same round, with their interquartile range.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import koopflow
from koopflow import FlowTeacher, KoopmanDistiller, UNet

# Event shape, batch size of the measurement of throughput, and options of the student.
IMAGE = {"basis": "unet", "unet": UNet(channels=16, multipliers=(1, 2))}
CASES: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "plane": ((2,), 4096, {}),
    "64 dimensions": ((64,), 4096, {}),
    "U-Net, 1 x 16 x 16": ((1, 16, 16), 256, IMAGE),
}
CORE, EAGER, COMPILED, PROGRAM, ONNX = "core", "module", "compiled", "torch.export", "onnxruntime"


def untrained(shape: tuple[int, ...], options: dict[str, Any], seed: int) -> KoopmanDistiller:
    """A student of the default size after one step."""
    data = np.random.default_rng(seed).standard_normal((256, *shape)).astype(np.float32)
    teacher = FlowTeacher(shape, width=16, depth=1, steps=1, seed=seed).fit(data, progress=False)
    student = KoopmanDistiller(steps=1, trajectories=64, batch_size=16, seed=seed, **options)
    return student.fit(teacher, progress=False)


def ways(student: KoopmanDistiller, folder: Path, x0: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Calls that sample the same noise."""
    torch.compiler.reset()
    module = student.to_torch().requires_grad_(requires_grad=False)
    compiled = torch.compile(student.to_torch().requires_grad_(requires_grad=False))
    student.to_pt2(folder / "student.pt2")
    student.to_onnx(folder / "student.onnx")
    with warnings.catch_warnings():
        # torch's warning about the buffer that it reads.
        warnings.simplefilter("ignore", UserWarning)
        program = torch.export.load(folder / "student.pt2").module()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        folder / "student.onnx", options, providers=["CPUExecutionProvider"]
    )
    noise = x0.numpy()
    return {
        CORE: lambda: student.sample(x0=x0),
        EAGER: lambda: module(x0),
        COMPILED: lambda: compiled(x0),
        PROGRAM: lambda: program(x0),
        ONNX: lambda: session.run(["x1"], {"x0": noise}),
    }


def timed(calls: dict[str, Callable[[], Any]], rounds: int, repeats: int, seed: int) -> dict[str, np.ndarray]:
    """Milliseconds of each call, ``[rounds]``."""
    for call in calls.values():
        for _ in range(3):
            call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        for name in random.permutation(list(calls)):
            started = time.perf_counter()
            for _ in range(repeats):
                calls[name]()
            found[name].append(1e3 * (time.perf_counter() - started) / repeats)
    return {name: np.asarray(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the plane alone, in a few rounds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"koopflow {koopflow.__version__}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}; "
        f"{platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads; seed {options.seed}\n"
    )
    others = [EAGER, COMPILED, PROGRAM, ONNX]
    cases = dict(list(CASES.items())[: 1 if options.quick else None])
    singles, batches = ({form: [form] for form in (f"{CORE}, ms", *others)} for _ in range(2))
    for shape, batch, given in cases.values():
        student = untrained(shape, given, options.seed)
        for size, table in ((1, singles), (batch, batches)):
            x0 = torch.randn(size, *shape, generator=torch.Generator().manual_seed(options.seed))
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                calls = ways(student, Path(folder), x0)
                times = timed(
                    calls, 3 if options.quick else options.rounds, 50 if size == 1 else 1, options.seed
                )
            table[f"{CORE}, ms"].append(f"{np.median(times[CORE]):.3g}")
            for other in others:
                low, ratio, high = np.quantile(times[other] / times[CORE], [0.25, 0.5, 0.75])
                table[other].append(f"{ratio:.2f} ({low:.2f} to {high:.2f})")
    counted = [f"{name}, {batch}" for name, (_, batch, _) in cases.items()]
    for title, heads, table in (("One sample", [*cases], singles), ("A batch", counted, batches)):
        rows = "\n".join(f"| {' | '.join(cells)} |" for cells in table.values())
        print(f"{title}:\n\n| form | {' | '.join(heads)} |\n{'|---' * (1 + len(heads))}|\n{rows}\n")


if __name__ == "__main__":
    main()
