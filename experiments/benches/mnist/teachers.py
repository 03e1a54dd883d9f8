"""Teachers of MNIST trained with several options, for equally many steps.

    python -m experiments.benches.mnist.teachers --data FOLDER --output runs/mnist --steps 500

FOLDER has MNIST's official test files. Data, classifier, held-out digits and network are those of
``python -m experiments.benches.mnist``. Samples are drawn by 16 steps of AB2. It prints their Fréchet
distance to held-out digits in the features of that classifier, the share of samples that show the digit that
was asked for, and the processor seconds of training.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ...environment import versions
from .judge import Judge
from .models import untaught

TEACHERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "edm": {"preconditioning": "edm"},
    "augment": {"augment": 0.12},
    "edm, augment": {"preconditioning": "edm", "augment": 0.12},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of MNIST's files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the classifiers")
    parser.add_argument("--teacher", nargs="+", choices=list(TEACHERS), default=list(TEACHERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20, help="of the classifier")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    print(versions(), flush=True)
    for seed in asked.seeds:
        judge = Judge(str(asked.data), asked.output, samples=asked.samples, epochs=asked.epochs, seed=seed)
        print(json.dumps({"seed": seed, "training digits": judge.floor()["frechet"]}), flush=True)
        for name in asked.teacher:
            print(
                json.dumps({"seed": seed, "teacher": name, **measured(name, judge, seed, asked)}), flush=True
            )


def measured(name: str, judge: Judge, seed: int, asked: argparse.Namespace) -> dict[str, float]:
    started = time.process_time()
    teacher = untaught(judge, seed, asked.steps, asked, **TEACHERS[name])
    teacher.fit(judge.train, condition=judge.train_labels, progress=False)
    seconds = time.process_time() - started
    images = teacher.sample(x0=judge.noise, condition=judge.labels, solver="ab2", steps=16)
    found = judge.quality(images)
    return {
        "frechet": round(found["frechet"], 3),
        "recognised": round(found["recognised"], 4),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
