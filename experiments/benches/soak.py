"""Long use on Linux: memory over thousands of fits, files after kills, and a hundred users of one path.

    python -m experiments.benches.soak                # everything, in the sizes of docs/files.md
    python -m experiments.benches.soak kills --count 200 --seed 1

It exits with 1 if memory grew or a file was lost.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.environment import versions
from koopflow import FlowTeacher, KoopmanDistiller, baselines, datasets

# Growth in MiB allowed in the second half of the work; an allocator's reserve varies that much between runs.
ALLOWED_MIB = 16.0
TINY: dict[str, Any] = {"width": 8, "depth": 1, "steps": 5, "trajectories": 64}
NOISE = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)


def memory_mib(name: str) -> float:
    """``VmRSS``, the present memory of the process, or ``VmHWM``, its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


def memory(fits: int, samplings: int) -> dict[str, float]:
    """Memory in MiB over fits and samplings of all kinds in this process.

    It is read after a tenth of them, after half and at the end, so that growth is not confused with what the
    first calls load.
    """
    data = datasets.moons(256)
    gaussian = FlowTeacher.gaussian([0.5, -0.5], [[1.0, 0.3], [0.3, 0.5]])
    attached = FlowTeacher.from_torch(lambda t, x: 1.0 - x, (2,))
    student = KoopmanDistiller(**TINY).fit(gaussian, progress=False)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "student.safetensors"

        def fit(index: int) -> None:
            match index % 5:
                case 0:
                    FlowTeacher((2,), width=8, depth=1, steps=5, seed=index).fit(data, progress=False)
                case 1:
                    KoopmanDistiller(**TINY, seed=index).fit(attached, progress=False)
                case 2:
                    baselines.PlainNetwork(**TINY, seed=index).fit(gaussian, progress=False)
                case 3:
                    made = KoopmanDistiller(**TINY, seed=index).fit(gaussian, checkpoint=file, progress=False)
                    made.spectrum(gaussian, n=64).summary()
                case _:
                    made = KoopmanDistiller(**TINY, seed=index).fit(gaussian, progress=False)
                    made.save(file)
                    KoopmanDistiller.load(file).evaluate(gaussian, data, n=64)

        def sample(index: int) -> None:
            match index % 4:
                case 0:
                    student.sample(64 + index % 7, seed=index)
                case 1:
                    student.sample_path(8, times=[0.0, 0.5, index % 100 / 100])
                case 2:
                    student.invert(student.sample(x0=NOISE))
                case _:
                    attached.sample(16, solver="euler", steps=2)

        found: dict[str, float] = {}
        for name, work, count in (("fits", fit, fits), ("samplings", sample, samplings)):
            for index in range(count):
                work(index)
                for mark in ("tenth", "half", "end"):
                    if index + 1 == {"tenth": count // 10, "half": count // 2, "end": count}[mark]:
                        gc.collect()
                        found[f"{name}, {mark}"] = memory_mib("VmRSS")
                        print(f"  {name} {index + 1}: {found[f'{name}, {mark}']:.1f} MiB", flush=True)
            found[f"{name}, growth"] = found[f"{name}, end"] - found[f"{name}, half"]
        found["peak"] = memory_mib("VmHWM")
    return found


def killed_fit(kind: str, folder: Path, *, resume: bool, steps: int = 120) -> Any:
    """A fit that writes a checkpoint every third step; that of a student also writes its trajectories."""
    file = folder / f"{kind}.safetensors"
    files: dict[str, Any] = {"checkpoint": file, "checkpoint_every": 3, "progress": False}
    files |= {"resume": file} if resume else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "teacher":
            return FlowTeacher((2,), width=16, depth=1, steps=steps).fit(datasets.moons(512), **files)
        teacher = FlowTeacher.gaussian([0.5, -0.5], [[1.0, 0.3], [0.3, 0.5]])
        student = KoopmanDistiller(observables=8, width=16, depth=1, steps=steps, trajectories=4096)
        return student.fit(teacher, trajectory_file=folder / "paths.safetensors", **files)


def kills(count: int, seed: int) -> Counter[str]:
    """Results of fits that are killed at random moments.

    The checkpoint of each is loaded and resumed. The samples must equal those of an uninterrupted fit, bit
    for bit.
    """
    fork = multiprocessing.get_context("fork")
    moments, found = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as whole:
        wholes, seconds = {}, {}
        for kind in ("student", "teacher"):
            started = time.perf_counter()
            wholes[kind] = np.asarray(killed_fit(kind, Path(whole), resume=False).sample(x0=NOISE))
            seconds[kind] = time.perf_counter() - started
    index = 0
    while found["killed"] < count:
        kind, index = ("student", "teacher")[index % 2], index + 1
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            process = fork.Process(target=killed_fit, args=(kind, folder), kwargs={"resume": False})
            process.start()
            process.join(moments.uniform(0.0, seconds[kind]))
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                continue
            found["killed"] += 1
            file = folder / f"{kind}.safetensors"
            left = file.exists()
            found["left a checkpoint"] += left
            if left:
                model = (FlowTeacher if kind == "teacher" else KoopmanDistiller).load(file)
                found["loads"] += bool(np.isfinite(np.asarray(model.sample(x0=NOISE))).all())
            again = np.asarray(killed_fit(kind, folder, resume=left).sample(x0=NOISE))
            found["left half a file beside"] += any(folder.glob(".koopflow-*"))
            found["ends as if nothing had been"] += np.array_equal(again, wholes[kind])
    return found


def one_path(file: Path, place: int, rounds: int, threads: int) -> None:
    """Save in half of the threads and load in the others; exit with 0 if all loads gave complete students."""
    students = [
        KoopmanDistiller(**TINY, seed=seed).fit(FlowTeacher.gaussian([0.5, -0.5], np.eye(2)), progress=False)
        for seed in range(2)
    ]
    known = [np.asarray(student.sample(x0=NOISE)) for student in students]

    def work(thread: int) -> bool:
        for turn in range(rounds):
            if (place + thread) % 2:
                students[turn % 2].save(file)
            else:
                got = np.asarray(KoopmanDistiller.load(file).sample(x0=NOISE))
                if not any(np.array_equal(got, one) for one in known):
                    return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        sys.exit(0 if all(pool.map(work, range(threads))) else 1)


def writers(count: int, rounds: int, threads: int = 10) -> Counter[str]:
    """Results of ``count`` savers and loaders of one path at once, in threads of several processes."""
    fork, found = multiprocessing.get_context("fork"), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "student.safetensors"
        KoopmanDistiller(**TINY).fit(FlowTeacher.gaussian([0.5, -0.5], np.eye(2)), progress=False).save(file)
        processes = [
            fork.Process(target=one_path, args=(file, place, rounds, threads))
            for place in range(-(-count // threads))
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            found["processes without an error" if process.exitcode == 0 else "processes that failed"] += 1
        found["files at the end"] = len(os.listdir(folder))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["memory", "kills", "writers"])
    parser.add_argument("--fits", type=int, default=2000)
    parser.add_argument("--samplings", type=int, default=20_000)
    parser.add_argument("--count", type=int, default=50, help="kills")
    parser.add_argument("--writers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20, help="files that each thread saves or loads")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments of kills")
    options = parser.parse_args()
    # Child processes are forked, which a pool of threads would not survive.
    torch.set_num_threads(1)
    print(versions(), flush=True)
    wrong = []
    if "kills" in options.what:
        fate = kills(options.count, options.seed)
        print(f"kills: {dict(fate)}", flush=True)
        if fate["loads"] != fate["left a checkpoint"] or fate["ends as if nothing had been"] != options.count:
            wrong.append("kills")
    if "writers" in options.what:
        ends = writers(options.writers, options.rounds)
        print(f"writers: {dict(ends)}", flush=True)
        if ends["processes that failed"] or ends["files at the end"] != 1:
            wrong.append("writers")
    if "memory" in options.what:
        held = memory(options.fits, options.samplings)
        print(f"memory: { ({name: round(value, 1) for name, value in held.items()}) } MiB", flush=True)
        if max(held["fits, growth"], held["samplings, growth"]) > ALLOWED_MIB:
            wrong.append("memory")
    print(f"wrong: {', '.join(wrong)}" if wrong else "nothing lost, nothing grown")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
