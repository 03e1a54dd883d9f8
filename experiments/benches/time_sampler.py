"""Teachers trained with several distributions of training times, with all other options equal.

    python -m experiments.benches.time_sampler --seeds 0 1 2

It prints W2 between 1,000 samples and the same number of held-out data, for the adaptive solver and for eight
Euler steps, and W2 between two halves of the held-out data.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from koopflow import FlowTeacher, datasets, metrics

from ..environment import versions

LAWS: dict[str, Any] = {
    "uniform": "uniform",
    "logit-normal (0, 1)": "logit_normal",
    "power 1": "power",
    "power -0.5": {"power": {"exponent": -0.5}},
}
COUNT = 1_000


def data_of(name: str, seed: int) -> tuple[Any, Any]:
    """Flat rows for training, and held-out rows."""
    if name == "digits":
        images, _ = datasets.digits()
        return datasets.split(images.reshape(len(images), -1), held_out=500, seed=seed)
    make = getattr(datasets, name)
    return make(20_000, seed=2 * seed), make(2 * COUNT, seed=2 * seed + 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["checkerboard", "digits"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="training steps, for a quick run")
    asked = parser.parse_args()
    print(versions(), flush=True)
    for name in asked.data:
        for seed in asked.seeds:
            train, held_out = data_of(name, seed)
            half = min(COUNT, len(held_out) // 2)
            floor = metrics.wasserstein2(held_out[:half], held_out[half : 2 * half])
            print(f"{name}, seed {seed}: halves {floor:.3f}", flush=True)
            for law, sampler in LAWS.items():
                teacher = FlowTeacher(
                    train.shape[1:],
                    coupling="independent",
                    time_sampler=sampler,
                    steps=asked.steps,
                    seed=seed,
                ).fit(train, progress=False)
                noise = np.random.default_rng(seed).normal(size=(half, *train.shape[1:])).astype(np.float32)
                found = [
                    metrics.wasserstein2(teacher.sample(x0=noise, **solver), held_out[:half])
                    for solver in ({}, {"solver": "euler", "steps": 8})
                ]
                print(f"  {law}: W2 {found[0]:.3f}, by 8 steps of Euler {found[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
