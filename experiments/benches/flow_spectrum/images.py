"""Time and memory of the spectra of image teachers at 28x28, each in a separate process.

    python -m experiments.benches.flow_spectrum.images unet FILE -n 1024

There are three teachers of MNIST: a perceptron, whose paths cost little, so that it shows the time of the
spectrum itself; a small U-Net; and the U-Net of torchcfm's example, attached.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from koopflow import FlowTeacher, UNet, datasets, plotting
from koopflow.analysis import flow_spectrum
from koopflow.spectrum.paths import Paths, chunks

ROOT = Path(__file__).parents[3]
SIDE, TRAIN = 28, 8000
SMALL = UNet(channels=8, multipliers=(1, 2, 2))
# torchcfm normalises 32 groups of channels, so it needs at least 32 channels.
TORCHCFM = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2, 2), "num_heads": 1}
# Accurate enough for shares and modes of large networks: 32 evaluations instead of about 200.
FEW: dict[str, Any] = {"times": 17, "solver": "midpoint", "steps": 16}
SOLVING: dict[str, dict[str, Any]] = {"perceptron": {}, "unet": FEW, "torchcfm": FEW}
BATCH, LEARNING_RATE = {"perceptron": 256, "unet": 64, "torchcfm": 16}, 1e-3


def train_native(kind: str, file: Path, images: NDArray[Any], steps: int) -> float:
    """Train a native teacher and write it. Returns the seconds."""
    network: Any = {"perceptron": "mlp", "unet": SMALL}[kind]
    teacher = FlowTeacher((1, SIDE, SIDE), network=network, steps=steps, batch_size=BATCH[kind], seed=0)
    began = time.perf_counter()
    teacher.fit(images, progress=False)
    teacher.save(file)
    return time.perf_counter() - began


def torchcfm_model() -> torch.nn.Module:
    from torchcfm.models.unet import UNetModel

    model: torch.nn.Module = UNetModel(dim=(1, SIDE, SIDE), **TORCHCFM)
    return model


def train_torchcfm(file: Path, images: NDArray[Any], steps: int) -> float:
    """Train torchcfm's U-Net on straight lines between independent noise and data. Returns the seconds."""
    torch.manual_seed(0)
    model, data = torchcfm_model().train(), torch.from_numpy(images)
    optimizer, began = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE), time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 20)
        end = data[torch.randint(len(data), (BATCH["torchcfm"],))]
        noise, t = torch.randn_like(end), torch.rand(len(end))
        at = t[:, None, None, None]
        loss = ((model(t, (1 - at) * noise + at * end) - (end - noise)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.save(model.state_dict(), file)
    return time.perf_counter() - began


def load(kind: str, file: Path) -> FlowTeacher:
    if kind != "torchcfm":
        return FlowTeacher.load(file)
    model = torchcfm_model()
    model.load_state_dict(torch.load(file, weights_only=True))
    return FlowTeacher.from_torch(model.eval(), event_shape=(1, SIDE, SIDE), convention="torchcfm")


def peak() -> float:
    """Peak memory of this process in MiB.

    The kernel counts the memory of the parent in ``ru_maxrss`` of a child, but not in the high-water mark of
    the child's own memory.
    """
    status = Path("/proc/self/status")
    if status.exists():
        mark = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if mark:
            return int(mark.group(1)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(teacher: FlowTeacher, n: int, **solving: Any) -> tuple[dict[str, float], Any]:
    """Seconds of the paths and of all other work, and peak memory in MiB."""
    states, seconds = Paths.states, [0.0]

    def measured(*arguments: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        found = states(*arguments, **keywords)
        seconds[0] += time.perf_counter() - began
        return found

    evaluations, before, began = teacher.evaluations, peak(), time.perf_counter()
    Paths.states = measured  # type: ignore[method-assign]
    try:
        spectrum = flow_spectrum(teacher, n=n, **solving)
    finally:
        Paths.states = states  # type: ignore[method-assign]
    whole = time.perf_counter() - began
    parts = len(list(chunks(n, SIDE * SIDE * len(spectrum.times))))
    row = {
        "n": float(n),
        "threads": float(torch.get_num_threads()),
        "paths_seconds": seconds[0],
        "reading_seconds": whole - seconds[0],
        "seconds": whole,
        "evaluations": (teacher.evaluations - evaluations) / parts,
        "mib": peak(),
        "mib_before": before,
        "affine": spectrum.affine,
        "rates": float(len(spectrum.rates)),
        "modes": float(len(spectrum)),
        "groups": float(len(spectrum.groups)),
        "standing": float(spectrum.standing),
        "unexplained": float(spectrum.unexplained[len(spectrum.rates) - 1]),
    }
    return row, spectrum


def measure(
    folder: Path, mnist: Path, steps: dict[str, int], paths: dict[str, int], pictures: Path | None
) -> dict[str, dict[str, Any]]:
    """A row for each teacher with steps. A teacher that is not in the folder is trained."""
    rows: dict[str, dict[str, Any]] = {}
    for kind, count in steps.items():
        if count == 0:
            continue
        file = folder / f"mnist-{kind}-{count}.{'pt' if kind == 'torchcfm' else 'safetensors'}"
        trained: dict[str, float] = {"training_steps": count}
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            images = datasets.mnist(mnist, split="test")[0][:TRAIN]
            train = train_torchcfm if kind == "torchcfm" else partial(train_native, kind)
            trained["training_seconds"] = train(file, images, count)
            print(f"trained {file.name} in {trained['training_seconds']:.0f} s", flush=True)
        command = [sys.executable, "-m", __name__, kind, str(file.resolve()), "-n", str(paths[kind])]
        command += ["--threads", str(torch.get_num_threads())]
        command += ["--pictures", str(pictures.resolve())] if pictures else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        rows[kind] = {**json.loads(done.stdout.splitlines()[-1]), **trained}
        print(f"{kind}: {rows[kind]}", flush=True)
    return rows


def draw(teacher: FlowTeacher, spectrum: Any, folder: Path, kind: str) -> None:
    """Draw the blueprint, samples, the same samples without modes, and the images of the first modes."""
    folder.mkdir(parents=True, exist_ok=True)
    np.ravel(plotting.blueprint(spectrum))[0].figure.savefig(folder / f"{kind}-blueprint.png")
    noise = np.random.default_rng(0).normal(size=(10, 1, SIDE, SIDE)).astype(np.float32)
    rows = [np.asarray(teacher.sample(x0=noise)), np.asarray(spectrum.base(noise))]
    for count in (6, 23, 61):
        if count <= len(spectrum):
            rows.append(np.asarray(spectrum[:count].sample_path(noise, times=[1.0])[0]))
    plotting.save_image_grid(folder / f"{kind}-samples.png", np.concatenate(rows), columns=10)
    if len(spectrum) > 0:
        images = spectrum.images[:20]
        largest = np.abs(images).reshape(len(images), -1).max(axis=1)
        scaled = (images / largest[:, None, None, None]).astype(np.float32)
        plotting.save_image_grid(folder / f"{kind}-modes.png", scaled, columns=10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=tuple(BATCH))
    parser.add_argument("file", type=Path)
    parser.add_argument("-n", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    teacher = load(options.kind, options.file)
    row, spectrum = timed(teacher, options.n, **SOLVING[options.kind])
    if options.pictures:
        draw(teacher, spectrum, options.pictures, options.kind)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
