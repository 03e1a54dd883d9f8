"""Image students on upscaled digits: the paper's student, the hierarchical one, and a plain distilled U-Net.

    python -m experiments.benches.images                  # 16x16, seed 0: about half an hour on 2 cores
    python -m experiments.benches.images --size 28 --channels 32 --steps 20000 --device cuda
    python -m experiments.benches.images --quick          # whether it runs

A class-conditional U-Net teacher is trained on scikit-learn's digits. Every student is distilled from the
same stored trajectories in the same number of steps. Samples of fresh noise, with the same number for every
class, are compared with 500 digits that were not used in any training:

- *Fréchet*: distance between Gaussians fitted to features of a small classifier, which is trained here on the
  teacher's training split; *floor* is the distance of training digits.
- *recognised*: fraction of samples that the classifier assigns to the requested class.
- *sliced W2*, *endpoint*, *path*: in pixels; endpoint and path errors against the teacher, divided by the
  data's total deviation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import koopflow
from koopflow import FlowTeacher, KoopmanDistiller, UNet, _core, datasets, metrics, plotting

EVALUATION_SEED = 900_000_000
CLASSES = 10
COLUMNS = {
    "frechet": "Fréchet",
    "frechet_ratio": "over the teacher's",
    "recognised": "recognised",
    "sliced": "sliced W2",
    "endpoint": "endpoint",
    "path": "path",
    "inversion": "inversion",
    "step_ms": "training step, ms",
    "sample_ms": "1,000 samples, ms",
}


class Classifier(torch.nn.Module):
    """A classifier with two convolutions and a layer of features."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(16, 32, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(32 * (side // 4) ** 2, 32),
            torch.nn.ReLU(),
        )
        self.head = torch.nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def trained_classifier(images: np.ndarray, labels: np.ndarray, seed: int, epochs: int) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier(images.shape[-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def recognised(model: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
    return float((metrics.extract_features(images, model).argmax(1) == labels).mean())


def students(network: UNet) -> dict[str, dict[str, Any]]:
    """Options of :class:`KoopmanDistiller` of each student, by name."""
    # The paper's ablation: dense, one lift, its three losses with weight 1, pairs of noise and endpoint.
    paper: dict[str, float] = dict.fromkeys(("endpoint", "path", "inverse", "round_trip"), 0.0)
    paper |= {"consistency": 1.0, "phase": 1.0, "target": 1.0}
    only = dict.fromkeys(("path", "target", "inverse", "round_trip", "phase"), 0.0)
    return {
        "paper": {
            "basis": "unet",
            "generator": "dense",
            "architecture": {"lifts": 1},
            "trajectories": {"pairs": "endpoints"},
            "objective": {"weights": paper},
        },
        "U-Net pixels, spectral": {"basis": "unet"},
        "hierarchical": {"basis": "hierarchy"},
        "hierarchical, warm": {"basis": "hierarchy", "warm_start": True},
        "plain U-Net": {
            "basis": "unet",
            "architecture": {"lifts": 1},
            "objective": {"weights": only},
            "training": {"metric": "endpoint_error"},
        },
    }


def with_common(given: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The options of one student, with those that all students share."""
    # A held-out evaluation costs as much as many steps.
    training = {"evaluate_every": max(options.steps // 8, 1), **given.get("training", {})}
    paths = {"count": options.trajectories, "path_steps": 8, **given.get("trajectories", {})}
    return {**given, "training": training, "trajectories": paths}


class Judge:
    """Fixed noise, classes, held-out digits and a classifier, which measure every model."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        images, labels = datasets.digits(size=options.size)
        self.train, self.held_out, self.train_labels, self.held_out_labels = datasets.split(
            images, labels, held_out=500, seed=seed
        )
        self.classifier = trained_classifier(self.train, self.train_labels, seed, options.epochs)
        self.accuracy = recognised(self.classifier, self.held_out, self.held_out_labels)
        self.floor = self.frechet(self.train)
        n = options.samples
        self.noise = np.asarray(_core.normal((n, 1, options.size, options.size), EVALUATION_SEED + seed))
        self.labels = np.arange(n, dtype=np.int64) % CLASSES
        self.deviation = float(np.sqrt(self.train.var(axis=0).sum()))

    def frechet(self, samples: np.ndarray) -> float:
        return metrics.frechet_distance(samples, self.held_out, self.classifier.features)

    def quality(self, samples: np.ndarray) -> dict[str, float]:
        return {
            "frechet": self.frechet(samples),
            "recognised": recognised(self.classifier, samples, self.labels),
            "sliced": metrics.sliced_wasserstein(samples, self.held_out),
        }

    def error(self, got: np.ndarray, wanted: np.ndarray, scale: float) -> float:
        gap = (got - wanted).reshape(len(got), -1).astype(np.float64)
        return float(np.sqrt((gap**2).sum(axis=1).mean()) / scale)


def say(text: str) -> None:
    print(text, flush=True)


def compare(options: argparse.Namespace, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """The rows of one seed: a teacher and its students. Trajectories are solved once, in ``folder``."""
    trajectories = folder / f"trajectories-{seed}.safetensors"
    judge = Judge(options, seed)
    say(f"seed {seed}: classifier {judge.accuracy:.1%} on held-out digits, Fréchet floor {judge.floor:.3f}")
    network = UNet(channels=options.channels, multipliers=tuple(options.multipliers))
    teacher = FlowTeacher(
        judge.train.shape[1:],
        network=network,
        num_classes=CLASSES,
        steps=options.teacher_steps,
        batch_size=64,
        seed=seed,
        device=options.device,
    ).fit(judge.train, condition=judge.train_labels, progress=False)
    say(f"  teacher: {teacher.history_['steps']} steps in {teacher.history_['seconds']:.0f} s")
    times = [0.25, 0.5, 0.75, 1.0]
    started = time.perf_counter()
    path = np.asarray(teacher.trajectory(judge.noise, times=[0.0, *times], condition=judge.labels))[1:]
    teacher_ms = 1e6 * (time.perf_counter() - started) / len(judge.noise)
    rows = {"teacher (dopri5)": {**judge.quality(path[-1]), "sample_ms": teacher_ms}}
    pictures = {"held-out": judge.held_out[:20], "teacher": path[-1][:20]}
    for name, given in students(network).items():
        if options.only and name not in options.only:
            continue
        student = KoopmanDistiller(
            unet=network,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=seed,
            device=options.device,
            **with_common(given, options),
        ).fit(teacher, trajectory_file=trajectories, progress=False)
        history = student.history_
        started = time.perf_counter()
        samples = np.asarray(student.sample(x0=judge.noise, condition=judge.labels))
        sample_ms = 1e6 * (time.perf_counter() - started) / len(judge.noise)
        own = np.asarray(student.sample_path(x0=judge.noise, times=times[:-1], condition=judge.labels))
        errors = [judge.error(a, b, judge.deviation) for a, b in zip(own, path[:-1], strict=True)]
        noise = np.asarray(student.invert(path[-1], condition=judge.labels))
        rows[name] = {
            **judge.quality(samples),
            "endpoint": judge.error(samples, path[-1], judge.deviation),
            "path": float(np.mean(errors)),
            "inversion": judge.error(noise, judge.noise, float(np.sqrt(noise[0].size))),
            "step_ms": 1e3 * (history["seconds"] - history["trajectory_seconds"]) / history["steps"],
            "sample_ms": sample_ms,
        }
        pictures[name] = samples[:20]
        ratio = rows[name]["frechet"] / rows["teacher (dopri5)"]["frechet"]
        say(f"  {name}: Fréchet {rows[name]['frechet']:.3f} ({ratio:.2f}x), {history['seconds']:.0f} s")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for name, images in pictures.items():
            file = "".join(letter if letter.isalnum() else "-" for letter in name)
            plotting.save_image_grid(options.pictures / f"{file}.png", images, columns=10)
    for row in rows.values():
        row["frechet_ratio"] = row["frechet"] / rows["teacher (dopri5)"]["frechet"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=16, choices=(8, 16, 28))
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--multipliers", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--teacher-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--trajectories", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=30, help="training epochs of the classifier")
    parser.add_argument("--only", nargs="+", help="names of the students to measure")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    parser.add_argument("--pictures", type=Path, help="folder for grids of samples")
    options = parser.parse_args()
    if options.quick:
        options.teacher_steps, options.steps, options.trajectories = 20, 5, 64
        options.samples, options.epochs = 100, 2
    print(f"koopflow {koopflow.__version__}, torch {torch.__version__}, {options.device}")
    with tempfile.TemporaryDirectory() as folder:
        results = {seed: compare(options, seed, Path(folder)) for seed in options.seeds}
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\n| | {' | '.join(COLUMNS.values())} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name in results[options.seeds[0]]:
        cells = []
        for column in COLUMNS:
            values = [rows[name][column] for rows in results.values() if column in rows[name]]
            digits = 0 if column.endswith("_ms") else 3
            text = f"{np.mean(values):.{digits}f}" if values else ""
            if len(values) > 1:
                text += f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
            cells.append(text)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
